//! `#[rule]`.

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::spanned::Spanned as _;
use syn::{Error, FnArg, Ident, ItemFn, LitStr, Result, ReturnType, Token, Type, TypeReference};

use crate::migrates::{self, Migration};
use crate::text;

const SIGNATURE: &str = "a rule is `fn(tick: &Tick, params: &MyParams, state: &mut MyState) -> Verdict`; \
                         params, state or both may be left out";

/// The arguments of the attribute.
#[derive(Default)]
pub(crate) struct Options {
    evidence: Vec<LitStr>,
    sleeps: bool,
    name: Option<LitStr>,
    migrates: Vec<Migration>,
}

impl Parse for Options {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let mut options = Self::default();
        while !input.is_empty() {
            let key: Ident = input.parse()?;
            match key.to_string().as_str() {
                "sleeps" => options.sleeps = true,
                "name" => {
                    input.parse::<Token![=]>()?;
                    options.name = Some(input.parse()?);
                }
                "evidence" => {
                    let names;
                    syn::parenthesized!(names in input);
                    let names = Punctuated::<LitStr, Token![,]>::parse_terminated(&names)?;
                    options.evidence = names.into_iter().collect();
                }
                "migrates" => options.migrates = migrates::parse(&key, input)?,
                _ => {
                    let message = "use evidence(\"…\", …), sleeps, name = \"…\" or migrates(\"…\" => …)";
                    return Err(Error::new(key.span(), message));
                }
            }
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
        }
        options.check_evidence()?;
        Ok(options)
    }
}

impl Options {
    fn check_evidence(&self) -> Result<()> {
        for (index, name) in self.evidence.iter().enumerate() {
            if !text::is_words(&name.value(), '_') {
                return Err(Error::new(name.span(), "name evidence in snake_case, such as \"change_percent\""));
            }
            if self.evidence[..index].iter().any(|earlier| earlier.value() == name.value()) {
                return Err(Error::new(name.span(), "this name is listed twice"));
            }
        }
        Ok(())
    }

    /// Returns the rule's name: as given, or the package's.
    fn rule_name(&self, function: &ItemFn) -> Result<String> {
        let (name, span) = match &self.name {
            Some(name) => (name.value(), name.span()),
            None => (package("NAME").replace('_', "-"), function.sig.ident.span()),
        };
        if text::is_words(&name, '-') {
            return Ok(name);
        }
        let message = format!("{name:?} cannot be the rule's name: write `#[rule(name = \"my-rule\")]`, in kebab-case");
        Err(Error::new(span, message))
    }
}

impl Options {
    /// Generates assertions that the manifest's texts are within their limits: `texts` of the rule, with the name and the
    /// limit of each, and those of the options.
    fn expand_texts(&self, function: &ItemFn, texts: &[(&str, &str, &str)]) -> TokenStream {
        let span = self.name.as_ref().map_or_else(|| function.sig.ident.span(), LitStr::span);
        let texts = texts.iter().map(|(text, what, limit)| text::bound(text, what, limit, span));
        let evidence = self.evidence.iter();
        let evidence =
            evidence.map(|name| text::bound(&name.value(), "the evidence's name", "MAX_NAME_BYTES", name.span()));
        let versions = self.migrates.iter().flat_map(|migration| &migration.versions);
        let versions =
            versions.map(|version| text::bound(&version.value(), "the version", "MAX_VERSION_BYTES", version.span()));
        let count = self.migrates.iter().flat_map(|migration| &migration.versions).count();
        let too_many = "a rule migrates from more versions than `tocsin_rules_sdk::abi::MAX_MIGRATES`: remove some";
        quote! {
            #(#texts)* #(#evidence)* #(#versions)*
            const _: () = ::core::assert!(#count <= ::tocsin_rules_sdk::abi::MAX_MIGRATES, #too_many);
        }
    }
}

/// Returns a variable that Cargo sets for the compiled package.
pub(crate) fn package(variable: &str) -> String {
    std::env::var(format!("CARGO_PKG_{variable}")).unwrap_or_default()
}

/// The types in a rule's signature. The compiler checks at the call that the first argument is a tick.
struct Signature<'a> {
    params: Option<&'a Type>,
    state: Option<&'a Type>,
}

