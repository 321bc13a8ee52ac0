//! Experiments as files: who meets whom, what goes wrong, and for how long.
//!
//! | file | what it is |
//! |---|---|
//! | `mod.rs` | a scenario, as it is written in TOML |
//! | `words.rs` | policies and ranges as they are written there |
//! | `check.rs` | what a scenario may not say |
//! | `prepare.rs` | from a scenario to a simulation that is ready to run |
//! | `build.rs` | from there to a world |
//! | `report.rs` | what came of a run |
//! | `seeds.rs` | many runs, and how sure they make us |
//! | `capacity.rs` | the most devices that each get a rate |

mod build;
mod capacity;
mod check;
mod prepare;
mod report;
mod seeds;
mod words;

use std::path::{Path, PathBuf};

pub use capacity::{Capacity, Trial, capacity};
pub use prepare::Simulation;
pub use report::{ClassReport, Energy, Report, ServerReport};
pub use seeds::{Estimate, Summary, parallel, run_seeds};
use serde::{Deserialize, Serialize};
use sled_core::device::{Ahead, Tuning};
use sled_core::policy::Policy;
use sled_core::server;
use sled_core::server::{Assist, Batching};
pub use words::Range;

use crate::Error;

/// An experiment. Everything that is not said has the default of the product, or takes no time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scenario {
    /// What it is called in results.
    pub name: String,
    /// The seed of the first run; each other run has the next.
    pub seed: u64,
    /// Virtual seconds before the measurement begins.
    pub warmup_s: f64,
    /// Virtual seconds that are measured.
    pub window_s: f64,
    /// The folder that profiles are named in.
    pub profiles: PathBuf,
    /// The server.
    pub server: ServerClass,
    /// What is asked, and when.
    pub load: Load,
    /// The devices, by class.
    pub devices: Vec<DeviceClass>,
    /// What goes wrong.
    pub faults: Vec<FaultPlan>,
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            name: String::new(),
            seed: 0,
            warmup_s: 15.0,
            window_s: 60.0,
            profiles: PathBuf::from("profiles"),
            server: ServerClass::default(),
            load: Load::default(),
            devices: Vec::new(),
            faults: Vec::new(),
        }
    }
}

/// The server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerClass {
    /// A target of a profile, `MACHINE/MODEL`: what its passes cost, and what it draws.
    pub profile: Option<String>,
    /// What its passes cost, instead of a profile.
    pub cost: Option<Cost>,
    /// What a pass of a draft model costs on the same hardware, if the drafts are made there. The devices then draft in no time.
    pub drafter: Option<Cost>,
    /// How requests become batches.
    #[serde(with = "words::named")]
    pub batching: Batching,
    /// Who is given rows without having asked.
    #[serde(with = "words::named")]
    pub assist: Assist,
    /// Tokens a second that each session is to get.
    pub rate_goal: Option<f64>,
    /// Sessions in the KV cache at once; as many as there are devices, if it is not said.
    pub sequences: Option<usize>,
    /// Tokens that the KV cache holds; enough for all its sequences, if it is not said.
    pub cells: Option<usize>,
    /// The most rows in a pass.
    pub rows: usize,
    /// What it draws while a pass runs, in watts.
    pub power_w: Option<f64>,
    /// What it draws between passes, in watts; 0 if it is not said.
    pub idle_w: f64,
    /// What was tuned: as in the product, unless other values are tried.
    #[serde(skip_serializing_if = "is_shipped")]
    pub tuning: server::Tuning,
}

impl Default for ServerClass {
    fn default() -> Self {
        Self {
            profile: None,
            cost: None,
            drafter: None,
            batching: Batching::Continuous,
            assist: Assist::Auto,
            rate_goal: None,
            sequences: None,
            cells: None,
            rows: 512,
            power_w: None,
            idle_w: 0.0,
            tuning: server::Tuning::default(),
        }
    }
}

