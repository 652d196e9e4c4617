//! `#[derive(Params)]`.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::ext::IdentExt as _;
use syn::meta::ParseNestedMeta;
use syn::spanned::Spanned as _;
use syn::{DeriveInput, Error, Expr, ExprLit, ExprPath, ExprUnary, Field, Lit, LitStr, Result, Type, UnOp};

use crate::{record, text};

pub(crate) fn expand(input: &DeriveInput) -> Result<TokenStream> {
    let ident = &input.ident;
    let fields = record::fields(input, "params")?;
    let params = fields.iter().map(|field| expand_field(ident, field)).collect::<Result<Vec<_>>>()?;
    let bounds = fields.iter().map(|field| expand_bounds(field)).collect::<Result<Vec<_>>>()?;
    let count = fields.len();
    let too_many = "a rule has more params than `tocsin_rules_sdk::abi::MAX_PARAMS`: use fewer fields";
    Ok(quote! {
        const _: () = ::core::assert!(#count <= ::tocsin_rules_sdk::abi::MAX_PARAMS, #too_many);
        #(#bounds)*

        // SAFETY: every field is listed, with its type and offset.
        unsafe impl ::tocsin_rules_sdk::Params for #ident {
            const FIELDS: &'static [::tocsin_rules_sdk::manifest::Param] = &[#(#params),*];
        }
    })
}

