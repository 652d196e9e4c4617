//! Symbols of traded instruments.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// The longest symbol, in bytes. The longest that Finnhub uses is below 40.
pub const MAX_SYMBOL_BYTES: usize = 64;

/// The symbol of an instrument: upper case, 1 to [`MAX_SYMBOL_BYTES`] printable ASCII characters, inner spaces allowed
/// (`AAPL`, `BINANCE:BTCUSDT`, `IC MARKETS:1`). Cloning is cheap.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Symbol(Arc<str>);

/// The error for a text that is not a symbol. The message continues a sentence that begins with the field's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SymbolError {
    /// Nothing is left after trimming.
    #[error("is empty; give an instrument such as AAPL or BINANCE:BTCUSDT")]
    Empty,
    /// Longer than [`MAX_SYMBOL_BYTES`].
    #[error("has {0} bytes, more than the {MAX_SYMBOL_BYTES} that a symbol may have")]
    TooLong(usize),
    /// Not printable ASCII.
    #[error("holds {0:?}, but a symbol is made of printable ASCII characters and inner spaces")]
    BadCharacter(char),
}

impl Symbol {
    /// Parses a symbol, which is trimmed and converted to upper case.
    pub fn parse(text: &str) -> Result<Self, SymbolError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(SymbolError::Empty);
        }
        if text.len() > MAX_SYMBOL_BYTES {
            return Err(SymbolError::TooLong(text.len()));
        }
        if let Some(bad) = text.chars().find(|c| !c.is_ascii_graphic() && *c != ' ') {
            return Err(SymbolError::BadCharacter(bad));
        }
        Ok(Self(text.to_ascii_uppercase().into()))
    }

    /// Returns the symbol as text, upper case.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Symbol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for Symbol {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expect: Result<&str, SymbolError>) {
        assert_eq!(Symbol::parse(text).as_ref().map(Symbol::as_str), expect.as_ref().copied());
    }

    #[test]
    fn symbols_are_trimmed_upper_cased_and_bounded() {
        check("aapl", Ok("AAPL"));
        check(" IC Markets:1 ", Ok("IC MARKETS:1"));
        check("", Err(SymbolError::Empty));
        check("   ", Err(SymbolError::Empty));
        check("🚀", Err(SymbolError::BadCharacter('🚀')));
        check("A\u{202e}B", Err(SymbolError::BadCharacter('\u{202e}')));
        check("A\0B", Err(SymbolError::BadCharacter('\0')));
        check(&"X".repeat(64), Ok(&"X".repeat(64)));
        check(&"X".repeat(65), Err(SymbolError::TooLong(65)));
        check(&"X".repeat(4096), Err(SymbolError::TooLong(4096)));
    }
}
