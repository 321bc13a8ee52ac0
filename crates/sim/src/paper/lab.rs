//! What the experiments share: who meets whom, and many runs of it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sled_core::device::Ahead;
use sled_core::policy::Policy;
use sled_core::server::{Assist, Batching};

use super::{Effort, Progress};
use crate::Error;
use crate::profile::Profiles;
use crate::recording::Recording;
use crate::scenario::{
    Cost, DeviceClass, Estimate, Fallback, LinkClass, Load, Range, Report, Scenario, ServerClass, Simulation, capacity,
    parallel,
};
use crate::theory::{Pass, Round, tokens_per_round};

/// The probability that a draft of the paper's devices is accepted, whatever the others are. Calibrated: with four drafts it
/// gives 2.77 tokens a round, the middle one of the gains in the paper's Table I.
pub const ACCEPTANCE: f64 = 0.7;

/// How many tokens the paper's devices draft for a round. Calibrated, with [`ACCEPTANCE`].
pub const LENGTH: u32 = 4;

/// The round trip between devices and the edge server, in milliseconds. Assumed.
pub const RTT_MS: f64 = 10.0;

/// The drafts that are replayed against the strong baseline.
const RECORDING: &str = "drafts.json";

/// Tokens of an answer in drawn texts: long, so that prompts weigh nothing, as in the paper's model.
const ANSWER: usize = 1000;

/// More rows than any pass here has.
const ROWS: usize = 1 << 16;

/// The share of the devices that must reach a rate: the median device, which is what the closed forms are about.
const SHARE: f64 = 0.5;

/// Nobody gives up.
const TIMEOUT_S: f64 = 1e5;

/// Profiles, recordings, and how much is simulated.
pub(super) struct Lab<'a> {
    pub(super) profiles: Profiles,
    root: PathBuf,
    effort: &'a Effort,
    progress: &'a dyn Progress,
    threads: usize,
}

/// The runs of one scenario, one for each seed.
pub(super) struct Runs(pub(super) Vec<Report>);

impl Runs {
    pub(super) fn estimate(&self, of: impl Fn(&Report) -> f64) -> Estimate {
        Estimate::of(&self.0.iter().map(of).collect::<Vec<f64>>())
    }

    /// Tokens a second of all devices together.
    pub(super) fn throughput(&self) -> Estimate {
        self.estimate(|report| report.figures.output_throughput)
    }

    /// How many times the throughput of `other` it is, seed by seed.
    pub(super) fn gain_over(&self, other: &Self) -> Estimate {
        let ratio = |(ours, theirs): (&Report, &Report)| {
            ours.figures.output_throughput / theirs.figures.output_throughput.max(f64::MIN_POSITIVE)
        };
        Estimate::of(&self.0.iter().zip(&other.0).map(ratio).collect::<Vec<f64>>())
    }
}

