//! The reference page of the API.

/// The text of `docs/api.md`.
pub fn markdown() -> String {
    String::new()
}
