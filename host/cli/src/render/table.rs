//! Tables without lines: columns under headings, two spaces apart.

use comfy_table::{Cell, CellAlignment, Table, presets};

/// A column: its heading, and whether its values are numbers, which stand to the right.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Column {
    Text(&'static str),
    Number(&'static str),
}

/// Returns the rows below the headings, each line indented by two spaces and with a line end.
pub(crate) fn table(columns: &[Column], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(columns.iter().map(|column| match column {
        Column::Text(heading) | Column::Number(heading) => Cell::new(heading),
    }));
    for row in rows {
        table.add_row(row);
    }
    for (at, column) in columns.iter().enumerate() {
        if let Some(set) = table.column_mut(at) {
            set.set_padding((2, 0));
            if matches!(column, Column::Number(_)) {
                set.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    table
        .lines()
        .map(|line| format!("{}\n", line.trim_end()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_without_spaces_at_the_end() {
        let rows = [["truncate", "0", ""], ["new-batches", "1,234", "failed"]];
        let columns = [
            Column::Text("step"),
            Column::Number("rows"),
            Column::Text("state"),
        ];
        let text = table(&columns, rows.map(|row| row.map(str::to_owned).to_vec()));
        assert_eq!(
            text,
            "  step          rows  state\n  truncate         0\n  new-batches  1,234  failed\n"
        );
    }
}
