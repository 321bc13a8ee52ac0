//! Signs of life of a pass under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Shows that a pass gets on, to whoever cannot ask the model while it computes. Clones show the same.
#[derive(Clone, Debug)]
pub struct Pulse {
    began: Instant,
    /// The time of the last sign, in milliseconds from the beginning.
    last: Arc<AtomicU64>,
}

impl Default for Pulse {
    fn default() -> Self {
        Self { began: Instant::now(), last: Arc::default() }
    }
}

impl Pulse {
    /// The pass has got on.
    pub fn beat(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
    }

    /// How long ago it last did, to the millisecond.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.began.elapsed().saturating_sub(Duration::from_millis(self.last.load(Ordering::Relaxed)))
    }
}
