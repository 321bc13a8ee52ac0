//! The `goodput` policy: a token is drafted and sent while what it is worth exceeds what it costs.
//!
//! A device that commits `rate` tokens a second gives up `rate * t` tokens in `t` seconds. One more draft in a block brings
//! `survival` tokens, the probability that it and all before it are accepted. So it is worth its cost `t` while
//! `survival > rate * t`; the block that this rule ends has the best rate that any length can have (Dinkelbach, *On nonlinear
//! fractional programming*, 1967: the ratio is maximal where the parametrised difference is zero). The cost of a draft that
//! is there already is the row that verifies it: what a row adds to a step, once for each session that waits for the step.
//! A draft that is still to be made also takes the time to make it.

use std::time::Duration;

use super::{DraftPolicy, NextBlock, Travel};
use crate::message::{Load, MAX_UNHEARD};
use crate::tuning::Tuning;

/// The most tokens that the server decodes by itself before it is told to go on.
const LONGEST_LEASE: usize = MAX_UNHEARD;

/// What a device has measured of the costs, and how long its blocks may be.
#[derive(Clone, Debug)]
pub(super) struct Goodput {
    tuning: Tuning,
    rate: DecayedRate,
    /// While blocks are sent, and while the server decodes by itself.
    drafting: DraftingRate,
    plain: DecayedRate,
    /// Verdicts until the trial of drafting is over.
    trial: u32,
    tried: DraftingRate,
    /// Plain tokens until the next trial, and from the next on.
    pause: usize,
    next_pause: usize,
    draft: Mean,
    step: Mean,
    /// What the step would have taken without this device's drafts: on average, and the last one, in seconds.
    plain_step: Mean,
    last_plain_step: f64,
    row: Mean,
    sharing: Mean,
    /// What the server says that a row costs, in tokens.
    price: Mean,
    /// The round trip without the server's part in it.
    way: Mean,
    longest: usize,
}

impl Goodput {
    pub(super) fn new(tuning: &Tuning) -> Self {
        let unknown = Mean::new(tuning.time_gain);
        let rate = DecayedRate::new(tuning.rate_kept);
        let drafting = DraftingRate { by_time: rate, by_steps: rate };
        Self {
            rate,
            drafting,
            plain: rate,
            trial: tuning.trial,
            tried: drafting,
            pause: 0,
            next_pause: tuning.first_pause,
            draft: unknown,
            step: unknown,
            plain_step: unknown,
            last_plain_step: 0.0,
            row: unknown,
            sharing: unknown,
            price: unknown,
            way: unknown,
            longest: tuning.first_longest,
            tuning: *tuning,
        }
    }

    /// Counts a verdict on drafts; where it is the last of a trial, decides when to try again.
    fn on_verdict(&mut self, tokens: usize, time: f64) {
        self.drafting.add(tokens, time, self.last_plain_step);
        if self.trial == 0 {
            return;
        }
        self.trial -= 1;
        self.tried.add(tokens, time, self.last_plain_step);
        if self.trial + 2 < self.tuning.trial && self.over_plain(self.tried) < 0.5 {
            self.drafting = self.tried;
            self.trial = 0;
        }
        if self.trial == 0 {
            let longer = if self.is_drafting_faster() { self.tuning.first_pause } else { self.next_pause * 2 };
            self.next_pause = longer.min(self.tuning.longest_pause);
            self.pause = self.next_pause;
        }
    }

    /// Whether to draft, or to let the server decode by itself. Drafting is tried now and then: while the server decodes, its
    /// worth is not to be seen.
    fn drafts(&self) -> bool {
        // Steps alone do not tell: where device and server are one machine, drafting slows them down.
        if self.trial == 0 && !self.plain.is_known() && !self.is_shared() {
            return false;
        }
        self.trial > 0 || self.pause == 0 || self.is_drafting_faster()
    }

    /// Whether a draft that was made already is worth its row.
    fn pays(&self, survival: f64) -> bool {
        survival > self.price()
    }

