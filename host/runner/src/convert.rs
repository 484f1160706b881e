//! Between the warehouse's types and the contract's, which are the same in shape. Values move, none is copied.

use stepwell_sandbox::contract;
use stepwell_warehouse as warehouse;

pub(crate) fn param(param: &contract::Param) -> warehouse::Param {
    match param {
        contract::Param::Null => warehouse::Param::Null,
        contract::Param::Boolean(value) => warehouse::Param::Bool(*value),
        contract::Param::Int64(value) => warehouse::Param::Int64(*value),
        contract::Param::Float64(value) => warehouse::Param::Float64(*value),
        contract::Param::Text(value) => warehouse::Param::Text(value.clone()),
        contract::Param::Typed((oid, value)) => warehouse::Param::Typed(*oid, value.clone()),
    }
}

pub(crate) fn params(params: &[contract::Param]) -> Vec<warehouse::Param> {
    params.iter().map(param).collect()
}

/// The value of a parameter for people, in its text form.
pub(crate) fn param_text(param: &contract::Param) -> String {
    match param {
        contract::Param::Null => "NULL".into(),
        contract::Param::Boolean(value) => value.to_string(),
        contract::Param::Int64(value) => value.to_string(),
        contract::Param::Float64(value) => value.to_string(),
        contract::Param::Text(value) | contract::Param::Typed((_, value)) => value.clone(),
    }
}

pub(crate) fn answer(answer: warehouse::Answer) -> contract::Answer {
    let columns = answer.columns.into_iter().map(column).collect();
    contract::Answer {
        fields: answer.fields.into_iter().map(field).collect(),
        rows: contract::Batch {
            rows: answer.rows,
            columns,
        },
    }
}

pub(crate) fn field(field: warehouse::Field) -> contract::Field {
    contract::Field {
        name: field.name,
        type_oid: field.type_oid,
        type_mod: field.type_mod,
        layout: match field.layout {
            warehouse::Layout::Bits => contract::Layout::Bits,
            warehouse::Layout::Int16 => contract::Layout::Int16,
            warehouse::Layout::Int32 => contract::Layout::Int32,
            warehouse::Layout::Int64 => contract::Layout::Int64,
            warehouse::Layout::Single => contract::Layout::Single,
            warehouse::Layout::Double => contract::Layout::Double,
            warehouse::Layout::Fixed16 => contract::Layout::Fixed16,
            warehouse::Layout::Varlen => contract::Layout::Varlen,
        },
        nullable: field.nullable,
    }
}

pub(crate) fn field_from(field: &contract::Field) -> warehouse::Field {
    warehouse::Field {
        name: field.name.clone(),
        type_oid: field.type_oid,
        type_mod: field.type_mod,
        layout: match field.layout {
            contract::Layout::Bits => warehouse::Layout::Bits,
            contract::Layout::Int16 => warehouse::Layout::Int16,
            contract::Layout::Int32 => warehouse::Layout::Int32,
            contract::Layout::Int64 => warehouse::Layout::Int64,
            contract::Layout::Single => warehouse::Layout::Single,
            contract::Layout::Double => warehouse::Layout::Double,
            contract::Layout::Fixed16 => warehouse::Layout::Fixed16,
            contract::Layout::Varlen => warehouse::Layout::Varlen,
        },
        nullable: field.nullable,
    }
}

pub(crate) fn batch(batch: warehouse::Batch) -> contract::Batch {
    contract::Batch {
        rows: batch.rows,
        columns: batch.columns.into_iter().map(column).collect(),
    }
}

pub(crate) fn batch_from(batch: contract::Batch) -> warehouse::Batch {
    warehouse::Batch {
        rows: batch.rows,
        columns: batch.columns.into_iter().map(column_from).collect(),
    }
}

fn column_from(column: contract::Column) -> warehouse::Column {
    let values = match column.values {
        contract::Values::Bits(values) => warehouse::Values::Bits(values),
        contract::Values::Int16(values) => warehouse::Values::Int16(values),
        contract::Values::Int32(values) => warehouse::Values::Int32(values),
        contract::Values::Int64(values) => warehouse::Values::Int64(values),
        contract::Values::Single(values) => warehouse::Values::Single(values),
        contract::Values::Double(values) => warehouse::Values::Double(values),
        contract::Values::Fixed16(values) => warehouse::Values::Fixed16(values),
        contract::Values::Varlen(contract::Varlen { offsets, data }) => {
            warehouse::Values::Varlen { offsets, data }
        }
    };
    warehouse::Column {
        validity: column.validity,
        values,
    }
}

fn column(column: warehouse::Column) -> contract::Column {
    let values = match column.values {
        warehouse::Values::Bits(values) => contract::Values::Bits(values),
        warehouse::Values::Int16(values) => contract::Values::Int16(values),
        warehouse::Values::Int32(values) => contract::Values::Int32(values),
        warehouse::Values::Int64(values) => contract::Values::Int64(values),
        warehouse::Values::Single(values) => contract::Values::Single(values),
        warehouse::Values::Double(values) => contract::Values::Double(values),
        warehouse::Values::Fixed16(values) => contract::Values::Fixed16(values),
        warehouse::Values::Varlen { offsets, data } => {
            contract::Values::Varlen(contract::Varlen { offsets, data })
        }
    };
    contract::Column {
        validity: column.validity,
        values,
    }
}
