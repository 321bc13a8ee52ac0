//! What a commit means for the drafts at hand.

use super::Drafts;
use crate::message::Commit;
use crate::{Position, Token};

impl Drafts {
    /// The tokens that `commit` adds to a text of at most `context` tokens, or `None` if it does not follow from what this device
    /// has and sent.
    pub(in crate::device) fn reconstruct(&self, commit: &Commit, context: usize) -> Option<Vec<Token>> {
        let accepted_end = commit.from.checked_add(commit.accepted)?;
        if accepted_end > self.sequence.len() {
            return None;
        }
        let mut tokens = self.sequence.tokens().get(self.settled..accepted_end).unwrap_or_default().to_vec();
        tokens.extend(commit.tokens.get(self.settled.saturating_sub(accepted_end)..)?);
        let digest = self.sequence.digest(self.settled)?.then_all(&tokens);
        (digest == commit.digest && self.settled + tokens.len() <= context).then_some(tokens)
    }

    /// The target chose `token` after the settled tokens. Whether that was drafted: if not, all drafts are void.
    pub(in crate::device) fn commit(&mut self, token: Token) -> bool {
        let position = self.settled;
        let agrees = self.sequence.tokens().get(position) == Some(&token);
        if let Some(draft) = self.drafted.pop_front() {
            self.calibration.observe(draft.confidence, agrees);
            self.ahead.kept += u64::from(draft.ahead && agrees);
            self.ahead.discarded += u64::from(draft.ahead && !agrees);
        }
        if !agrees {
            self.sequence.truncate(position);
            self.sequence.push(token);
            self.discard();
        }
        self.settled += 1;
        agrees
    }

    /// Settles the first draft as it is; `None` if there is none.
    pub(in crate::device) fn release(&mut self) -> Option<(Position, Token)> {
        let position = self.settled;
        let token = *self.sequence.tokens().get(position)?;
        self.ahead.kept += u64::from(self.drafted.pop_front().is_some_and(|draft| draft.ahead));
        self.settled += 1;
        Some((position, token))
    }
}
