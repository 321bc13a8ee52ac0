//! Results that nobody measured, for tests of pictures and pages.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::time::Duration;

use sled_sim::figures::{Figures, Log};
use sled_sim::recording::Recording;

use super::results::{Format, Point};
use super::work::{Generating, SameWork, Speed};
use crate::args::Mode;

/// Two formats of what was made up, five repetitions each.
pub fn formats() -> Vec<Format> {
    let format = |target: &str, staircase: bool| {
        let drafts =
            Recording { command: String::new(), target: String::new(), draft: String::new(), outputs: Vec::new() };
        let mut format = Format::new(target, Path::new("drafts.json"), &drafts);
        format.survival = vec![0.79, 0.65, 0.54, 0.46, 0.4, 0.35];
        // Tiles of 16 rows, of which a full one costs less than most of one; or every row as much as any other.
        let tiled = |rows: usize| 40.0 + 14.0 * rows as f64 + if rows.is_multiple_of(16) { -40.0 } else { 0.0 };
        let line = |rows: usize| 80.0 + 14.0 * rows as f64;
        let ms = |rows| if staircase { tiled(rows) } else { line(rows) };
        let passes = (1..=48).map(|rows| [rows as f64, ms(rows)]).collect();
        let devices = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32];
        format.set_passes(&[passes], &devices);
        for (i, devices) in devices.into_iter().enumerate() {
            let bound = format.bound(devices).unwrap().over_central;
            for round in 0..5 {
                let wobble = 0.03 * ((7 * i + 3 * round) % 5) as f64 - 0.06;
                let speed = |mode: Mode, ratio: f64| Speed {
                    mode: mode.name().to_owned(),
                    tokens_per_s: 20.0 * ratio,
                    generating: Some(Generating { tokens_per_s: 25.0 * ratio, share: 0.7 }),
                };
                let modes = vec![
                    speed(Mode::Central, 1.0),
                    speed(Mode::Sled, 1.0 + 0.85 * (bound - 1.0) + wobble),
                    speed(Mode::LlamaServer, 0.95 + wobble),
                    speed(Mode::Control, 1.0 + wobble / 2.0),
                ];
                format.same_work.push(SameWork { devices, tokens: 0..100, modes });
            }
            let figures = Figures::new(
                "sled",
                &vec![Log::default(); devices],
                Default::default(),
                Duration::ZERO,
                Duration::from_secs(1),
            );
            format.points.push(Point { begin_s: None, figures });
        }
        format
    };
    vec![format("models/a-q4_0.gguf", true), format("models/a-f16.gguf", false)]
}