    /// Whether a draft that is not made yet is worth waiting for, with a block at hand that could go out. `acceptance` is that
    /// of a draft for itself.
    fn worth_waiting(&self, survival: f64, acceptance: f64, travel: Travel) -> bool {
        let (draft, step, shared) = (self.draft.or(0.0), self.step.or(0.0), self.is_shared());
        if travel == Travel::Alone {
            return survival > self.rate.get() * draft + self.price();
        }
        // The server is busy with the block before; it takes together what arrives meanwhile.
        if !self.pays(survival) || (travel == Travel::Behind && !shared) {
            return false;
        }
        // The next draft could follow in a block of its own. To have it in this one saves the rest of a step if the first wrong
        // draft is the one after it, or its share of one if many follow; and where others share the step, a row. If the first
        // wrong draft is in the block already, all that is gained is delay.
        let drafts_a_step = (step / draft.max(1e-6)).max(1.0);
        let saved = ((1.0 - acceptance) + acceptance / drafts_a_step) * (step - draft).max(0.0);
        let row = if shared { self.row.or(0.0) * self.sharing.or(1.0) } else { 0.0 };
        survival * (saved + row) > (1.0 - survival) * (draft + self.row.or(0.0))
    }

    /// Whether to draft the first token of a block with nothing under way.
    fn pays_to_draft(&self, acceptance: f64) -> bool {
        acceptance > self.rate.get() * self.draft.or(0.0) + self.price()
    }

    fn is_drafting_faster(&self) -> bool {
        self.over_plain(self.drafting) >= self.tuning.margin
    }

    /// How many times as fast as plain decoding a rate is. What others do changes the steps of a shared server from one second to
    /// the next: there the two are compared step by step, and not with what was measured at another time.
    fn over_plain(&self, rate: DraftingRate) -> f64 {
        if self.is_shared() { rate.by_steps.get() } else { rate.by_time.get() / self.plain_rate() }
    }

    /// The rate of plain decoding: as measured, or what the steps would allow now, if that is more.
    fn plain_rate(&self) -> f64 {
        (1.0 / self.plain_step.or(f64::MAX)).max(if self.plain.is_known() { self.plain.get() } else { 0.0 })
    }

    fn is_shared(&self) -> bool {
        self.sharing.or(1.0) > self.tuning.shared
    }

    /// What a row costs, in tokens: as the server says, which also counts prompts that wait, but at least what this device's
    /// share of the step is worth to all sessions that wait for it.
    fn price(&self) -> f64 {
        (self.rate.get() * self.row.or(0.0) * self.sharing.or(1.0)).max(self.price.or(0.0))
    }
}

impl DraftPolicy for Goodput {
    fn takes(&self, block: &NextBlock, acceptance: f64) -> bool {
        let survival = block.survival * acceptance;
        if block.begins_behind() {
            // It costs a row only if all before it is right, and then it brings a token for certain.
            return survival >= self.tuning.hopeless;
        }
        block.len < self.longest && self.pays(survival / block.validity)
    }

    fn waits_for(&self, block: &NextBlock, acceptance: f64) -> bool {
        if block.len == 0 {
            return block.begins_behind() || self.pays_to_draft(acceptance);
        }
        let survival = block.survival / block.validity * acceptance;
        block.len < self.longest && self.worth_waiting(survival, acceptance, block.travel)
    }

    /// At least twice as many as the server decodes while a message is on the way, since the device renews it when half of them
    /// are there.
    fn lease(&self) -> Option<usize> {
        let on_the_way = self.way.or(0.0) / self.plain_step.or(f64::MAX);
        let lease = self.tuning.shortest_lease.saturating_add((2.0 * on_the_way) as usize).min(LONGEST_LEASE);
        (!self.drafts()).then_some(lease)
    }

    fn on_block(&mut self, len: usize) {
        if self.trial == 0 && self.pause == 0 && !self.is_drafting_faster() {
            self.trial = self.tuning.trial;
            let rate = DecayedRate::new(self.tuning.rate_kept);
            self.tried = DraftingRate { by_time: rate, by_steps: rate };
        }
        let change = self.tuning.max_change;
        self.longest = (len + change).max(self.longest.saturating_sub(change));
    }