fn is_shipped(tuning: &server::Tuning) -> bool {
    *tuning == server::Tuning::default()
}

/// What a pass costs: a line, or measured points with lines between them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cost {
    /// What does not depend on the rows, in milliseconds.
    pub fixed_ms: Option<f64>,
    /// What each row adds, in milliseconds.
    pub row_ms: Option<f64>,
    /// `[rows, milliseconds]` instead, by rising rows.
    pub points: Option<Vec<[f64; 2]>>,
    /// What each thousand cached tokens of the sequences in a pass add, in milliseconds.
    pub context_ms: f64,
    /// What a row that reads a prompt adds, as a share of what one adds that decides a token; as much, if it is not said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_row: Option<f64>,
}

impl Cost {
    /// A line.
    #[must_use]
    pub fn line(fixed_ms: f64, row_ms: f64) -> Self {
        Self { fixed_ms: Some(fixed_ms), row_ms: Some(row_ms), ..Self::default() }
    }

    /// Measured points `[rows, milliseconds]`.
    #[must_use]
    pub fn points(points: Vec<[f64; 2]>) -> Self {
        Self { points: Some(points), ..Self::default() }
    }
}

/// What is asked, and when.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Load {
    /// The mean pause between an answer and the next prompt of a device, in seconds; it is exponentially distributed.
    pub think_s: f64,
    /// Instead of that, prompts a second of each device that come whether it is ready or not: a Poisson process.
    pub poisson: Option<f64>,
    /// Tokens of a prompt, or `[least, most]` of them. As recorded where there is a recording; else 64.
    pub prompt_tokens: Option<Range>,
    /// Tokens of an answer, or `[least, most]` of them, where there is no recording.
    pub answer_tokens: Range,
    /// With how many equal tokens all prompts begin: a system prompt, which the server takes for a public prefix.
    pub shared_tokens: usize,
    /// Whether devices that are at the same place of a recording ask the same, as in a measured run. Else each prompt is another.
    pub repeats: bool,
}

/// Devices that are alike.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeviceClass {
    /// What they are called in results.
    pub name: String,
    /// How many there are.
    pub count: usize,
    /// How long a draft gets; `none` is a thin client.
    #[serde(with = "words::policy")]
    pub policy: Option<Policy>,
    /// What is done while a verdict is under way: `nothing` (synchronous), `drafts` (asynchronous) or `blocks` (pipelined).
    #[serde(with = "words::ahead")]
    pub ahead: Ahead,
    /// A drafter of a profile, `MACHINE/MODEL`: how fast it drafts, and what it draws.
    pub profile: Option<String>,
    /// The time to draft a token, instead of a profile.
    pub draft_ms: Option<f64>,
    /// Whether the time to draft a block is exponentially distributed, as in the paper, instead of constant.
    pub exponential: bool,
    /// Recorded prompts, answers and drafts.
    pub recording: Option<PathBuf>,
    /// Instead of a recording, the probability that a draft is accepted, whatever the others are.
    pub acceptance: Option<f64>,
    /// The probability that the drafter knows whether its draft is right; its confidence is 1 or 0 then.
    pub knowledge: f64,
    /// The way to the server.
    pub link: LinkClass,
    /// Whether drafts are shown when the server is lost (`release`), or the device waits (`wait`).
    pub fallback: Fallback,
    /// The longest that the server is given to answer, in seconds.
    pub timeout_s: f64,
    /// What a device draws while it drafts, in watts.
    pub power_w: Option<f64>,
    /// What it draws else, in watts; 0 if it is not said.
    pub idle_w: f64,
    /// The numbers that their decisions rest on: those of the product, unless a program sweeps them.
    #[serde(skip)]
    pub tuning: Tuning,
}

