//! The types that a row's field may have.

use super::bit;
use super::types::{
    Also, BOOL, BPCHAR, BYTEA, DATE, DataType, FLOAT4, FLOAT8, INT2, INT4, INT8, JSON, JSONB,
    NUMERIC, TEXT, TIMESTAMP, TIMESTAMPTZ, UUID,
};
use crate::columnar::{Column, Field, Layout, Values, Varlen};
use crate::values::{Date, Decimal, Json, Timestamp, TimestampTz};

/// A type that stands for a column. The documentation of [`batch`](crate::batch) lists them.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not stand for a column",
    label = "no column has this type",
    note = "a field of a row is `bool`, `i16`, `i32`, `i64`, `f32`, `f64`, `&str`, `&[u8]`, `[u8; 16]`, `Date`, `Timestamp`, `TimestampTz`, `Decimal`, `Json`, or an `Option` of these"
)]
pub trait Value {
    /// The type, borrowing from a batch that lives for `'a`.
    type Of<'a>;
    /// The column.
    type View<'a>;
    /// The column while it is written.
    type Builder;

    /// The column's type.
    const TYPE: DataType;
    /// Whether the column may be NULL.
    const NULLABLE: bool = false;

    /// Returns a view of a column of so many rows; none if it has fewer values, or not the layout of its field.
    fn view<'a>(column: &'a Column, field: &Field, rows: usize) -> Option<Self::View<'a>>;
    /// Returns the value in row `at`; of a NULL, some value.
    fn get<'a>(view: &Self::View<'a>, at: usize) -> Self::Of<'a>;
    /// Returns an empty column.
    fn builder() -> Self::Builder;
    /// Adds a value.
    fn push(builder: &mut Self::Builder, value: Self::Of<'_>);
    /// Keeps a place, for a NULL.
    fn skip(builder: &mut Self::Builder);
    /// Returns the bytes of the values so far.
    fn bytes(builder: &Self::Builder) -> usize;
    /// Returns the column and leaves an empty one.
    fn take(builder: &mut Self::Builder) -> Column;
}

fn column(values: Values) -> Column {
    Column {
        validity: None,
        values,
    }
}

/// Types whose values are numbers in the batch.
macro_rules! numbers {
    ($($type:ty: $number:ty, $layout:ident, $oid:expr, $also:expr, $expected:literal,
        $read:expr, $write:expr;)*) => {$(
        impl Value for $type {
            type Of<'a> = $type;
            type View<'a> = &'a [$number];
            type Builder = Vec<$number>;

            const TYPE: DataType = DataType {
                oid: $oid,
                layout: Layout::$layout,
                expected: $expected,
                also: $also,
            };

            fn view<'a>(column: &'a Column, _: &Field, rows: usize) -> Option<Self::View<'a>> {
                match &column.values {
                    Values::$layout(values) => values.get(..rows),
                    _ => None,
                }
            }
            #[inline(always)]
            fn get<'a>(view: &Self::View<'a>, at: usize) -> Self::Of<'a> {
                $read(view[at])
            }
            fn builder() -> Vec<$number> {
                Vec::new()
            }
            #[inline]
            fn push(builder: &mut Vec<$number>, value: $type) {
                builder.push($write(value));
            }
            #[inline]
            fn skip(builder: &mut Vec<$number>) {
                builder.push(<$number>::default());
            }
            #[inline]
            fn bytes(builder: &Vec<$number>) -> usize {
                size_of::<$number>() * builder.len()
            }
            fn take(builder: &mut Vec<$number>) -> Column {
                column(Values::$layout(std::mem::take(builder)))
            }
        }
    )*};
}

fn same<T>(value: T) -> T {
    value
}

numbers! {
    i16: i16, Int16, INT2, Also::None, "smallint", same, same;
    i32: i32, Int32, INT4, Also::None, "integer", same, same;
    i64: i64, Int64, INT8, Also::None, "bigint", same, same;
    f32: f32, Single, FLOAT4, Also::None, "real", same, same;
    f64: f64, Double, FLOAT8, Also::None, "double precision", same, same;
    Date: i32, Int32, DATE, Also::None, "date", Date, |date: Date| date.0;
    Timestamp: i64, Int64, TIMESTAMP, Also::One(TIMESTAMPTZ), "timestamp", Timestamp,
        |time: Timestamp| time.0;
    TimestampTz: i64, Int64, TIMESTAMPTZ, Also::One(TIMESTAMP), "timestamptz", TimestampTz,
        |time: TimestampTz| time.0;
}

/// Bits while they are written.
#[derive(Debug, Default)]
pub struct BitsBuilder {
    bytes: Vec<u8>,
    length: usize,
}

impl BitsBuilder {
    #[inline]
    fn push(&mut self, set: bool) {
        if self.length.is_multiple_of(8) {
            self.bytes.push(0);
        }
        self.bytes[self.length / 8] |= u8::from(set) << (self.length % 8);
        self.length += 1;
    }

