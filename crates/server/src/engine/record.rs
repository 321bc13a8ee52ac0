//! What the engine has done, written down after each pass for whoever wants to know, so that nobody has to ask the engine.

use std::time::{Duration, Instant};

use sled_core::server::{Demand, Totals, Waits};
use sled_model::Pulse;

use super::Refusal;

/// How many passes are remembered one by one.
const RECENT: usize = 32;

/// Upper bounds of times, in microseconds.
const TIMES: &[u64] = &[
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000,
];

/// Upper bounds of rows in a pass.
const ROWS: &[u64] = &[1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512];

/// How often something was how large.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    bounds: &'static [u64],
    /// One count for each bound, and one for what is beyond.
    counts: Vec<u64>,
    sum: u64,
}

impl Histogram {
    fn new(bounds: &'static [u64]) -> Self {
        Self { bounds, counts: vec![0; bounds.len() + 1], sum: 0 }
    }

    fn observe(&mut self, value: u64) {
        let at = self.bounds.partition_point(|&bound| bound < value);
        if let Some(count) = self.counts.get_mut(at) {
            *count += 1;
        }
        self.sum += value;
    }

    /// How many observations there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// What they sum to.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// How many were at most as large as a bound and larger than the one before it; the last bound is `None`.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<u64>, u64)> {
        self.bounds.iter().copied().map(Some).chain([None]).zip(self.counts.iter().copied())
    }
}

/// What the engine has done so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineStats {
    /// Forward passes.
    pub steps: u64,
    /// Rows in them.
    pub rows: u64,
    /// Commits sent: verdicts, and steps that the server took by itself.
    pub commits: u64,
    /// What they committed, and of which drafts.
    pub totals: Totals,
    /// Time in forward passes and cache operations.
    pub forward: Duration,
    /// Time in everything else: reading messages, planning, choosing tokens, sending replies. Waiting for work is not in it.
    pub overhead: Duration,
    /// Times that a session had to give way to another in the KV cache.
    pub evictions: u64,
    /// How many passes had rows of one session, of two, and so on.
    pub batch_sizes: Vec<u64>,
    /// Of `overhead`, the time to choose tokens from logits.
    pub choosing: Duration,
    /// Sessions that were opened.
    pub opened: u64,
    /// Sessions that were not opened, because the server was busy.
    pub refused: u64,
    /// Rows of each pass.
    pub rows_per_step: Histogram,
    /// Microseconds that each pass took, its tokens chosen.
    pub step_times: Histogram,
    /// Microseconds that each request for tokens waited for its pass.
    pub verdict_waits: Histogram,
    /// Microseconds that each prompt waited for its first pass.
    pub prompt_waits: Histogram,
}

impl Default for EngineStats {
    fn default() -> Self {
        Self {
            steps: 0,
            rows: 0,
            commits: 0,
            totals: Totals::default(),
            forward: Duration::ZERO,
            overhead: Duration::ZERO,
            evictions: 0,
            batch_sizes: Vec::new(),
            choosing: Duration::ZERO,
            opened: 0,
            refused: 0,
            rows_per_step: Histogram::new(ROWS),
            step_times: Histogram::new(TIMES),
            verdict_waits: Histogram::new(TIMES),
            prompt_waits: Histogram::new(TIMES),
        }
    }
}

impl EngineStats {
    /// Writes down a pass of `rows` rows of `sessions` sessions that took `time`.
    pub(super) fn on_pass(&mut self, rows: usize, sessions: usize, time: Duration, waits: &Waits) {
        self.steps += 1;
        self.rows += rows as u64;
        self.batch_sizes.resize(self.batch_sizes.len().max(sessions), 0);
        if let Some(count) = sessions.checked_sub(1).and_then(|at| self.batch_sizes.get_mut(at)) {
            *count += 1;
        }
        self.rows_per_step.observe(rows as u64);
        self.step_times.observe(micros(time));
        waits.verdicts.iter().for_each(|&wait| self.verdict_waits.observe(micros(wait)));
        waits.prompts.iter().for_each(|&wait| self.prompt_waits.observe(micros(wait)));
    }
}

