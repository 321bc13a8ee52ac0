//! What a session has had: for its pace, for the forecast of its drafts, and for people.

use std::time::Duration;

use crate::server::forecast::Forecast;
use crate::server::rate::{Goal, Pace};
use crate::server::tuning::ForecastTuning;
use crate::server::{Answer, SessionId};

/// What a session has had so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Tokens committed.
    pub committed: u64,
    /// Drafts verified, and how many of them were accepted.
    pub drafted: u64,
    /// Accepted drafts.
    pub accepted: u64,
}

/// What is kept of a request that has a name, for the log.
#[derive(Clone, Debug)]
struct Named {
    id: String,
    prompt: usize,
    /// What the session had had before, and since when it has had this.
    before: Tally,
    since: Duration,
}

/// What a verdict brought a session.
#[derive(Clone, Copy, Debug)]
pub(in crate::server) struct Brings {
    /// Tokens committed.
    pub(in crate::server) committed: usize,
    /// Drafts verified, and how many of them were accepted.
    pub(in crate::server) drafted: usize,
    pub(in crate::server) accepted: usize,
    /// Whether the first draft that was cut off is the token that the target chose there, if there was one.
    pub(in crate::server) next_is_right: Option<bool>,
}

/// The history of a session.
#[derive(Debug)]
pub(in crate::server) struct Record {
    pace: Pace,
    forecast: Forecast,
    tally: Tally,
    /// The request that the turn answers, if it has a name and its answer is not complete.
    named: Option<Named>,
}

impl Record {
    pub(super) fn new(now: Duration, tuning: ForecastTuning) -> Self {
        Self { pace: Pace::new(now), forecast: Forecast::new(tuning), tally: Tally::default(), named: None }
    }

    /// A new turn, of a prompt of so many tokens.
    pub(super) fn begin_turn(&mut self, now: Duration, request: Option<String>, prompt: usize) {
        let before = self.tally;
        self.named = request.map(|id| Named { id, prompt, before, since: now });
        self.pace.rest(now);
        self.forecast.forget();
    }

    pub(in crate::server) fn pace(&self) -> &Pace {
        &self.pace
    }

    pub(in crate::server) fn forecast(&self) -> &Forecast {
        &self.forecast
    }

    pub(in crate::server) fn forecast_mut(&mut self) -> &mut Forecast {
        &mut self.forecast
    }

    pub(in crate::server) fn tally(&self) -> Tally {
        self.tally
    }

    /// Learns from a verdict.
    pub(in crate::server) fn on_verdict(&mut self, goal: Goal, now: Duration, brings: Brings) {
        let Brings { committed, drafted, accepted, next_is_right } = brings;
        self.pace.observe(goal, now, committed);
        self.tally.committed += committed as u64;
        self.tally.drafted += drafted as u64;
        self.tally.accepted += accepted as u64;
        let looked_at = drafted + usize::from(next_is_right.is_some());
        self.forecast.on_verdict(looked_at, accepted + usize::from(next_is_right == Some(true)));
    }

    /// What the request that was answered last took, if it has a name and was not told of before.
    pub(in crate::server) fn take_answer(&mut self, id: SessionId, now: Duration) -> Option<Answer> {
        let Named { id: request, prompt, before, since } = self.named.take()?;
        let tally = Tally {
            committed: self.tally.committed - before.committed,
            drafted: self.tally.drafted - before.drafted,
            accepted: self.tally.accepted - before.accepted,
        };
        Some(Answer { session: id, request, prompt, tally, took: now.saturating_sub(since) })
    }
}
