//! The same work in each mode. Windows of equal length hold unequal work: who is faster comes to other prompts, and how many
//! prompts fall into a window is chance. Every device asks the same in the same order, so that modes are compared over the tokens
//! that all of them generated in their windows, counted from the start.

use std::time::Duration;

use sled_sim::figures::Log;

/// How fast the same tokens were generated.
#[derive(Clone, serde::Serialize)]
pub struct SameWork {
    pub devices: usize,
    /// Tokens of all devices together, counted from the start: the first, and the one behind the last.
    pub tokens: std::ops::Range<usize>,
    pub modes: Vec<Speed>,
}

#[derive(Clone, serde::Serialize)]
pub struct Speed {
    pub mode: &'static str,
    pub tokens_per_s: f64,
}

impl SameWork {
    /// Compares what was generated from `begin` to `end`; `None` where the windows have nothing in common.
    pub fn new(runs: &[(&'static str, Vec<Log>)], begin: Duration, end: Duration) -> Option<Self> {
        let times: Vec<Vec<Duration>> = runs.iter().map(|(_, logs)| times(logs)).collect();
        let by = |time: Duration| times.iter().map(move |times| times.partition_point(|&token| token < time));
        let tokens = by(begin).max()?..by(end).min()?;
        let speed = |(&(mode, _), times): (&(&'static str, Vec<Log>), &Vec<Duration>)| {
            let first = times.get(tokens.start)?;
            let last = times.get(tokens.end.checked_sub(1)?)?;
            let seconds = last.checked_sub(*first).filter(|time| !time.is_zero())?.as_secs_f64();
            Some(Speed { mode, tokens_per_s: (tokens.len() - 1) as f64 / seconds })
        };
        let modes = runs.iter().zip(&times).map(speed).collect::<Option<_>>()?;
        Some(Self { devices: runs.first()?.1.len(), tokens, modes })
    }

    /// The speed of `mode` over that of thin clients.
    pub fn over_central(&self, mode: &str) -> Option<f64> {
        let speed = |mode: &str| self.modes.iter().find(|speed| speed.mode == mode).map(|speed| speed.tokens_per_s);
        Some(speed(mode)? / speed("central")?)
    }
}

/// When the tokens of all devices came, in order.
fn times(logs: &[Log]) -> Vec<Duration> {
    let mut times: Vec<Duration> = logs.iter().flat_map(|log| &log.tokens).copied().collect();
    times.sort_unstable();
    times
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_same_tokens_are_compared() {
        let every = |ms: u64| {
            let tokens = (1..=100).map(|i| Duration::from_millis(i * ms)).collect();
            vec![Log { tokens, ..Log::default() }]
        };
        // One mode generates ten tokens a second, the other twenty: in seconds 2 to 4 have tokens 20 to 40 and 40 to 80.
        let window = (Duration::from_millis(2001), Duration::from_millis(4001));
        let runs = [("central", every(100)), ("sled", every(50))];
        assert!(SameWork::new(&runs, window.0, window.1).is_none());
        let work = SameWork::new(&runs, Duration::from_millis(1001), window.1).unwrap();
        assert_eq!((work.devices, work.tokens.clone()), (1, 20..40));
        assert!((work.over_central("sled").unwrap() - 2.0).abs() < 1e-9);
        assert_eq!(work.over_central("llama-server"), None);
    }
}
