//! What a server did.

use std::time::Duration;

use sled_core::message::Reply;
use sled_core::server::Step;

/// What a server did since it was made, over restarts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerTotals {
    /// Forward passes that were begun.
    pub steps: u64,
    /// Rows in them.
    pub rows: u64,
    /// The rows among them that read prompts, or pad.
    pub unchosen: u64,
    /// How many passes had rows of one session, of two, and so on.
    pub batch_sizes: Vec<u64>,
    /// Time in forward passes.
    pub forward: Duration,
    /// Verdicts that a device asked for.
    pub verdicts: u64,
    /// How long their blocks waited for the pass to begin, all together.
    pub queued: Duration,
}

impl ServerTotals {
    pub(super) fn launch(&mut self, step: &Step) {
        self.steps += 1;
        self.rows += step.rows.len() as u64;
        self.unchosen += step.rows.iter().filter(|row| !row.wants_logits).count() as u64;
        let sessions = step.sessions();
        self.batch_sizes.resize(self.batch_sizes.len().max(sessions), 0);
        if let Some(count) = sessions.checked_sub(1).and_then(|at| self.batch_sizes.get_mut(at)) {
            *count += 1;
        }
    }

    pub(super) fn reply(&mut self, reply: &Reply) {
        if let Reply::Commit(commit) = reply
            && !commit.unasked
            && commit.rows > 0
        {
            self.verdicts += 1;
            self.queued += commit.load.queue;
        }
    }

    /// What was done since `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let earlier = before.batch_sizes.iter().copied().chain(std::iter::repeat(0));
        Self {
            steps: self.steps - before.steps,
            rows: self.rows - before.rows,
            unchosen: self.unchosen - before.unchosen,
            batch_sizes: self.batch_sizes.iter().zip(earlier).map(|(after, before)| after - before).collect(),
            forward: self.forward.saturating_sub(before.forward),
            verdicts: self.verdicts - before.verdicts,
            queued: self.queued.saturating_sub(before.queued),
        }
    }
}
