//! A text that must not be shown: the feed's key.

use std::fmt;

/// What is printed where a secret would be.
const MASK: &str = "***";

/// A secret text. It has no `Display`, and its `Debug` is a mask.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes a secret, with the white space around it trimmed off.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into().trim().to_owned())
    }

    /// Whether nothing was given.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The secret itself, for the one place that sends it.
    pub(super) fn expose(&self) -> &str {
        &self.0
    }

    /// A text in which the secret is masked, also where it is percent-encoded: a server may echo what it was sent.
    pub(super) fn redact(&self, text: &str) -> String {
        if self.is_empty() {
            return text.to_owned();
        }
        let encoded: String = form_urlencoded::byte_serialize(self.0.as_bytes()).collect();
        text.replace(&self.0, MASK).replace(&encoded, MASK)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_masked_wherever_it_would_be_shown() {
        let secret = Secret::new(" k+1 ");
        assert_eq!(format!("{secret:?}"), "***");
        assert_eq!(secret.redact("/?token=k%2B1 refused: k+1"), "/?token=*** refused: ***");
        assert_eq!(Secret::new("").redact("as it was"), "as it was");
    }
}
