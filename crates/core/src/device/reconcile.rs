//! What a reply means for the drafts at hand.

use super::blocks::Block;
use super::{Device, Emitted, FinishReason, Provenance};
use crate::message::Commit;
use crate::sampler::Logprobs;
use crate::{Position, Token};

/// How often a server may ask for what it should have, or answer what does not fit, without committing anything between.
const MAX_STRIKES: u32 = 32;

/// How many replies a server may send without a token in any of them: hours of [`Reply::Pending`](crate::message::Reply::Pending),
/// if it sends no more of them than it is asked for.
const MAX_BARREN: u32 = 1 << 16;

impl Device {
    pub(super) fn on_commit(&mut self, commit: &Commit) {
        if commit.end() <= self.settled {
            return;
        }
        if commit.from > self.settled {
            // A commit before this one is late or lost: ask, once, for what was committed since.
            if !std::mem::replace(&mut self.asked_again, true) {
                self.repeat();
            }
            return;
        }
        let Some(tokens) = self.understand(commit) else {
            if self.strike() {
                self.repeat();
            }
            return;
        };
        self.strikes = 0;
        self.barren = 0;
        self.asked_again = false;
        self.stats.rounds += u64::from(commit.rows > 0);
        self.stats.server_rows += u64::from(commit.rows);
        self.measure(commit, tokens.len());
        self.server_lives();
        self.settle(commit, tokens);
        if self.finished {
            return;
        }
        while self.blocks.front().is_some_and(|block| block.is_answered(self.settled)) {
            self.blocks.pop_front();
        }
        if self.is_full() {
            self.leave_full_server();
            return;
        }
        self.advance();
    }

    /// The tokens that `commit` adds, or `None` if it does not follow from what this device has and sent.
    fn understand(&self, commit: &Commit) -> Option<Vec<Token>> {
        let accepted_end = commit.from.checked_add(commit.accepted)?;
        if accepted_end > self.sequence.len() {
            return None;
        }
        let mut tokens = self.sequence.tokens().get(self.settled..accepted_end).unwrap_or_default().to_vec();
        tokens.extend(commit.tokens.get(self.settled.saturating_sub(accepted_end)..)?);
        let digest = self.sequence.digest(self.settled)?.then_all(&tokens);
        (digest == commit.digest && self.settled + tokens.len() <= self.config.context).then_some(tokens)
    }

    /// Learns from a commit what things cost.
    fn measure(&mut self, commit: &Commit, tokens: usize) {
        let now = self.clock.now();
        if commit.rows > 0 {
            self.load = Some(commit.load);
            self.goodput.on_load(commit.load, commit.rows);
        }
        if let Some(last) = self.last_commit.replace(now) {
            let plainly = self.blocks.front().is_some_and(|block| block.is_lease);
            self.goodput.on_commit(tokens, now.saturating_sub(last), plainly);
            // What the server decodes by itself answers no block but one that told it to.
            let answered = |block: &&Block| (block.is_lease || !commit.unasked) && !block.again && commit.rows > 0;
            if let Some(block) = self.blocks.front().filter(answered) {
                let asked = if block.is_lease { block.sent.max(last) } else { block.sent };
                let time = now.saturating_sub(asked);
                self.link.timeout.sample(time);
                self.round_trip = Some(time).filter(|_| !block.is_lease);
                if !block.is_lease && block.alone {
                    self.goodput.on_round_trip(time.saturating_sub(commit.load.queue + commit.load.step));
                }
            }
        }
    }

    /// Commits `tokens` one by one, up to one that ends the generation.
    fn settle(&mut self, commit: &Commit, tokens: Vec<Token>) {
        let mut opens_verdict = true;
        for token in tokens {
            let logprobs = self.logprobs.and_then(|_| commit.logprobs_at(self.settled)).cloned();
            self.commit(token, std::mem::take(&mut opens_verdict), logprobs);
            if self.finished {
                break;
            }
        }
    }

    /// Whether a server was sent a draft for `position`.
    fn is_sent(&self, position: Position) -> bool {
        self.blocks.iter().any(|block| (block.start..block.end).contains(&position))
    }

    fn commit(&mut self, token: Token, opens_verdict: bool, logprobs: Option<Logprobs>) {
        let position = self.settled;
        let sent = self.is_sent(position);
        let agrees = self.sequence.tokens().get(position) == Some(&token);
        if let Some(draft) = self.drafted.pop_front() {
            self.calibration.observe(draft.confidence, agrees);
            self.stats.ahead_kept += u64::from(draft.ahead && agrees);
            self.stats.ahead_discarded += u64::from(draft.ahead && !agrees);
        }
        if !agrees {
            self.sequence.truncate(position);
            self.sequence.push(token);
            self.discard_drafts();
            self.exhausted = false;
            // What was drafted on a wrong token is void; its block is answered by this token.
            self.blocks.retain(|block| block.start <= position || block.is_lease);
            for block in &mut self.blocks {
                block.end = block.end.min(position + 1);
            }
        }
        let provenance = match (sent, agrees) {
            (true, true) => Provenance::Accepted,
            (true, false) => Provenance::Corrected,
            (false, _) => Provenance::Bonus,
        };
        self.emit(Emitted { position, token, provenance, opens_verdict, logprobs });
    }

    /// Counts a reply that brought nothing; false, and the session has failed, if there were too many in a row.
    pub(super) fn strike(&mut self) -> bool {
        self.strikes += 1;
        self.tolerate(self.strikes <= MAX_STRIKES)
    }

    /// Counts a reply of any kind, before it is looked at; false, and the session has failed, if too many in a row brought no token.
    pub(super) fn bear(&mut self) -> bool {
        self.barren += 1;
        self.tolerate(self.barren <= MAX_BARREN)
    }

    fn tolerate(&mut self, tolerable: bool) -> bool {
        if !tolerable {
            self.finish(FinishReason::Failed(
                "the server's answers do not fit this session; check that device and server run the same version"
                    .to_owned(),
            ));
        }
        tolerable
    }
}
