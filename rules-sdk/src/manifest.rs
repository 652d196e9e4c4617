//! The manifest of a rule, and its JSON, which the compiler writes into the module's custom section.
//!
//! Everything here is `const`, so the manifest adds no code to the module. `docs/abi.md` defines the JSON.

use crate::abi;

/// A rule's manifest.
#[derive(Clone, Copy, Debug)]
pub struct Manifest {
    /// The rule's name, kebab-case.
    pub name: &'static str,
    /// Semantic version.
    pub version: &'static str,
    /// What the rule does, as text to display.
    pub description: &'static str,
    /// The author, as text to display.
    pub author: &'static str,
    /// The params, in the order of the record.
    pub params: &'static [Param],
    /// The size of the params record, in bytes.
    pub params_bytes: usize,
    /// The size of the state record, in bytes.
    pub state_bytes: usize,
    /// The names of the evidence numbers.
    pub evidence: &'static [&'static str],
    /// Whether verdicts may have a wake band.
    pub sleeps: bool,
    /// The older versions from which the rule migrates states.
    pub migrates: &'static [&'static str],
}

/// A param: a property of the schema, with its position in the record.
#[derive(Clone, Copy, Debug)]
pub struct Param {
    /// The name of the property.
    pub name: &'static str,
    /// The field's doc comment, or empty.
    pub description: &'static str,
    /// The type of the field.
    pub kind: Kind,
    /// The offset in the record, in bytes.
    pub offset: usize,
    /// Bounds: schema keyword and number, as JSON.
    pub bounds: &'static [(&'static str, &'static str)],
    /// The value for alerts that leave the param out. Without a default the param is required.
    pub default: Option<Json>,
    /// The unit, as text to display.
    pub unit: Option<&'static str>,
}

/// The type of a param.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A number of 64 bits.
    F64,
    /// A number of 32 bits.
    F32,
    /// A signed integer of 64 bits.
    I64,
    /// A signed integer of 32 bits.
    I32,
    /// An unsigned integer of 32 bits.
    U32,
    /// 4 bytes, 0 or 1.
    Bool,
    /// A `u32`: the index of one of these names.
    Enum(&'static [&'static str]),
}

/// A JSON value.
#[derive(Clone, Copy, Debug)]
pub enum Json {
    /// A number, `true` or `false`, in JSON.
    Plain(&'static str),
    /// A string, without quotes.
    Text(&'static str),
}

/// Returns the size of the host's record of a `T`, in bytes: that of the type, rounded up to [`abi::RECORD_ALIGN`].
pub const fn record_bytes<T>() -> usize {
    size_of::<T>().next_multiple_of(abi::RECORD_ALIGN)
}

impl Kind {
    /// Returns the `type` in the schema and the `type` in the layout.
    const fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::F64 => ("number", "f64"),
            Self::F32 => ("number", "f32"),
            Self::I64 => ("integer", "i64"),
            Self::I32 => ("integer", "i32"),
            Self::U32 => ("integer", "u32"),
            Self::Bool => ("boolean", "bool"),
            Self::Enum(_) => ("string", "enum"),
        }
    }
}

impl Manifest {
    /// Returns the length of the JSON, in bytes.
    pub const fn json_bytes(&self) -> usize {
        self.write(&mut [])
    }

    /// Returns the JSON. `N` must be [`json_bytes`](Self::json_bytes).
    pub const fn json<const N: usize>(&self) -> [u8; N] {
        let mut out = [0; N];
        assert!(self.write(&mut out) == N);
        out
    }

    /// Writes as much of the JSON as fits into `out`, and returns its full length.
    pub(crate) const fn write(&self, out: &mut [u8]) -> usize {
        let mut to = Writer { out, length: 0 };
        to.raw("{\"abi\":").number(abi::VERSION as usize);
        to.raw(",\"name\":").text(self.name);
        to.raw(",\"version\":").text(self.version);
        to.raw(",\"description\":").text(self.description);
        to.raw(",\"author\":").text(self.author);
        to.raw(",\"params\":{\"schema\":{\"type\":\"object\",\"properties\":{");
        self.write_properties(&mut to);
        to.raw("},\"required\":[");
        self.write_required(&mut to);
        to.raw("],\"additionalProperties\":false},\"layout\":[");
        self.write_layout(&mut to);
        to.raw("],\"size\":").number(self.params_bytes);
        to.raw("},\"state\":{\"size\":").number(self.state_bytes);
        to.raw("},\"evidence\":").texts(self.evidence);
        to.raw(",\"sleeps\":").raw(if self.sleeps { "true" } else { "false" });
        if !self.migrates.is_empty() {
            to.raw(",\"migrates\":").texts(self.migrates);
        }
        to.raw("}");
        to.length
    }

