//! The README and docs/write-a-rule.md as a reader follows them: files are written from their blocks, and commands are
//! run in their order against a running server. A command that fails, and a promise that is not kept, fail the test.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::server::{BINARY, PATIENCE, Server, wait_for};

const README: &str = include_str!("../../../README.md");
const TUTORIAL: &str = include_str!("../../../docs/write-a-rule.md");

/// A fenced block.
#[derive(Debug, PartialEq)]
struct Block<'a> {
    language: &'a str,
    /// The path in the line above it, such as **`my-rule/Cargo.toml`**.
    file: Option<&'a str>,
    text: String,
}

fn blocks(doc: &str) -> Vec<Block<'_>> {
    let mut blocks = Vec::new();
    let mut above = "";
    let mut lines = doc.lines();
    while let Some(line) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            let file = above.strip_prefix("**`").and_then(|path| path.strip_suffix("`**"));
            let text = lines.by_ref().take_while(|line| *line != "```").map(|line| format!("{line}\n")).collect();
            blocks.push(Block { language, file, text });
        }
        above = line;
    }
    blocks
}

/// The commands of the `sh` blocks of a text, in order.
pub(crate) fn commands(doc: &str) -> Vec<String> {
    let shell = blocks(doc).into_iter().filter(|block| block.language == "sh");
    shell.flat_map(|block| lines_of_shell(&block.text)).collect()
}

/// A command is a line; a backslash joins the next one to it.
fn lines_of_shell(text: &str) -> Vec<String> {
    text.replace("\\\n", "").lines().map(str::to_owned).collect()
}

/// The text from one heading to the next.
#[track_caller]
pub(crate) fn section<'a>(doc: &'a str, heading: &str) -> &'a str {
    let (_, rest) = doc.split_once(&format!("\n## {heading}\n")).expect("the heading is there");
    rest.split("\n## ").next().expect("a split has a first part")
}

/// A reader who follows a text, in the root of the repository.
struct Reader<'a> {
    server: &'a Server,
    /// Where the tutorial's crate is.
    folder: &'a Path,
}

impl Reader<'_> {
    /// What this reader types, or writes into a file, where the text says `text`. All that differs is here.
    fn own(&self, text: &str) -> String {
        let root = repository();
        // A server that must fail with its answer shown, and a stream without a hand on Ctrl-C.
        let curl = format!("curl --fail-with-body --max-time {} ", PATIENCE.as_secs());
        let differences = [
            // The system chose the port. The command line reads it from TOCSIN_SERVER: see `command`.
            ("http://127.0.0.1:8080", self.server.url.as_str()),
            // The binary under test is built already.
            ("cargo run --", BINARY),
            ("curl ", &curl),
            // The repository stays as it is: the crate is made elsewhere, and depends on the SDK from there.
            ("\"../rules-sdk\"", &format!("{:?}", root.join("rules-sdk"))),
            ("my-rule", &self.folder.join("my-rule").display().to_string()),
        ];
        differences.iter().fold(text.to_owned(), |text, (theirs, own)| text.replace(theirs, own))
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("exec {}", self.own(line))]).current_dir(repository());
        // What is built or fetched already need not be so again.
        command.env("CARGO_TARGET_DIR", target_folder()).env("CARGO_NET_OFFLINE", "true");
        command.env("TOCSIN_SERVER", &self.server.url);
        command
    }

    /// Runs a command; its failure is answered with all that it said.
    fn attempt(&self, line: &str) -> Result<String, String> {
        let output = self.command(line).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(said);
        }
        Err(format!("{line}\n{}: {said}{}", output.status, String::from_utf8_lossy(&output.stderr)))
    }

    /// Runs a command that must succeed.
    #[track_caller]
    fn run(&self, line: &str) -> String {
        self.attempt(line).unwrap_or_else(|failure| panic!("{failure}"))
    }

    /// Runs a command again and again, as one does who waits for something to show, until its JSON does.
    fn run_until(&self, line: &str, mut shows: impl FnMut(&Value) -> bool) {
        let mut last = Err(String::new());
        let what = format!("the answer of: {line}");
        wait_for(&what, || {
            last = self.attempt(line);
            last.as_ref().is_ok_and(|answer| shows(&json(answer)))
        });
    }

    /// Watches what a command prints until a line shows something, then ends it.
    fn watch(&self, line: &str, mut shows: impl FnMut(&str) -> bool) {
        let mut child = self.command(line).stdout(Stdio::piped()).spawn().unwrap();
        let printed = BufReader::new(child.stdout.take().unwrap()).lines();
        let shown = printed.map(Result::unwrap).any(|line| shows(&line));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(shown, "nothing that was waited for came from: {line}");
    }
}

