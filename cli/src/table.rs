//! Plain columns as kubectl prints them: no borders, three spaces between, the last column unpadded.
//!
//! Invariant: once a column was so wide it stays so, which keeps the rows of a watch under their header.

use crate::output::clean;

const GAP: usize = 3;

/// Remembers the columns' widths from one block of rows to the next.
#[derive(Debug, Default)]
pub struct Table {
    widths: Vec<usize>,
}

impl Table {
    /// The header and the rows, each line ended.
    pub fn block(&mut self, header: &[String], rows: &[Vec<String>]) -> String {
        self.render(std::iter::once(header).chain(rows.iter().map(Vec::as_slice)))
    }

    /// Rows alone, under a header printed before.
    pub fn rows(&mut self, rows: &[Vec<String>]) -> String {
        self.render(rows.iter().map(Vec::as_slice))
    }

    fn render<'a>(&mut self, lines: impl Iterator<Item = &'a [String]>) -> String {
        let lines: Vec<Vec<String>> = lines.map(|l| l.iter().map(|c| clean(c)).collect()).collect();
        for line in &lines {
            if self.widths.len() < line.len() {
                self.widths.resize(line.len(), 0);
            }
            for (width, cell) in self.widths.iter_mut().zip(line) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut out = String::new();
        for line in &lines {
            let mut text = String::new();
            for (width, cell) in self.widths.iter().zip(line) {
                text.push_str(cell);
                text.extend(std::iter::repeat_n(' ', width + GAP - cell.chars().count()));
            }
            out.push_str(text.trim_end());
            out.push('\n');
        }
        out
    }
}

/// A table on its own.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let header: Vec<String> = header.iter().map(|h| (*h).to_owned()).collect();
    Table::default().block(&header, rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(cells: &[&str]) -> Vec<String> {
        cells.iter().map(|c| (*c).to_owned()).collect()
    }

    #[test]
    fn columns_line_up_and_stay() {
        let mut table = Table::default();
        assert_eq!(
            table.block(&row(&["NAME", "AGE"]), &[row(&["longer", "5s"]), row(&["ö", ""])]),
            "NAME     AGE\nlonger   5s\nö\n"
        );
        assert_eq!(table.rows(&[row(&["x", "6s"])]), "x        6s\n");
    }

    #[test]
    fn a_cell_cannot_break_the_table_or_the_terminal() {
        assert_eq!(
            table(&["A", "B"], &[row(&["x\ny", "\u{1b}[31mz"])]),
            "A     B\nx y   ?[31mz\n"
        );
    }
}
