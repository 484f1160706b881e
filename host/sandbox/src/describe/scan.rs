//! One pass over the sections of a component.

use wasmparser::{Encoding, Parser, Payload};

use super::{DescribeError, SECTION};

pub(super) struct Found<'a> {
    /// Contents of each description section, at any depth: the linker leaves it in the core module.
    pub(super) descriptions: Vec<&'a [u8]>,
    pub(super) imports: Vec<String>,
    pub(super) exports: Vec<String>,
}

pub(super) fn scan(bytes: &[u8]) -> Result<Found<'_>, DescribeError> {
    let not_wasm = |source| DescribeError::NotWasm { source };
    let mut found = Found {
        descriptions: Vec::new(),
        imports: Vec::new(),
        exports: Vec::new(),
    };
    let mut depth = 0_usize;

    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(not_wasm)? {
            Payload::Version { encoding, .. } => {
                if depth == 0 && encoding == Encoding::Module {
                    return Err(DescribeError::CoreModule);
                }
                depth += 1;
            }
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::CustomSection(section) if section.name() == SECTION => {
                found.descriptions.push(section.data());
            }
            Payload::ComponentImportSection(section) if depth == 1 => {
                for import in section {
                    found
                        .imports
                        .push(import.map_err(not_wasm)?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) if depth == 1 => {
                for export in section {
                    found
                        .exports
                        .push(export.map_err(not_wasm)?.name.name.to_owned());
                }
            }
            _ => {}
        }
    }
    Ok(found)
}
