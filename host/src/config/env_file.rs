//! The file `.env`: settings that are read at the start as if they stood in the environment.
//!
//! It is looked for in the working folder and in those above it. A variable of the environment wins over the file's.
//! A line is one of
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
use std::path::Path;

use super::ConfigError;

/// What the file is called.
const FILE_NAME: &str = ".env";

/// The largest file that is read, in bytes: settings take a few hundred.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// Reads the file, if there is one, and sets what the environment does not have yet.
///
/// # Safety
///
/// No other thread may run: it might be reading the environment.
#[expect(unsafe_code, reason = "only the caller can know that no other thread runs")]
pub unsafe fn load() -> Result<(), ConfigError> {
    let folder = std::env::current_dir().map_err(|error| ConfigError(format!("the working folder: {error}")))?;
    for (name, value) in read(&folder)? {
        if std::env::var_os(&name).is_none() {
            // SAFETY: the caller's promise.
            unsafe { std::env::set_var(name, value) };
        }
    }
    Ok(())
}

/// The variables of the file that is nearest above a folder; none if there is no file.
fn read(folder: &Path) -> Result<Vec<(OsString, String)>, ConfigError> {
    let Some(file) = folder.ancestors().map(|folder| folder.join(FILE_NAME)).find(|file| file.is_file()) else {
        return Ok(Vec::new());
    };
    let refused = |what: String| ConfigError(format!("{}: {what}", file.display()));
    let unread = |error: std::io::Error| refused(format!("cannot be read ({error}): mend or remove it"));
    let bytes = file.metadata().map_err(unread)?.len();
    if bytes > MAX_FILE_BYTES {
        return Err(refused(format!(
            "has {bytes} bytes, more than the {MAX_FILE_BYTES} allowed: is it a list of settings?"
        )));
    }
    parse(&std::fs::read(&file).map_err(unread)?).map_err(|(line, what)| {
        refused(format!("line {line}: {what}; write NAME=value, or begin the line with # if it is a comment"))
    })
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
        let (at, told) = parse(text).unwrap_err();
        assert!(at == line && told.contains(what), "line {at}: {told}");
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
    fn the_nearest_file_counts_and_a_bad_one_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let below = folder.path().join("a/b");
        std::fs::create_dir_all(&below).unwrap();
        std::fs::write(folder.path().join(".env"), "A=1").unwrap();
        assert_eq!(read(&below).unwrap(), [("A".into(), "1".to_owned())]);
        std::fs::write(below.join(".env"), "KEY=1\nsesame").unwrap();
        let error = read(&below).unwrap_err().to_string();
        let place = format!("{}: line 2: ", below.join(".env").display());
        assert!(error.starts_with(&place) && error.contains("write NAME=value"), "{error}");
        assert!(!error.contains("sesame"), "it may be a key: {error}");
        std::fs::write(below.join(".env"), vec![b'#'; MAX_FILE_BYTES as usize + 1]).unwrap();
        assert!(read(&below).unwrap_err().to_string().contains("65536"));
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
        let settings: Settings = Typed::parse_from(typed).args.settle().unwrap();
        assert_eq!(settings.tickers.len(), 3);
    }
}