fn json(answer: &str) -> Value {
    serde_json::from_str(answer).unwrap_or_else(|error| panic!("{error}: {answer}"))
}

pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("host is a folder of the repository").to_owned()
}

pub(crate) fn target_folder() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the folder is in the target folder")
}

#[test]
fn the_readme_can_be_followed() {
    let [run, test] = commands(section(README, "Two commands")).try_into().expect("two commands");
    let folder = tempfile::tempdir().unwrap();
    // Both commands stand for what is running here: the built binary without arguments, and the task of this test.
    assert_eq!(run, "cargo run --release");
    let server = Server::start_bare(folder.path());
    assert!(folder.path().join("tocsin-data").is_dir(), "the state is in ./tocsin-data");
    let reader = Reader { server: &server, folder: folder.path() };
    assert_eq!(test, "cargo xtask test");
    reader.run(&format!("{test} --help"));

    let try_it = commands(section(README, "Try it"));
    let [price, create, firings, candles, create_by_rule, firings_of_alert] =
        try_it.try_into().expect("six curl lines");
    reader.run_until(&price, |answer| answer["price"].as_f64().is_some_and(|price| price > 0.0));
    let first = json(&reader.run(&create))["alert_id"].clone();
    reader.run_until(&firings, |answer| {
        answer["firings"].as_array().unwrap().iter().any(|firing| firing["alert_id"] == first)
    });
    reader.run_until(&candles, |answer| answer["candles"][0]["trades"].as_u64().is_some_and(|trades| trades > 0));
    let second = json(&reader.run(&create_by_rule));
    let symbols = |list: &Value| -> BTreeSet<String> {
        list.as_array().unwrap().iter().map(|item| item["symbol"].as_str().unwrap().to_owned()).collect()
    };
    reader.run_until(&firings_of_alert, |answer| symbols(&answer["firings"]) == symbols(&second["bindings"]));
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn the_tutorial_ends_with_a_rule_that_fires() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start_bare(data.path());
    // The same place each time, so that Cargo keeps one build of the crate and not one for every run.
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("write-a-rule");
    let _ = std::fs::remove_dir_all(&folder);
    let reader = Reader { server: &server, folder: &folder };
    let mut has_fired = false;
    for block in blocks(TUTORIAL) {
        match (block.file, block.language) {
            (Some(file), _) => {
                let path = PathBuf::from(reader.own(file));
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, reader.own(&block.text)).unwrap();
            }
            (None, "sh") => {
                for line in lines_of_shell(&block.text) {
                    match line.contains("/firings/stream") {
                        true => {
                            reader.watch(&line, is_firing_of_the_tutorial);
                            has_fired = true;
                        }
                        false => _ = reader.run(&line),
                    }
                }
            }
            (None, language) => panic!("a block in {language} that names no file: no reader follows it"),
        }
    }
    assert!(has_fired, "the text shows no stream of firings");
    let module = std::fs::metadata(folder.join("my-rule/round-number.wasm")).unwrap();
    assert!(TUTORIAL.contains("under 1 KB") && module.len() < 1024, "the module has {} bytes", module.len());
    assert_eq!(server.stop(), Some(0));
}

/// Whether a line of server-sent events is a firing with all that the text promises: the alert, the tick and the
/// evidence. The first event is the cursor.
fn is_firing_of_the_tutorial(line: &str) -> bool {
    let Some(firing) = line.strip_prefix("data:").map(json).filter(|data| !data["rule"].is_null()) else {
        return false;
    };
    assert_eq!(firing["rule"], "round-number", "{firing}");
    assert!(firing["alert_id"].is_i64() && firing["price"].is_f64(), "{firing}");
    // The level is between the price before and this one, but for the rounding of cents.
    let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{firing} lacks a number"));
    let (level, before) = (number(&firing["evidence"]["level"]), number(&firing["evidence"]["last_price"]));
    let price = number(&firing["price"]);
    assert!(before != price && level > before.min(price) - 1e-6 && level < before.max(price) + 1e-6, "{firing}");
    true
}

#[test]
fn blocks_are_parsed() {
    let doc = "Text.\n\n**`a/b.rs`**\n```rust\nfn f() {}\n```\n\n```sh\nx 1 \\\n  2\ny\n```\n\n## Next\n";
    let rust = Block { language: "rust", file: Some("a/b.rs"), text: "fn f() {}\n".into() };
    let shell = Block { language: "sh", file: None, text: "x 1 \\\n  2\ny\n".into() };
    assert_eq!(blocks(doc), [rust, shell]);
    assert_eq!(commands(doc), ["x 1   2", "y"]);
    assert_eq!(section("# T\n\n## A\none\n\n## B\ntwo\n", "A"), "one\n");
}
