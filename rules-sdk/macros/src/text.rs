//! Names and doc comments.

use proc_macro2::{Ident, Span, TokenStream};
use quote::quote_spanned;
use syn::{Attribute, Expr, ExprLit, Lit, Meta, MetaNameValue};

/// Returns the first paragraph of a doc comment as one line, or an empty string.
pub(crate) fn first_paragraph(attributes: &[Attribute]) -> String {
    let lines = attributes.iter().filter_map(doc_line).collect::<Vec<_>>().join("\n");
    let paragraph: Vec<&str> =
        lines.lines().map(str::trim).skip_while(|line| line.is_empty()).take_while(|line| !line.is_empty()).collect();
    paragraph.join(" ")
}

fn doc_line(attribute: &Attribute) -> Option<String> {
    match &attribute.meta {
        Meta::NameValue(MetaNameValue { path, value: Expr::Lit(ExprLit { lit: Lit::Str(text), .. }), .. })
            if path.is_ident("doc") =>
        {
            Some(text.value())
        }
        _ => None,
    }
}

/// Generates an assertion that a text is no longer than a constant of the SDK's `abi` allows. `what` names the text in the
/// error.
pub(crate) fn bound(text: &str, what: &str, limit: &str, span: Span) -> TokenStream {
    let bytes = text.len();
    let message = format!("{what} has {bytes} bytes, more than `tocsin_rules_sdk::abi::{limit}`: shorten it");
    let limit = Ident::new(limit, span);
    quote_spanned! { span =>
        const _: () = ::core::assert!(#bytes <= ::tocsin_rules_sdk::abi::#limit, #message);
    }
}

/// Converts `AtLeast` to `at-least`.
pub(crate) fn kebab(name: &str) -> String {
    let mut kebab = String::new();
    for c in name.chars() {
        if c.is_uppercase() && !kebab.is_empty() {
            kebab.push('-');
        }
        kebab.extend(c.to_lowercase());
    }
    kebab
}

/// Returns whether a text consists of words of lower-case letters and digits, separated by `separator`, and starts with a
/// letter.
pub(crate) fn is_words(text: &str, separator: char) -> bool {
    let word = |w: &str| !w.is_empty() && w.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    text.starts_with(|c: char| c.is_ascii_lowercase()) && text.split(separator).all(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_become_kebab_case() {
        for (name, expect) in [("Up", "up"), ("AtLeast", "at-least"), ("Top10", "top10")] {
            assert_eq!(kebab(name), expect);
        }
    }

    #[test]
    fn words_are_separated_by_one_separator() {
        for good in ["a", "percent-move", "a1-2"] {
            assert!(is_words(good, '-'), "{good}");
        }
        for bad in ["", "-a", "a-", "a--b", "A", "1a", "a_b"] {
            assert!(!is_words(bad, '-'), "{bad}");
        }
    }

    #[test]
    fn a_description_is_the_first_paragraph() {
        let field: syn::ItemStruct = syn::parse_quote! {
            ///
            /// Two lines,
            /// one sentence.
            ///
            /// More.
            #[repr(C)]
            struct S;
        };
        assert_eq!(first_paragraph(&field.attrs), "Two lines, one sentence.");
        assert_eq!(first_paragraph(&[]), "");
    }
}
