//! Batches that a reducer gives.

use stepwell_sandbox::{check_output, contract};
use stepwell_warehouse as warehouse;

/// A batch and the fields that it should have: it is refused, or every value of it can be written for COPY.
///
/// The bytes say, in this order: rows, columns, and for each column its type, its layout, and its buffers.
pub fn batch(data: &[u8]) {
    let mut bytes = Bytes { data };
    let rows = u32::from(bytes.byte());
    let count = bytes.byte() % 6;
    let columns: Vec<_> = (0..count).map(|at| Column::read(&mut bytes, at)).collect();
    let fields: Vec<_> = columns.iter().map(Column::field).collect();
    let batch = contract::Batch {
        rows,
        columns: columns.iter().map(Column::given).collect(),
    };
    if check_output(&fields, &batch).is_err() {
        return;
    }
    let fields: Vec<_> = columns.iter().map(Column::warehouse_field).collect();
    let batch = warehouse::Batch {
        rows,
        columns: columns.into_iter().map(Column::written).collect(),
    };
    let encoder =
        warehouse::Encoder::new(&fields).expect("each type that is allowed can be written");
    let (mut out, mut row) = (Vec::new(), 0);
    while row < rows {
        match encoder.rows(&batch, row, &mut out, 64) {
            Ok(next) => {
                assert!(next > row, "no row was written");
                row = next;
            }
            // A value that its type does not have.
            Err(error) => {
                assert!(error.row > row && error.row <= rows, "{error:?}");
                return;
            }
        }
        out.clear();
    }
}

/// What is left of the input; zeros after its end.
struct Bytes<'a> {
    data: &'a [u8],
}

impl Bytes<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.data.split_first() else {
            return 0;
        };
        self.data = rest;
        *first
    }

    fn take(&mut self) -> Vec<u8> {
        let length = usize::from(u16::from_le_bytes([self.byte(), self.byte() & 0x07]));
        let (taken, rest) = self.data.split_at(length.min(self.data.len()));
        self.data = rest;
        taken.to_vec()
    }

    fn numbers<const N: usize, T>(&mut self, number: fn([u8; N]) -> T) -> Vec<T> {
        let taken = self.take();
        let (whole, _) = taken.as_chunks::<N>();
        whole.iter().copied().map(number).collect()
    }
}

/// One column, with the field that it should be of.
struct Column {
    name: String,
    type_oid: u32,
    layout: u8,
    nullable: bool,
    validity: Option<Vec<u8>>,
    values: Values,
}

enum Values {
    Bits(Vec<u8>),
    Int16(Vec<i16>),
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    Single(Vec<f32>),
    Double(Vec<f64>),
    Fixed16(Vec<u8>),
    Varlen(Vec<u32>, Vec<u8>),
}

impl Column {
    fn read(bytes: &mut Bytes<'_>, at: u8) -> Self {
        // Those that a reducer may give, and some that it may not.
        const TYPES: [u32; 19] = [
            16, 17, 19, 20, 21, 23, 25, 114, 700, 701, 1042, 1043, 1082, 1114, 1184, 1700, 2950,
            3802, 600,
        ];
        let type_oid = TYPES[usize::from(bytes.byte()) % TYPES.len()];
        let flags = bytes.byte();
        let values = match flags & 7 {
            0 => Values::Bits(bytes.take()),
            1 => Values::Int16(bytes.numbers(i16::from_le_bytes)),
            2 => Values::Int32(bytes.numbers(i32::from_le_bytes)),
            3 => Values::Int64(bytes.numbers(i64::from_le_bytes)),
            4 => Values::Single(bytes.numbers(f32::from_le_bytes)),
            5 => Values::Double(bytes.numbers(f64::from_le_bytes)),
            6 => Values::Fixed16(bytes.take()),
            _ => {
                // Offsets of one byte each reach more of what comes after them.
                let offsets = bytes.take().into_iter().map(u32::from).collect();
                Values::Varlen(offsets, bytes.take())
            }
        };
        Self {
            name: format!("c{at}"),
            type_oid,
            // What is declared may be something else.
            layout: if flags & 32 != 0 {
                bytes.byte() & 7
            } else {
                flags & 7
            },
            nullable: flags & 8 != 0,
            validity: (flags & 16 != 0).then(|| bytes.take()),
            values,
        }
    }

    fn field(&self) -> contract::Field {
        use contract::Layout::{Bits, Double, Fixed16, Int16, Int32, Int64, Single, Varlen};
        contract::Field {
            name: self.name.clone(),
            type_oid: self.type_oid,
            type_mod: -1,
            layout: [Bits, Int16, Int32, Int64, Single, Double, Fixed16, Varlen]
                [usize::from(self.layout)],
            nullable: self.nullable,
        }
    }

    fn warehouse_field(&self) -> warehouse::Field {
        use warehouse::Layout::{Bits, Double, Fixed16, Int16, Int32, Int64, Single, Varlen};
        warehouse::Field {
            name: self.name.clone(),
            type_oid: self.type_oid,
            type_mod: -1,
            layout: [Bits, Int16, Int32, Int64, Single, Double, Fixed16, Varlen]
                [usize::from(self.layout)],
            nullable: self.nullable,
        }
    }

    fn given(&self) -> contract::Column {
        let values = match &self.values {
            Values::Bits(values) => contract::Values::Bits(values.clone()),
            Values::Int16(values) => contract::Values::Int16(values.clone()),
            Values::Int32(values) => contract::Values::Int32(values.clone()),
            Values::Int64(values) => contract::Values::Int64(values.clone()),
            Values::Single(values) => contract::Values::Single(values.clone()),
            Values::Double(values) => contract::Values::Double(values.clone()),
            Values::Fixed16(values) => contract::Values::Fixed16(values.clone()),
            Values::Varlen(offsets, data) => contract::Values::Varlen(contract::Varlen {
                offsets: offsets.clone(),
                data: data.clone(),
            }),
        };
        contract::Column {
            validity: self.validity.clone(),
            values,
        }
    }

    fn written(self) -> warehouse::Column {
        let values = match self.values {
            Values::Bits(values) => warehouse::Values::Bits(values),
            Values::Int16(values) => warehouse::Values::Int16(values),
            Values::Int32(values) => warehouse::Values::Int32(values),
            Values::Int64(values) => warehouse::Values::Int64(values),
            Values::Single(values) => warehouse::Values::Single(values),
            Values::Double(values) => warehouse::Values::Double(values),
            Values::Fixed16(values) => warehouse::Values::Fixed16(values),
            Values::Varlen(offsets, data) => warehouse::Values::Varlen { offsets, data },
        };
        warehouse::Column {
            validity: self.validity,
            values,
        }
    }
}
