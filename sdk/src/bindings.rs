//! Generated from `wit/`: the types that cross the boundary and the `log` import. Nothing else stands here.
#![expect(
    missing_docs,
    reason = "generated code; the WIT files carry the documentation"
)]

wit_bindgen::generate!({
    inline: "
        package stepwell:sdk;
        world sdk {
            import stepwell:step/types@0.1.0;
            import stepwell:step/columnar@0.1.0;
            import stepwell:step/plans@0.1.0;
            import stepwell:step/shapes@0.1.0;
            import stepwell:step/log@0.1.0;
        }
    ",
    path: "wit",
    world: "stepwell:sdk/sdk",
    additional_derives: [PartialEq],
    generate_all,
});
