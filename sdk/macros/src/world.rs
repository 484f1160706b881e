//! The bindings of a world.
//!
//! They are generated in the crate that exports the step, not once in the SDK: the linker would carry the description of
//! every world that the SDK generates into every component, and a planner would then have to export the reducer's
//! functions too.

use proc_macro2::TokenStream;
use quote::quote;

const WIT: [&str; 3] = [
    include_str!("../../wit/types.wit"),
    include_str!("../../wit/planner.wit"),
    include_str!("../../wit/reducer.wit"),
];

/// The SDK's own types stand for those interfaces that a world uses; naming another one is an error.
pub fn bindings(world: World) -> TokenStream {
    let wit = one_document(&WIT);
    let (name, shapes) = match world {
        World::Planner => ("stepwell:step/planner", quote!()),
        World::Reducer => (
            "stepwell:step/reducer",
            quote!("stepwell:step/shapes@0.1.0": ::stepwell_sdk::bindings::stepwell::step::shapes,),
        ),
    };
    quote! {
        ::stepwell_sdk::wit_bindgen::generate!({
            inline: #wit,
            world: #name,
            runtime_path: "::stepwell_sdk::wit_bindgen::rt",
            with: {
                "stepwell:step/types@0.1.0": ::stepwell_sdk::bindings::stepwell::step::types,
                "stepwell:step/columnar@0.1.0": ::stepwell_sdk::bindings::stepwell::step::columnar,
                "stepwell:step/plans@0.1.0": ::stepwell_sdk::bindings::stepwell::step::plans,
                #shapes
                "stepwell:step/log@0.1.0": ::stepwell_sdk::bindings::stepwell::step::log,
            },
        });
    }
}

/// A world that a step exports.
#[derive(Clone, Copy)]
pub enum World {
    Planner,
    Reducer,
}

/// Joins files of one package: `inline` takes one document, which may name its package once.
fn one_document(files: &[&str]) -> String {
    let mut document = String::new();
    for (index, file) in files.iter().enumerate() {
        for line in file
            .lines()
            .filter(|line| index == 0 || !line.starts_with("package "))
        {
            document.push_str(line);
            document.push('\n');
        }
    }
    document
}