impl<'a> Lab<'a> {
    pub(super) fn new(root: &Path, effort: &'a Effort, progress: &'a dyn Progress) -> Result<Self, Error> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self { profiles: Profiles::load(&root.join("profiles"))?, root: root.to_owned(), effort, progress, threads })
    }

    pub(super) fn recording(&self, name: &str) -> PathBuf {
        self.root.join("data").join(name)
    }

    /// The time of a pass of a target that is a line.
    pub(super) fn pass(&self, target: &str) -> Result<Pass, Error> {
        let (_, target) = self.profiles.target(target)?;
        let (one, two) = (target.pass(1, 0).as_secs_f64(), target.pass(2, 0).as_secs_f64());
        Ok(Pass { fixed: 2.0 * one - two, row: two - one })
    }

    /// Tokens a second of a drafter.
    pub(super) fn draft_rate(&self, drafter: &str) -> Result<f64, Error> {
        Ok(self.profiles.drafter(drafter)?.1.tokens_per_s.value)
    }

    /// A round of the paper's devices with `k` drafts of `drafter`.
    pub(super) fn round(&self, drafter: &str, k: u32) -> Result<Round, Error> {
        let waits = f64::from(k) / self.draft_rate(drafter)? + RTT_MS / 1e3;
        Ok(Round { tokens: tokens_per_round(ACCEPTANCE, k), rows: f64::from(k) + 1.0, waits })
    }

    /// Devices as the paper describes them: `k` drafts, then wait for the verdict; the time to draft is exponentially distributed.
    pub(super) fn fixed(&self, drafter: &str, k: u32) -> DeviceClass {
        DeviceClass {
            policy: Some(Policy::Fixed { k: k as usize }),
            ahead: Ahead::Nothing,
            profile: Some(drafter.to_owned()),
            exponential: true,
            acceptance: Some(ACCEPTANCE),
            ..Self::thin()
        }
    }

    /// The same against the strong baseline: recorded drafts, and a steady drafter.
    pub(super) fn fixed_recorded(&self, drafter: &str, k: u32) -> DeviceClass {
        self.recorded(DeviceClass { exponential: false, acceptance: None, ..self.fixed(drafter, k) })
    }

    /// Devices with the product's defaults, and recorded drafts.
    pub(super) fn shipped(&self, drafter: &str) -> DeviceClass {
        let defaults = DeviceClass { policy: Some(Policy::Goodput), ahead: Ahead::Blocks, ..Self::thin() };
        self.recorded(DeviceClass { profile: Some(drafter.to_owned()), ..defaults })
    }

    /// Devices that leave the same texts to the server.
    pub(super) fn thin_recorded(&self) -> DeviceClass {
        self.recorded(Self::thin())
    }

    fn recorded(&self, class: DeviceClass) -> DeviceClass {
        DeviceClass { recording: Some(self.recording(RECORDING)), ..class }
    }

    /// A round of recorded drafts, `k` at a time.
    pub(super) fn recorded_round(&self, drafter: &str, k: u32) -> Result<Round, Error> {
        let recording = Recording::load(&self.recording(RECORDING))?;
        let (mut tokens, mut rounds) = (0, 0u32);
        for output in &recording.outputs {
            let right: Vec<bool> =
                output.drafts.iter().zip(&output.tokens).map(|(d, token)| d.token == *token).collect();
            let mut at = 0;
            while at < right.len() {
                at += right[at..].iter().take(k as usize).take_while(|&&right| right).count() + 1;
                rounds += 1;
            }
            tokens += right.len();
        }
        Ok(Round { tokens: tokens as f64 / f64::from(rounds.max(1)), ..self.round(drafter, k)? })
    }

    /// Devices that leave it all to the server.
    pub(super) fn thin() -> DeviceClass {
        DeviceClass {
            policy: None,
            link: LinkClass { rtt_ms: RTT_MS, ..LinkClass::default() },
            fallback: Fallback::Wait,
            timeout_s: TIMEOUT_S,
            ..DeviceClass::default()
        }
    }

    /// The paper's server: static batches, and no help for devices that have not asked.
    pub(super) fn static_server(batch_size: usize, max_wait: Duration) -> ServerClass {
        ServerClass {
            batching: Batching::Static { batch_size, max_wait },
            assist: Assist::Never,
            rows: ROWS,
            ..ServerClass::default()
        }
    }

    /// Continuous batching of a target of a profile.
    pub(super) fn continuous(target: &str, assist: Assist) -> ServerClass {
        ServerClass { profile: Some(target.to_owned()), assist, rows: ROWS, ..ServerClass::default() }
    }

    /// `count` devices of a class that are always busy, for this share of the virtual time.
    pub(super) fn scenario(
        &self,
        server: ServerClass,
        class: DeviceClass,
        count: usize,
        (warmup_s, window_s): (f64, f64),
    ) -> Scenario {
        Scenario {
            warmup_s: warmup_s * self.effort.time,
            window_s: window_s * self.effort.time,
            profiles: self.root.join("profiles"),
            server,
            load: Load { prompt_tokens: Some(Range::One(1)), answer_tokens: Range::One(ANSWER), ..Load::default() },
            devices: vec![DeviceClass { count, ..class }],
            ..Scenario::default()
        }
    }

    /// Runs each scenario with each seed.
    pub(super) fn run(&self, what: &str, scenarios: &[Scenario]) -> Result<Vec<Runs>, Error> {
        let simulations = scenarios.iter().map(Simulation::new).collect::<Result<Vec<_>, Error>>()?;
        let runs = self.each(what, &simulations, |simulation, seed| simulation.run(seed, &mut |_| {}))?;
        Ok(runs.into_iter().map(Runs).collect())
    }

    /// The most devices of each scenario that get a rate.
    pub(super) fn capacities(&self, what: &str, scenarios: &[(Scenario, f64)]) -> Result<Vec<Estimate>, Error> {
        let found = self.each(what, scenarios, |(scenario, rate), seed| {
            capacity(scenario, *rate, SHARE, seed).map(|capacity| capacity.devices as f64)
        })?;
        Ok(found.iter().map(|samples| Estimate::of(samples)).collect())
    }

    /// What `work` makes of each item with each seed, on all cores.
    fn each<I: Sync, T: Send>(
        &self,
        what: &str,
        items: &[I],
        work: impl Fn(&I, u64) -> Result<T, Error> + Sync,
    ) -> Result<Vec<Vec<T>>, Error> {
        let seeds = &self.effort.seeds;
        let pairs: Vec<(&I, u64)> = items.iter().flat_map(|item| seeds.iter().map(move |&seed| (item, seed))).collect();
        self.progress.begin(what, pairs.len());
        let done = parallel(&pairs, self.threads, |&(item, seed)| {
            let result = work(item, seed);
            self.progress.done();
            result
        });
        let mut results = done.into_iter();
        items.iter().map(|_| results.by_ref().take(seeds.len()).collect()).collect()
    }
}

/// A cost that is a line.
pub(super) fn line(pass: Pass) -> Cost {
    Cost::line(1e3 * pass.fixed, 1e3 * pass.row)
}
