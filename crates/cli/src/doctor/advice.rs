//! The command to run, after all that was found out.

use serde::Serialize;

use super::expect::Speeds;
use super::facts::{Facts, Server, Target};
use sled_launch::threads::Threads;

/// Drafts that bring less than this are not worth what they take of the device.
const WORTH: f64 = 1.05;

/// The share of the available memory that a server may fill.
const FILL: f64 = 0.9;

/// A command, and why this one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Advice {
    pub command: String,
    pub reason: String,
}

/// What to run; none if nothing would work.
pub fn of(facts: &Facts, expected: &[Speeds], threads: Threads) -> Option<Advice> {
    match &facts.target {
        Some(target) => serve(target, facts.machine.memory_available),
        None => device(facts, expected, threads),
    }
}

fn device(facts: &Facts, expected: &[Speeds], threads: Threads) -> Option<Advice> {
    let drafter = facts.drafter.as_ref()?;
    let threads = if threads == Threads::Auto { String::new() } else { format!(" -t {threads}") };
    let Some(Server { address, found: Some(_), .. }) = &facts.server else {
        let name = drafter.model.as_ref().map(|_| &drafter.name)?;
        return Some(Advice {
            command: format!("sled device --server none --draft {name}{threads}"),
            reason: "without a server the draft model decodes alone: its own text, not a target's".to_owned(),
        });
    };
    // The last are those at the present load.
    let last = expected.last();
    let gain = last.and_then(|speeds| Some(speeds.sled? / speeds.plain?));
    let others = last.map_or(0, |speeds| speeds.others);
    let beside = if others > 0 { format!(", beside {others} others") } else { String::new() };
    let command = |draft: &str| format!("sled device --server {address} --draft {draft}{threads}");
    let usable = drafter.error.is_none() && facts.trial.as_ref().is_none_or(|trial| trial.error.is_none());
    let (draft, reason) = match (&drafter.model, gain) {
        (Some(_), Some(gain)) if gain >= WORTH => {
            (drafter.name.as_str(), format!("drafts make it {gain:.2} times as fast as plain decoding{beside}"))
        }
        (Some(_), Some(gain)) => (
            "ngram",
            format!(
                "drafts of {} would make it {gain:.2} times as fast{beside}, which does not pay; n-grams cost nothing",
                drafter.name
            ),
        ),
        (None, Some(gain)) if gain >= WORTH => {
            ("ngram", format!("n-grams made it {gain:.2} times as fast{beside}; what repeats itself more gains more"))
        }
        (None, _) if drafter.name == "none" && usable => ("none", "the server decodes, as was asked for".to_owned()),
        _ => ("ngram", "n-grams cost nothing, and help where the text repeats itself".to_owned()),
    };
    Some(Advice { command: command(draft), reason })
}

fn serve(target: &Target, available: Option<u64>) -> Option<Advice> {
    if target.error.is_some() {
        return None;
    }
    let best = target.passes.first()?;
    let room = available.map_or(u64::MAX, |available| {
        ((available as f64 * FILL) as u64).saturating_sub(target.weights_bytes) / target.token_bytes.max(1) / 256 * 256
    });
    let (ctx_size, cut) = match u32::try_from(room) {
        Ok(room) if room < target.ctx_size => (room.max(256), true),
        _ => (target.ctx_size, false),
    };
    let command = format!(
        "sled serve -m {} -c {ctx_size} -np {} -t {} --host 0.0.0.0",
        target.name, target.parallel, best.threads
    );
    let mut reason = format!("{} threads were the fastest", best.threads);
    if target.passes.len() < 2 {
        reason = format!("{} threads were measured", best.threads);
    }
    if cut {
        reason += &format!("; {ctx_size} tokens are what the memory holds");
    }
    Some(Advice { command, reason: format!("{reason}; leave --host out to serve this machine alone") })
}
