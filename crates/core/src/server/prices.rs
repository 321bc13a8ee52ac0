//! What tokens are worth, and what rows cost, in the same coin.

use std::time::Duration;

use super::choice;
use super::costs::Costs;
use super::rate::Goal;
use super::session::Session;
use super::{Demand, ServerConfig};
use crate::message::MAX_BLOCK;

/// What holds for all sessions at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Prices {
    goal: Goal,
    /// What a second is worth, in tokens of sessions that have their goal.
    second: f64,
    /// What a row costs, in the same.
    row: f64,
}

impl Prices {
    /// The same for sessions that each are to have `goal`, while there is this `demand`; what a row costs stays as it was.
    pub(super) fn at(self, goal: Goal, demand: Demand, config: &ServerConfig, costs: &Costs) -> Self {
        let Demand { reading, waiting, drafting } = demand;
        let is_beside_prompts = reading > 0 && waiting + drafting > 0;
        let tuning = &config.tuning.passes;
        let margin = if is_beside_prompts { tuning.margin_beside_prompts } else { tuning.margin };
        Self { goal, second: margin * costs.rate(), ..self }
    }

    /// Prices rows at what they cost if all of `sessions` have one and whoever drafts offers as many drafts as may be right.
    pub(super) fn with_rows<'a>(
        self,
        now: Duration,
        config: &ServerConfig,
        costs: &Costs,
        sessions: impl Iterator<Item = &'a Session>,
    ) -> Self {
        let tuning = &config.tuning.passes;
        let (mut values, mut base) = (Vec::new(), 0);
        for session in sessions {
            base += 1;
            let Some(hope) = session.record.forecast().hope() else { continue };
            let worth = self.worth(now, session);
            let survivals = std::iter::successors(Some(hope), |survival| Some(survival * hope)).take(MAX_BLOCK);
            values.extend(
                survivals.take_while(|&survival| survival > tuning.least_hope).map(|survival| worth * survival),
            );
        }
        let room = config.rows.saturating_sub(base);
        if values.len() > room && room > 0 {
            values.select_nth_unstable_by(room - 1, |a: &f64, b| b.total_cmp(a));
        }
        values.truncate(room);
        values.sort_unstable_by(|a, b| b.total_cmp(a));
        let taken = costs.usual_rows().saturating_sub(base);
        Self { row: tuning.told * choice::price(&values, taken, base, self.second, costs), ..self }
    }

    /// What each session is to get, if possible.
    pub(super) fn goal(&self) -> Goal {
        self.goal
    }

    /// What a second is worth, in tokens of sessions that have their goal.
    pub(super) fn second(&self) -> f64 {
        self.second
    }

    /// The time that costs as much as a row, in seconds.
    pub(super) fn row_time(&self) -> f64 {
        if self.second > 0.0 { self.row / self.second } else { 0.0 }
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
