//! `#[derive(Choice)]`.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Data, DeriveInput, Error, Result};

use crate::{record, text};

pub(crate) fn expand(input: &DeriveInput) -> Result<TokenStream> {
    let what = "the type of a choice";
    let Data::Enum(data) = &input.data else {
        return Err(Error::new_spanned(&input.ident, format!("{what} is an enum without fields")));
    };
    record::require_plain(input, what, "u32")?;
    if data.variants.is_empty() {
        return Err(Error::new_spanned(&input.ident, format!("{what} has at least one variant")));
    }
    for variant in &data.variants {
        if !variant.fields.is_empty() {
            return Err(Error::new_spanned(&variant.fields, "a choice is only a name: remove the variant's fields"));
        }
        if let Some((_, number)) = &variant.discriminant {
            return Err(Error::new_spanned(number, "choices are numbered 0, 1, 2, …: remove this number"));
        }
    }
    let ident = &input.ident;
    let names: Vec<String> = data.variants.iter().map(|variant| text::kebab(&variant.ident.to_string())).collect();
    for (index, (name, variant)) in names.iter().zip(&data.variants).enumerate() {
        if names[..index].contains(name) {
            let message = format!("alerts would write this variant as {name:?}, like an earlier one: rename it");
            return Err(Error::new_spanned(&variant.ident, message));
        }
    }
    let bounds = names.iter().zip(&data.variants).map(|(name, variant)| {
        text::bound(name, &format!("the name {name:?}"), "MAX_ENUM_VALUE_BYTES", variant.ident.span())
    });
    Ok(quote! {
        #(#bounds)*

        // SAFETY: a `u32` enum without fields and explicit numbers; the names are in the order of its variants.
        unsafe impl ::tocsin_rules_sdk::Choice for #ident {
            const NAMES: &'static [&'static str] = &[#(#names),*];
        }
    })
}
