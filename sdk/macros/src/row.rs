//! `#[derive(Row)]`: a struct's fields as columns.

use proc_macro2::TokenStream;
use quote::{format_ident, quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{Data, DeriveInput, Error, Field, Fields, GenericParam, LitStr, Result};

/// Postgres cuts names at this length, without a word.
const NAME_BYTES_MAX: usize = 63;

pub fn derive(input: &DeriveInput) -> Result<TokenStream> {
    let Data::Struct(data) = &input.data else {
        return Err(Error::new_spanned(
            &input.ident,
            "a row is a struct with named fields",
        ));
    };
    let Fields::Named(named) = &data.fields else {
        return Err(Error::new_spanned(
            &input.ident,
            "a row is a struct with named fields",
        ));
    };
    if named.named.is_empty() {
        return Err(Error::new_spanned(
            &input.ident,
            "a row has at least one column",
        ));
    }
    let columns: Vec<_> = named
        .named
        .iter()
        .map(Column::read)
        .collect::<Result<_>>()?;
    for (at, column) in columns.iter().enumerate() {
        if columns[..at]
            .iter()
            .any(|earlier| earlier.name == column.name)
        {
            let message = format!("two fields stand for column \"{}\"", column.name);
            return Err(Error::new_spanned(column.field, message));
        }
    }
    let of = borrowed(input)?;
    let (name, (generics, types, bounds)) = (&input.ident, input.generics.split_for_impl());
    // Each mention of a field's type carries the type's place, so that the compiler points there where it is no column.
    let values: Vec<_> = columns
        .iter()
        .map(|column| {
            let ty = &column.field.ty;
            quote_spanned!(ty.span()=> <#ty as ::stepwell_sdk::batch::Value>)
        })
        .collect();
    let idents: Vec<_> = columns.iter().map(|column| &column.field.ident).collect();
    let places: Vec<_> = (0..columns.len()).map(syn::Index::from).collect();
    let specs = columns
        .iter()
        .zip(&values)
        .map(|(column, value)| column.spec(value));
    let locals: Vec<_> = (0..columns.len())
        .map(|at| format_ident!("column_{at}"))
        .collect();
    let view_of: Vec<_> = columns
        .iter()
        .map(|column| {
            let ty = &column.field.ty;
            quote_spanned!(ty.span()=> ::stepwell_sdk::batch::__view::<#ty>)
        })
        .collect();
    Ok(quote! {
        impl #generics ::stepwell_sdk::Row for #name #types #bounds {
            type Of<'stepwell> = #of;
            type View<'stepwell> = (#(#values::View<'stepwell>,)*);
            type Builder = (#(#values::Builder,)*);

            const FIELDS: &'static [::stepwell_sdk::batch::FieldSpec] = &[#(#specs),*];

            fn view<'stepwell>(
                batch: &'stepwell ::stepwell_sdk::columnar::Batch,
                fields: &[::stepwell_sdk::columnar::Field],
                positions: &[usize],
            ) -> ::core::result::Result<Self::View<'stepwell>, ::stepwell_sdk::Failure> {
                ::core::result::Result::Ok((#(#view_of(batch, fields, positions[#places])?,)*))
            }

            #[inline(always)]
            fn get<'stepwell>(view: &Self::View<'stepwell>, at: usize) -> Self::Of<'stepwell> {
                #name { #(#idents: #values::get(&view.#places, at),)* }
            }

            fn builder() -> Self::Builder {
                (#(#values::builder(),)*)
            }

            #[inline]
            fn push(builder: &mut Self::Builder, row: Self::Of<'_>) {
                let #name { #(#idents: #locals,)* } = row;
                #(#values::push(&mut builder.#places, #locals);)*
            }

            #[inline]
            fn bytes(builder: &Self::Builder) -> usize {
                0 #(+ #values::bytes(&builder.#places))*
            }

            fn take(builder: &mut Self::Builder) -> ::std::vec::Vec<::stepwell_sdk::columnar::Column> {
                ::std::vec![#(#values::take(&mut builder.#places),)*]
            }
        }
    })
}

/// The struct with the lifetime of a batch.
fn borrowed(input: &DeriveInput) -> Result<TokenStream> {
    let name = &input.ident;
    let mut lifetimes = 0;
    for parameter in &input.generics.params {
        match parameter {
            GenericParam::Lifetime(_) => lifetimes += 1,
            other => {
                return Err(Error::new_spanned(
                    other,
                    "a row has no parameters but one lifetime",
                ));
            }
        }
    }
    match lifetimes {
        0 => Ok(quote!(#name)),
        1 => Ok(quote!(#name<'stepwell>)),
        _ => Err(Error::new_spanned(
            &input.generics,
            "a row borrows from one batch, so it has one lifetime",
        )),
    }
}

/// A field and the column that it stands for.
struct Column<'a> {
    field: &'a Field,
    name: String,
    key: bool,
    order: bool,
}

impl<'a> Column<'a> {
    fn read(field: &'a Field) -> Result<Self> {
        let ident = field.ident.as_ref().expect("named fields have names");
        let mut column = Self {
            field,
            name: ident.unraw().to_string(),
            key: false,
            order: false,
        };
        for attribute in field.attrs.iter().filter(|a| a.path().is_ident("row")) {
            attribute.parse_nested_meta(|meta| {
                if meta.path.is_ident("key") {
                    column.key = true;
                } else if meta.path.is_ident("order") {
                    column.order = true;
                } else if meta.path.is_ident("name") {
                    let name: LitStr = meta.value()?.parse()?;
                    column.name = name.value();
                    if column.name.is_empty() || column.name.len() > NAME_BYTES_MAX {
                        return Err(Error::new_spanned(
                            name,
                            "a column's name has 1 to 63 bytes",
                        ));
                    }
                } else {
                    return Err(meta.error("expected `key`, `order` or `name = \"…\"`"));
                }
                Ok(())
            })?;
        }
        match column.key && column.order {
            true => Err(Error::new_spanned(
                field,
                "rows of a group do not differ in its key: take `order` out",
            )),
            false => Ok(column),
        }
    }

    fn spec(&self, value: &TokenStream) -> TokenStream {
        let Self {
            name, key, order, ..
        } = self;
        quote! {
            ::stepwell_sdk::batch::FieldSpec {
                name: #name,
                data_type: #value::TYPE,
                nullable: #value::NULLABLE,
                key: #key,
                order: #order,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use syn::parse_quote;

    #[test]
    fn mistakes_are_told_at_their_place() {
        let cases: [(DeriveInput, &str); 8] = [
            (
                parse_quote!(
                    enum E {
                        A,
                    }
                ),
                "a row is a struct with named fields",
            ),
            (
                parse_quote!(
                    struct E(i64);
                ),
                "a row is a struct with named fields",
            ),
            (
                parse_quote!(
                    struct E {}
                ),
                "a row has at least one column",
            ),
            (
                parse_quote!(
                    struct E<T> {
                        a: T,
                    }
                ),
                "a row has no parameters but one lifetime",
            ),
            (
                parse_quote!(
                    struct E<'a, 'b> {
                        a: &'a str,
                        b: &'b str,
                    }
                ),
                "one lifetime",
            ),
            (
                parse_quote!(
                    struct E {
                        a: i64,
                        #[row(name = "a")]
                        b: i64,
                    }
                ),
                "two fields stand for column \"a\"",
            ),
            (
                parse_quote!(
                    struct E {
                        #[row(kee)]
                        a: i64,
                    }
                ),
                "expected `key`, `order`",
            ),
            (
                parse_quote!(
                    struct E {
                        #[row(key, order)]
                        a: i64,
                    }
                ),
                "take `order` out",
            ),
        ];
        for (input, expected) in cases {
            let error = derive(&input).expect_err(expected).to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn names_are_those_of_columns() {
        let input: DeriveInput = parse_quote!(
            struct E {
                r#type: i64,
                #[row(name = "Two words")]
                b: i64,
            }
        );
        let written = derive(&input).expect("a row").to_string();
        assert!(
            written.contains("name : \"type\"") && written.contains("name : \"Two words\""),
            "{written}"
        );
    }
}
