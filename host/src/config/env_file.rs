//! The file `.env`: settings that are read at the start as if they stood in the environment.
//!
//! It is the one of the working folder, and of no folder above it, or the one that `--env-file` names. Settings say which
//! server is talked to and where keys go, so the file must be the user's or root's own, and closed to the hands of others.
//! A variable of the environment wins over the file's. A line is one of
//!
//! ```text
//! NAME=value                 the rest of the line, trimmed; ` #` begins a comment
//! NAME="va\"lue"             \" \\ \$ \n \r \t are escapes, other backslashes are themselves
//! NAME='value'               as it is
//! export NAME=value          the same as NAME=value
//! # a comment, or nothing
//! ```
//!
//! A value whose quote ends before the value does, as in `"A","B"`, is taken as it is. `$` is a dollar: nothing is
//! substituted. Of two lines with the same name the last one counts. All is well or nothing is taken: half of a
//! configuration would look like a whole one.

use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::ConfigError;

/// What the file is called.
const FILE_NAME: &str = ".env";

/// The option that names another one.
pub const OPTION: &str = "env-file";

/// The largest file that is read, in bytes: settings take a few hundred.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// Reads the file, if there is one, and sets what the environment does not have yet. `args` is this process's command line:
/// the file is read before the rest of it, whose defaults it sets.
///
/// # Safety
///
/// No other thread may run: it might be reading the environment.
#[expect(unsafe_code, reason = "only the caller can know that no other thread runs")]
pub unsafe fn load(args: impl IntoIterator<Item = OsString>) -> Result<(), ConfigError> {
    let named = named_file(args);
    let variables = match &named {
        Some(file) => read(file)?.ok_or_else(|| refused(file, "there is no such file"))?,
        None => read(Path::new(FILE_NAME))?.unwrap_or_default(),
    };
    for (name, value) in variables {
        if std::env::var_os(&name).is_none() {
            // SAFETY: the caller's promise.
            unsafe { std::env::set_var(name, value) };
        }
    }
    Ok(())
}

/// The file that a command line names. What is wrong with the command line is found when all of it is read.
fn named_file(args: impl IntoIterator<Item = OsString>) -> Option<PathBuf> {
    let mut args = args.into_iter().skip(1).take_while(|arg| arg != "--");
    while let Some(arg) = args.next() {
        let text = arg.to_string_lossy();
        let Some(option) = text.strip_prefix("--").and_then(|option| option.strip_prefix(OPTION)) else { continue };
        match option.strip_prefix('=') {
            Some(file) => return Some(file.into()),
            None if option.is_empty() => return args.next().map(Into::into),
            None => {}
        }
    }
    None
}

fn refused(file: &Path, what: impl std::fmt::Display) -> ConfigError {
    // The name alone would not say in which folder.
    let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    ConfigError(format!("{}: {what}", file.display()))
}

/// The variables of a file; None if it is not there.
fn read(file: &Path) -> Result<Option<Vec<(OsString, String)>>, ConfigError> {
    let unread = |error: io::Error| refused(file, format!("cannot be read ({error}): mend or remove it"));
    let opened = match open(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(unread)?,
    };
    let metadata = opened.metadata().map_err(unread)?;
    if !metadata.is_file() {
        return Err(refused(file, "is no regular file, and not read: remove it, or name another one with --env-file"));
    }
    check_owner(file, &metadata)?;
    let bytes = metadata.len();
    if bytes > MAX_FILE_BYTES {
        let what = format!("has {bytes} bytes, more than the {MAX_FILE_BYTES} allowed: is it a list of settings?");
        return Err(refused(file, what));
    }
    let mut text = Vec::new();
    opened.take(MAX_FILE_BYTES).read_to_end(&mut text).map_err(unread)?;
    let variables = parse(&text).map_err(|(line, what)| {
        let advice = "write NAME=value, or begin the line with # if it is a comment";
        refused(file, format!("line {line}: {what}; {advice}"))
    })?;
    Ok(Some(variables))
}

/// Opens a file without waiting, also where it is a pipe without a writer.
#[cfg(unix)]
fn open(file: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;

    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    File::options().read(true).custom_flags(flags).open(file)
}

/// Refuses a file that another user owns or may change, and a link that another user made.
#[cfg(unix)]
fn check_owner(file: &Path, opened: &Metadata) -> Result<(), ConfigError> {
    use std::os::unix::fs::MetadataExt as _;

    /// What group and others may do to a file, so that it is not its owner's alone to change.
    const WRITE_BY_OTHERS: u32 = 0o022;

    let user = rustix::process::geteuid().as_raw();
    let link = file.symlink_metadata().map_err(|error| refused(file, format!("cannot be looked at ({error})")))?;
    for owner in [opened.uid(), link.uid()] {
        if owner != user && owner != 0 {
            return Err(refused(
                file,
                format!(
                    "belongs to user {owner}, and settings are read only from a file of your own (user {user}) or of \
                     root's: remove it, work in another folder, or name a file of yours with --env-file"
                ),
            ));
        }
    }
    if opened.mode() & WRITE_BY_OTHERS != 0 {
        let (mode, path) = (opened.mode() & 0o777, file.display());
        let what = format!("other users may write to it (mode {mode:o}), and it is not read: `chmod go-w {path}`");
        return Err(refused(file, what));
    }
    Ok(())
}