    fn take(&mut self) -> Vec<u8> {
        self.length = 0;
        std::mem::take(&mut self.bytes)
    }
}

impl Value for bool {
    type Of<'a> = bool;
    type View<'a> = &'a [u8];
    type Builder = BitsBuilder;

    const TYPE: DataType = DataType {
        oid: BOOL,
        layout: Layout::Bits,
        expected: "boolean",
        also: Also::None,
    };

    fn view<'a>(column: &'a Column, _: &Field, rows: usize) -> Option<&'a [u8]> {
        match &column.values {
            Values::Bits(bits) => bits.get(..rows.div_ceil(8)),
            _ => None,
        }
    }
    #[inline(always)]
    fn get<'a>(view: &Self::View<'a>, at: usize) -> Self::Of<'a> {
        bit(view, at)
    }
    fn builder() -> BitsBuilder {
        BitsBuilder::default()
    }
    #[inline]
    fn push(builder: &mut BitsBuilder, value: bool) {
        builder.push(value);
    }
    #[inline]
    fn skip(builder: &mut BitsBuilder) {
        builder.push(false);
    }
    #[inline]
    fn bytes(builder: &BitsBuilder) -> usize {
        builder.bytes.len()
    }
    fn take(builder: &mut BitsBuilder) -> Column {
        column(Values::Bits(builder.take()))
    }
}

impl Value for [u8; 16] {
    type Of<'a> = [u8; 16];
    type View<'a> = &'a [[u8; 16]];
    type Builder = Vec<u8>;

    const TYPE: DataType = DataType {
        oid: UUID,
        layout: Layout::Fixed16,
        expected: "uuid",
        also: Also::None,
    };

    fn view<'a>(column: &'a Column, _: &Field, rows: usize) -> Option<&'a [[u8; 16]]> {
        match &column.values {
            Values::Fixed16(bytes) => bytes.as_chunks::<16>().0.get(..rows),
            _ => None,
        }
    }
    #[inline(always)]
    fn get<'a>(view: &Self::View<'a>, at: usize) -> Self::Of<'a> {
        view[at]
    }
    fn builder() -> Vec<u8> {
        Vec::new()
    }
    #[inline]
    fn push(builder: &mut Vec<u8>, value: [u8; 16]) {
        builder.extend_from_slice(&value);
    }
    #[inline]
    fn skip(builder: &mut Vec<u8>) {
        builder.extend_from_slice(&[0; 16]);
    }
    #[inline]
    fn bytes(builder: &Vec<u8>) -> usize {
        builder.len()
    }
    fn take(builder: &mut Vec<u8>) -> Column {
        column(Values::Fixed16(std::mem::take(builder)))
    }
}

/// A column of values of any length while it is written.
#[derive(Debug)]
pub struct VarlenBuilder {
    offsets: Vec<u32>,
    data: Vec<u8>,
}

impl VarlenBuilder {
    fn new() -> Self {
        Self {
            offsets: vec![0],
            data: Vec::new(),
        }
    }

    #[inline]
    fn push(&mut self, value: &[u8]) {
        self.data.extend_from_slice(value);
        // A batch is taken at 8 MiB, so that one value alone can come near to 4 GiB.
        let end = u32::try_from(self.data.len()).expect("no value is larger than 4 GiB");
        self.offsets.push(end);
    }

    fn take(&mut self) -> Column {
        let Self { offsets, data } = std::mem::replace(self, Self::new());
        column(Values::Varlen(Varlen { offsets, data }))
    }
}

/// A column of bytes.
#[derive(Debug, Clone, Copy)]
pub struct BytesView<'a> {
    offsets: &'a [u32],
    data: &'a [u8],
}

impl<'a> BytesView<'a> {
    fn new(column: &'a Column, rows: usize) -> Option<Self> {
        match &column.values {
            Values::Varlen(varlen) => Some(Self {
                offsets: varlen.offsets.get(..=rows)?,
                data: &varlen.data,
            }),
            _ => None,
        }
    }

    #[inline(always)]
    fn get(&self, at: usize) -> &'a [u8] {
        &self.data[self.offsets[at] as usize..self.offsets[at + 1] as usize]
    }
}

/// A column of text.
#[derive(Debug, Clone, Copy)]
pub struct TextView<'a> {
    offsets: &'a [u32],
    /// All values: they are checked to be UTF-8 once, together.
    text: &'a str,
    /// Whether the values are filled up with blanks, which a `char(n)` does not count as its own.
    padded: bool,
}

impl<'a> TextView<'a> {
    fn new(column: &'a Column, field: &Field, rows: usize) -> Option<Self> {
        let bytes = BytesView::new(column, rows)?;
        Some(Self {
            offsets: bytes.offsets,
            text: std::str::from_utf8(bytes.data).ok()?,
            padded: field.type_oid == BPCHAR,
        })
    }

