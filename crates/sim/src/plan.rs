//! For operators: how many devices a server will carry at a rate, with which draft policy, at what cost, and what limits it.
//!
//! Capacities are simulated, see [`crate::scenario::capacity`]. What limits them is found by asking what would be if passes,
//! drafts or round trips were shorter.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sled_core::policy::Policy;

use crate::Error;
use crate::economics::{Prices, Tenure, usd_per_1k_tokens};
use crate::profile::{PassTime, Profile, Profiles, Target};
use crate::scenario::{self, Capacity, Cost, DeviceClass, LinkClass, Scenario, ServerClass};

/// So many of the devices must reach the rate.
const SHARE: f64 = 0.95;

/// A device is measured over about so many tokens, within these seconds.
const TOKENS: f64 = 600.0;
const SHORTEST_S: f64 = 20.0;
const LONGEST_S: f64 = 60.0;

/// A change that brings less than this is no limit.
const MATTERS: f64 = 1.05;

/// What is planned for.
#[derive(Clone, Debug)]
pub struct Wish {
    /// The target, `MACHINE/MODEL` of a profile.
    pub server: String,
    /// The drafters, `MACHINE/MODEL`, and the share of each of the devices.
    pub devices: Vec<(String, f64)>,
    /// Tokens a second that each device is to get.
    pub rate: f64,
    /// The round trip, in milliseconds.
    pub rtt_ms: f64,
    /// Tokens of a session in the KV cache, for what the memory holds.
    pub context: usize,
    /// What was recorded of drafters like these.
    pub recording: PathBuf,
    /// What is the same for all machines.
    pub prices: Prices,
}

/// The answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// The best of the policies.
    pub best: Choice,
    /// All policies, thin clients first.
    pub choices: Vec<Choice>,
    /// How many sessions of the context length the server's memory holds, if its profile says.
    pub memory: Option<usize>,
    /// What limits the number of devices.
    pub limit: Limit,
    /// What would be with the best policy if something were better.
    pub what_if: Vec<WhatIf>,
    /// Capacity over the rate, with the best policy and with thin clients.
    pub curve: Vec<Point>,
}

/// What comes of a policy.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Choice {
    /// The policy, or `none` for thin clients.
    pub policy: String,
    /// How many devices get the rate.
    pub devices: usize,
    /// Tokens a second of all of them.
    pub tokens_per_s: f64,
    /// What the server costs, in US dollars an hour, if its profile says.
    pub server_usd_per_hour: Option<f64>,
    /// What all devices cost, in US dollars an hour, if their profiles say.
    pub devices_usd_per_hour: Option<f64>,
    /// What a thousand tokens cost, in US dollars.
    pub usd_per_1k_tokens: Option<f64>,
}

/// What limits the number of devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Limit {
    /// The server's passes.
    Compute,
    /// The server's KV cache.
    Memory,
    /// The round trip.
    Link,
    /// How fast devices draft.
    Drafter,
}

/// What would be if something were better.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WhatIf {
    /// What it is about.
    pub limit: Limit,
    /// What is better.
    pub change: String,
    /// How many devices there could be then.
    pub devices: usize,
}

/// How many devices get a rate.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Point {
    /// The rate, in tokens a second.
    pub rate: f64,
    /// Devices with the best policy.
    pub devices: usize,
    /// Thin clients.
    pub central: usize,
}

/// A server and devices, each of which may be made faster.
struct Case<'a> {
    wish: &'a Wish,
    target: &'a Target,
    /// Milliseconds of a draft, watts, and the share, by class.
    classes: Vec<(f64, f64)>,
    passes: f64,
    drafts: f64,
    rtt_ms: f64,
}

impl Case<'_> {
    fn scenario(&self, policy: Option<Policy>, rate: f64) -> Scenario {
        let window_s = (TOKENS / rate).clamp(SHORTEST_S, LONGEST_S);
        let class = |&(draft_ms, share): &(f64, f64)| DeviceClass {
            // Whole devices in these proportions; the search scales them.
            count: (1000.0 * share).round().max(1.0) as usize,
            policy,
            draft_ms: Some(draft_ms * self.drafts),
            recording: Some(self.wish.recording.clone()),
            link: LinkClass { rtt_ms: self.rtt_ms, ..LinkClass::default() },
            ..DeviceClass::default()
        };
        Scenario {
            warmup_s: window_s / 4.0,
            window_s,
            server: ServerClass { cost: Some(cost(self.target, self.passes)), rows: 2048, ..ServerClass::default() },
            devices: self.classes.iter().map(class).collect(),
            ..Scenario::default()
        }
    }

    fn capacity(&self, policy: Option<Policy>, rate: f64) -> Result<Capacity, Error> {
        scenario::capacity(&self.scenario(policy, rate), rate, SHARE, 0)
    }
}

fn cost(target: &Target, factor: f64) -> Cost {
    let mut cost = match &target.time {
        PassTime::Line { fixed_ms, row_ms } => Cost::line(fixed_ms.value * factor, row_ms.value * factor),
        PassTime::Points(points) => Cost::points(points.value.iter().map(|&[rows, ms]| [rows, ms * factor]).collect()),
    };
    cost.context_ms = target.context_ms.as_ref().map_or(0.0, |number| number.value * factor);
    cost.prompt_row = target.prompt_row.as_ref().map(|number| number.value);
    cost
}

