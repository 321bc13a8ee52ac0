//! What is measured by verdicts.

use std::time::Duration;

use super::blocks::Block;
use crate::message::{Commit, Load};
use crate::policy::DraftPolicy;

/// When verdicts came, and how busy the server was.
#[derive(Debug, Default)]
pub(super) struct Meter {
    /// When the last commit of this turn came, if the link held since.
    last_commit: Option<Duration>,
    /// How long the last verdict took, until it is told.
    round_trip: Option<Duration>,
    /// How busy the server last said it is.
    load: Option<Load>,
}

impl Meter {
    /// The time until the next commit tells nothing.
    pub(super) fn pause(&mut self) {
        self.last_commit = None;
    }

    pub(super) fn take_round_trip(&mut self) -> Option<Duration> {
        self.round_trip.take()
    }

    pub(super) fn load(&self) -> Option<Load> {
        self.load
    }

    /// A commit brought `tokens` tokens while `block` was the oldest without a verdict. How long the server took to answer, if this
    /// is an answer to a question that was asked once.
    pub(super) fn on_commit(
        &mut self,
        now: Duration,
        commit: &Commit,
        tokens: usize,
        block: Option<&Block>,
        mut policy: Option<&mut (dyn DraftPolicy + 'static)>,
    ) -> Option<Duration> {
        if commit.rows > 0 {
            self.load = Some(commit.load);
            if let Some(policy) = &mut policy {
                policy.on_load(commit.load, commit.rows);
            }
        }
        let last = self.last_commit.replace(now)?;
        if let Some(policy) = &mut policy {
            policy.on_commit(tokens, now.saturating_sub(last), block.is_some_and(Block::is_lease));
        }
        // What the server decodes by itself answers no block but one that told it to.
        let block =
            block.filter(|block| (block.is_lease() || !commit.unasked) && !block.is_repeated() && commit.rows > 0)?;
        if block.is_lease() {
            self.round_trip = None;
            return Some(now.saturating_sub(block.sent().max(last)));
        }
        let time = now.saturating_sub(block.sent());
        self.round_trip = Some(time);
        if block.was_alone()
            && let Some(policy) = policy
        {
            policy.on_round_trip(time.saturating_sub(commit.load.queue + commit.load.step));
        }
        Some(time)
    }
}
