//! Text for a terminal: columns, and strangers' texts without control characters.

/// Lines of columns, two spaces apart, under their heads.
pub(super) fn table(heads: &[&str], rows: &[Vec<String>]) -> String {
    let heads = heads.iter().map(|head| (*head).to_owned()).collect::<Vec<_>>();
    let lines: Vec<Vec<String>> =
        std::iter::once(&heads).chain(rows).map(|row| row.iter().map(|cell| plain(cell)).collect()).collect();
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        let cells: Vec<String> = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Names and their values, one a line, the values below each other.
pub(super) fn pairs(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    pairs.iter().map(|(name, value)| format!("{name:width$}  {}\n", plain(value))).collect()
}

/// A text on one line. Rules are written by strangers: their escape sequences must not reach a terminal.
pub(super) fn plain(text: &str) -> String {
    let printable = |c: char| match c {
        '\n' | '\t' => ' ',
        c if c.is_control() || is_direction_mark(c) => '\u{fffd}',
        c => c,
    };
    text.chars().map(printable).collect()
}

/// Marks that make a terminal show a text in another order than it has.
fn is_direction_mark(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["é".to_owned(), "1".to_owned()], vec!["long".to_owned(), String::new()]];
        assert_eq!(table(&["A", "B"], &rows), "A     B\né     1\nlong\n");
        assert_eq!(pairs(&[("name", "x".into()), ("a", "y".into())]), "name  x\na     y\n");
    }

    #[test]
    fn escapes_stay_out_of_the_terminal() {
        assert_eq!(plain("a\x1b[31mb\nc\u{202e}d\0"), "a\u{fffd}[31mb c\u{fffd}d\u{fffd}");
    }
}