    const fn write_properties(&self, to: &mut Writer<'_>) {
        let mut i = 0;
        while i < self.params.len() {
            to.comma(i).text(self.params[i].name).raw(":");
            self.params[i].write_property(to);
            i += 1;
        }
    }

    const fn write_required(&self, to: &mut Writer<'_>) {
        let (mut i, mut written) = (0, 0);
        while i < self.params.len() {
            if self.params[i].default.is_none() {
                to.comma(written).text(self.params[i].name);
                written += 1;
            }
            i += 1;
        }
    }

    const fn write_layout(&self, to: &mut Writer<'_>) {
        let mut i = 0;
        while i < self.params.len() {
            let param = &self.params[i];
            to.comma(i).raw("{\"name\":").text(param.name);
            to.raw(",\"type\":").text(param.kind.names().1);
            to.raw(",\"offset\":").number(param.offset).raw("}");
            i += 1;
        }
    }
}

impl Param {
    const fn write_property(&self, to: &mut Writer<'_>) {
        to.raw("{\"type\":").text(self.kind.names().0);
        if let Kind::Enum(names) = self.kind {
            to.raw(",\"enum\":").texts(names);
        }
        if !self.description.is_empty() {
            to.raw(",\"description\":").text(self.description);
        }
        let mut i = 0;
        while i < self.bounds.len() {
            to.raw(",").text(self.bounds[i].0).raw(":").raw(self.bounds[i].1);
            i += 1;
        }
        match self.default {
            Some(Json::Plain(value)) => _ = to.raw(",\"default\":").raw(value),
            Some(Json::Text(value)) => _ = to.raw(",\"default\":").text(value),
            None => {}
        }
        if let Some(unit) = self.unit {
            to.raw(",\"x-unit\":").text(unit);
        }
        to.raw("}");
    }
}

/// Writes as much as fits and counts everything, so that one pass computes the length and another fills the array.
struct Writer<'a> {
    out: &'a mut [u8],
    length: usize,
}

impl Writer<'_> {
    const fn byte(&mut self, byte: u8) {
        if self.length < self.out.len() {
            self.out[self.length] = byte;
        }
        self.length += 1;
    }

    const fn raw(&mut self, json: &str) -> &mut Self {
        let mut i = 0;
        while i < json.len() {
            self.byte(json.as_bytes()[i]);
            i += 1;
        }
        self
    }

    /// Writes a JSON string. Quotes, backslashes and control characters are escaped; the rest is UTF-8.
    const fn text(&mut self, text: &str) -> &mut Self {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        self.byte(b'"');
        let mut i = 0;
        while i < text.len() {
            let byte = text.as_bytes()[i];
            if byte == b'"' || byte == b'\\' {
                self.byte(b'\\');
                self.byte(byte);
            } else if byte < 0x20 {
                self.raw("\\u00");
                self.byte(HEX[(byte >> 4) as usize]);
                self.byte(HEX[(byte & 15) as usize]);
            } else {
                self.byte(byte);
            }
            i += 1;
        }
        self.byte(b'"');
        self
    }

    const fn texts(&mut self, texts: &[&str]) -> &mut Self {
        self.raw("[");
        let mut i = 0;
        while i < texts.len() {
            self.comma(i).text(texts[i]);
            i += 1;
        }
        self.raw("]")
    }

    const fn number(&mut self, number: usize) -> &mut Self {
        if number >= 10 {
            self.number(number / 10);
        }
        self.byte(b'0' + (number % 10) as u8);
        self
    }

    /// Writes a comma, except before the first element.
    const fn comma(&mut self, index: usize) -> &mut Self {
        if index > 0 { self.raw(",") } else { self }
    }
}
