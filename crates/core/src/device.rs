//! The device's side of a session: when to draft, when to send, and what a commit means for the drafts at hand.
//!
//! [`Device`] is a state machine. The shell feeds it what happens (a token was drafted, a reply arrived) with the time since
//! any fixed moment, and carries out the [`Action`]s that [`Device::poll`] hands out. The drafts stand behind the committed
//! tokens in one sequence; every commit is reconciled with them by position: what agrees stays, at the first disagreement
//! the rest is dropped. It makes no difference whether a commit answers a whole block, a part of it, comes twice, or unasked.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crate::message::{Commit, ContextUpdate, DraftBlock, Reply, Request, Turn};
use crate::policy::Policy;
use crate::sampler::{Context, Draft, SamplingParams};
use crate::sequence::{Digest, Sequence, common_prefix};
use crate::{Position, Token};

/// How often a server may ask for what it should have, or answer what does not fit, without committing anything between.
const MAX_STRIKES: u32 = 32;

/// What a device is, for as long as a session lasts.
#[derive(Clone, Debug)]
pub struct DeviceConfig {
    /// How drafts are made; `None` leaves the decoding to the server.
    pub policy: Option<Policy>,
    /// The longest that the session may get, in tokens.
    pub context: usize,
    /// The longest block that the server takes.
    pub max_draft: usize,
    /// The tokens that end a generation.
    pub end_of_generation: Arc<[Token]>,
}

/// What to continue, and how.
#[derive(Clone, Debug)]
pub struct Prompt {
    /// The whole text so far, in tokens; earlier turns included.
    pub tokens: Vec<Token>,
    /// The most tokens to generate.
    pub max_tokens: usize,
    /// How tokens are chosen.
    pub sampling: SamplingParams,
}

/// Names the state that a draft was asked for in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    turn: Turn,
    digest: Digest,
}

/// Something for the shell to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Send this to the server.
    Send(Request),
    /// Draft the token after [`Device::context`] and hand it to [`Device::on_draft`].
    Draft(Ticket),
    /// A token was committed; show it.
    Commit(Committed),
    /// The generation is over.
    Finish(FinishReason),
}

/// A committed token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Where it stands.
    pub position: Position,
    /// The token.
    pub token: Token,
    /// Who proposed it.
    pub provenance: Provenance,
}

/// How a committed token came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provenance {
    /// The device drafted it, and the target chose the same.
    Accepted,
    /// The target chose it instead of the device's draft.
    Corrected,
    /// The target chose it where the device had sent no draft.
    Bonus,
}

/// Why a generation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// A token that ends a generation, or a stop string.
    Stop,
    /// The limit on tokens, or the end of the context.
    Length,
    /// The session cannot go on; one sentence for the user.
    Failed(String),
}

/// What a generation took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Verdicts received.
    pub rounds: u64,
    /// Draft tokens sent.
    pub draft_tokens: u64,
    /// Draft tokens that became committed tokens.
    pub accepted_tokens: u64,
    /// Rows that the server spent on verdicts.
    pub server_rows: u64,
    /// From the prompt to the first committed token.
    pub time_to_first_token: Option<Duration>,
}

/// The device's side of a session.
#[derive(Debug)]
pub struct Device {
    config: DeviceConfig,
    sampling: SamplingParams,
    /// The committed tokens, then the drafts.
    sequence: Sequence,
    committed: usize,
    /// The generation ends when this many tokens are committed.
    limit: usize,
    turn: Turn,
    prompted: Duration,
    last_confidence: f32,
    /// Whether the drafter had nothing to propose after the last token.
    exhausted: bool,
    /// The positions of the block that waits for its verdict.
    in_flight: Option<Range<Position>>,
    asked: Option<Ticket>,
    strikes: u32,
    /// Whether the block was sent again because a commit is missing.
    asked_again: bool,
    finished: bool,
    stats: Stats,
    actions: VecDeque<Action>,
}

impl Device {
    /// A device without a prompt.
    #[must_use]
    pub fn new(config: DeviceConfig) -> Self {
        Self {
            config,
            sampling: SamplingParams::default(),
            sequence: Sequence::default(),
            committed: 0,
            limit: 0,
            turn: 0,
            prompted: Duration::ZERO,
            last_confidence: 1.0,
            exhausted: false,
            in_flight: None,
            asked: None,
            strikes: 0,
            asked_again: false,
            finished: true,
            stats: Stats::default(),
            actions: VecDeque::new(),
        }
    }