    #[inline(always)]
    fn get(&self, at: usize) -> &'a str {
        let value = &self.text[self.offsets[at] as usize..self.offsets[at + 1] as usize];
        match self.padded {
            true => value.trim_end_matches(' '),
            false => value,
        }
    }
}

/// Types that are a column of any length: how to view it, what the values are made of, and how one is read and written.
macro_rules! varlens {
    ($([$($generics:tt)*] $type:ty => $of:ty, $view:ident($($field:ident)?), $oid:expr, $also:expr, $expected:literal,
        $read:expr, $value:ident => $bytes:expr;)*) => {$(
        impl<$($generics)*> Value for $type {
            type Of<'a> = $of;
            type View<'a> = $view<'a>;
            type Builder = VarlenBuilder;

            const TYPE: DataType = DataType {
                oid: $oid,
                layout: Layout::Varlen,
                expected: $expected,
                also: $also,
            };

            fn view<'a>(column: &'a Column, _field: &Field, rows: usize) -> Option<$view<'a>> {
                $view::new(column, $({ let $field = _field; $field },)? rows)
            }
            #[inline(always)]
            fn get<'a>(view: &Self::View<'a>, at: usize) -> Self::Of<'a> {
                $read(view.get(at))
            }
            fn builder() -> VarlenBuilder {
                VarlenBuilder::new()
            }
            #[inline]
            fn push(builder: &mut VarlenBuilder, $value: Self::Of<'_>) {
                builder.push($bytes);
            }
            #[inline]
            fn skip(builder: &mut VarlenBuilder) {
                builder.push(&[]);
            }
            #[inline]
            fn bytes(builder: &VarlenBuilder) -> usize {
                builder.data.len()
            }
            fn take(builder: &mut VarlenBuilder) -> Column {
                builder.take()
            }
        }
    )*};
}

varlens! {
    ['x] &'x str => &'a str, TextView(field), TEXT, Also::AnyText, "text", same, text => text.as_bytes();
    [] String => String, TextView(field), TEXT, Also::AnyText, "text", str::to_owned, text => text.as_bytes();
    ['x] &'x [u8] => &'a [u8], BytesView(), BYTEA, Also::None, "bytea", same, bytes => bytes;
    [] Vec<u8> => Vec<u8>, BytesView(), BYTEA, Also::None, "bytea", <[u8]>::to_vec, bytes => &bytes;
    ['x] Decimal<'x> => Decimal<'a>, TextView(field), NUMERIC, Also::None, "numeric",
        Decimal, decimal => decimal.0.as_bytes();
    ['x] Json<'x> => Json<'a>, TextView(field), JSONB, Also::One(JSON), "jsonb",
        Json, json => json.0.as_bytes();
}

/// A column that may be NULL, while it is written.
#[derive(Debug)]
pub struct OptionBuilder<B> {
    values: B,
    validity: BitsBuilder,
    has_null: bool,
}

impl<V: Value> Value for Option<V> {
    type Of<'a> = Option<V::Of<'a>>;
    type View<'a> = (Option<&'a [u8]>, V::View<'a>);
    type Builder = OptionBuilder<V::Builder>;

    const TYPE: DataType = V::TYPE;
    const NULLABLE: bool = {
        assert!(
            !V::NULLABLE,
            "an `Option` of an `Option` stands for no column"
        );
        true
    };

    fn view<'a>(column: &'a Column, field: &Field, rows: usize) -> Option<Self::View<'a>> {
        let validity = match &column.validity {
            Some(validity) => Some(validity.get(..rows.div_ceil(8))?),
            None => None,
        };
        Some((validity, V::view(column, field, rows)?))
    }
    #[inline(always)]
    fn get<'a>((validity, values): &Self::View<'a>, at: usize) -> Self::Of<'a> {
        match validity {
            Some(validity) if !bit(validity, at) => None,
            _ => Some(V::get(values, at)),
        }
    }
    fn builder() -> Self::Builder {
        OptionBuilder {
            values: V::builder(),
            validity: BitsBuilder::default(),
            has_null: false,
        }
    }
    #[inline]
    fn push(builder: &mut Self::Builder, value: Self::Of<'_>) {
        match value {
            Some(value) => {
                builder.validity.push(true);
                V::push(&mut builder.values, value);
            }
            None => Self::skip(builder),
        }
    }
    #[inline]
    fn skip(builder: &mut Self::Builder) {
        builder.has_null = true;
        builder.validity.push(false);
        V::skip(&mut builder.values);
    }
    #[inline]
    fn bytes(builder: &Self::Builder) -> usize {
        V::bytes(&builder.values)
    }
    fn take(builder: &mut Self::Builder) -> Column {
        let validity = builder.validity.take();
        Column {
            validity: std::mem::take(&mut builder.has_null).then_some(validity),
            values: V::take(&mut builder.values).values,
        }
    }
}
