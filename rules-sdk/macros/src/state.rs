//! `#[derive(State)]`.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::spanned::Spanned as _;
use syn::{DeriveInput, Result};

use crate::record;

pub(crate) fn expand(input: &DeriveInput) -> Result<TokenStream> {
    let fields = record::fields(input, "state")?;
    let ident = &input.ident;
    let zeroes = fields.iter().map(|field| {
        let (name, ty) = (&field.ident, &field.ty);
        quote_spanned! { ty.span() => #name: <#ty as ::tocsin_rules_sdk::State>::ZERO }
    });
    let types = fields.iter().map(|field| &field.ty);
    let padding = format!(
        "`{ident}` has padding, bytes that no field owns: order its fields from the largest to the smallest, and fill up \
         what is left to a multiple of its largest number with a field such as `spare: u32`"
    );
    Ok(quote! {
        // SAFETY: `repr(C)`, every field is a `State`, and there is no padding, as the assertion below checks.
        unsafe impl ::tocsin_rules_sdk::State for #ident {
            const ZERO: Self = Self { #(#zeroes),* };
        }
        const _: () = ::core::assert!(
            ::core::mem::size_of::<#ident>() == 0 #(+ ::core::mem::size_of::<#types>())*,
            #padding
        );
    })
}
