//! `migrates(…)` of `#[rule]`: the functions that take over states of older versions.

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use semver::Version;
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::spanned::Spanned as _;
use syn::{Error, Ident, LitStr, Path, Result, Token, Type};

use crate::rule::package;

const FORM: &str = "write each older version and the function that takes its states over: \
                    `migrates(\"1.0.0\" | \"1.1.0\" => from_v1)`";

/// Older versions that kept the same state, and the function that takes it over.
pub(crate) struct Takeover {
    pub(crate) versions: Vec<LitStr>,
    function: Path,
}

impl Parse for Takeover {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let form = |error: Error| Error::new(error.span(), FORM);
        let versions = Punctuated::<LitStr, Token![|]>::parse_separated_nonempty(input).map_err(form)?;
        input.parse::<Token![=>]>().map_err(form)?;
        let function = input.parse().map_err(form)?;
        Ok(Self { versions: versions.into_iter().collect(), function })
    }
}

/// Reads what stands behind the word `migrates`.
pub(crate) fn parse(key: &Ident, input: ParseStream<'_>) -> Result<Vec<Takeover>> {
    if !input.peek(syn::token::Paren) {
        return Err(Error::new(key.span(), FORM));
    }
    let list;
    syn::parenthesized!(list in input);
    let takeovers = Punctuated::<Takeover, Token![,]>::parse_terminated(&list)?;
    if takeovers.is_empty() {
        return Err(Error::new(key.span(), FORM));
    }
    let takeovers: Vec<Takeover> = takeovers.into_iter().collect();
    check_versions(takeovers.iter().flat_map(|takeover| &takeover.versions))?;
    Ok(takeovers)
}

/// Why no version of a rule has it.
const BUILD_METADATA: &str = "build metadata (behind the `+`) gives versions no order";

/// The version of the package, which is the rule's.
pub(crate) fn package_version(text: &str, span: Span) -> Result<Version> {
    // Cargo takes no other.
    let version = Version::parse(text).expect("a package has a semantic version");
    if version.build.is_empty() {
        return Ok(version);
    }
    Err(Error::new(span, format!("the package's version is {version}: {BUILD_METADATA}; take it out of Cargo.toml")))
}

fn check_versions<'a>(texts: impl Iterator<Item = &'a LitStr>) -> Result<()> {
    let own = package_version(&package("VERSION"), Span::call_site())?;
    let mut known = Vec::new();
    for text in texts {
        let refuse = |message: String| Err(Error::new(text.span(), message));
        match Version::parse(&text.value()) {
            Err(error) => return refuse(format!("not a semantic version such as \"1.0.0\": {error}")),
            Ok(version) if !version.build.is_empty() => return refuse(format!("{BUILD_METADATA}: take it away")),
            Ok(version) if version >= own => {
                return refuse(format!(
                    "not older than this version, {own}: raise `version` in Cargo.toml, or take the name away"
                ));
            }
            Ok(version) if known.contains(&version) => return refuse("this version stands there twice".into()),
            Ok(version) => known.push(version),
        }
    }
    Ok(())
}

/// The body of `Rule::migrate`: one arm for each version, by its place.
pub(crate) fn expand(takeovers: &[Takeover], params: Option<&Type>, state: Option<&Type>) -> Result<TokenStream> {
    if let (Some(first), None) = (takeovers.first(), state) {
        let message = "a rule without state takes over alerts of any version: take `migrates` away";
        return Err(Error::new(first.versions[0].span(), message));
    }
    let params = params.map(|_| quote! { params, });
    let mut from = 0_usize;
    let arms = takeovers.iter().map(|takeover| {
        let function = &takeover.function;
        let places = takeover.versions.iter().map(|_| {
            from += 1;
            from - 1
        });
        let places: Vec<usize> = places.collect();
        // Spanned at the function, so that the compiler points there where its signature is another.
        let call = quote_spanned! { function.span() =>
            ::core::convert::identity::<bool>(#function(old.get(), #params state))
        };
        quote! { #(#places)|* => #call, }
    });
    Ok(quote! {
        #[inline(always)]
        #[allow(unused_variables)]
        fn migrate(
            from: usize,
            old: ::tocsin_rules_sdk::OldState<'_>,
            params: &Self::Params,
            state: &mut Self::State,
        ) -> bool {
            match from {
                #(#arms)*
                _ => false,
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_whose_version_has_build_metadata_is_no_rule() {
        assert_eq!(package_version("1.2.3-rc.1", Span::call_site()).unwrap(), Version::parse("1.2.3-rc.1").unwrap());
        let error = package_version("1.2.3+x.7", Span::call_site()).unwrap_err().to_string();
        assert!(error.contains("1.2.3+x.7") && error.contains("Cargo.toml"), "{error}");
    }
}
