//! Tables for people: columns as wide as their widest cell, two spaces apart.

/// On which side a column's cells stand.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// A column: its name, and its side.
pub(super) type Column = (&'static str, Side);

/// Draws the table, with a line of names if one of them is not empty. A column that has neither name nor content is left
/// out; no line ends with spaces.
pub(super) fn draw(columns: &[Column], rows: &[Vec<String>]) -> String {
    let width = |cell: &str| cell.chars().count();
    let widths: Vec<usize> = (columns.iter().enumerate())
        .map(|(at, (name, _))| rows.iter().map(|row| width(&row[at])).chain([width(name)]).max().unwrap_or(0))
        .collect();
    let mut drawn = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for ((cell, wide), (_, side)) in cells.zip(&widths).zip(columns).filter(|((_, wide), _)| **wide > 0) {
            let gap = if text.is_empty() { "" } else { "  " };
            match side {
                Side::Left => text.push_str(&format!("{gap}{cell:<wide$}")),
                Side::Right => text.push_str(&format!("{gap}{cell:>wide$}")),
            }
        }
        drawn.push_str(text.trim_end());
        drawn.push('\n');
    };
    if columns.iter().any(|(name, _)| !name.is_empty()) {
        line(&mut columns.iter().map(|(name, _)| *name));
    }
    rows.iter().for_each(|row| line(&mut row.iter().map(String::as_str)));
    drawn
}

#[cfg(test)]
mod tests {
    use super::Side::{Left, Right};
    use super::*;

    fn check(columns: &[Column], rows: &[&[&str]], expected: &str) {
        let rows: Vec<Vec<String>> =
            rows.iter().map(|row| row.iter().map(|cell| (*cell).to_owned()).collect()).collect();
        assert_eq!(draw(columns, &rows), expected);
    }

    #[test]
    fn columns_are_aligned_and_lines_do_not_end_with_spaces() {
        check(
            &[("NAME", Left), ("COUNT", Right), ("WHY", Left)],
            &[&["a", "1", ""], &["longer", "1000000", "größer"], &["c", "20", "x"]],
            "NAME      COUNT  WHY\na             1\nlonger  1000000  größer\nc            20  x\n",
        );
    }

    #[test]
    fn columns_without_name_and_content_are_left_out() {
        check(&[("", Left), ("", Left), ("", Right)], &[&["a", "", "1"], &["b", "", "22"]], "a   1\nb  22\n");
    }

    #[test]
    fn a_table_without_rows_is_its_names() {
        check(&[("A", Left), ("B", Right)], &[], "A  B\n");
    }
}