impl<'a> Signature<'a> {
    fn of(function: &'a ItemFn) -> Result<Self> {
        let sig = &function.sig;
        let plain = sig.generics.params.is_empty()
            && sig.asyncness.is_none()
            && sig.unsafety.is_none()
            && sig.abi.is_none()
            && sig.variadic.is_none()
            && matches!(sig.output, ReturnType::Type(..));
        if !plain {
            return Err(Error::new_spanned(sig, SIGNATURE));
        }
        let mut inputs = sig.inputs.iter();
        let (Some(_tick), None) = reference(inputs.next(), sig)? else {
            return Err(Error::new_spanned(sig, SIGNATURE));
        };
        let (mut params, mut state) = (None, None);
        for input in inputs {
            match reference(Some(input), sig)? {
                (Some(ty), None) if params.is_none() && state.is_none() => params = Some(ty),
                (None, Some(ty)) if state.is_none() => state = Some(ty),
                _ => return Err(Error::new_spanned(input, SIGNATURE)),
            }
        }
        Ok(Self { params, state })
    }
}

/// Returns the type `T` of an argument `&T` or `&mut T`.
fn reference<'a>(input: Option<&'a FnArg>, sig: &syn::Signature) -> Result<(Option<&'a Type>, Option<&'a Type>)> {
    match input {
        Some(FnArg::Typed(argument)) => match &*argument.ty {
            Type::Reference(TypeReference { lifetime: None, mutability: None, elem, .. }) => Ok((Some(&**elem), None)),
            Type::Reference(TypeReference { lifetime: None, mutability: Some(_), elem, .. }) => {
                Ok((None, Some(&**elem)))
            }
            other => Err(Error::new_spanned(other, SIGNATURE)),
        },
        Some(other) => Err(Error::new_spanned(other, SIGNATURE)),
        None => Err(Error::new_spanned(sig, SIGNATURE)),
    }
}

pub(crate) fn expand(options: &Options, function: &ItemFn) -> Result<TokenStream> {
    let signature = Signature::of(function)?;
    let implementation = expand_rule(options, function, &signature)?;
    let module = expand_module(options, function, &signature);
    Ok(quote! {
        #function
        #implementation
        #module
        // A second rule in the same module defines this again; one in another module exports twice, a linker error.
        #[doc(hidden)]
        #[allow(non_upper_case_globals, dead_code)]
        const a_crate_holds_one_rule: () = ();
    })
}

