//! Closed forms, to check the simulator against and to explain what it shows. Times are in seconds, rates in 1/s.

/// The time of a pass: `fixed + row * rows`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pass {
    /// What does not depend on the rows.
    pub fixed: f64,
    /// What each row adds.
    pub row: f64,
}

impl Pass {
    /// The time of a pass of `rows` rows.
    #[must_use]
    pub fn of(&self, rows: f64) -> f64 {
        self.fixed + self.row * rows
    }
}

/// Tokens that a round of `k` drafts commits, each accepted with probability `acceptance` on its own:
/// `(1 - a^(k+1)) / (1 - a)` (Leviathan, Kalman & Matias, *Fast inference from transformers via speculative decoding*, 2023).
#[must_use]
pub fn tokens_per_round(acceptance: f64, k: u32) -> f64 {
    (0..=k).map(|i| acceptance.powf(f64::from(i))).sum()
}

/// Devices that plain decoding carries at `rate` each, all of them in every pass: `(1/r - a) / b`; 0 where a pass alone is slower.
#[must_use]
pub fn plain_capacity(pass: Pass, rate: f64) -> f64 {
    ((1.0 / rate - pass.fixed) / pass.row).max(0.0)
}

/// What a round of a device is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Round {
    /// Tokens that it commits.
    pub tokens: f64,
    /// Rows that it puts into a pass.
    pub rows: f64,
    /// What it takes beside the pass: drafting that the verdict waits for, and the way there and back.
    pub waits: f64,
}

impl Round {
    /// Tokens a second of a device that has a server to itself.
    #[must_use]
    pub fn alone(&self, pass: Pass) -> f64 {
        self.tokens / (self.waits + pass.of(self.rows))
    }
}

/// Devices that verification carries at `rate` each, all of them in every pass: `(E/r - a - waits) / (b * rows)`; 0 where a
/// device alone is slower.
#[must_use]
pub fn sled_capacity(pass: Pass, round: Round, rate: f64) -> f64 {
    ((round.tokens / rate - pass.fixed - round.waits) / (pass.row * round.rows)).max(0.0)
}

/// Devices at `rate` each on a server that serves one request at a time, of `tokens` tokens and `rows` rows: the share of its
/// time that a device takes is `rate / tokens * (a + b * rows)`.
#[must_use]
pub fn serial_capacity(pass: Pass, tokens: f64, rows: f64, rate: f64) -> f64 {
    tokens / (rate * pass.of(rows))
}

/// The mean wait in an M/D/1 queue (Poisson arrivals, one server, each request takes `service`), `rho * s / (2 (1 - rho))`, not
/// counting the service itself; none where requests come faster than they are served.
#[must_use]
pub fn md1_wait(service: f64, arrivals: f64) -> Option<f64> {
    let rho = arrivals * service;
    (rho < 1.0).then(|| rho * service / (2.0 * (1.0 - rho)))
}

/// Whether speculation over a network makes one device faster than plain decoding on a server to itself:
/// `E * plain step > waits + verifying step`. With a row that costs next to nothing, where a step takes longer than
/// `waits / (E - 1)`.
#[must_use]
pub fn speculation_pays(pass: Pass, round: Round) -> bool {
    round.tokens * pass.of(1.0) > round.waits + pass.of(round.rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOUR_A100: Pass = Pass { fixed: 0.029, row: 0.000_17 };

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-9 * b.abs().max(1.0), "{a} is not {b}");
    }

    #[test]
    fn tokens_of_a_round() {
        for (acceptance, k) in [(0.7, 4), (0.5, 1), (0.9, 16)] {
            close(tokens_per_round(acceptance, k), (1.0 - acceptance.powf(f64::from(k + 1))) / (1.0 - acceptance));
        }
        close(tokens_per_round(1.0, 4), 5.0);
        close(tokens_per_round(0.0, 4), 1.0);
        // The papers' gain in capacity, x2.77, is a round of four drafts at an acceptance of 0.7.
        assert!((tokens_per_round(0.7, 4) - 2.77).abs() < 0.005);
    }

    #[test]
    fn capacities() {
        // A device at 10 tokens/s allows passes of 100 ms: (100 - 29) / 0.17 rows.
        close(plain_capacity(FOUR_A100, 10.0), 71.0 / 0.17);
        assert_eq!(plain_capacity(FOUR_A100, 40.0), 0.0);
        let round = Round { tokens: 2.5, rows: 5.0, waits: 0.05 };
        close(sled_capacity(FOUR_A100, round, 10.0), (250.0 - 29.0 - 50.0) / (0.17 * 5.0));
        // At that capacity a round takes exactly the time in which a device is to have its tokens.
        let rows = sled_capacity(FOUR_A100, round, 10.0) * round.rows;
        close(round.waits + FOUR_A100.of(rows), round.tokens / 10.0);
        // One at a time: the gain is E, but for the rows.
        let gain = serial_capacity(FOUR_A100, 2.5, 5.0, 4.75) / serial_capacity(FOUR_A100, 1.0, 1.0, 4.75);
        close(gain, 2.5 * FOUR_A100.of(1.0) / FOUR_A100.of(5.0));
    }

    #[test]
    fn waits_in_a_queue() {
        close(md1_wait(0.1, 5.0).unwrap_or_default(), 0.05);
        assert_eq!((md1_wait(0.1, 10.0), md1_wait(0.1, 0.0)), (None, Some(0.0)));
    }

    #[test]
    fn speculation_pays_where_a_step_is_long_against_the_wait() {
        let round = |waits| Round { tokens: 3.0, rows: 4.0, waits };
        let pass = Pass { fixed: 0.05, row: 0.0 };
        assert!(speculation_pays(pass, round(0.099)) && !speculation_pays(pass, round(0.101)));
        close(round(0.05).alone(pass), 30.0);
    }
}
