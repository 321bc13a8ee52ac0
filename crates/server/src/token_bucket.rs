//! How fast one session's messages are read.

use std::time::{Duration, Instant};

/// Messages that are read in a second, in the long run. A fast drafter sends a block in each millisecond, has 16 under way, and
/// sends all of them again when a reply is lost: a quarter of this.
const RATE: f64 = 4_000.0;

/// Messages that are read at once.
const BURST: f64 = 8_192.0;

/// A message counts once more for each so many bytes of it: a prompt of 100,000 tokens can be told anew 40 times a second.
const BYTES: f64 = 3_072.0;

/// Lets a session's messages through as fast as a device may send them. Whoever is faster is read later, and so comes to feel
/// the flow control of the stream; or loses the connection, where small frames pile up that HTTP/2 holds unread.
pub(crate) struct TokenBucket {
    left: f64,
    at: Instant,
}

impl TokenBucket {
    pub(crate) fn new(now: Instant) -> Self {
        Self { left: BURST, at: now }
    }

    /// How long to wait before a message of `bytes` bytes, which has come, is taken.
    fn delay(&mut self, now: Instant, bytes: u64) -> Duration {
        let gained = now.saturating_duration_since(self.at).as_secs_f64() * RATE;
        self.at = now;
        self.left = (self.left + gained).min(BURST) - 1.0 - (bytes as f64 / BYTES).floor();
        Duration::from_secs_f64((-self.left / RATE).max(0.0))
    }

    /// Waits until a message of `bytes` bytes, which has come, may be taken.
    pub(crate) async fn admit(&mut self, bytes: u64) {
        let delay = self.delay(Instant::now(), bytes);
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_sends_a_block_each_millisecond_never_waits() {
        let began = Instant::now();
        let mut bucket = TokenBucket::new(began);
        for ms in 0..60_000 {
            let now = began + Duration::from_millis(ms);
            assert_eq!(bucket.delay(now, 300), Duration::ZERO);
            if ms % 500 == 0 {
                // It repeats all that is under way, and now and then tells a long text anew.
                (0..16).for_each(|_| assert_eq!(bucket.delay(now, 300), Duration::ZERO));
            }
            if ms % 5_000 == 0 {
                assert_eq!(bucket.delay(now, 384 << 10), Duration::ZERO);
            }
        }
    }

    #[test]
    fn whoever_sends_as_fast_as_the_network_takes_it_is_read_at_the_rate() {
        let began = Instant::now();
        for (bytes, cost) in [(20, 1.0), (1 << 20, 342.0)] {
            let (mut bucket, mut now, mut read) = (TokenBucket::new(began), began, 0.0);
            while now < began + Duration::from_secs(10) {
                now += bucket.delay(now, bytes);
                read += 1.0;
            }
            let most = (BURST + 10.0 * RATE) / cost;
            assert!((read - most).abs() <= 2.0 + most * 1e-3, "{read} messages of {bytes} bytes, of {most}");
        }
    }
}
