//! The types that a table made by the host may have, and how values of each lie in a batch.

use crate::answer::Layout;

/// A type that can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ColumnType {
    /// The name that SQL has for it, without a modifier.
    pub name: &'static str,
    /// How its values lie in memory.
    pub layout: Layout,
    pub(crate) form: Form,
}

/// What is done to the values of a layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// They are written as they are.
    Plain,
    Date,
    Timestamp,
    Numeric,
    Jsonb,
}

impl ColumnType {
    /// Returns the type of an OID; `None` for one that is not written: its values are written as text, and cast by a
    /// later statement.
    pub fn of(type_oid: u32) -> Option<Self> {
        use Layout::{Bits, Double, Fixed16, Int16, Int32, Int64, Single, Varlen};
        let (name, layout, form) = match type_oid {
            16 => ("boolean", Bits, Form::Plain),
            17 => ("bytea", Varlen, Form::Plain),
            19 => ("name", Varlen, Form::Plain),
            20 => ("bigint", Int64, Form::Plain),
            21 => ("smallint", Int16, Form::Plain),
            23 => ("integer", Int32, Form::Plain),
            25 => ("text", Varlen, Form::Plain),
            114 => ("json", Varlen, Form::Plain),
            700 => ("real", Single, Form::Plain),
            701 => ("double precision", Double, Form::Plain),
            1042 => ("character", Varlen, Form::Plain),
            1043 => ("character varying", Varlen, Form::Plain),
            1082 => ("date", Int32, Form::Date),
            1114 => ("timestamp without time zone", Int64, Form::Timestamp),
            1184 => ("timestamp with time zone", Int64, Form::Timestamp),
            1700 => ("numeric", Varlen, Form::Numeric),
            2950 => ("uuid", Fixed16, Form::Plain),
            3802 => ("jsonb", Varlen, Form::Jsonb),
            _ => return None,
        };
        Some(Self { name, layout, form })
    }

    /// Returns the type with its modifier, as a column definition has it: `numeric(10,2)`; `None` for a modifier that the
    /// type does not have. -1 is none.
    pub fn sql(self, type_mod: i32) -> Option<String> {
        if type_mod == -1 {
            // `character` by itself would be `character(1)`.
            let name = if self.name == "character" {
                "bpchar"
            } else {
                self.name
            };
            return Some(name.to_owned());
        }
        match self.name {
            "character" | "character varying" => {
                let length = type_mod.checked_sub(4)?;
                (1..=10_485_760)
                    .contains(&length)
                    .then(|| format!("{}({length})", self.name))
            }
            "numeric" => {
                let packed = type_mod.wrapping_sub(4);
                let (precision, scale) = ((packed >> 16) & 0xffff, packed & 0x7ff);
                // Eleven bits with a sign; below zero since PostgreSQL 15.
                let scale = (scale ^ 1024) - 1024;
                let fits = type_mod > 4 && (1..=1000).contains(&precision) && scale.abs() <= 1000;
                fits.then(|| format!("numeric({precision},{scale})"))
            }
            "timestamp without time zone" | "timestamp with time zone" => {
                let (word, zone) = self.name.split_once(' ')?;
                (0..=6)
                    .contains(&type_mod)
                    .then(|| format!("{word}({type_mod}) {zone}"))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_modifiers() {
        let sql = |oid, type_mod| ColumnType::of(oid).and_then(|kind| kind.sql(type_mod));
        assert_eq!(sql(1043, 24).as_deref(), Some("character varying(20)"));
        assert_eq!(sql(1043, -1).as_deref(), Some("character varying"));
        assert_eq!(sql(1042, 6).as_deref(), Some("character(2)"));
        assert_eq!(sql(1042, -1).as_deref(), Some("bpchar"));
        assert_eq!(
            sql(1700, (10 << 16 | 2) + 4).as_deref(),
            Some("numeric(10,2)")
        );
        assert_eq!(
            sql(1700, (10 << 16 | 2046) + 4).as_deref(),
            Some("numeric(10,-2)")
        );
        assert_eq!(
            sql(1114, 3).as_deref(),
            Some("timestamp(3) without time zone")
        );
        for (oid, type_mod) in [
            (1043, 4),
            (1700, 4),
            (1114, 7),
            (25, 5),
            (1184, -2),
            (1043, i32::MIN),
        ] {
            assert_eq!(sql(oid, type_mod), None, "{oid} {type_mod}");
        }
        assert_eq!(sql(1186, -1), None);
    }
}