    fn on_draft(&mut self, time: Duration) {
        self.draft.add(time.as_secs_f64());
    }

    fn on_load(&mut self, load: Load, rows: u32) {
        self.step.add(load.step.as_secs_f64());
        self.row.add(load.row.as_secs_f64());
        self.sharing.add(f64::from(load.sharing.max(1)));
        self.price.add(f64::from(load.price.min(1000)) / 1e3);
        self.last_plain_step = load.step.saturating_sub(load.row * rows.saturating_sub(1)).as_secs_f64();
        self.plain_step.add(self.last_plain_step);
    }

    fn on_commit(&mut self, tokens: usize, time: Duration, plainly: bool) {
        let time = time.as_secs_f64();
        self.rate.add(tokens, time);
        if plainly {
            self.plain.add(tokens, time);
            self.pause = self.pause.saturating_sub(tokens);
        } else {
            self.on_verdict(tokens, time);
        }
    }

    fn on_round_trip(&mut self, time: Duration) {
        self.way.add(time.as_secs_f64());
    }
}

/// Committed tokens a second, and in the time that a step of plain decoding would have taken just then.
#[derive(Clone, Copy, Debug)]
struct DraftingRate {
    by_time: DecayedRate,
    by_steps: DecayedRate,
}

impl DraftingRate {
    /// `tokens` in `time` seconds, while a plain step took `step` seconds.
    fn add(&mut self, tokens: usize, time: f64, step: f64) {
        self.by_time.add(tokens, time);
        if step > 0.0 {
            self.by_steps.add(tokens, time / step);
        }
    }
}

/// Committed tokens in a unit of time, of late.
#[derive(Clone, Copy, Debug)]
struct DecayedRate {
    /// How much of the past is kept for each committed token.
    kept: f64,
    tokens: f64,
    time: f64,
}

impl DecayedRate {
    fn new(kept: f64) -> Self {
        Self { kept, tokens: 0.0, time: 0.0 }
    }

    fn add(&mut self, tokens: usize, time: f64) {
        let kept = self.kept.powi(i32::try_from(tokens).unwrap_or(i32::MAX));
        self.tokens = kept * self.tokens + tokens as f64;
        self.time = kept * self.time + time;
    }

    fn get(&self) -> f64 {
        if self.time > 0.0 { self.tokens / self.time } else { 0.0 }
    }

    fn is_known(&self) -> bool {
        self.tokens > 8.0
    }
}

/// A running mean.
#[derive(Clone, Copy, Debug)]
struct Mean {
    gain: f64,
    mean: Option<f64>,
}

impl Mean {
    fn new(gain: f64) -> Self {
        Self { gain, mean: None }
    }

    fn add(&mut self, x: f64) {
        self.mean = Some(self.mean.map_or(x, |mean| mean + self.gain * (x - mean)));
    }

