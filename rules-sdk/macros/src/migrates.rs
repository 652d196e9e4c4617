//! `migrates(…)` of `#[rule]`: the functions that migrate states of older versions.

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use semver::Version;
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::spanned::Spanned as _;
use syn::{Error, Ident, LitStr, Path, Result, Token, Type};

use crate::rule::package;

const FORM: &str = "write each older version and the function that migrates its states: \
                    `migrates(\"1.0.0\" | \"1.1.0\" => from_v1)`";

/// Older versions with the same state, and the function that migrates it.
pub(crate) struct Migration {
    pub(crate) versions: Vec<LitStr>,
    function: Path,
}

impl Parse for Migration {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let form = |error: Error| Error::new(error.span(), FORM);
        let versions = Punctuated::<LitStr, Token![|]>::parse_separated_nonempty(input).map_err(form)?;
        input.parse::<Token![=>]>().map_err(form)?;
        let function = input.parse().map_err(form)?;
        Ok(Self { versions: versions.into_iter().collect(), function })
    }
}

/// Parses the list after `migrates`.
pub(crate) fn parse(key: &Ident, input: ParseStream<'_>) -> Result<Vec<Migration>> {
    if !input.peek(syn::token::Paren) {
        return Err(Error::new(key.span(), FORM));
    }
    let list;
    syn::parenthesized!(list in input);
    let migrations = Punctuated::<Migration, Token![,]>::parse_terminated(&list)?;
    if migrations.is_empty() {
        return Err(Error::new(key.span(), FORM));
    }
    let migrations: Vec<Migration> = migrations.into_iter().collect();
    check_versions(migrations.iter().flat_map(|migration| &migration.versions))?;
    Ok(migrations)
}

/// The reason to refuse build metadata.
const BUILD_METADATA: &str = "versions are not ordered by build metadata (after the `+`)";

/// Parses the version of the package, which is the rule's.
pub(crate) fn package_version(text: &str, span: Span) -> Result<Version> {
    // Cargo accepts no other.
    let version = Version::parse(text).expect("a package has a semantic version");
    if version.build.is_empty() {
        return Ok(version);
    }
    Err(Error::new(span, format!("the package's version is {version}: {BUILD_METADATA}; remove it in Cargo.toml")))
}

fn check_versions<'a>(texts: impl Iterator<Item = &'a LitStr>) -> Result<()> {
    let own = package_version(&package("VERSION"), Span::call_site())?;
    let mut known = Vec::new();
    for text in texts {
        let refuse = |message: String| Err(Error::new(text.span(), message));
        match Version::parse(&text.value()) {
            Err(error) => return refuse(format!("not a semantic version such as \"1.0.0\": {error}")),
            Ok(version) if !version.build.is_empty() => return refuse(format!("{BUILD_METADATA}: remove it")),
            Ok(version) if version >= own => {
                return refuse(format!(
                    "not older than this version, {own}: raise `version` in Cargo.toml, or remove it from the list"
                ));
            }
            Ok(version) if known.contains(&version) => return refuse("this version is listed twice".into()),
            Ok(version) => known.push(version),
        }
    }
    Ok(())
}

/// Generates `Rule::migrate`, with an arm for each version, by its index.
pub(crate) fn expand(migrations: &[Migration], params: Option<&Type>, state: Option<&Type>) -> Result<TokenStream> {
    if let (Some(first), None) = (migrations.first(), state) {
        let message = "a rule without state can take over alerts of any version: remove `migrates`";
        return Err(Error::new(first.versions[0].span(), message));
    }
    let params = params.map(|_| quote! { params, });
    let mut from = 0_usize;
    let arms = migrations.iter().map(|migration| {
        let function = &migration.function;
        let places = migration.versions.iter().map(|_| {
            from += 1;
            from - 1
        });
        let places: Vec<usize> = places.collect();
        // Spanned at the function, so that the compiler points there if its signature is wrong.
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
    fn a_package_version_with_build_metadata_is_refused() {
        assert_eq!(package_version("1.2.3-rc.1", Span::call_site()).unwrap(), Version::parse("1.2.3-rc.1").unwrap());
        let error = package_version("1.2.3+x.7", Span::call_site()).unwrap_err().to_string();
        assert!(error.contains("1.2.3+x.7") && error.contains("Cargo.toml"), "{error}");
    }
}