/// Generates the type that represents the rule.
fn expand_rule(options: &Options, function: &ItemFn, signature: &Signature<'_>) -> Result<TokenStream> {
    let (ident, vis) = (&function.sig.ident, &function.vis);
    let name = options.rule_name(function)?;
    let version = migrates::package_version(&package("VERSION"), function.sig.ident.span())?.to_string();
    let author = package("AUTHORS").replace(':', ", ");
    let description = match text::first_paragraph(&function.attrs) {
        none if none.is_empty() => package("DESCRIPTION"),
        paragraph => paragraph,
    };
    let (evidence, sleeps) = (&options.evidence, options.sleeps);
    let nothing = syn::parse_quote! { () };
    let (params, state) = (signature.params.unwrap_or(&nothing), signature.state.unwrap_or(&nothing));
    let bounds = expand_bounds(options, params, state);
    let texts = options.expand_texts(
        function,
        &[
            (&name, "the rule's name", "MAX_NAME_BYTES"),
            (&version, "the package's version", "MAX_VERSION_BYTES"),
            (&description, "the rule's description", "MAX_TEXT_BYTES"),
            (&author, "the list of the package's authors", "MAX_TEXT_BYTES"),
        ],
    );
    let arguments =
        signature.params.map(|_| quote! { params }).into_iter().chain(signature.state.map(|_| quote! { state }));
    let versions = options.migrates.iter().flat_map(|migration| &migration.versions);
    let migrate = migrates::expand(&options.migrates, signature.params, signature.state)?;
    let doc = format!("The rule `{name}` as a type, for native tests.");
    Ok(quote! {
        #[doc = #doc]
        #[allow(non_camel_case_types, dead_code)]
        #vis enum #ident {}

        impl ::tocsin_rules_sdk::Rule for #ident {
            type Params = #params;
            type State = #state;
            const MANIFEST: ::tocsin_rules_sdk::manifest::Manifest = ::tocsin_rules_sdk::manifest::Manifest {
                name: #name,
                version: #version,
                description: #description,
                author: #author,
                params: <#params as ::tocsin_rules_sdk::Params>::FIELDS,
                params_bytes: ::tocsin_rules_sdk::manifest::record_bytes::<#params>(),
                state_bytes: ::tocsin_rules_sdk::manifest::record_bytes::<#state>(),
                evidence: &[#(#evidence),*],
                sleeps: #sleeps,
                migrates: &[#(#versions),*],
            };

            #[inline(always)]
            #[allow(unused_variables)]
            fn evaluate(
                tick: &::tocsin_rules_sdk::Tick,
                params: &Self::Params,
                state: &mut Self::State,
            ) -> ::tocsin_rules_sdk::Verdict {
                #ident(tick, #(#arguments),*)
            }
            #migrate
        }
        #bounds
        #texts
    })
}

/// Generates assertions of the limits of the ABI, each spanned at what exceeds it.
fn expand_bounds(options: &Options, params: &Type, state: &Type) -> TokenStream {
    let evidence_count = options.evidence.len();
    let last_evidence = options.evidence.last().map_or_else(Span::call_site, LitStr::span);
    let evidence = quote_spanned! { last_evidence =>
        const _: () = ::core::assert!(
            #evidence_count <= ::tocsin_rules_sdk::abi::MAX_EVIDENCE,
            "a verdict carries at most 4 evidence numbers: remove names"
        );
    };
    let params = quote_spanned! { params.span() =>
        const _: () = ::core::assert!(
            ::core::mem::size_of::<#params>() <= ::tocsin_rules_sdk::abi::MAX_PARAMS_BYTES,
            "params are at most 4096 bytes: use fewer fields"
        );
    };
    let state = quote_spanned! { state.span() =>
        const _: () = ::core::assert!(
            ::core::mem::size_of::<#state>() <= ::tocsin_rules_sdk::abi::MAX_STATE_BYTES,
            "state is at most 65536 bytes: use smaller arrays"
        );
    };
    quote! { #evidence #params #state }
}

/// Generates the module's exports and its manifest section.
fn expand_module(options: &Options, function: &ItemFn, signature: &Signature<'_>) -> TokenStream {
    let ident = &function.sig.ident;
    // For a record without bytes the host passes any address, which may be invalid as a reference: it is ignored.
    let (params_argument, params) = match signature.params {
        Some(ty) => (quote! { params: &#ty }, quote! { params }),
        None => (quote! { _: usize }, quote! { &() }),
    };
    let (state_argument, state) = match signature.state {
        Some(ty) => (quote! { state: &mut #ty }, quote! { state }),
        None => (quote! { _: usize }, quote! { &mut () }),
    };
    let migrate = (!options.migrates.is_empty()).then(|| {
        quote! {
            #[unsafe(export_name = "migrate")]
            extern "C" fn export_migrate(from: usize, old_state: usize, #params_argument, #state_argument) -> i32 {
                // SAFETY: the host passes the address of a state of the version with the index `from`.
                let old_state = unsafe { OldState::at(old_state) };
                migrate::<#ident>(from, old_state, #params, #state)
            }
        }
    });
    let migrate_imports = migrate.as_ref().map(|_| quote! { use ::tocsin_rules_sdk::{OldState, migrate}; });
    quote! {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            use ::tocsin_rules_sdk::{Rule, Tick, abi, evaluate};
            #migrate_imports

            // The host passes aligned, disjoint records in the guest's memory, so they are valid references.
            #[unsafe(export_name = "evaluate")]
            extern "C" fn export(
                tick: &Tick,
                #params_argument,
                #state_argument,
                verdict: &mut abi::Verdict,
            ) -> i32 {
                evaluate::<#ident>(tick, #params, #state, verdict)
            }
            #migrate

            const BYTES: usize = <#ident as Rule>::MANIFEST.json_bytes();
            #[unsafe(link_section = "tocsin.manifest")]
            static MANIFEST: [u8; BYTES] = <#ident as Rule>::MANIFEST.json();
        };
    }
}
