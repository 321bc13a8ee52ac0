//! What `sled bench serve` writes, and what is read from it: medians and spreads over repetitions.

use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use sled_sim::bound::{Bound, Passes, survival};
use sled_sim::figures::Figures;
use sled_sim::recording::Recording;

use super::work::SameWork;
use crate::args::Mode;
use crate::spread::{Spread, sorted};

/// Drafts of a block that a bound looks at.
const LONGEST: usize = 16;

/// Everything that was measured in one run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Results {
    pub command: String,
    /// The processor, and the threads that servers compute with.
    #[serde(default)]
    pub machine: String,
    pub draft_rate: f64,
    pub rtt_ms: f64,
    pub warmup_s: f64,
    pub window_s: f64,
    pub seed: u64,
    /// What the llama-server says of its version.
    pub peer: Option<String>,
    pub formats: Vec<Format>,
}

/// A model file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Format {
    pub target: String,
    pub recording: String,
    /// What passes took in this run: medians of all rounds.
    #[serde(default)]
    pub passes: Vec<Pass>,
    /// The shares of places of the recording at which one draft is right, two, and so on.
    #[serde(default)]
    pub survival: Vec<f64>,
    /// What passes and drafts allow, by devices.
    #[serde(default)]
    pub bounds: Vec<Bound>,
    /// Each window.
    pub points: Vec<Point>,
    /// The same work in each mode, for each repetition.
    pub same_work: Vec<SameWork>,
}

/// What a pass of so many rows took.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Pass {
    pub rows: usize,
    pub ms: Spread,
}

/// One window.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Point {
    /// When the window began, in seconds from when the devices did, if that was not the warm-up alone.
    #[serde(default)]
    pub begin_s: Option<f64>,
    #[serde(flatten)]
    pub figures: Figures,
}

impl Results {
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}; check the path", path.display()))?;
        serde_json::from_str(&text)
            .with_context(|| format!("{} is not what `sled bench serve` writes; measure again", path.display()))
    }
}

impl Format {
    pub fn new(target: &str, recording: &Path, drafts: &Recording) -> Self {
        Self {
            target: target.to_owned(),
            recording: recording.display().to_string(),
            passes: Vec::new(),
            survival: survival(drafts, LONGEST),
            bounds: Vec::new(),
            points: Vec::new(),
            same_work: Vec::new(),
        }
    }

    /// Takes what passes took in each round, `[rows, milliseconds]`, and computes the bounds for these numbers of devices.
    pub fn set_passes(&mut self, rounds: &[Vec<[f64; 2]>], devices: &[usize]) {
        let first = rounds.first().into_iter().flatten();
        let of = |rows: f64| rounds.iter().flatten().filter(move |pass| pass[0] == rows).map(|pass| pass[1]);
        self.passes =
            first.filter_map(|&[rows, _]| Some(Pass { rows: rows as usize, ms: Spread::of(of(rows))? })).collect();
        let points: Vec<[f64; 2]> = self.passes.iter().map(|pass| [pass.rows as f64, pass.ms.median]).collect();
        let table = Passes::new(&points);
        self.bounds = devices.iter().filter_map(|&devices| Bound::new(devices, &table, &self.survival)).collect();
    }

    /// The numbers of devices, in the order in which they came.
    pub fn devices(&self) -> Vec<usize> {
        let mut all: Vec<usize> = Vec::new();
        for point in &self.points {
            if !all.contains(&point.figures.devices) {
                all.push(point.figures.devices);
            }
        }
        all
    }

    /// A figure of a mode's windows.
    pub fn figure(&self, mode: Mode, devices: usize, of: impl Fn(&Figures) -> f64) -> Option<Spread> {
        let is = |figures: &&Figures| figures.mode == mode.name() && figures.devices == devices;
        Spread::of(self.points.iter().map(|point| &point.figures).filter(is).map(of))
    }

    /// Tokens a second over the same work.
    pub fn speed(&self, mode: Mode, devices: usize) -> Option<Spread> {
        Spread::of(self.work(devices).filter_map(|work| Some(work.speed(mode.name())?.tokens_per_s)))
    }

    /// The speed of `mode` over that of `other`, over the same work.
    pub fn ratio(&self, mode: Mode, other: Mode, devices: usize) -> Option<Spread> {
        Spread::of(self.ratios(mode, other, devices).into_iter())
    }

    /// The same of each repetition, in rising order.
    pub fn ratios(&self, mode: Mode, other: Mode, devices: usize) -> Vec<f64> {
        sorted(self.work(devices).filter_map(|work| work.ratio(mode.name(), other.name())).collect())
    }

    /// The same while no prompt is read.
    pub fn ratio_generating(&self, mode: Mode, other: Mode, devices: usize) -> Option<Spread> {
        Spread::of(self.work(devices).filter_map(|work| work.ratio_generating(mode.name(), other.name())))
    }

    pub fn bound(&self, devices: usize) -> Option<&Bound> {
        self.bounds.iter().find(|bound| bound.devices == devices)
    }

    fn work(&self, devices: usize) -> impl Iterator<Item = &SameWork> {
        self.same_work.iter().filter(move |work| work.devices == devices)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::bench::serve::work::Speed;

    fn work(devices: usize, central: f64, sled: f64) -> SameWork {
        let speed = |mode: Mode, tokens_per_s| Speed { mode: mode.name().to_owned(), tokens_per_s, generating: None };
        SameWork { devices, tokens: 0..100, modes: vec![speed(Mode::Central, central), speed(Mode::Sled, sled)] }
    }

    fn format() -> Format {
        let drafts =
            Recording { command: String::new(), target: String::new(), draft: String::new(), outputs: Vec::new() };
        Format::new("a.gguf", Path::new("drafts.json"), &drafts)
    }

    #[test]
    fn ratios_are_medians_of_what_each_repetition_has() {
        let mut format = format();
        format.same_work = vec![work(2, 10.0, 12.0), work(2, 20.0, 22.0), work(2, 5.0, 10.0), work(4, 10.0, 10.0)];
        let spread = format.ratio(Mode::Sled, Mode::Central, 2).unwrap();
        assert_eq!(spread, Spread { median: 1.2, least: 1.1, most: 2.0 });
        // Not the ratio of the medians, which is 1.2 only by chance of the middle one.
        assert_eq!(format.speed(Mode::Central, 2).unwrap().median, 10.0);
        assert_eq!(format.ratio(Mode::LlamaServer, Mode::Central, 2), None);
        assert_eq!(format.ratio_generating(Mode::Sled, Mode::Central, 2), None);
    }

    #[test]
    fn bounds_are_of_the_medians_of_all_rounds() {
        let mut format = format();
        format.survival = vec![0.5];
        let round = |one: f64, two: f64| vec![[1.0, one], [2.0, two]];
        format.set_passes(&[round(10.0, 12.0), round(50.0, 11.0), round(11.0, 90.0)], &[1, 2, 3]);
        let medians: Vec<(usize, f64)> = format.passes.iter().map(|pass| (pass.rows, pass.ms.median)).collect();
        assert_eq!(medians, [(1, 11.0), (2, 12.0)]);
        let one = format.bound(1).unwrap();
        assert_eq!((one.rows, one.tokens, one.ms), (2, 1.5, 12.0));
        assert!((one.over_central - 1.5 / 12.0 * 11.0).abs() < 1e-9);
        assert_eq!((format.bound(2).unwrap().over_central, format.bound(3)), (1.0, None));
    }
}
