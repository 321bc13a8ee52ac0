//! What was seen of a server so far.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use sled_server::Frame;

/// How many frames are remembered: five minutes.
const REMEMBERED: usize = 300;

/// Passes of so many frames are drawn one by one.
const POINTS: usize = 20;

/// Batch sizes are counted over so many frames.
const SIZES: usize = 60;

/// Without a frame for so long, something is wrong.
const SILENCE: Duration = Duration::from_secs(4);

/// The latest frames, the latest last.
#[derive(Default)]
pub struct History {
    frames: VecDeque<Frame>,
    heard: Option<Instant>,
    /// Why there are no new ones.
    away: Option<String>,
}

impl History {
    /// Another frame.
    pub fn add(&mut self, frame: Frame) {
        // A server that was started again counts from nothing.
        if self.latest().is_some_and(|latest| frame.time_s < latest.time_s) {
            self.frames.clear();
        }
        if self.frames.len() == REMEMBERED {
            self.frames.pop_front();
        }
        self.frames.push_back(frame);
        self.heard = Some(Instant::now());
        self.away = None;
    }

    /// There are no frames for now.
    pub fn lose(&mut self, why: String) {
        self.away = Some(why);
    }

    /// The latest frame.
    pub fn latest(&self) -> Option<&Frame> {
        self.frames.back()
    }

    /// Why the latest frame is old, if it is.
    pub fn trouble(&self) -> Option<String> {
        let silent = self.heard.map(|heard| heard.elapsed()).filter(|silent| *silent > SILENCE);
        let silence = || silent.map(|silent| format!("no figures for {} s", silent.as_secs()));
        self.away.clone().or_else(silence)
    }

    /// Committed tokens a second, of the last `most` frames.
    pub fn rates(&self, most: usize) -> impl Iterator<Item = f64> {
        self.frames.iter().skip(self.frames.len().saturating_sub(most)).map(|frame| frame.rates.tokens_per_s)
    }

    /// Rows and milliseconds of the latest passes.
    pub fn points(&self) -> Vec<(f64, f64)> {
        let frames = self.frames.iter().skip(self.frames.len().saturating_sub(POINTS));
        frames.flat_map(|frame| &frame.step.points).map(|&(rows, ms)| (rows as f64, ms)).collect()
    }

    /// How many of the latest passes had rows of one session, of two, and so on.
    pub fn batch_sizes(&self) -> Vec<u64> {
        let Some(latest) = self.latest() else { return Vec::new() };
        let Some(before) = self.frames.get(self.frames.len().saturating_sub(SIZES)) else { return Vec::new() };
        let older = before.batch_sizes.iter().copied().chain(std::iter::repeat(0));
        latest.batch_sizes.iter().zip(older).map(|(now, older)| now.saturating_sub(older)).collect()
    }

    /// The share of drafts that was accepted of late; `None` if there were none.
    pub fn acceptance(&self) -> Option<f64> {
        let (latest, before) = (self.latest()?, self.frames.get(self.frames.len().saturating_sub(POINTS))?);
        let drafted = latest.totals.drafted.saturating_sub(before.totals.drafted);
        let accepted = latest.totals.accepted.saturating_sub(before.totals.accepted);
        (drafted > 0).then(|| accepted as f64 / drafted as f64)
    }
}
