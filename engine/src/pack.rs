//! Attaches a manifest to a module, for toolchains that cannot write custom sections. It does not check whether the result
//! is a rule: [`crate::inspect`] does.

use tocsin_rules_sdk::abi::MANIFEST_SECTION;
use wasm_encoder::{CustomSection, Section as _};
use wasmparser::{Encoding, Parser, Payload};

use crate::inspect::inspect;
use crate::violation::Rejection;

/// Bytes before the first section: the magic number and the version.
const HEADER_BYTES: usize = 8;

/// A module with a manifest.
#[derive(Debug)]
pub struct Packed {
    /// The module, with the manifest as its last section.
    pub module: Vec<u8>,
    /// Whether an earlier manifest was removed.
    pub replaced: bool,
}

/// Attaches a manifest, and removes an earlier one.
///
/// # Errors
/// Where the bytes are not a module.
pub fn pack(module: &[u8], manifest: &[u8]) -> Result<Packed, Rejection> {
    let Some(mut packed) = without_manifest(module) else {
        return Err(inspect(module).expect_err("bytes that are not a module are not a rule"));
    };
    let replaced = packed.len() < module.len();
    CustomSection { name: MANIFEST_SECTION.into(), data: manifest.into() }.append_to(&mut packed);
    Ok(Packed { module: packed, replaced })
}

/// Returns the module without its manifest, or `None` if the bytes are not a module.
fn without_manifest(module: &[u8]) -> Option<Vec<u8>> {
    let mut kept = module.get(..HEADER_BYTES)?.to_vec();
    let mut start = HEADER_BYTES;
    for payload in Parser::new(0).parse_all(module) {
        let payload = payload.ok()?;
        if let Payload::Version { encoding: Encoding::Component, .. } = payload {
            return None;
        }
        // The bodies of functions are payloads too, within a section that came before.
        let Some((_, content)) = payload.as_section() else { continue };
        let is_manifest = matches!(&payload, Payload::CustomSection(custom) if custom.name() == MANIFEST_SECTION);
        if !is_manifest {
            // The payload of a code section comes at its start, and may claim to be longer than the module.
            kept.extend_from_slice(module.get(start..content.end)?);
        }
        start = content.end;
    }
    Some(kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builtin;

    #[test]
    fn packing_appends_or_replaces_the_manifest() {
        let bare = wat::parse_str("(module (func (nop)) (func) (@custom \"other\" \"x\"))").unwrap();
        let packed = pack(&bare, b"{}").unwrap();
        assert!(!packed.replaced);
        assert_eq!(packed.module, [&bare[..], b"\0\x12\x0ftocsin.manifest{}"].concat());
        let again = pack(&packed.module, b"[1]").unwrap();
        assert!(again.replaced);
        assert_eq!(again.module, [&bare[..], b"\0\x13\x0ftocsin.manifest[1]"].concat());
    }

    #[test]
    fn a_packed_rule_is_a_rule_wherever_its_manifest_was() {
        let manifest = inspect(builtin::ABOVE).unwrap().manifest.json.to_string();
        let (header, rest) = builtin::ABOVE.split_at(HEADER_BYTES);
        let mut early = header.to_vec();
        CustomSection { name: MANIFEST_SECTION.into(), data: b"{}".into() }.append_to(&mut early);
        CustomSection { name: MANIFEST_SECTION.into(), data: b"".into() }.append_to(&mut early);
        early.extend_from_slice(rest);
        let packed = pack(&early, manifest.as_bytes()).unwrap();
        assert!(packed.replaced);
        assert_eq!(inspect(&packed.module).unwrap().manifest.name.as_str(), "above");
    }

    #[test]
    fn bytes_that_are_not_a_module_are_refused() {
        let cut = &builtin::ABOVE[..builtin::ABOVE.len() - 1];
        for (bytes, expect) in [
            (&b""[..], "is empty"),
            (b"\0asm\x0d\0\x01\0", "component"),
            (b"(module)", "WebAssembly text"),
            (b"\0as", "does not begin"),
            (cut, "unexpected end"),
            // A code section that claims to be longer than the module.
            (b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\x0a\x49\x01\xb9", "unexpected end"),
        ] {
            let refused = pack(bytes, b"{}").unwrap_err().to_string();
            assert!(refused.contains(expect), "{refused}");
        }
    }
}
