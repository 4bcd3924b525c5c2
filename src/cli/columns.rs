//! Names in the columns of a terminal, where a letter may be two columns wide.

use smoothcnn::error::escaped;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// How many columns a name takes, as it is shown.
pub fn width(name: &str) -> usize {
    escaped(name).width()
}

/// A name in so many columns, from the left; of one that is too long the beginning.
pub fn left(name: &str, columns: usize) -> String {
    filled(beginning(&escaped(name), columns), columns, false)
}

/// A name in so many columns, from the right; of one that is too long the beginning.
pub fn right(name: &str, columns: usize) -> String {
    filled(beginning(&escaped(name), columns), columns, true)
}

/// A path in so many columns, from the left; of one that is too long the end, where its file's name is.
pub fn path(path: &str, columns: usize) -> String {
    let path = escaped(path);
    if path.width() <= columns {
        return filled(path, columns, false);
    }
    let reversed: String = path.chars().rev().collect();
    let end: String = beginning(&reversed, columns).chars().rev().collect();
    filled(end, columns, false)
}

/// The beginning, with a mark of what is missing, of a name that is too long.
fn beginning(name: &str, columns: usize) -> String {
    if name.width() <= columns {
        return name.into();
    }
    let mut used = 1;
    let fits = |c: &char| {
        used += c.width().unwrap_or(0);
        used <= columns
    };
    name.chars().take_while(fits).chain(['…']).collect()
}

fn filled(name: String, columns: usize, right: bool) -> String {
    let blanks = " ".repeat(columns.saturating_sub(name.width()));
    if right { blanks + &name } else { name + &blanks }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_takes_the_same_columns() {
        assert_eq!([left("cat", 5), right("cat", 5), left("kangaroo", 5)], ["cat  ", "  cat", "kang…"]);
        // Two columns each.
        assert_eq!([left("猫", 5), left("袋鼠科动物", 6)], ["猫   ", "袋鼠… "]);
        assert_eq!([path("train/猫/1.png", 20), path("train/猫/1.png", 10)], ["train/猫/1.png      ", "…/猫/1.png"]);
        for name in ["", "cat", "袋鼠科动物", "a\u{301}bc", "\n"] {
            assert_eq!([left(name, 4), right(name, 4), path(name, 4)].map(|text| text.width()), [4; 3], "{name:?}");
        }
        assert_eq!(width("猫\n"), 4);
    }
}
