//! Requirements of the three derives on their type.

use syn::{Data, DeriveInput, Error, Field, Fields, Ident, Result};

/// Returns the named fields of a struct that is not generic and has exactly `#[repr(C)]`. `what` names it in messages.
pub(crate) fn fields<'a>(input: &'a DeriveInput, what: &str) -> Result<Vec<&'a Field>> {
    let Data::Struct(data) = &input.data else {
        return Err(Error::new_spanned(&input.ident, format!("{what} is a struct with named fields")));
    };
    let Fields::Named(fields) = &data.fields else {
        return Err(Error::new_spanned(&input.ident, format!("{what} is a struct with named fields")));
    };
    if fields.named.is_empty() {
        return Err(Error::new_spanned(
            &input.ident,
            format!("{what} without fields is not needed: leave it out of the rule's signature"),
        ));
    }
    require_plain(input, what, "C")?;
    Ok(fields.named.iter().collect())
}

/// Refuses generics and any other `repr` than the given one: the layout of the record must be the same everywhere.
pub(crate) fn require_plain(input: &DeriveInput, what: &str, repr: &str) -> Result<()> {
    if !input.generics.params.is_empty() {
        return Err(Error::new_spanned(
            &input.generics,
            format!("{what} cannot be generic: its size is part of the rule's manifest"),
        ));
    }
    let mut reprs = Vec::new();
    for attribute in input.attrs.iter().filter(|a| a.path().is_ident("repr")) {
        attribute.parse_nested_meta(|meta| {
            reprs.push(meta.path.get_ident().map(Ident::to_string).unwrap_or_default());
            // `align(16)` and `packed(1)`: skips the argument, since they are refused below.
            if meta.input.peek(syn::token::Paren) {
                let _argument;
                syn::parenthesized!(_argument in meta.input);
                _argument.parse::<proc_macro2::TokenStream>()?;
            }
            Ok(())
        })?;
    }
    if reprs != [repr] {
        return Err(Error::new_spanned(
            &input.ident,
            format!(
                "write `#[repr({repr})]`, and no other repr, on `{}`: the host reads and writes its bytes",
                input.ident
            ),
        ));
    }
    Ok(())
}
