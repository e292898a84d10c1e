//! A profile as text: one line a stack, as Brendan Gregg's stackcollapse scripts write it.

use super::Profile;
use std::fmt::Write;

/// `outermost;...;innermost count`, sorted.
pub(super) fn text(profile: &Profile) -> String {
    let mut text = String::new();
    for (names, count) in &profile.stacks {
        for (at, name) in names.iter().enumerate() {
            if at > 0 {
                text.push(';');
            }
            // The separator is part of the names of arrays.
            text.extend(name.chars().map(|c| if c == ';' { ',' } else { c }));
        }
        // Writing to a string doesn't fail.
        let _ = writeln!(text, " {count}");
    }
    text
}
