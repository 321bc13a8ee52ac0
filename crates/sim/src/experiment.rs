//! Devices that replay recorded drafts, in a closed loop with one server.

use std::sync::Arc;
use std::time::Duration;

use sled_core::cost::CostTable;
use sled_core::device::{Ahead, DeviceConfig, Fallback, Resilience, Tuning};
use sled_core::message::MAX_BLOCK;
use sled_core::policy::Policy;
use sled_core::sampler::SamplingParams;
use sled_core::server::{Assist, Batching, ServerConfig};
use sled_model::Model;

use crate::Error;
use crate::network::Path;
use crate::replay::Replay;
use crate::rng::Rng;
use crate::world::{DeviceSetup, Drafting, Outcome, ServerSetup, Turn, World};

/// Longer than any experiment lasts, in virtual time.
const FOREVER: Duration = Duration::from_secs(1_000_000);

/// Who meets whom.
#[derive(Clone, Debug)]
pub struct Regime {
    /// What a step of the target takes.
    pub cost: CostTable,
    /// What a draft takes.
    pub draft_time: Duration,
    /// The round trip.
    pub rtt: Duration,
    /// How many devices there are.
    pub devices: usize,
    /// How many of the recorded outputs each device generates, in an order of its own.
    pub outputs: usize,
    /// How the server makes batches.
    pub batching: Batching,
    /// Whom it gives rows unasked.
    pub assist: Assist,
    /// Tokens a second that each session is to get.
    pub rate_goal: Option<f64>,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Figures {
    /// Committed tokens a second, of all devices together, while all of them were busy.
    pub tokens_per_s: f64,
    /// Rows of forward passes for each committed token, prompts not counted.
    pub rows_per_token: f64,
    /// Committed tokens for each verdict.
    pub tokens_per_round: f64,
}

/// Lets every device generate its outputs.
///
/// # Errors
/// If the simulation asks for what cannot be.
pub fn run(
    replay: &Replay,
    regime: &Regime,
    policy: Option<Policy>,
    ahead: Ahead,
    seed: u64,
) -> Result<Figures, Error> {
    let mut world = World::new(seed);
    let target = replay.target(regime.devices);
    let limits = target.limits();
    world.add_server(ServerSetup {
        config: ServerConfig {
            batching: regime.batching,
            assist: regime.assist,
            rate_goal: regime.rate_goal,
            ..limits.server_config(Vec::new())
        },
        shared: Vec::new(),
        model: Box::new(move || Box::new(target.clone())),
        cost: regime.cost.clone().into(),
    });
    let mut rng = Rng(seed);
    for device in 0..regime.devices {
        let arrives = rng.time(Duration::from_millis(500));
        let turns = (0..regime.outputs).filter_map(|i| {
            // Every device goes through the recording from another place on.
            let index = (device * 7 + i) % replay.len();
            let output = replay.outputs().get(index)?;
            let text = replay.prompt(index);
            let max_tokens = output.tokens.len();
            Some(Turn { arrives, text, anew: true, max_tokens, sampling: SamplingParams::default() })
        });
        world.add_device(DeviceSetup {
            config: DeviceConfig {
                policy,
                ahead,
                context: limits.context,
                max_draft: MAX_BLOCK,
                end_of_generation: Arc::from([]),
                resilience: Resilience {
                    timeout: Duration::from_secs(60),
                    fallback: Fallback::Wait,
                    seed: rng.bits(),
                    ..Resilience::default()
                },
                tuning: Tuning::DEFAULT,
            },
            drafter: policy.is_some().then(|| Box::new(replay.drafter()) as Box<_>),
            draft_time: regime.draft_time,
            drafting: Drafting::Steady,
            up: Path::clear(regime.rtt / 2),
            down: Path::clear(regime.rtt / 2),
            turns: Turn::list(turns.collect()),
        })?;
    }
    world.run(FOREVER)?;
    Ok(figures(&world))
}

fn figures(world: &World) -> Figures {
    // From when the last device has begun until the first one is done: everybody is busy.
    let first = |outcomes: &[Outcome]| outcomes.first().map(|outcome| outcome.time.0);
    let last = |outcomes: &[Outcome]| outcomes.last().map(|outcome| outcome.time.1);
    let begin = world.outcomes().filter_map(first).max().unwrap_or_default();
    let end = world.outcomes().filter_map(last).min().unwrap_or_default();
    let all = || world.outcomes().flatten();
    let tokens =
        all().flat_map(|outcome| &outcome.emitted).filter(|(time, _)| (begin..=end).contains(time)).count() as f64;
    let total: usize = all().map(|outcome| outcome.emitted.len()).sum();
    let rows: u64 = all().map(|outcome| outcome.stats.server_rows).sum();
    let rounds: u64 = all().map(|outcome| outcome.stats.rounds).sum();
    Figures {
        tokens_per_s: tokens / (end.saturating_sub(begin)).as_secs_f64().max(f64::MIN_POSITIVE),
        rows_per_token: rows as f64 / total.max(1) as f64,
        tokens_per_round: total as f64 / rounds.max(1) as f64,
    }
}