/// Generates the `manifest::Param` of a field.
fn expand_field(record: &syn::Ident, field: &Field) -> Result<TokenStream> {
    let ident = field.ident.as_ref().expect("the fields are named");
    let ty = &field.ty;
    let kind = Kind::of(ty)?;
    let options = Options::parse(field, kind)?;
    options.check(kind)?;

    let name = ident.unraw().to_string();
    let description = text::first_paragraph(&field.attrs);
    let kind_variant = match kind {
        Kind::Named(variant) => quote! { #variant },
        // Spanned at the type, so that the compiler points there if it is not a choice.
        Kind::Choice => quote_spanned! { ty.span() => Enum(<#ty as ::tocsin_rules_sdk::Choice>::NAMES) },
    };
    let bounds = options.bounds(kind).into_iter().map(|(keyword, number)| {
        let number = number.json();
        quote! { (#keyword, #number) }
    });
    let default = match &options.default {
        None => quote! { ::core::option::Option::None },
        Some(Default::Plain(json)) => {
            quote! { ::core::option::Option::Some(::tocsin_rules_sdk::manifest::Json::Plain(#json)) }
        }
        Some(Default::Variant(path)) => quote! {
            ::core::option::Option::Some(::tocsin_rules_sdk::manifest::Json::Text({
                const VARIANT: #ty = #path;
                <#ty as ::tocsin_rules_sdk::Choice>::NAMES[VARIANT as usize]
            }))
        },
    };
    let unit = match &options.unit {
        None => quote! { ::core::option::Option::None },
        Some(unit) => quote! { ::core::option::Option::Some(#unit) },
    };
    Ok(quote! {
        ::tocsin_rules_sdk::manifest::Param {
            name: #name,
            description: #description,
            kind: ::tocsin_rules_sdk::manifest::Kind::#kind_variant,
            offset: ::core::mem::offset_of!(#record, #ident),
            bounds: &[#(#bounds),*],
            default: #default,
            unit: #unit,
        }
    })
}

/// Generates assertions that a field's texts are within the limits of a manifest, each spanned at the text.
fn expand_bounds(field: &Field) -> Result<TokenStream> {
    let ident = field.ident.as_ref().expect("the fields are named");
    let unit = Options::parse(field, Kind::of(&field.ty)?)?.unit;
    let name = text::bound(&ident.unraw().to_string(), "the param's name", "MAX_NAME_BYTES", ident.span());
    let description = text::first_paragraph(&field.attrs);
    let description = text::bound(&description, "the param's description", "MAX_TEXT_BYTES", ident.span());
    let unit = unit.map(|unit| text::bound(&unit.value(), "the param's unit", "MAX_UNIT_BYTES", unit.span()));
    Ok(quote! { #name #description #unit })
}

/// The arguments of `#[param(…)]`.
#[derive(std::default::Default)]
struct Options {
    min: Option<Number>,
    max: Option<Number>,
    exclusive_min: Option<Number>,
    exclusive_max: Option<Number>,
    default: Option<Default>,
    /// The default if it is a number, with its span.
    default_number: Option<(Number, Span)>,
    unit: Option<LitStr>,
    /// The attribute, for messages.
    attribute: TokenStream,
}

enum Default {
    /// JSON as it is.
    Plain(String),
    /// A variant of the field's enum.
    Variant(ExprPath),
}

impl Options {
    fn parse(field: &Field, kind: Kind) -> Result<Self> {
        let mut options = Self::default();
        for attribute in field.attrs.iter().filter(|a| a.path().is_ident("param")) {
            options.attribute = attribute.meta.to_token_stream();
            attribute.parse_nested_meta(|meta| options.parse_one(&meta, kind))?;
        }
        Ok(options)
    }

    fn parse_one(&mut self, meta: &ParseNestedMeta<'_>, kind: Kind) -> Result<()> {
        let key = meta.path.get_ident().map(ToString::to_string).unwrap_or_default();
        let bound = match key.as_str() {
            "unit" => {
                self.unit = Some(meta.value()?.parse()?);
                return Ok(());
            }
            "default" => return self.parse_default(&meta.value()?.parse()?, kind),
            "min" => &mut self.min,
            "max" => &mut self.max,
            "exclusive_min" => &mut self.exclusive_min,
            "exclusive_max" => &mut self.exclusive_max,
            _ => return Err(meta.error("use min, max, exclusive_min, exclusive_max, default or unit")),
        };
        *bound = Some(kind.number(&meta.value()?.parse()?)?);
        Ok(())
    }

    fn parse_default(&mut self, value: &Expr, kind: Kind) -> Result<()> {
        self.default = Some(match (kind, value) {
            (Kind::Choice, Expr::Path(path)) => Default::Variant(path.clone()),
            (Kind::Choice, _) => {
                return Err(Error::new_spanned(value, "write the variant, such as `default = Direction::Up`"));
            }
            (Kind::Named(Name::Bool), Expr::Lit(ExprLit { lit: Lit::Bool(value), .. })) => {
                Default::Plain(value.value.to_string())
            }
            (Kind::Named(Name::Bool), _) => return Err(Error::new_spanned(value, "write `true` or `false`")),
            (Kind::Named(_), _) => {
                let number = kind.number(value)?;
                self.default_number = Some((number, value.span()));
                Default::Plain(number.json())
            }
        });
        Ok(())
    }

    /// Checks that there are numbers between the bounds, and that the default is one of them.
    fn check(&self, kind: Kind) -> Result<()> {
        let lows = [(self.min, false), (self.exclusive_min, true)];
        let highs = [(self.max, false), (self.exclusive_max, true)];
        for (low, low_exclusive) in lows {
            for (high, high_exclusive) in highs {
                let (Some(low), Some(high)) = (low, high) else { continue };
                if low > high || (low == high && (low_exclusive || high_exclusive)) {
                    let message =
                        format!("no number is between the minimum {} and the maximum {}", low.json(), high.json());
                    return Err(Error::new_spanned(&self.attribute, message));
                }
            }
        }
        let Some((given, span)) = self.default_number else { return Ok(()) };
        let default = kind.packed(given).map_err(|message| Error::new(span, message))?;
        let breaks = |(keyword, bound): &(&str, Number)| match *keyword {
            "minimum" => default < *bound,
            "maximum" => default > *bound,
            "exclusiveMinimum" => default <= *bound,
            _ => default >= *bound,
        };
        match self.bounds(kind).into_iter().find(breaks) {
            None => Ok(()),
            Some((keyword, bound)) => {
                let packed = match default == given {
                    true => String::new(),
                    false => format!(", packed as {},", default.json()),
                };
                let (given, bound) = (given.json(), bound.json());
                let message = format!("the default {given}{packed} is outside of the range: its {keyword} is {bound}");
                Err(Error::new(span, message))
            }
        }
    }

    /// Returns the keywords of the schema with their numbers. An integer always has bounds, by default those of its type. The
    /// bounds of `i64` are left out, since JSON parsers do not agree on such numbers.
    fn bounds(&self, kind: Kind) -> Vec<(&'static str, Number)> {
        let (type_min, type_max) = match kind {
            Kind::Named(Name::I32) => (Some(i32::MIN.into()), Some(i32::MAX.into())),
            Kind::Named(Name::U32) => (Some(u32::MIN.into()), Some(u32::MAX.into())),
            _ => (None, None),
        };
        let bounds = [
            ("minimum", self.min.or(type_min.map(Number::Integer))),
            ("maximum", self.max.or(type_max.map(Number::Integer))),
            ("exclusiveMinimum", self.exclusive_min),
            ("exclusiveMaximum", self.exclusive_max),
        ];
        bounds.into_iter().filter_map(|(keyword, number)| Some((keyword, number?))).collect()
    }
}

/// The type of a field, as far as it is visible in the source.
#[derive(Clone, Copy)]
enum Kind {
    Named(Name),
    /// Anything else: the compiler checks that it is a `Choice`.
    Choice,
}

#[derive(Clone, Copy)]
enum Name {
    F64,
    F32,
    I64,
    I32,
    U32,
    Bool,
}

impl ToTokens for Name {
    fn to_tokens(&self, tokens: &mut TokenStream) {
        tokens.extend(match self {
            Self::F64 => quote! { F64 },
            Self::F32 => quote! { F32 },
            Self::I64 => quote! { I64 },
            Self::I32 => quote! { I32 },
            Self::U32 => quote! { U32 },
            Self::Bool => quote! { Bool },
        });
    }
}

/// A number literal. Those of one field are of the same kind, so they compare as numbers.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
enum Number {
    Integer(i128),
    Real(f64),
}

impl Number {
    fn json(self) -> String {
        match self {
            Self::Integer(number) => number.to_string(),
            // Displays the shortest digits that parse to the same number, without an exponent.
            Self::Real(number) => number.to_string(),
        }
    }
}

impl Kind {
    fn of(ty: &Type) -> Result<Self> {
        let Type::Path(path) = ty else {
            let message = "a param is an f64, f32, i64, i32, u32 or bool, or a fieldless enum with `#[derive(Choice)]`";
            return Err(Error::new_spanned(ty, message));
        };
        let name = path.path.get_ident().map(ToString::to_string).unwrap_or_default();
        Ok(match name.as_str() {
            "f64" => Self::Named(Name::F64),
            "f32" => Self::Named(Name::F32),
            "i64" => Self::Named(Name::I64),
            "i32" => Self::Named(Name::I32),
            "u32" => Self::Named(Name::U32),
            "bool" => Self::Named(Name::Bool),
            _ => Self::Choice,
        })
    }

    /// Returns the number that the rule reads after packing.
    fn packed(self, number: Number) -> std::result::Result<Number, String> {
        let (Self::Named(Name::F32), Number::Real(given)) = (self, number) else { return Ok(number) };
        let packed = given as f32;
        let has_sign = packed == 0.0 && given < 0.0;
        if packed.is_finite() && !has_sign {
            return Ok(Number::Real(packed.into()));
        }
        Err(format!("the default {given} is packed as the f32 {packed}, which no param can be: give another number"))
    }

    /// Parses a number literal, possibly negative, in the range of this kind.
    fn number(self, value: &Expr) -> Result<Number> {
        let (literal, sign) = match value {
            Expr::Unary(ExprUnary { op: UnOp::Neg(_), expr, .. }) => (&**expr, "-"),
            literal => (literal, ""),
        };
        let Expr::Lit(ExprLit { lit, .. }) = literal else {
            return Err(Error::new_spanned(
                value,
                "write a number literal: the manifest is generated before constants are evaluated",
            ));
        };
        let limits = match self {
            Self::Named(Name::I64) => (i64::MIN.into(), i64::MAX.into()),
            Self::Named(Name::I32) => (i32::MIN.into(), i32::MAX.into()),
            Self::Named(Name::U32) => (u32::MIN.into(), u32::MAX.into()),
            Self::Named(Name::F64 | Name::F32) => return real(value, lit, sign),
            Self::Named(Name::Bool) | Self::Choice => {
                return Err(Error::new_spanned(value, "only a param that is a number has bounds"));
            }
        };
        let Lit::Int(digits) = lit else {
            return Err(Error::new_spanned(value, "this param is an integer: write an integer"));
        };
        let number: i128 =
            format!("{sign}{}", digits.base10_digits()).parse().map_err(|e| Error::new_spanned(value, e))?;
        if number < limits.0 || number > limits.1 {
            return Err(Error::new_spanned(
                value,
                format!("the type of this param holds {} to {}", limits.0, limits.1),
            ));
        }
        Ok(Number::Integer(number))
    }
}

fn real(value: &Expr, literal: &Lit, sign: &str) -> Result<Number> {
    let digits = match literal {
        Lit::Int(digits) => digits.base10_digits(),
        Lit::Float(digits) => digits.base10_digits(),
        _ => return Err(Error::new_spanned(value, "write a number")),
    };
    let number: f64 = format!("{sign}{digits}").parse().map_err(|e| Error::new_spanned(value, e))?;
    if number.is_finite() {
        Ok(Number::Real(number))
    } else {
        Err(Error::new_spanned(value, "this number is too large"))
    }
}
