//! Warns of symbols with alerts that no feed of this server serves, of each once.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use tocsin_engine::domain::Symbol;

/// So many symbols are warned of, as many as a server can have tickers: what goes on beyond is no misspelling, and must not
/// take memory without end.
const MAX_WARNED: usize = 1024;

/// The symbols that the log has been warned of.
#[derive(Debug, Default)]
pub struct Warned(Mutex<HashSet<Symbol>>);

impl Warned {
    pub(super) fn warn(&self, symbol: &Symbol) {
        if self.is_news(symbol) {
            tracing::warn!(
                %symbol, "there are alerts on a symbol that is not in TICKERS: they wait until another process publishes its ticks"
            );
        }
    }

    fn is_news(&self, symbol: &Symbol) -> bool {
        let mut warned = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        warned.len() < MAX_WARNED && warned.insert(symbol.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_symbol_is_warned_of_once_and_only_so_many() {
        let (warned, symbol) = (Warned::default(), |i: usize| Symbol::parse(&format!("S{i}")).unwrap());
        assert!(warned.is_news(&symbol(0)) && !warned.is_news(&symbol(0)));
        assert!((1..MAX_WARNED).all(|i| warned.is_news(&symbol(i))));
        assert!(!warned.is_news(&symbol(MAX_WARNED)));
    }
}