/// What the engine publishes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    pub(crate) stats: EngineStats,
    /// How many sessions are open.
    pub(crate) sessions: usize,
    /// How many of them would give way to others, if there are as many as may be.
    pub(super) resting: usize,
    /// What they wanted when the last pass was planned.
    pub(crate) demand: Demand,
    /// Cells of the KV cache in use, and how many there are.
    pub(crate) cells: (usize, usize),
    /// What a pass costs, in seconds: without rows, and for each row.
    pub(crate) cost: (f64, f64),
    /// Why no session would be opened now.
    pub(crate) refusal: Option<Refusal>,
    /// Since when a pass runs, if one does.
    pub(super) pass_since: Option<Instant>,
    /// Shows that it gets on, if the model shows it.
    pulse: Option<Pulse>,
    recent: Recent,
}

impl Record {
    /// Of a model whose passes show by `pulse` that they get on.
    pub(super) fn new(pulse: Option<Pulse>) -> Self {
        Self { pulse, ..Self::default() }
    }

    /// Whether a pass runs, and has for longer than `time`.
    pub(crate) fn is_in_pass_for(&self, time: Duration) -> bool {
        self.pass_since.is_some_and(|since| since.elapsed() > time)
    }

    /// For how long the pass that runs, if one does, has shown no sign of life.
    pub(crate) fn silence(&self) -> Option<Duration> {
        let running = self.pass_since?.elapsed();
        Some(self.pulse.as_ref().map_or(running, |pulse| pulse.age().min(running)))
    }

    /// Rows and duration of a pass, for [`Record::latest`].
    pub(super) fn remember(&mut self, rows: usize, time: Duration) {
        let at = (self.stats.steps as usize).wrapping_sub(1) % RECENT;
        self.recent.0[at] = (rows, time);
    }

    /// Rows and duration of the latest `passes` passes, the latest last, as far as they are remembered.
    pub(crate) fn latest(&self, passes: u64) -> impl Iterator<Item = (usize, Duration)> {
        let steps = self.stats.steps as usize;
        let passes = usize::try_from(passes).unwrap_or(RECENT).min(RECENT).min(steps);
        (steps - passes..steps).map(|step| self.recent.0[step % RECENT])
    }
}

#[derive(Clone, Debug, Default)]
struct Recent([(usize, Duration); RECENT]);

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_counts_up_to_its_bounds_and_beyond() {
        let mut histogram = Histogram::new(&[1, 10]);
        [0, 1, 2, 10, 11].into_iter().for_each(|value| histogram.observe(value));
        let buckets: Vec<_> = histogram.buckets().collect();
        assert_eq!(buckets, [(Some(1), 2), (Some(10), 2), (None, 1)]);
        assert_eq!((histogram.count(), histogram.sum()), (5, 24));
    }

    #[test]
    fn a_pass_is_silent_since_it_last_got_on() {
        let pulse = Pulse::default();
        let mut record = Record::default();
        assert_eq!(record.silence(), None);
        record.pass_since = Instant::now().checked_sub(Duration::from_secs(100));
        assert!(record.silence() >= Some(Duration::from_secs(100)), "nothing shows that it gets on");
        record.pulse = Some(pulse.clone());
        pulse.beat();
        assert!(record.silence() < Some(Duration::from_secs(100)));
        assert!(record.is_in_pass_for(Duration::from_secs(99)), "which makes it no shorter");
    }

    #[test]
    fn the_latest_passes_are_remembered_in_order_and_older_ones_are_not() {
        let mut record = Record::default();
        assert_eq!(record.latest(4).count(), 0);
        for rows in 1..=40 {
            let time = Duration::from_millis(rows as u64);
            record.stats.on_pass(rows, 1, time, &Waits::default());
            record.remember(rows, time);
        }
        assert_eq!(record.latest(3).map(|(rows, _)| rows).collect::<Vec<_>>(), [38, 39, 40]);
        assert_eq!(record.latest(100).count(), RECENT);
        assert_eq!(record.stats.rows_per_step.sum(), (1..=40).sum::<u64>());
    }
}
