//! What tokens are worth, and what rows cost, in the same coin.

use std::time::Duration;

use super::Demand;
use super::costs::Costs;
use super::rate::Goal;
use super::session::Session;

/// Rows are a little dearer than they seem: of the drafts that are worth hardly more than their price, many are overrated.
const MARGIN: f64 = 1.05;

/// The same while prompts wait: a draft takes the time in which they would be read, and whoever has not been read to yet is missing
/// in the passes. Found by simulation.
const MARGIN_BESIDE_PROMPTS: f64 = 1.3;

/// What holds for all sessions at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Prices {
    goal: Goal,
    /// What a row costs, in tokens of sessions that have their goal.
    row: f64,
}

impl Prices {
    /// Those of sessions that each are to have `goal`, while there is this `demand`.
    pub(super) fn new(costs: &Costs, goal: Goal, demand: Demand) -> Self {
        let Demand { reading, waiting, drafting } = demand;
        let margin = if reading > 0 && waiting + drafting > 0 { MARGIN_BESIDE_PROMPTS } else { MARGIN };
        Self { goal, row: margin * costs.rate() * costs.row() }
    }

    /// What each session is to get, if possible.
    pub(super) fn goal(&self) -> Goal {
        self.goal
    }

    /// What a token of this session is worth beside one of a session that has its goal.
    pub(super) fn worth(&self, now: Duration, session: &Session) -> f64 {
        session.record.pace().worth(self.goal, session.is_generating().then_some(now))
    }

    /// What one more row of this session costs, in tokens of it.
    pub(super) fn price(&self, now: Duration, session: &Session) -> f64 {
        (self.row / self.worth(now, session)).min(1.0)
    }

    /// How many of the first `most` drafts of this session are likely enough to be worth their rows.
    pub(super) fn worthwhile(&self, now: Duration, session: &Session, most: usize) -> usize {
        let price = self.price(now, session);
        (1..=most).take_while(|&len| session.record.forecast().survival(len) >= price).count()
    }
}
