//! How a download tells how far it is.

/// Hears how far a download is. Every method does nothing unless it is implemented.
pub trait Progress {
    /// A stage begins: `what` says which, `total_bytes` how much there is to do, if that is known. What was done by an
    /// earlier, interrupted download counts: it is advanced at once.
    fn start(&mut self, total_bytes: Option<u64>, what: &str) {
        let _ = (total_bytes, what);
    }

    /// Another `bytes` of the stage are done.
    fn advance(&mut self, bytes: u64) {
        let _ = bytes;
    }
}

/// Nobody listens.
impl Progress for () {}
