//! Parses settings of several values: `name=value name='a value'`, as libpq writes them. Errors quote no value: it may be a
//! secret.

/// Returns names and values in their order. A backslash takes the next character as it is. `forms` completes messages: what
/// may be written instead.
pub fn key_values(text: &str, forms: &str) -> Result<Vec<(String, String)>, String> {
    let mut pairs = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let nth = pairs.len() + 1;
        let (key, value) = rest.split_once('=').ok_or_else(|| format!("word {nth} has no '='; give {forms}"))?;
        let key = key.trim_end();
        if key.is_empty() || key.contains(char::is_whitespace) {
            return Err(format!("word {nth} has no '='; put a value that holds a space in single quotes"));
        }
        let (value, behind) =
            read_value(value.trim_start()).ok_or_else(|| format!("the quote of {key} is not closed"))?;
        pairs.push((key.to_owned(), value));
        rest = behind.trim_start();
    }
    Ok(pairs)
}

/// Returns the value at the start of a text, and what follows it; None if its quote is not closed.
fn read_value(text: &str) -> Option<(String, &str)> {
    let (quoted, text) = text.strip_prefix('\'').map_or((false, text), |text| (true, text));
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            '\'' if quoted => return Some((value, &text[at + 1..])),
            _ if !quoted && char.is_whitespace() => return Some((value, &text[at..])),
            _ => value.push(char),
        }
    }
    (!quoted).then_some((value, ""))
}
