//! The packed types of params.

use serde_json::Value;

/// 2^53: whole numbers below are exact as doubles.
const MAX_EXACT: f64 = 9_007_199_254_740_992.0;

/// The largest packed param, in bytes.
pub(super) const MAX_FIELD_BYTES: usize = 8;

/// The packed type of a param.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    F64,
    F32,
    I64,
    I32,
    U32,
    Bool,
    /// The index of the value in this list, as u32.
    Enum(Vec<Value>),
}

impl Kind {
    /// Returns the kind with the given name, and the type that the schema must have.
    pub(super) fn named(text: &str, property: &Value) -> Option<(Self, &'static str)> {
        Some(match text {
            "f64" => (Self::F64, "number"),
            "f32" => (Self::F32, "number"),
            "i64" => (Self::I64, "integer"),
            "i32" => (Self::I32, "integer"),
            "u32" => (Self::U32, "integer"),
            "bool" => (Self::Bool, "boolean"),
            "enum" => (Self::Enum(property["enum"].as_array().cloned().unwrap_or_default()), "string"),
            _ => return None,
        })
    }

    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 | Self::U32 | Self::Bool | Self::Enum(_) => 4,
        }
    }

    /// Writes a value that is valid by the schema to its place, which has [`Self::bytes`] bytes.
    pub(super) fn pack(&self, value: &Value, place: &mut [u8]) -> Result<(), String> {
        let mut put = |bytes: &[u8]| place.copy_from_slice(bytes);
        match self {
            Self::F64 => put(&finite(value)?.to_le_bytes()),
            Self::F32 => put(&single(value)?.to_le_bytes()),
            Self::I64 => put(&integer::<i64>(value, "a 64-bit integer")?.to_le_bytes()),
            Self::I32 => put(&integer::<i32>(value, "a 32-bit integer")?.to_le_bytes()),
            Self::U32 => put(&integer::<u32>(value, "an unsigned 32-bit integer")?.to_le_bytes()),
            Self::Bool => put(&u32::from(value == true).to_le_bytes()),
            Self::Enum(values) => {
                let index = values.iter().position(|known| known == value).ok_or("not in the list")?;
                put(&(index as u32).to_le_bytes());
            }
        }
        Ok(())
    }
}

/// A number that changes by being packed.
pub(super) struct Rounded {
    /// The number that the rule reads.
    pub(super) packed: f64,
    /// The type that it is packed as, for messages.
    pub(super) float: &'static str,
}

impl Kind {
    /// Returns the packed number if it differs from the value, and `None` if it is the same or cannot be packed.
    pub(super) fn rounded(&self, value: &Value) -> Option<Rounded> {
        let (packed, float) = match self {
            Self::F64 => (finite(value).ok()?, "64-bit float"),
            Self::F32 => (f64::from(single(value).ok()?), "32-bit float"),
            Self::I64 | Self::I32 | Self::U32 | Self::Bool | Self::Enum(_) => return None,
        };
        let whole = value.as_i64().map(i128::from).or_else(|| value.as_u64().map(i128::from));
        let is_same = match whole {
            // Whole numbers are compared as integers, since not every one of 64 bits is a double. Both kinds of float are in
            // the range of an i128 if they were packed from one.
            Some(whole) => packed as i128 == whole,
            None => value.as_f64() == Some(packed),
        };
        (!is_same).then_some(Rounded { packed, float })
    }

    /// Checks that packing does not change a number of the schema.
    pub(super) fn check_exact(&self, value: &Value) -> Result<(), String> {
        match (self, self.rounded(value)) {
            (Self::F64 | Self::F32, Some(Rounded { packed, float })) => Err(format!(
                "{value} is packed as the {float} {packed}, so that no value of an alert is accepted: write that number"
            )),
            (Self::F32, None) => single(value).map(|_| ()),
            _ => Ok(()),
        }
    }
}

/// Converts a number to a 32-bit float. Fails if the result would be infinite or a negative zero; bounds are checked
/// elsewhere.
fn single(value: &Value) -> Result<f32, String> {
    let number = finite(value)?;
    let packed = number as f32;
    if !packed.is_finite() {
        let most = f32::MAX;
        return Err(format!(
            "{value} is packed as the 32-bit float {packed}: give a number between -{most:e} and {most:e}"
        ));
    }
    if packed == 0.0 && packed.is_sign_negative() {
        return Err(format!(
            "{value} is packed as the 32-bit float {packed}, and a zero has no sign: give 0, or a number further from it"
        ));
    }
    Ok(packed)
}

fn finite(value: &Value) -> Result<f64, String> {
    // Adding +0.0 removes the sign of a zero, so that equal params have equal bytes.
    value.as_f64().filter(|n| n.is_finite()).map(|n| n + 0.0).ok_or_else(|| format!("{value} is not a finite number"))
}

/// Converts a value that is an integer by the schema, as 3.0 is in JSON Schema. `kind` is the name of `T` in messages.
fn integer<T: TryFrom<i64>>(value: &Value, kind: &str) -> Result<T, String> {
    let whole = value.as_i64().map(i128::from).or_else(|| value.as_f64().map(|number| number as i128));
    let fitting = whole.and_then(|whole| i64::try_from(whole).ok()).and_then(|whole| T::try_from(whole).ok());
    let fitting = fitting.ok_or_else(|| format!("{value} does not fit {kind}"))?;
    if value.as_f64().is_some_and(|number| value.is_f64() && number.abs() >= MAX_EXACT) {
        let most = MAX_EXACT as i64;
        return Err(format!(
            "{value}: from {most} on a number with a point or an exponent is not exact: write all its digits"
        ));
    }
    Ok(fitting)
}