impl Default for DeviceClass {
    fn default() -> Self {
        Self {
            name: String::new(),
            count: 1,
            policy: Some(Policy::Goodput),
            ahead: Ahead::Blocks,
            profile: None,
            draft_ms: None,
            exponential: false,
            recording: None,
            acceptance: None,
            knowledge: 0.0,
            link: LinkClass::default(),
            fallback: Fallback::Release,
            timeout_s: 10.0,
            power_w: None,
            idle_w: 0.0,
            tuning: Tuning::DEFAULT,
        }
    }
}

/// The way between a device and the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LinkClass {
    /// The round trip of a short message, in milliseconds.
    pub rtt_ms: f64,
    /// Up to this much more in each direction, in milliseconds.
    pub jitter_ms: f64,
    /// Megabits a second in each direction; no limit, if it is not said.
    pub bandwidth_mbit: Option<f64>,
    /// The probability that a message is lost. The device's timers find out.
    pub loss: f64,
}

/// What a device does without its server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fallback {
    /// It shows its drafts as provisional.
    #[default]
    Release,
    /// It waits.
    Wait,
}

/// Something that goes wrong, once or again and again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultPlan {
    /// What it is.
    pub kind: FaultKind,
    /// It strikes all at once at this time, in virtual seconds.
    pub at_s: Option<f64>,
    /// Instead of that, it strikes each on its own at random, on average so many seconds apart.
    pub every_s: Option<f64>,
    /// How long it lasts, in seconds.
    #[serde(default)]
    pub lasts_s: f64,
    /// The class of devices that it strikes; all, if it is not said.
    pub class: Option<String>,
    /// The share of these devices that it strikes.
    #[serde(default = "whole")]
    pub share: f64,
}

fn whole() -> f64 {
    1.0
}

/// What goes wrong: [`crate::world::Fault`] by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FaultKind {
    /// The server dies, and is back, empty, after a time.
    Crash,
    /// The server does nothing for a time.
    Stall,
    /// The server forgets a device's session.
    Forget,
    /// A device is offline for a time.
    Offline,
    /// A device dies, and begins its turn anew after a time.
    Reboot,
    /// A device's connection is cut, and it notices.
    Cut,
}

impl Scenario {
    /// Reads a scenario and checks it.
    ///
    /// # Errors
    /// If the file cannot be read, has a key that means nothing, or says what cannot be.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let at = |reason: String| Error::ScenarioFile { path: path.to_owned(), reason };
        let text = std::fs::read_to_string(path).map_err(|error| at(error.to_string()))?;
        Self::parse(&text).map_err(|error| at(error.to_string()))
    }

    /// Reads a scenario from its text and checks it.
    ///
    /// # Errors
    /// If it has a key that means nothing, or says what cannot be.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let scenario: Self = toml::from_str(text).map_err(|error| {
            let line = error.span().map(|span| text.get(..span.start).unwrap_or_default().lines().count().max(1));
            let line = line.map(|line| format!("line {line}: ")).unwrap_or_default();
            Error::Scenario(format!("{line}{}", error.message()))
        })?;
        scenario.check()?;
        Ok(scenario)
    }

    /// How many devices there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.devices.iter().map(|class| class.count).sum()
    }

    /// The same with `devices` devices altogether, in the same proportions as far as whole devices allow.
    #[must_use]
    pub fn with_devices(&self, devices: usize) -> Self {
        let mut scenario = self.clone();
        let whole = self.count().max(1);
        let (mut before, mut placed) = (0, 0);
        for class in &mut scenario.devices {
            before += class.count;
            let until = (before * devices + whole / 2) / whole;
            class.count = until - placed;
            placed = until;
        }
        scenario
    }

    /// The same with another name, for series.
    #[must_use]
    pub fn named(&self, name: &str) -> Self {
        Self { name: name.to_owned(), ..self.clone() }
    }
}

/// Runs a scenario once.
///
/// # Errors
/// If the scenario says what cannot be, or names a file that cannot be used.
pub fn run(scenario: &Scenario, seed: u64) -> Result<Report, Error> {
    Simulation::new(scenario)?.run(seed, &mut |_| {})
}
