//! Bytes as a supply of small decisions.

/// Hands out bytes until there are no more.
pub(crate) struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    pub(crate) fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    /// The next byte; `None` at the end.
    pub(crate) fn next(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    /// The next byte, below `n`, which is at least 1; 0 at the end.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        usize::from(self.next().unwrap_or(0)) % n
    }

    /// Up to `most` numbers below `n`.
    pub(crate) fn list(&mut self, most: usize, n: usize) -> Vec<u32> {
        (0..self.below(most + 1)).map(|_| self.below(n) as u32).collect()
    }

    /// Eight bytes as a number.
    pub(crate) fn wide(&mut self) -> u64 {
        (0..8).fold(0, |wide, _| wide << 8 | u64::from(self.next().unwrap_or(0)))
    }
}
