//! The derives and the attribute of `tocsin-rules-sdk`, which re-exports and documents them.
//!
//! What can be told from the text alone is refused here, at the place where it is written; what needs types (sizes,
//! padding, what may be in a state) is left to the compiler through the SDK's traits and constants.
//!
//! The generated code implements the SDK's `unsafe` traits and names the module's export. Rules need no leave for
//! that: the lint `unsafe_code` does not look into the code of another crate's macros.

use proc_macro::TokenStream;
use syn::{DeriveInput, ItemFn, parse_macro_input};

mod choice;
mod migrates;
mod params;
mod record;
mod rule;
mod state;
mod text;

/// Makes a `#[repr(C)]` struct the params of a rule. Doc comments become the schema's descriptions.
///
/// A field is an `f64`, `f32`, `i64`, `i32`, `u32`, `bool`, or an enum that derives `Choice`. `#[param(…)]` takes
/// `min`, `max`, `exclusive_min`, `exclusive_max` (number literals), `default` (a literal, or a variant as
/// `Direction::Up`; a param without one is required) and `unit` (a string).
#[proc_macro_derive(Params, attributes(param))]
pub fn params(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    params::expand(&input).unwrap_or_else(syn::Error::into_compile_error).into()
}

/// Makes a fieldless `#[repr(u32)]` enum the type of a param. Alerts write the variants in kebab-case: `AtLeast` is
/// `"at-least"`.
#[proc_macro_derive(Choice)]
pub fn choice(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    choice::expand(&input).unwrap_or_else(syn::Error::into_compile_error).into()
}

/// Makes a `#[repr(C)]` struct of numbers, arrays and such structs a state: bytes without padding, which the host keeps
/// between ticks and starts as zeroes.
#[proc_macro_derive(State)]
pub fn state(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    state::expand(&input).unwrap_or_else(syn::Error::into_compile_error).into()
}

/// Makes a function the rule of its crate: `fn(tick: &Tick, params: &P, state: &mut S) -> Verdict`, where `params` or
/// `state` may be left out.
///
/// `#[rule(evidence("change_percent"), sleeps, name = "my-rule")]`: `evidence` names the numbers that verdicts carry,
/// at most 4; `sleeps` says that verdicts may carry a wake band; `name` is the package's name unless it is given. The
/// description is the first paragraph of the doc comment, or the package's; version and authors are the package's.
///
/// `migrates("1.0.0" | "1.1.0" => from_v1)` takes over alerts of older versions: `from_v1` is a function
/// `fn(old: &OldState, params: &P, state: &mut S) -> bool` that makes a state, which is all zero, out of the one that the
/// older version left, or refuses it by `false`. It has no `params` where the rule has none.
///
/// Beside the function it makes a type of the same name that implements `Rule`, for native tests; on wasm32 also the
/// module's exports and manifest.
#[proc_macro_attribute]
pub fn rule(attribute: TokenStream, item: TokenStream) -> TokenStream {
    let options = parse_macro_input!(attribute as rule::Options);
    let function = parse_macro_input!(item as ItemFn);
    rule::expand(&options, &function).unwrap_or_else(syn::Error::into_compile_error).into()
}