    /// Begins a turn. What the prompt shares with the text so far is not sent again.
    pub fn prompt(&mut self, now: Duration, prompt: Prompt) {
        self.drop_actions();
        self.sequence.truncate(self.committed);
        let shared = common_prefix(self.sequence.tokens(), &prompt.tokens);
        self.sequence.truncate(shared);
        self.sequence.extend(prompt.tokens.get(shared..).unwrap_or_default());
        self.committed = self.sequence.len();
        self.sequence.set_prompt_len(self.committed);
        self.limit = self.committed.saturating_add(prompt.max_tokens).min(self.config.context);
        self.sampling = prompt.sampling;
        self.turn += 1;
        self.prompted = now;
        self.in_flight = None;
        self.exhausted = false;
        self.strikes = 0;
        self.asked_again = false;
        self.stats = Stats::default();
        self.finished = false;
        if self.committed >= self.limit {
            self.finish(FinishReason::Length);
            return;
        }
        self.send_context(shared);
        self.advance();
    }

    /// What to do next, or `None` until something happens.
    pub fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The committed tokens and the drafts after them: what the next draft follows.
    #[must_use]
    pub fn context(&self) -> Context<'_> {
        self.sequence.context()
    }

    /// The committed tokens, prompt included.
    #[must_use]
    pub fn committed(&self) -> &[Token] {
        &self.sequence.tokens()[..self.committed]
    }

    /// What this turn has taken so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Takes what the drafter proposed for `ticket`; `None` if it had nothing to propose.
    pub fn on_draft(&mut self, ticket: Ticket, draft: Option<Draft>) {
        if self.asked != Some(ticket) {
            return;
        }
        self.asked = None;
        if !self.finished && ticket == self.ticket() {
            match draft {
                Some(draft) => {
                    self.sequence.push(draft.token);
                    self.last_confidence = draft.confidence;
                }
                None => self.exhausted = true,
            }
        }
        self.advance();
    }

    /// Takes the server's message.
    pub fn on_reply(&mut self, now: Duration, reply: Reply) {
        if self.finished {
            return;
        }
        match reply {
            Reply::Commit(commit) if commit.turn == self.turn => self.on_commit(now, &commit),
            Reply::Resend { turn, from } if turn == self.turn => {
                if self.strike() {
                    self.send_context(from);
                    self.repeat_block();
                }
            }
            Reply::Failed(reason) => self.finish(FinishReason::Failed(reason)),
            Reply::Commit(_) | Reply::Resend { .. } => {}
        }
    }

    /// Ends the generation with the first `len` tokens: a stop string was met there.
    pub fn stop_at(&mut self, len: usize) {
        self.committed = self.committed.min(len);
        self.drop_actions();
        self.finish(FinishReason::Stop);
    }

    fn on_commit(&mut self, now: Duration, commit: &Commit) {
        if commit.end() <= self.committed {
            return;
        }
        if commit.from > self.committed {
            // A commit before this one is late or lost: ask, once, for what was committed since.
            if !std::mem::replace(&mut self.asked_again, true) {
                self.repeat_block();
            }
            return;
        }
        let Some(tokens) = self.understand(commit) else {
            if self.strike() {
                self.repeat_block();
            }
            return;
        };
        self.strikes = 0;
        self.asked_again = false;
        self.stats.rounds += u64::from(commit.rows > 0);
        self.stats.server_rows += u64::from(commit.rows);
        self.stats.time_to_first_token.get_or_insert(now.saturating_sub(self.prompted));
        for token in tokens {
            self.commit(token);
            if self.finished {
                return;
            }
        }
        // A block is answered when all of it is committed; what was rejected is no part of it any more.
        if self.config.policy.is_some() && self.in_flight.as_ref().is_some_and(|block| self.committed >= block.end) {
            self.in_flight = None;
        }
        self.advance();
    }

    /// The tokens that `commit` adds, or `None` if it does not follow from what this device has and sent.
    fn understand(&self, commit: &Commit) -> Option<Vec<Token>> {
        let accepted_end = commit.from.checked_add(commit.accepted)?;
        if accepted_end > self.sequence.len() {
            return None;
        }
        let mut tokens = self.sequence.tokens().get(self.committed..accepted_end).unwrap_or_default().to_vec();
        tokens.extend(commit.tokens.get(self.committed.saturating_sub(accepted_end)..)?);
        let digest = self.sequence.digest(self.committed)?.then_all(&tokens);
        (digest == commit.digest && self.committed + tokens.len() <= self.config.context).then_some(tokens)
    }

    fn commit(&mut self, token: Token) {
        let position = self.committed;
        let drafted = self.in_flight.as_ref().is_some_and(|block| block.contains(&position));
        let agrees = self.sequence.tokens().get(position) == Some(&token);
        if !agrees {
            self.sequence.truncate(position);
            self.sequence.push(token);
            self.exhausted = false;
            if let Some(block) = &mut self.in_flight {
                block.end = block.end.min(position + 1);
            }
        }
        let provenance = match (drafted, agrees) {
            (true, true) => Provenance::Accepted,
            (true, false) => Provenance::Corrected,
            (false, _) => Provenance::Bonus,
        };
        self.stats.accepted_tokens += u64::from(provenance == Provenance::Accepted);
        self.committed += 1;
        self.actions.push_back(Action::Commit(Committed { position, token, provenance }));
        if self.config.end_of_generation.contains(&token) {
            self.finish(FinishReason::Stop);
        } else if self.committed >= self.limit {
            self.finish(FinishReason::Length);
        }
    }

    /// Drafts another token or sends, unless a verdict or a draft is under way.
    fn advance(&mut self) {
        if self.finished || self.in_flight.is_some() || self.asked.is_some() {
            return;
        }
        let Some(policy) = self.config.policy else {
            return self.send_block();
        };
        let drafted = self.sequence.len() - self.committed;
        // A verdict commits one token more than it accepts, and the last of them may be the last of the answer.
        let most = (self.limit - self.committed - 1).min(self.config.max_draft);
        let ends =
            drafted > 0 && self.sequence.tokens().last().is_some_and(|t| self.config.end_of_generation.contains(t));
        if drafted >= most || ends || self.exhausted || (drafted > 0 && policy.sends(drafted, self.last_confidence)) {
            self.send_block();
        } else {
            let ticket = self.ticket();
            self.asked = Some(ticket);
            self.actions.push_back(Action::Draft(ticket));
        }
    }

    fn ticket(&self) -> Ticket {
        Ticket { turn: self.turn, digest: self.sequence.last_digest() }
    }

    fn send_block(&mut self) {
        self.exhausted = false;
        self.in_flight = Some(self.committed..self.sequence.len());
        self.stats.draft_tokens += (self.sequence.len() - self.committed) as u64;
        self.repeat_block();
    }

    /// Sends what of the block in flight is not committed.
    fn repeat_block(&mut self) {
        let Some(block) = &self.in_flight else { return };
        let end = block.end.clamp(self.committed, self.sequence.len());
        let (Some(tokens), Some(built_on)) =
            (self.sequence.tokens().get(self.committed..end), self.sequence.digest(self.committed))
        else {
            return;
        };
        let until = if self.config.policy.is_none() { self.limit } else { 0 };
        let block = DraftBlock { turn: self.turn, from: self.committed, built_on, tokens: tokens.to_vec(), until };
        self.actions.push_back(Action::Send(Request::Draft(block)));
    }

    fn send_context(&mut self, from: Position) {
        let from = from.min(self.committed);
        let Some(built_on) = self.sequence.digest(from) else { return };
        let update = ContextUpdate {
            turn: self.turn,
            from,
            built_on,
            tokens: self.sequence.tokens()[from..self.committed].to_vec(),
            prompt_len: self.sequence.prompt_len(),
            sampling: self.sampling.clone(),
        };
        self.actions.push_back(Action::Send(Request::Context(update)));
    }

    fn drop_actions(&mut self) {
        if self.actions.drain(..).any(|action| matches!(action, Action::Draft(_))) {
            self.asked = None;
        }
    }

    /// Counts a reply that brought nothing; false, and the session has failed, if there were too many in a row.
    fn strike(&mut self) -> bool {
        self.strikes += 1;
        let tolerable = self.strikes <= MAX_STRIKES;
        if !tolerable {
            self.finish(FinishReason::Failed(
                "the server's answers do not fit this session; check that device and server run the same version"
                    .to_owned(),
            ));
        }
        tolerable
    }

    fn finish(&mut self, reason: FinishReason) {
        self.sequence.truncate(self.committed);
        self.in_flight = None;
        self.finished = true;
        self.actions.push_back(Action::Finish(reason));
    }
}
