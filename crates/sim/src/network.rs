//! The way between a device and its servers.

use std::time::Duration;

use crate::rng::Rng;

/// What a message costs on the way beside its tokens: headers of all layers, in bytes.
const FRAME: usize = 100;

/// What a token costs, in bytes.
const TOKEN: usize = 3;

/// How messages travel in one direction.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    /// From sending to arrival, for an empty message.
    pub latency: Duration,
    /// Up to this much more, at random.
    pub jitter: Duration,
    /// Bytes a second; infinite if there is no limit.
    pub bandwidth: f64,
    /// The probability that a message is lost.
    pub loss: f64,
    /// The probability that it arrives twice.
    pub duplication: f64,
    /// The probability that it may overtake those before it.
    pub reordering: f64,
}

impl Path {
    /// A path that only takes time.
    #[must_use]
    pub fn clear(latency: Duration) -> Self {
        Self { latency, jitter: Duration::ZERO, bandwidth: f64::INFINITY, loss: 0.0, duplication: 0.0, reordering: 0.0 }
    }
}

/// One direction of a device's way to its servers, with what is on it.
#[derive(Clone, Debug)]
pub(crate) struct Direction {
    path: Path,
    /// When the line has carried all that was put on it.
    free: Duration,
    /// When the last message arrives that none may overtake.
    latest: Duration,
}

impl Direction {
    pub(crate) fn new(path: Path) -> Self {
        Self { path, free: Duration::ZERO, latest: Duration::ZERO }
    }

    /// When a message of `tokens` tokens that is sent now arrives: not at all, once, or twice.
    pub(crate) fn send(&mut self, now: Duration, tokens: usize, rng: &mut Rng) -> [Option<Duration>; 2] {
        if rng.chance(self.path.loss) {
            return [None; 2];
        }
        let transmission = (FRAME + TOKEN * tokens) as f64 / self.path.bandwidth;
        self.free = self.free.max(now) + Duration::from_secs_f64(transmission);
        let mut arrival = self.free + self.path.latency + rng.time(self.path.jitter);
        if !rng.chance(self.path.reordering) {
            arrival = arrival.max(self.latest);
            self.latest = arrival;
        }
        let again = rng.chance(self.path.duplication).then(|| arrival + rng.time(self.path.latency * 4));
        [Some(arrival), again]
    }

    pub(crate) fn heal(&mut self) {
        self.path = Path { loss: 0.0, duplication: 0.0, reordering: 0.0, ..self.path };
    }

    /// How long an empty message takes.
    pub(crate) fn latency(&self) -> Duration {
        self.path.latency
    }
}