#[cfg(not(unix))]
fn open(file: &Path) -> io::Result<File> {
    File::open(file)
}

#[cfg(not(unix))]
fn check_owner(_file: &Path, _opened: &Metadata) -> Result<(), ConfigError> {
    Ok(())
}

/// The variables of a text, in its order; or the number of the first bad line, from 1, and what is wrong with it.
/// What is wrong quotes no value: it may be a key.
fn parse(text: &[u8]) -> Result<Vec<(OsString, String)>, (usize, &'static str)> {
    const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    let mut variables = Vec::new();
    for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let line = str::from_utf8(line).map_err(|_| "it is not UTF-8").and_then(|line| variable(line.trim()));
        if let Some((name, value)) = line.map_err(|what| (index + 1, what))? {
            variables.retain(|(other, _)| *other != *name);
            variables.push((name.into(), value));
        }
    }
    Ok(variables)
}

/// A line's variable; None if it has none, as a comment.
fn variable(line: &str) -> Result<Option<(&str, String)>, &'static str> {
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let (name, text) = line.split_once('=').ok_or("it is no setting: it has no =")?;
    let name = match name.split_once(char::is_whitespace) {
        Some(("export", name)) => name.trim(),
        _ => name.trim_end(),
    };
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.');
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(is_name) {
        return Err("what stands before the = is no name of a variable");
    }
    if text.contains('\0') {
        return Err("its value holds a NUL, which no variable can");
    }
    Ok(Some((name, value(text)?)))
}

fn value(text: &str) -> Result<String, &'static str> {
    let trimmed = text.trim();
    let quoted = match trimmed.chars().next() {
        Some('"') => Some(double_quoted(&trimmed[1..])),
        Some('\'') => Some(trimmed[1..].split_once('\'').map(|(value, rest)| (value.to_owned(), rest))),
        _ => None,
    };
    match quoted {
        Some(None) => Err("the quote at the beginning of its value is never closed"),
        Some(Some((value, rest))) if rest.is_empty() || begins_comment(rest) => Ok(value),
        // The blank before a comment counts, so this looks at what is not trimmed.
        Some(Some(_)) | None => Ok(without_comment(text).trim().to_owned()),
    }
}

/// The value before the closing quote, and what follows; None if there is no closing quote.
fn double_quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => return Some((value, chars.as_str())),
            '\\' => match chars.next()? {
                'n' => value.push('\n'),
                'r' => value.push('\r'),
                't' => value.push('\t'),
                escaped @ ('"' | '\\' | '$') => value.push(escaped),
                other => value.extend(['\\', other]),
            },
            other => value.push(other),
        }
    }
    None
}

fn begins_comment(rest: &str) -> bool {
    rest.starts_with(char::is_whitespace) && rest.trim_start().starts_with('#')
}

