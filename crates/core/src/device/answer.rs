//! What is asked in a turn, and what the answer has come to.

use std::time::Duration;

use super::{Acceptance, Emitted, Prompt, Stats};
use crate::message::{ContextUpdate, Turn};
use crate::sampler::SamplingParams;
use crate::sequence::Digest;
use crate::{Position, Token};

/// A turn: what is asked, and what it took so far.
#[derive(Debug)]
pub(super) struct Answer {
    turn: Turn,
    sampling: SamplingParams,
    logprobs: Option<u8>,
    request_id: Option<String>,
    /// The generation ends when this many tokens are settled.
    limit: usize,
    /// When the prompt came.
    prompted: Duration,
    is_finished: bool,
    /// What is counted here; the rest is with those who know it.
    stats: Stats,
    /// What verdicts made of the drafts in the tokens that were handed out.
    acceptance: Acceptance,
}

impl Default for Answer {
    /// None is asked for.
    fn default() -> Self {
        Self {
            turn: 0,
            sampling: SamplingParams::default(),
            logprobs: None,
            request_id: None,
            limit: 0,
            prompted: Duration::ZERO,
            is_finished: true,
            stats: Stats::default(),
            acceptance: Acceptance::default(),
        }
    }
}

impl Answer {
    /// The next turn begins. The prompt's tokens are the caller's.
    pub(super) fn begin(&mut self, now: Duration, prompt: Prompt, context: usize) {
        let Prompt { tokens, max_tokens, sampling, logprobs, request_id } = prompt;
        *self = Self {
            turn: self.turn + 1,
            sampling,
            logprobs,
            request_id,
            limit: tokens.len().saturating_add(max_tokens).min(context),
            prompted: now,
            is_finished: false,
            stats: Stats::default(),
            acceptance: Acceptance::default(),
        };
    }

    pub(super) fn turn(&self) -> Turn {
        self.turn
    }

    /// What any server still says about this turn is about another text.
    pub(super) fn renumber(&mut self) {
        self.turn += 1;
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    pub(super) fn wants_logprobs(&self) -> bool {
        self.logprobs.is_some()
    }

    pub(super) fn is_finished(&self) -> bool {
        self.is_finished
    }

    pub(super) fn finish(&mut self) {
        self.is_finished = true;
    }

    /// A token is settled.
    pub(super) fn on_token(&mut self, now: Duration) {
        self.stats.time_to_first_token.get_or_insert(now.saturating_sub(self.prompted));
    }

    /// A settled token is handed out.
    pub(super) fn on_emitted(&mut self, emitted: &Emitted) {
        self.acceptance.count(emitted.provenance, emitted.opens_verdict);
    }

    pub(super) fn on_provisional(&mut self) {
        self.stats.provisional_tokens += 1;
    }

    pub(super) fn on_disconnected(&mut self) {
        self.stats.disconnections += 1;
    }

    /// A verdict came on which the server spent `rows` rows.
    pub(super) fn on_verdict(&mut self, rows: u32) {
        self.stats.rounds += u64::from(rows > 0);
        self.stats.server_rows += u64::from(rows);
    }

    /// What is counted here.
    pub(super) fn stats(&self) -> Stats {
        let Acceptance { drafts, accepted, accepted_at, .. } = self.acceptance;
        Stats { drafts, accepted_tokens: accepted, accepted_at, ..self.stats }
    }

    /// The message that tells a server the text from `from` on.
    pub(super) fn context(
        &self,
        from: Position,
        built_on: Digest,
        tokens: &[Token],
        prompt_len: usize,
    ) -> ContextUpdate {
        ContextUpdate {
            turn: self.turn,
            from,
            built_on,
            tokens: tokens.to_vec(),
            prompt_len,
            limit: self.limit,
            sampling: self.sampling.clone(),
            logprobs: self.logprobs,
            request_id: self.request_id.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTEXT: usize = 20;

    fn begun(max_tokens: usize) -> Answer {
        let mut answer = Answer::default();
        let prompt = Prompt { tokens: vec![1, 2, 3], max_tokens, logprobs: Some(2), ..Prompt::default() };
        answer.begin(Duration::from_secs(5), prompt, CONTEXT);
        answer
    }

    #[test]
    fn an_answer_ends_where_it_was_asked_to_or_where_the_context_does() {
        assert!(Answer::default().is_finished(), "nothing is asked for yet");
        assert_eq!([4, 17, 18, usize::MAX].map(|most| begun(most).limit()), [7, 20, CONTEXT, CONTEXT]);
        let mut answer = begun(4);
        assert!(!answer.is_finished());
        answer.finish();
        assert!(answer.is_finished());
    }

    #[test]
    fn each_turn_has_a_number_of_its_own_and_counts_from_nothing() {
        let mut answer = begun(4);
        answer.on_token(Duration::from_secs(8));
        answer.on_token(Duration::from_secs(9));
        answer.on_verdict(3);
        answer.on_verdict(0);
        answer.on_disconnected();
        answer.on_provisional();
        let expected = Stats {
            rounds: 1,
            server_rows: 3,
            disconnections: 1,
            provisional_tokens: 1,
            time_to_first_token: Some(Duration::from_secs(3)),
            ..Stats::default()
        };
        assert_eq!((answer.turn(), answer.stats()), (1, expected), "a verdict that cost no row is one told again");
        answer.renumber();
        assert_eq!((answer.turn(), answer.stats()), (2, expected), "the text is another, the turn is not");
        answer.begin(Duration::ZERO, Prompt::default(), CONTEXT);
        assert_eq!((answer.turn(), answer.stats(), answer.wants_logprobs()), (3, Stats::default(), false));
    }

    #[test]
    fn a_server_is_told_what_was_asked_whatever_part_of_the_text_it_has() {
        let update = begun(4).context(2, Digest(7), &[3, 4], 3);
        let expected = ContextUpdate {
            turn: 1,
            from: 2,
            built_on: Digest(7),
            tokens: vec![3, 4],
            prompt_len: 3,
            limit: 7,
            sampling: SamplingParams::default(),
            logprobs: Some(2),
            request_id: None,
        };
        assert_eq!(update, expected);
    }
}
