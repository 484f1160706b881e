//! `#[derive(Settings)]`: a JSON Schema as a constant.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Attribute, Data, DeriveInput, Error, Expr, Fields, Lit, Meta, Result, Type};

pub fn derive(input: &DeriveInput) -> Result<TokenStream> {
    let container = Serde::read(&input.attrs)?;
    let schema = match &input.data {
        Data::Struct(data) => object(&container, &data.fields, input)?,
        Data::Enum(data) => words(&container, data)?,
        Data::Union(_) => return Err(Error::new_spanned(input, "settings cannot be a union")),
    };
    let (name, (generics, types, bounds)) = (&input.ident, input.generics.split_for_impl());
    Ok(quote! {
        impl #generics ::stepwell_sdk::Settings for #name #types #bounds {
            const SCHEMA: ::stepwell_sdk::schema::Json = #schema;
        }
    })
}

/// The schema of a struct: an expression of type `Json`.
fn object(container: &Serde, fields: &Fields, input: &DeriveInput) -> Result<TokenStream> {
    let Fields::Named(fields) = fields else {
        return Err(Error::new_spanned(
            input,
            "settings are a struct with named fields",
        ));
    };
    let mut parts = TokenStream::new();
    let mut required = Vec::new();
    for (index, field) in fields.named.iter().enumerate() {
        let serde = Serde::read(&field.attrs)?;
        let ident = field.ident.as_ref().expect("named fields have names");
        let name = serde
            .rename
            .clone()
            .unwrap_or_else(|| container.cased(&ident.to_string()));
        let comma = if index == 0 { "" } else { "," };
        let open = format!("{comma}{}:", json(&name));
        let described = format!("{{\"description\":{}", json(&doc(&field.attrs)));
        let ty = &field.ty;
        parts.extend(quote! {
            .text(#open).described(#described, &<#ty as ::stepwell_sdk::Settings>::SCHEMA)
        });
        if !serde.default && !is_option(ty) {
            required.push(json(&name));
        }
    }
    let additional = if container.deny_unknown_fields {
        ",\"additionalProperties\":false"
    } else {
        ""
    };
    let close = format!("}},\"required\":[{}]{additional}}}", required.join(","));
    Ok(quote! {
        ::stepwell_sdk::schema::Json::new()
            .text("{\"type\":\"object\",\"properties\":{") #parts .text(#close)
    })
}

/// The schema of an enum whose variants are plain words.
fn words(container: &Serde, data: &syn::DataEnum) -> Result<TokenStream> {
    let mut words = Vec::new();
    for variant in &data.variants {
        if !matches!(variant.fields, Fields::Unit) {
            return Err(Error::new_spanned(
                variant,
                "a setting's choices are plain words",
            ));
        }
        let serde = Serde::read(&variant.attrs)?;
        let name = serde
            .rename
            .unwrap_or_else(|| container.cased(&snake(&variant.ident.to_string())));
        words.push(json(&name));
    }
    let schema = format!("{{\"type\":\"string\",\"enum\":[{}]}}", words.join(","));
    Ok(quote! { ::stepwell_sdk::schema::Json::new().text(#schema) })
}

/// What the `#[serde(…)]` attributes of a container, field or variant say.
#[derive(Default)]
struct Serde {
    rename: Option<String>,
    rename_all: Option<String>,
    default: bool,
    deny_unknown_fields: bool,
}

impl Serde {
    fn read(attributes: &[Attribute]) -> Result<Self> {
        let mut serde = Self::default();
        for attribute in attributes.iter().filter(|a| a.path().is_ident("serde")) {
            attribute.parse_nested_meta(|meta| {
                if meta.path.is_ident("rename") {
                    serde.rename = Some(meta.value()?.parse::<syn::LitStr>()?.value());
                } else if meta.path.is_ident("rename_all") {
                    let case = meta.value()?.parse::<syn::LitStr>()?;
                    if !matches!(case.value().as_str(), "kebab-case" | "snake_case") {
                        return Err(Error::new_spanned(
                            case,
                            "settings are kebab-case or snake_case",
                        ));
                    }
                    serde.rename_all = Some(case.value());
                } else if meta.path.is_ident("default") {
                    serde.default = true;
                    if meta.input.peek(syn::Token![=]) {
                        meta.value()?.parse::<Expr>()?;
                    }
                } else if meta.path.is_ident("deny_unknown_fields") {
                    serde.deny_unknown_fields = true;
                } else {
                    // `flatten`, `untagged` and the rest change the shape in ways that the schema would not tell.
                    return Err(
                        meta.error("this attribute has no counterpart in the settings schema")
                    );
                }
                Ok(())
            })?;
        }
        Ok(serde)
    }

    fn cased(&self, snake: &str) -> String {
        match self.rename_all.as_deref() {
            Some("kebab-case") => snake.replace('_', "-"),
            _ => snake.to_owned(),
        }
    }
}

fn doc(attributes: &[Attribute]) -> String {
    let lines = attributes
        .iter()
        .filter_map(|attribute| match &attribute.meta {
            Meta::NameValue(pair) if pair.path.is_ident("doc") => match &pair.value {
                Expr::Lit(syn::ExprLit {
                    lit: Lit::Str(text),
                    ..
                }) => Some(text.value().trim().to_owned()),
                _ => None,
            },
            _ => None,
        });
    lines.collect::<Vec<_>>().join(" ").trim().to_owned()
}

fn is_option(ty: &Type) -> bool {
    matches!(ty, Type::Path(path) if path.path.segments.last().is_some_and(|s| s.ident == "Option"))
}

fn snake(camel: &str) -> String {
    let mut out = String::new();
    for (index, c) in camel.char_indices() {
        if c.is_ascii_uppercase() && index > 0 {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

/// Returns `text` as a JSON string.
fn json(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if u32::from(c) < 0x20 => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