fn without_comment(text: &str) -> &str {
    let begins = |(at, blank): (usize, char)| blank.is_whitespace() && text[at + blank.len_utf8()..].starts_with('#');
    text.char_indices().find(|at| begins(*at)).map_or(text, |(at, _)| &text[..at])
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser};

    use super::super::{ServeArgs, Settings};
    use super::*;

    #[derive(Parser)]
    struct Typed {
        #[command(flatten)]
        args: ServeArgs,
    }

    fn variables(text: &str) -> Vec<(String, String)> {
        let parsed = parse(text.as_bytes()).unwrap_or_else(|error| panic!("{text:?}: {error:?}"));
        parsed.into_iter().map(|(name, value)| (name.into_string().unwrap(), value)).collect()
    }

    #[track_caller]
    fn check(line: &str, name: &str, value: &str) {
        assert_eq!(variables(line), [(name.to_owned(), value.to_owned())], "{line:?}");
    }

    #[track_caller]
    fn check_refused(text: &[u8], line: usize, what: &str) {
        let (at, message) = parse(text).unwrap_err();
        assert!(at == line && message.contains(what), "line {at}: {message}");
    }

    #[test]
    fn a_value_is_the_rest_of_the_line() {
        check("TICKERS=AAPL,BINANCE:BTCUSDT,IC MARKETS:1", "TICKERS", "AAPL,BINANCE:BTCUSDT,IC MARKETS:1");
        check("DATABASE_URL=user=a password=b dbname=c", "DATABASE_URL", "user=a password=b dbname=c");
        check("  A =  b c \t", "A", "b c");
        check("A=", "A", "");
        check("A=$B ${C} \\n", "A", "$B ${C} \\n");
        check("export A=b", "A", "b");
        check("export\tA = b", "A", "b");
        check("export=b", "export", "b");
        check("A=b\r", "A", "b");
        check("\u{feff}A=b", "A", "b");
    }

    #[test]
    fn a_comment_begins_behind_a_blank() {
        check("A=b # c", "A", "b");
        check("A=b\t#c", "A", "b");
        check("A=b#c", "A", "b#c");
        check("A=#b", "A", "#b");
        check("A= # b", "A", "");
        check(r#"A="b # c" # d"#, "A", "b # c");
        check("A='b # c'\t# d", "A", "b # c");
    }

    #[test]
    fn quotes_around_a_value_are_taken_off() {
        check(r#"A=" b ""#, "A", " b ");
        check(r#"A="b\"c\\d\n\t\$e\x""#, "A", "b\"c\\d\n\t$e\\x");
        check(r"A='b\n$c'", "A", r"b\n$c");
        check("A=''", "A", "");
        check("A=it's", "A", "it's");
    }

    #[test]
    fn a_list_with_quotes_of_its_own_is_left_as_it_is() {
        for list in [r#"\"btcusdt\",\"ethusdt\""#, r#""btcusdt","ethusdt""#, r"'btcusdt','IC Markets:1'"] {
            check(&format!("TICKERS={list}"), "TICKERS", list);
        }
    }

    #[test]
    fn lines_are_independent_and_the_last_of_a_name_counts() {
        let text = "# first\n\nA=1\r\n   # indented\nB=2\nA=3\n";
        assert_eq!(variables(text), [("B".into(), "2".into()), ("A".into(), "3".into())]);
        assert_eq!(variables(""), []);
    }

    #[test]
    fn what_is_no_setting_is_refused_with_its_line() {
        check_refused(b"A=1\n\ngarbage line\nB=2", 3, "has no =");
        check_refused(b"export A", 1, "has no =");
        check_refused(b"=1", 1, "no name");
        check_refused(b"1A=1", 1, "no name");
        check_refused(b"A B=1", 1, "no name");
        check_refused(b"A-B=1", 1, "no name");
        check_refused(b"A=1\r\nB=\"open", 2, "never closed");
        check_refused(b"A='open", 1, "never closed");
        check_refused(b"A=\"open\\\"", 1, "never closed");
        check_refused(b"A=1\nB=\xff", 2, "UTF-8");
        check_refused(b"A=a\0b", 1, "NUL");
    }

    #[test]
    fn a_bad_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(".env");
        assert_eq!(read(&file).unwrap(), None);
        std::fs::write(&file, "A=1").unwrap();
        assert_eq!(read(&file).unwrap().unwrap(), [("A".into(), "1".to_owned())]);
        std::fs::write(&file, "KEY=1\nsesame").unwrap();
        let error = read(&file).unwrap_err().to_string();
        let place = format!("{}: line 2: ", file.display());
        assert!(error.starts_with(&place) && error.contains("write NAME=value"), "{error}");
        assert!(!error.contains("sesame"), "it may be a key: {error}");
        std::fs::write(&file, vec![b'#'; MAX_FILE_BYTES as usize + 1]).unwrap();
        assert!(read(&file).unwrap_err().to_string().contains("65536"));
        std::fs::remove_file(&file).unwrap();
        std::fs::create_dir(&file).unwrap();
        assert!(read(&file).unwrap_err().to_string().contains("is no regular file"));
    }

    #[test]
    fn the_command_line_names_the_file() {
        for (args, expect) in [
            (&["tocsin"][..], None),
            (&["tocsin", "--env-file", "a"], Some("a")),
            (&["tocsin", "serve", "--port", "1", "--env-file=b/c"], Some("b/c")),
            (&["tocsin", "--env-file=", "x"], Some("")),
            (&["tocsin", "--env-file"], None),
            (&["tocsin", "--env-files", "a"], None),
            (&["--env-file", "a"], None),
            (&["tocsin", "rule", "check", "--", "--env-file", "a"], None),
        ] {
            assert_eq!(named_file(args.iter().map(Into::into)), expect.map(PathBuf::from), "{args:?}");
        }
    }

    #[test]
    fn the_example_can_be_used_with_everything_in_it() {
        let example = include_str!("../../../.env.example");
        let is_setting = |text: &str| text.split_once('=').is_some_and(|(name, _)| !name.contains(' '));
        let lines = example.lines().map(|line| match line.strip_prefix("# ") {
            Some(text) if is_setting(text) => text,
            _ => line,
        });
        let variables = variables(&lines.collect::<Vec<_>>().join("\n"));
        assert!(variables.iter().any(|(name, value)| name == "TICKERS" && value.contains("IC MARKETS:1")));
        let command = Typed::command();
        let mut typed = vec!["tocsin".to_owned()];
        for (name, value) in variables {
            let argument = command.get_arguments().find(|argument| argument.get_env().is_some_and(|env| *env == *name));
            let option = argument.unwrap_or_else(|| panic!("{name} is no setting")).get_long().unwrap();
            typed.push(format!("--{option}={value}"));
        }
        let settings: Settings = Typed::parse_from(typed).args.validate().unwrap();
        assert_eq!(settings.tickers.len(), 3);
    }
}
