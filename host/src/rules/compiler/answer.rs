//! What a child writes to its standard output, once: an artifact with its fingerprint, or why there is none.

use serde::{Deserialize, Serialize};
use tocsin_engine::domain::Digest;
use tocsin_engine::violation::{Code, Violation};

use super::job::{Compiled, Refusal};

const ARTIFACT: u8 = b'A';
const REFUSAL: u8 = b'R';

/// Bytes of a fingerprint.
const FINGERPRINT_BYTES: usize = 32;

/// What comes before an artifact, in bytes.
pub(super) const HEAD_BYTES: usize = 1 + FINGERPRINT_BYTES;

/// A violation on its way between two processes.
#[derive(Deserialize, Serialize)]
struct Wire {
    code: String,
    message: String,
}

/// An artifact as it came from a child.
pub(super) struct Received {
    pub(super) fingerprint: Digest,
    pub(super) artifact: Vec<u8>,
}

pub(super) fn encode(result: Result<Compiled, Refusal>) -> Vec<u8> {
    match result {
        Ok(compiled) => [&[ARTIFACT], compiled.fingerprint.0.as_slice(), compiled.artifact.bytes()].concat(),
        Err(violations) => {
            let wire = |v: Violation| Wire { code: v.code.as_str().into(), message: v.message };
            let wire: Vec<Wire> = violations.into_iter().map(wire).collect();
            let json = serde_json::to_vec(&wire).expect("texts are JSON");
            [vec![REFUSAL], json].concat()
        }
    }
}

/// Reads an answer; None if it is none.
pub(super) fn decode(bytes: &[u8]) -> Option<Result<Received, Refusal>> {
    match bytes.split_first()? {
        (&ARTIFACT, rest) => {
            let (fingerprint, artifact) = rest.split_first_chunk::<FINGERPRINT_BYTES>()?;
            Some(Ok(Received { fingerprint: Digest(*fingerprint), artifact: artifact.to_vec() }))
        }
        (&REFUSAL, json) => {
            let wire: Vec<Wire> = serde_json::from_slice(json).ok()?;
            let code = |text: &str| Code::ALL.into_iter().find(|code| code.as_str() == text);
            let violation = |wire: Wire| Some(Violation::new(code(&wire.code)?, wire.message));
            let violations: Refusal = wire.into_iter().map(violation).collect::<Option<_>>()?;
            (!violations.is_empty()).then_some(Err(violations))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_survives_the_pipe() {
        for code in Code::ALL {
            let violations = vec![Violation::new(code, "what is \"wrong\""), Violation::new(code, "")];
            assert_eq!(decode(&encode(Err(violations.clone()))).unwrap().err().unwrap(), violations);
        }
    }

    #[test]
    fn an_artifact_comes_with_its_fingerprint() {
        let bytes = [b"A".as_slice(), &[7; 32], b"code"].concat();
        let received = decode(&bytes).unwrap().ok().unwrap();
        assert_eq!((received.fingerprint, received.artifact.as_slice()), (Digest([7; 32]), b"code".as_slice()));
    }

    #[test]
    fn garbage_is_no_answer() {
        for bytes in [&b""[..], b"A", b"A123", b"R", b"R[]", b"R{}", br#"R[{"code":"none","message":""}]"#, b"thread"] {
            assert!(decode(bytes).is_none(), "{bytes:?}");
        }
    }
}
