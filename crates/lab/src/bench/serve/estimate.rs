//! How long a run takes, before it does.

use std::time::{Duration, Instant};

/// What a run consists of.
pub struct Plan {
    /// How often everything is measured.
    pub rounds: usize,
    /// The numbers of devices.
    pub devices: Vec<usize>,
    pub modes: usize,
    /// Seconds before each window at least, and of it.
    pub warmup_s: f64,
    pub window_s: f64,
}

/// What is known of a model file once its passes were measured for the first time.
pub struct Known {
    /// How long that took: it is done in each round.
    pub passes: Duration,
    /// What it takes to start a server with it.
    pub start: Duration,
    /// The tokens a second at which prompts are read.
    pub reading: f64,
    /// Tokens of all first prompts, for each of the numbers of devices.
    pub prompts: Vec<usize>,
}

impl Plan {
    /// How many windows there are with so many model files.
    pub fn windows(&self, formats: usize) -> usize {
        self.rounds * self.devices.len() * self.modes * formats
    }

    /// What these windows take if prompts are read in no time and servers are there at once.
    pub fn least(&self, formats: usize) -> Duration {
        Duration::from_secs_f64(self.windows(formats) as f64 * (self.warmup_s + self.window_s))
    }

    /// What is still to be done of a run whose first round of passes is over.
    pub fn rest(&self, formats: &[Known]) -> Duration {
        let of = |known: &Known| {
            let reading = |&tokens: &usize| self.warmup_s.max(tokens as f64 / known.reading) + self.window_s;
            let windows: f64 = known.prompts.iter().map(reading).sum();
            let starts = known.start * u32::try_from(self.devices.len()).unwrap_or(u32::MAX);
            let modes = (Duration::from_secs_f64(windows) + starts).mul_f64(self.modes as f64);
            modes.mul_f64(self.rounds as f64) + known.passes.mul_f64(self.rounds.saturating_sub(1) as f64)
        };
        formats.iter().map(of).sum()
    }
}

/// How far a run is.
pub struct Progress {
    began: Instant,
    done: usize,
    all: usize,
}

impl Progress {
    pub fn new(all: usize) -> Self {
        Self { began: Instant::now(), done: 0, all }
    }

    /// Another window is over; says how many are, and how long the others will take if they are as long.
    pub fn next(&mut self) -> String {
        self.done += 1;
        let left = self.all.saturating_sub(self.done);
        let each = self.began.elapsed().div_f64(self.done as f64);
        format!("{}/{}, {} left", self.done, self.all, words(each.mul_f64(left as f64)))
    }
}

/// A time as people say it.
pub fn words(time: Duration) -> String {
    let minutes = (time.as_secs_f64() / 60.0).round() as u64;
    match minutes {
        0 => format!("{} s", time.as_secs_f64().ceil() as u64),
        1..60 => format!("{minutes} min"),
        _ => format!("{} h {} min", minutes / 60, minutes % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_takes_what_its_windows_passes_starts_and_prompts_take() {
        let plan = Plan { rounds: 3, devices: vec![1, 8], modes: 2, warmup_s: 5.0, window_s: 10.0 };
        assert_eq!((plan.windows(2), plan.least(2)), (24, Duration::from_secs(24 * 15)));
        let seconds = Duration::from_secs;
        let known = Known { passes: seconds(40), start: seconds(2), reading: 50.0, prompts: vec![50, 500] };
        // One device is ready at once, eight take ten seconds: 15 + 20 s of windows and twice 2 s of starts for each of two modes,
        // three times, and two more rounds of passes.
        assert_eq!(plan.rest(&[known]), seconds(3 * 2 * (15 + 20 + 4) + 2 * 40));
    }

    #[test]
    fn times_are_told_in_their_units() {
        let told = [4.2, 29.0, 61.0, 3599.0, 12_345.0].map(|time| words(Duration::from_secs_f64(time)));
        assert_eq!(told, ["5 s", "29 s", "1 min", "1 h 0 min", "3 h 26 min"]);
    }
}