/// Plans. `progress` is told what share of the work is done since it was told last.
///
/// # Errors
/// If a name is not in the profiles, or the recording cannot be used.
pub fn plan(wish: &Wish, profiles: &Profiles, progress: &dyn Fn(f64)) -> Result<Plan, Error> {
    let (machine, target) = profiles.target(&wish.server)?;
    let mut classes = Vec::new();
    let mut machines = Vec::new();
    for (name, share) in &wish.devices {
        let (machine, drafter) = profiles.drafter(name)?;
        classes.push((1e3 / drafter.tokens_per_s.value, *share));
        machines.push((machine, *share));
    }
    let case = Case { wish, target, classes, passes: 1.0, drafts: 1.0, rtt_ms: wish.rtt_ms };
    let memory = sessions_in_memory(machine, target, wish.context);
    let policies = [None, Some(Policy::Goodput), Some(Policy::Fixed { k: 2 }), Some(Policy::Fixed { k: 4 })];
    let rates = [0.5, 0.75, 1.0, 1.5, 2.0].map(|factor| wish.rate * factor);
    let share = 1.0 / (policies.len() + 3 + 2 * rates.len()) as f64;

    let mut choices = Vec::new();
    for policy in policies {
        let capacity = case.capacity(policy, wish.rate)?;
        progress(share);
        choices.push((policy, choice(wish, machine, &machines, policy, &capacity, memory)));
    }
    // The first of equals, and plain decoding unless drafts bring something: they drain the devices.
    let most = choices.iter().rev().max_by_key(|(_, choice)| choice.devices);
    let matters = |choice: &Choice, plain: &Choice| choice.devices as f64 >= MATTERS * plain.devices as f64;
    let best = match (most, choices.first()) {
        (Some((_, drafting)), Some(plain)) if !matters(drafting, &plain.1) => Some(plain),
        (most, _) => most,
    };
    let Some((policy, best)) = best.cloned() else {
        return Err(Error::Scenario("there is no policy to choose from".to_owned()));
    };

    let faster = [
        (Limit::Compute, "passes of half the time", Case { passes: 0.5, ..case.again() }),
        (Limit::Drafter, "drafts in half the time", Case { drafts: 0.5, ..case.again() }),
        (Limit::Link, "no round trip", Case { rtt_ms: 0.0, ..case.again() }),
    ];
    let mut what_if = Vec::new();
    for (limit, change, case) in faster {
        let mut devices = case.capacity(policy, wish.rate)?.devices;
        if policy.is_none() {
            // Whoever is better off without drafts now may draft then.
            devices = devices.max(case.capacity(Some(Policy::Fixed { k: 2 }), wish.rate)?.devices);
        }
        progress(share);
        let devices = devices.min(memory.unwrap_or(usize::MAX));
        what_if.push(WhatIf { limit, change: change.to_owned(), devices });
    }
    let is_full = memory.is_some_and(|memory| best.devices >= memory);
    let most = what_if.iter().rev().max_by_key(|what| what.devices);
    let limit = match most {
        _ if is_full => Limit::Memory,
        Some(what) if what.devices as f64 >= MATTERS * best.devices as f64 => what.limit,
        _ => Limit::Compute,
    };
    let mut curve = Vec::new();
    for rate in rates {
        let capped = |capacity: Capacity| capacity.devices.min(memory.unwrap_or(usize::MAX));
        let central = capped(case.capacity(None, rate)?);
        progress(share);
        let devices = if policy.is_none() { central } else { capped(case.capacity(policy, rate)?) };
        progress(share);
        curve.push(Point { rate, devices, central });
    }
    Ok(Plan { best, choices: choices.into_iter().map(|(_, choice)| choice).collect(), memory, limit, what_if, curve })
}

impl Case<'_> {
    fn again(&self) -> Self {
        Self { classes: self.classes.clone(), ..*self }
    }
}

/// How many sessions of `context` tokens the memory holds beside the weights.
fn sessions_in_memory(machine: &Profile, target: &Target, context: usize) -> Option<usize> {
    let free = machine.memory_gib.as_ref()?.value - target.weights_gib.as_ref()?.value;
    let each = target.kv_kib.as_ref()?.value * context as f64 / (1024.0 * 1024.0);
    Some((free.max(0.0) / each) as usize)
}

fn choice(
    wish: &Wish,
    server: &Profile,
    machines: &[(&Profile, f64)],
    policy: Option<Policy>,
    capacity: &Capacity,
    memory: Option<usize>,
) -> Choice {
    let devices = capacity.devices.min(memory.unwrap_or(usize::MAX));
    let found = capacity.trials.iter().find(|trial| trial.devices == capacity.devices);
    let tokens_per_s = found.map_or(0.0, |trial| trial.output_throughput / trial.devices as f64 * devices as f64);
    let hour = |machine: &Profile| Some(tenure(machine)?.usd_per_hour(&wish.prices));
    let whole: f64 = machines.iter().map(|(_, share)| share).sum();
    let each = machines.iter().map(|(machine, share)| Some(hour(machine)? * share / whole)).sum::<Option<f64>>();
    let server_usd_per_hour = hour(server);
    // A thin client costs what it costs without a drafter; that is not the plan's.
    let devices_usd_per_hour = if policy.is_some() { each.map(|each| each * devices as f64) } else { Some(0.0) };
    let all = server_usd_per_hour.zip(devices_usd_per_hour).map(|(server, devices)| server + devices);
    Choice {
        policy: policy.map_or("none".to_owned(), |policy| policy.to_string()),
        devices,
        tokens_per_s,
        server_usd_per_hour,
        devices_usd_per_hour,
        usd_per_1k_tokens: all.filter(|_| tokens_per_s > 0.0).map(|all| usd_per_1k_tokens(all, tokens_per_s)),
    }
}

fn tenure(machine: &Profile) -> Option<Tenure> {
    match (&machine.rent_usd_per_hour, &machine.price_usd, &machine.watts) {
        (Some(rent), ..) => Some(Tenure::Rented { usd_per_hour: rent.value }),
        (None, Some(price), Some(watts)) => Some(Tenure::Bought { usd: price.value, watts: watts.value }),
        _ => None,
    }
}