    fn or(self, unknown: f64) -> f64 {
        self.mean.unwrap_or(unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    const TUNING: Tuning = Tuning::DEFAULT;

    /// What a device knows that drafts in 20 ms, and has had a token each `token` for a while.
    fn measured(token: Duration, step: Duration, row: Duration, sharing: u32) -> Goodput {
        let mut goodput = Goodput::new(&TUNING);
        goodput.on_draft(20 * MS);
        for _ in 0..40 {
            goodput.on_load(Load { queue: Duration::ZERO, step, row, sharing, price: 0 }, 1);
            goodput.on_commit(2, 2 * token, false);
        }
        goodput
    }

    /// The least survival that a draft is waited for with.
    fn threshold(goodput: &Goodput) -> f64 {
        (0..=100).map(|p| f64::from(p) / 100.0).find(|&p| goodput.worth_waiting(p, 0.8, Travel::Alone)).unwrap_or(1.0)
    }

    #[test]
    fn the_slower_the_link_the_longer_the_blocks() {
        let thresholds = [40, 60, 100, 200].map(|token| threshold(&measured(token * MS, 30 * MS, MS, 1)));
        assert!(thresholds.is_sorted_by(|a, b| a > b), "{thresholds:?}");
        assert!(thresholds[0] > 0.5 && thresholds[3] < 0.12, "{thresholds:?}");
    }

    #[test]
    fn the_more_sessions_share_a_step_the_less_is_sent() {
        // A saturated server: a step is nothing but rows, and every session gets a token a step.
        let pays = |sharing: u32| {
            let step = 17 * MS * sharing;
            let goodput = measured(step, step, 17 * MS, sharing);
            (goodput.pays(0.9), goodput.pays_to_draft(0.9))
        };
        assert_eq!(pays(64), (false, false), "a row brings less than a token and costs one");
        let idle = measured(80 * MS, 30 * MS, MS / 5, 1);
        assert!(idle.pays(0.1) && idle.pays_to_draft(0.9));
    }

    #[test]
    fn a_device_obeys_the_price_that_verdicts_tell() {
        let mut goodput = measured(80 * MS, 30 * MS, MS / 5, 1);
        assert!(goodput.pays(0.5) && goodput.pays_to_draft(0.9));
        let load = Load { queue: Duration::ZERO, step: 30 * MS, row: MS / 5, sharing: 1, price: 800 };
        (0..40).for_each(|_| goodput.on_load(load, 1));
        assert!(goodput.pays(0.9) && !goodput.pays(0.7) && !goodput.pays_to_draft(0.9));
    }

    #[test]
    fn on_a_shared_server_drafting_is_compared_with_the_steps_of_its_own_time() {
        // Steps took 100 ms while the server decoded, and take 300 since: drafting brings three tokens in one and a half.
        let is_faster = |sharing| {
            let load = |step| Load { queue: Duration::ZERO, step, row: MS, sharing, price: 0 };
            let mut goodput = Goodput::new(&TUNING);
            for _ in 0..40 {
                goodput.on_load(load(100 * MS), 1);
                goodput.on_commit(1, 100 * MS, true);
            }
            for _ in 0..40 {
                goodput.on_load(load(300 * MS), 1);
                goodput.on_commit(3, 450 * MS, false);
            }
            goodput.is_drafting_faster()
        };
        assert!(is_faster(4), "twice as fast as a token a step");
        assert!(!is_faster(1), "slower than plain decoding was");
    }

    #[test]
    fn a_lease_keeps_its_bounds_whatever_a_server_tells_of_its_steps() {
        for (step, lease) in [(Duration::ZERO, LONGEST_LEASE), (3600 * 1000 * MS, TUNING.shortest_lease)] {
            let mut goodput = Goodput::new(&TUNING);
            goodput
                .on_load(Load { queue: step, step, row: Duration::ZERO, sharing: u32::MAX, price: u32::MAX }, u32::MAX);
            goodput.on_round_trip(100 * MS);
            (goodput.trial, goodput.pause) = (0, 1);
            assert_eq!(goodput.lease(), Some(lease), "{step:?}");
        }
    }

    #[test]
    fn lengths_change_by_two_at_most() {
        let mut goodput = Goodput::new(&TUNING);
        let mut last = goodput.longest;
        for len in [4, 6, 8, 0, 0, 0, 12, 3] {
            goodput.on_block(len.min(last));
            assert!(goodput.longest.abs_diff(last) <= TUNING.max_change, "{len}: {last} to {}", goodput.longest);
            last = goodput.longest;
        }
    }

    #[test]
    fn drafting_that_does_not_pay_is_given_up_and_tried_again() {
        let mut goodput = Goodput::new(&TUNING);
        let load = Load { queue: Duration::ZERO, step: 10 * MS, row: MS, sharing: 1, price: 0 };
        let mut tries = 0;
        let mut plain = 0;
        for _ in 0..400 {
            goodput.on_load(load, 1);
            if goodput.drafts() {
                goodput.on_block(4);
                goodput.on_commit(2, 100 * MS, false);
                tries += 1;
            } else {
                goodput.on_commit(1, 10 * MS, true);
                plain += 1;
            }
        }
        assert!(plain > 350 && tries >= 4, "{plain} plain, {tries} tries");
    }
}
