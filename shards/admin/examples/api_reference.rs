//! Prints `docs/api.md`.
#![allow(clippy::print_stdout, reason = "printing is what this program is for")]

fn main() {
    print!("{}", ringpost_admin::markdown());
}
