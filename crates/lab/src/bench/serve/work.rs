//! The same work in each mode. Windows of equal length hold unequal work: who is faster comes to other prompts, and how many
//! prompts fall into a window is chance. Every device asks the same in the same order, so that modes are compared over the tokens
//! that all of them generated in their windows, counted from the start.

use std::ops::Range;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::load::Run;
use super::seen::Seen;

/// Fewer tokens than these say nothing of how fast they are generated.
const FEW: usize = 8;

/// How fast the same tokens were generated.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SameWork {
    pub devices: usize,
    /// Tokens of all devices together, counted from the start: the first, and the one behind the last.
    pub tokens: Range<usize>,
    pub modes: Vec<Speed>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Speed {
    pub mode: String,
    pub tokens_per_s: f64,
    /// The same while nobody waits for a first token, if there was time of that kind.
    pub generating: Option<Generating>,
}

/// What is generated while no prompt is read.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Generating {
    pub tokens_per_s: f64,
    /// The share of the time in which nobody waited for a first token.
    pub share: f64,
}

impl SameWork {
    /// Compares what was generated in the windows of these runs; `None` where they have nothing in common.
    pub fn new(runs: &[Run]) -> Option<Self> {
        let times: Vec<Vec<Duration>> = runs.iter().map(|run| times(&run.seen)).collect();
        let by = |of: fn(&Run) -> Duration| {
            runs.iter().zip(&times).map(move |(run, times)| times.partition_point(|&token| token < of(run)))
        };
        let tokens = by(|run| run.begin).max()?..by(|run| run.end).min()?;
        let speed = |(run, times): (&Run, &Vec<Duration>)| {
            let times = times.get(tokens.clone())?;
            let (first, last) = (*times.first()?, *times.last()?);
            let seconds = last.checked_sub(first).filter(|time| !time.is_zero())?.as_secs_f64();
            Some(Speed {
                mode: run.figures.mode.clone(),
                tokens_per_s: (times.len() - 1) as f64 / seconds,
                generating: generating(times, &waits(&run.seen)),
            })
        };
        let modes = runs.iter().zip(&times).map(speed).collect::<Option<_>>()?;
        Some(Self { devices: runs.first()?.seen.len(), tokens, modes })
    }

    /// The speed of `mode` over that of `other`.
    pub fn ratio(&self, mode: &str, other: &str) -> Option<f64> {
        Some(self.speed(mode)?.tokens_per_s / self.speed(other)?.tokens_per_s)
    }

    /// The same while no prompt is read.
    pub fn ratio_generating(&self, mode: &str, other: &str) -> Option<f64> {
        Some(self.speed(mode)?.generating?.tokens_per_s / self.speed(other)?.generating?.tokens_per_s)
    }

    pub fn speed(&self, mode: &str) -> Option<&Speed> {
        self.modes.iter().find(|speed| speed.mode == mode)
    }
}

/// When the tokens of all devices came, in order.
fn times(seen: &[Seen]) -> Vec<Duration> {
    let mut times: Vec<Duration> = seen.iter().flat_map(|seen| &seen.log.tokens).copied().collect();
    times.sort_unstable();
    times
}

/// When somebody waited for a first token: in order, apart from each other.
fn waits(seen: &[Seen]) -> Vec<Range<Duration>> {
    let mut all: Vec<Range<Duration>> = seen.iter().flat_map(Seen::waits).collect();
    all.sort_unstable_by_key(|wait| wait.start);
    let mut apart: Vec<Range<Duration>> = Vec::new();
    for wait in all {
        match apart.last_mut() {
            Some(last) if wait.start <= last.end => last.end = last.end.max(wait.end),
            _ => apart.push(wait),
        }
    }
    apart
}

/// The speed of the tokens at these `times` outside of `waits`.
fn generating(times: &[Duration], waits: &[Range<Duration>]) -> Option<Generating> {
    let (first, last) = (*times.first()?, *times.last()?);
    let within = |wait: &Range<Duration>| wait.end.min(last).saturating_sub(wait.start.max(first));
    let waited: Duration = waits.iter().map(within).sum();
    let free = (last - first).saturating_sub(waited).as_secs_f64();
    // The token that ends a wait belongs to it.
    let is_free = |time: &&Duration| {
        let wait = waits.get(waits.partition_point(|wait| wait.end < **time));
        wait.is_none_or(|wait| **time < wait.start)
    };
    // The first begins the time that is counted.
    let tokens = times.iter().skip(1).filter(is_free).count();
    (tokens >= FEW && free > 0.0)
        .then(|| Generating { tokens_per_s: tokens as f64 / free, share: free / (last - first).as_secs_f64() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use sled_sim::figures::{Figures, ServerSide};

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn run(mode: &str, seen: Seen, begin: u32, end: u32) -> Run {
        let (begin, end) = (MS * begin, MS * end);
        let seen = vec![seen];
        Run { figures: Figures::new(mode, &seen, ServerSide::default(), begin, end), seen, begin, end }
    }

    /// A device that asks once and has a token each `ms`.
    fn every(ms: u32) -> Seen {
        let mut seen = Seen::default();
        seen.asked(Duration::ZERO);
        (1..=100).for_each(|i| {
            seen.token(MS * i * ms);
        });
        seen
    }

    #[test]
    fn the_same_tokens_are_compared() {
        // One mode generates ten tokens a second, the other twenty: in seconds 2 to 4 have tokens 20 to 40 and 40 to 80.
        let apart = [run("central", every(100), 2001, 4001), run("sled", every(50), 2001, 4001)];
        assert!(SameWork::new(&apart).is_none());
        // Windows of their own, from when each was ready.
        let runs = [run("central", every(100), 1001, 4001), run("sled", every(50), 1001, 4501)];
        let work = SameWork::new(&runs).unwrap();
        assert_eq!((work.devices, work.tokens.clone()), (1, 20..40));
        assert!((work.ratio("sled", "central").unwrap() - 2.0).abs() < 1e-9);
        assert!((work.ratio_generating("sled", "central").unwrap() - 2.0).abs() < 1e-9);
        assert_eq!(work.ratio("llama-server", "central"), None);
    }

    #[test]
    fn tokens_and_time_while_somebody_waits_are_left_out() {
        let times: Vec<Duration> = (0..=20).map(|i| MS * 100 * i).collect();
        // From 0.5 to 1.0 s: the tokens at 0.5, 0.6, ... 1.0 s belong to the wait. So 20 - 6 tokens in 2.0 - 0.5 s.
        let wait = MS * 500..MS * 1000;
        let generating = generating(&times, &[wait]).unwrap();
        assert!((generating.tokens_per_s - 14.0 / 1.5).abs() < 1e-9);
        assert!((generating.share - 0.75).abs() < 1e-9);
        assert_eq!(super::generating(&times, &[Duration::ZERO..MS * 2000]), None);
    }

    #[test]
    fn waits_of_many_devices_are_counted_once() {
        let waiting = |waits: &[(u32, u32)]| {
            let mut seen = Seen::default();
            for &(from, to) in waits {
                seen.asked(MS * from);
                seen.token(MS * to);
            }
            seen
        };
        let mut last = waiting(&[(5, 12)]);
        // Whoever still waits at the end waits for ever.
        last.asked(MS * 60);
        let all = [waiting(&[(0, 10), (30, 40)]), last, waiting(&[(35, 38)])];
        assert_eq!(waits(&all), [Duration::ZERO..MS * 12, MS * 30..MS * 40, MS * 60..Duration::MAX]);
    }
}
