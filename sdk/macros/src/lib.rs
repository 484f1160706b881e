//! Macros of `stepwell-sdk`; use them through it.
//!
//! [`macro@Settings`] writes the JSON Schema of a settings struct while the plugin compiles, so that it can stand in a
//! custom section that the host reads without running the component. schemars builds its schemas at run time, which
//! is why it does not serve here.

mod row;
mod settings;
mod world;

use proc_macro::TokenStream;

/// Writes the JSON Schema of a struct with named fields, or of an enum of plain words, from the same `#[serde(…)]`
/// attributes that decide how it is read: `rename`, `rename_all`, `default`, `deny_unknown_fields`.
///
/// Doc comments become descriptions. A field is required unless its type is `Option` or it has a default.
///
/// ```text
/// #[derive(serde::Deserialize, stepwell_sdk::Settings)]
/// #[serde(deny_unknown_fields, rename_all = "kebab-case")]
/// struct With {
///     /// The ids whose rows are computed again.
///     ids: ScratchInput,
///     /// Takes the rows.
///     into: ScratchOutput,
/// }
/// ```
#[proc_macro_derive(Settings, attributes(serde))]
pub fn derive_settings(input: TokenStream) -> TokenStream {
    let input = syn::parse_macro_input!(input as syn::DeriveInput);
    settings::derive(&input)
        .unwrap_or_else(|error| error.into_compile_error())
        .into()
}

/// Lets a struct stand for the columns of a batch, to read rows and to write them: `stepwell_sdk::batch` tells how.
///
/// Fields may say `#[row(key)]`, `#[row(order)]` and `#[row(name = "…")]`.
#[proc_macro_derive(Row, attributes(row))]
pub fn derive_row(input: TokenStream) -> TokenStream {
    let input = syn::parse_macro_input!(input as syn::DeriveInput);
    row::derive(&input)
        .unwrap_or_else(|error| error.into_compile_error())
        .into()
}

/// Generates the bindings of the planner world in the crate that exports it. Called by `export_planner!`.
#[doc(hidden)]
#[proc_macro]
pub fn planner_bindings(_: TokenStream) -> TokenStream {
    world::bindings(world::World::Planner).into()
}

/// Generates the bindings of the reducer world in the crate that exports it. Called by `export_reducer!`.
#[doc(hidden)]
#[proc_macro]
pub fn reducer_bindings(_: TokenStream) -> TokenStream {
    world::bindings(world::World::Reducer).into()
}
