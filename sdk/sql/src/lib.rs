//! PostgreSQL's lexical rules, for both sides of the plugin boundary: the host uses them to refuse a statement, the SDK
//! to write one.
//!
//! ```
//! use stepwell_sql::{quote_ident, split, statement_kind, StatementKind, TableName};
//!
//! let table: TableName = "derived.sessions".parse().unwrap();
//! assert_eq!(table.to_string(), "derived.sessions");
//! assert_eq!(quote_ident("Odd name"), "\"Odd name\"");
//! assert_eq!(split("SELECT ';'; SELECT 2").unwrap(), ["SELECT ';'", "SELECT 2"]);
//! assert_eq!(statement_kind(";; /* a /* b */ */ commit").unwrap(), StatementKind::Other("commit".into()));
//! ```
//!
//! Reading order: [`TableName`], [`quote_ident`], [`lexer`], [`split`], [`statement_kind`], [`expression`].
//!
//! What it does not do: parse SQL. A statement's privileges are the database's to judge; the kind of a statement is a
//! guard of the protocol (no transaction control, no COPY, no session state), not of the data.

mod expression;
mod kind;
pub mod lexer;
mod name;
mod quote;
mod template;

pub use expression::{BracketError, ExpressionError, brackets, expression};
pub use kind::{StatementKind, split, statement_kind};
pub use lexer::LexError;
pub use name::{ColumnPath, NameError, TableName};
pub use quote::{quote_ident, quote_literal};
pub use template::{Placeholder, TemplateError, placeholders, render};
