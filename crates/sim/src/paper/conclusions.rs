//! What the page says, as assertions on the data.

use super::Paper;

/// A statement of the page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conclusion {
    /// What is said.
    pub says: &'static str,
    /// Whether the data bear it out.
    pub holds: bool,
}

/// All statements, in the order of the page.
#[must_use]
pub fn conclusions(_paper: &Paper) -> Vec<Conclusion> {
    Vec::new()
}
