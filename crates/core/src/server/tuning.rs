//! What was tuned: numbers that no law demands, each with where its value comes from.
//!
//! - *Found by simulation*: better and worse values were simulated, this one brought most. Sweep it with `sled sim` before it is changed.
//! - *Derived*: it follows from the reason that is given.
//! - *Chosen*: plausible, and not compared with others.

/// All that was tuned of a server, by the part that it belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields, default))]
pub struct Tuning {
    /// What passes cost and bring.
    pub costs: CostTuning,
    /// What a token is worth to whom.
    pub fairness: FairnessTuning,
    /// What a session's past says of its next draft.
    pub forecast: ForecastTuning,
    /// When passes are launched, and what goes into them.
    pub passes: PassTuning,
    /// Who has the KV cache, and for how long.
    pub memory: MemoryTuning,
}

/// How the costs of passes are learned.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields, default))]
pub struct CostTuning {
    /// The least that a pass counts among those of as many rows. Chosen: half of what is known is of the latest 7 of them.
    pub cost_gain: f64,
    /// How much all bins follow one that became slower or faster. Chosen: what is wrong with one bin alone moves the others by a third of
    /// its error at most.
    pub drift: f64,
    /// How much of what it rests on a bin keeps with each pass. Chosen: what was not seen for some 200 passes is soon learned anew.
    pub weight_kept: f64,
    /// How many passes the bins beside it count for, in what is believed of a bin. Chosen: what was measured wrongly, and is avoided for that,
    /// is tried again after some hundred passes.
    pub beside: f64,
    /// A pass counts as so many times slower or faster than expected, at most. Chosen: the machine may have been busy with something else.
    pub most_surprise: f64,
    /// How much the mean size of passes is what it was after the next one. Chosen: half after 7 passes.
    pub size_kept: f64,
    /// A pass is filled up to a larger one if it takes less time by more than this share. Chosen: above what a table errs by.
    pub least_gain: f64,
    /// How many squared rows of evidence the first guess counts for, of the line that goes on beyond the table. Chosen.
    pub prior: f64,
    /// The first guess: that the fixed part of a pass costs as much as so many rows. Chosen.
    pub fixed_rows: f64,
    /// How much what a pass brought counts after the next one. Chosen: half after 14 passes.
    pub rate_kept: f64,
}

impl Default for CostTuning {
    fn default() -> Self {
        Self {
            cost_gain: 0.1,
            drift: 0.05,
            weight_kept: 0.995,
            beside: 0.3,
            most_surprise: 2.0,
            size_kept: 0.9,
            least_gain: 0.02,
            prior: 16.0,
            fixed_rows: 16.0,
            rate_kept: 0.95,
        }
    }
}

/// What a token is worth to a session that is behind its goal.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields, default))]
pub struct FairnessTuning {
    /// How fast the worth of a token grows where a session falls behind a goal that was asked for. Derived: at 0.93 of it it is worth
    /// twice as much as at the goal, and utility, `pace^(1 - asked)`, is near to max-min fairness (Mo & Walrand, *Fair end-to-end
    /// window-based congestion control*, 2000).
    pub asked: f64,
    /// The same where the goal is what plain batching would give: twice as much at 0.8 of it. Found by simulation: steeper, whoever has a text
    /// that is hard to draft, which passes, holds up all others.
    pub plain: f64,
    /// A token is worth no more than this many of a session that has its goal. Chosen, as a bound.
    pub most_worth: f64,
    /// What a session got is forgotten after it got about so many tokens more. Chosen: several answers, since drafts fit one worse
    /// than another.
    pub remembered: f64,
    /// A session begins as if it had got so many tokens at its goal. Chosen.
    pub begun_with: f64,
}

impl Default for FairnessTuning {
    fn default() -> Self {
        Self { asked: 10.0, plain: 3.0, most_worth: 1000.0, remembered: 600.0, begun_with: 50.0 }
    }
}

/// What a session's past says of its next draft.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields, default))]
pub struct ForecastTuning {
    /// The gain of the running means of gaps and lengths; that of acceptance has a quarter of it for each draft. Chosen.
    pub gain: f64,
    /// What is believed of a drafter before anything is known: the probability that a draft is right. Chosen.
    pub acceptance: f64,
    /// What is believed of a block before there was one. Chosen.
    pub length: f64,
    /// A draft that is later than its forecast by so many mean deviations is not waited for. Chosen.
    pub late: f64,
}

impl Default for ForecastTuning {
    fn default() -> Self {
        Self { gain: 0.2, acceptance: 0.8, length: 3.0, late: 2.0 }
    }
}

/// When passes are launched, and what goes into them.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields, default))]
pub struct PassTuning {
    /// A prompt delays nobody's tokens by more than about this in each pass, in seconds, or than the pass takes without it: where
    /// many sessions share a pass, as many prompts come. Chosen: readers of a stream hardly
    /// notice it.
    pub prefill_delay: f64,
    /// What reading may add to a pass that nobody else is in, in seconds: whoever comes meanwhile waits for its end, and a server that
    /// is in a pass answers nobody. Chosen.
    pub prefill_alone: f64,
    /// The least prompt rows in a pass, so that prompts are read on however slow the engine is. Chosen.
    pub min_prefill: usize,
    /// Rows are so many times as dear as they seem: of the drafts that are worth hardly more than their price, many are overrated.
    /// Found by simulation.
    pub margin: f64,
    /// The same while prompts wait: a draft takes the time in which they would be read, and whoever has not been read to yet is missing
    /// in the passes. Found by simulation.
    pub margin_beside_prompts: f64,
    /// A draft that is waited for is verified a pass earlier than it would be otherwise: so much of its worth is gained. Found by simulation.
    pub earlier: f64,
    /// Rows are told to be so many times as dear as they are: drafts that are not taken cost the server nothing. Found by simulation: 0.3
    /// to 0.7 are best from four devices on, with every table that was measured.
    pub told: f64,
    /// Where rows are priced, a drafter offers drafts up to one that is less likely to be right than this. Chosen: they cost next to no time.
    pub least_hope: f64,
    /// What was read for an owner is forgotten after about so many seconds. Chosen.
    pub reading_remembered: f64,
}

impl Default for PassTuning {
    fn default() -> Self {
        Self {
            prefill_delay: 0.25,
            prefill_alone: 1.0,
            min_prefill: 8,
            margin: 1.05,
            margin_beside_prompts: 1.3,
            earlier: 0.6,
            told: 0.7,
            least_hope: 0.05,
            reading_remembered: 30.0,
        }
    }
}

/// Who has the KV cache, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields, default))]
pub struct MemoryTuning {
    /// After so many verdicts a session in the middle of an answer gives way to one that waits for memory. Chosen.
    pub turn: u32,
    /// Where reading its text took long, a session's turn takes so many times as long. Derived: no more than a fifth of the time goes
    /// into reading what was there before.
    pub turn_per_reading: u32,
    /// A shorter common prefix is not worth a copy. Chosen.
    pub min_shared_prefix: usize,
}

impl Default for MemoryTuning {
    fn default() -> Self {
        Self { turn: 256, turn_per_reading: 4, min_shared_prefix: 16 }
    }
}
