//! The device's side of a session: when to draft, when to send, what a commit means for the drafts at hand, and what to do
//! when nobody answers.
//!
//! [`Device`] is a state machine. The shell feeds it what happens (a token was drafted, a reply arrived, the connection broke,
//! the time of [`Device::deadline`] has come) with the time since any fixed moment, and carries out the [`Action`]s that
//! [`Device::poll`] hands out. The drafts stand behind the committed tokens in one sequence; every commit is reconciled with
//! them by position: what agrees stays, at the first disagreement the rest is dropped. It makes no difference whether a
//! commit answers a whole block, a part of it, comes twice, or unasked.
//!
//! | file | what it decides |
//! |---|---|
//! | `config.rs`, `action.rs` | nothing: what a device is given, and what it hands out |
//! | `blocks.rs` | what to draft, and which drafts go out as a block |
//! | `reconcile.rs` | what a reply means for the drafts |
//! | `link.rs` | the connection: timeouts, other servers, going on alone |
//! | `timer.rs` | how long to wait |

mod action;
mod blocks;
mod config;
mod link;
mod reconcile;
mod timer;

use std::collections::VecDeque;
use std::time::Duration;

pub use action::{Action, Emitted, FinishReason, Notice, Provenance, Stats, Ticket};
use blocks::Block;
pub use config::{Ahead, DeviceConfig, Fallback, Prompt, Resilience, Terms};
use link::Link;
use timer::Clock;

use crate::acceptance::Acceptance;
use crate::calibration::Calibration;
use crate::goodput::Goodput;
use crate::message::{ContextUpdate, Load, Reply, Request, Turn};
use crate::sampler::{Context, Draft, SamplingParams};
use crate::sequence::{Sequence, common_prefix};
use crate::{Position, Token};

/// A draft that is not settled.
#[derive(Clone, Copy, Debug)]
struct Drafted {
    /// The drafter's confidence in it.
    confidence: f32,
    /// Whether it was made while a verdict was under way.
    ahead: bool,
}

/// The device's side of a session.
#[derive(Debug)]
pub struct Device {
    config: DeviceConfig,
    sampling: SamplingParams,
    logprobs: Option<u8>,
    request_id: Option<String>,
    /// The settled tokens, committed or provisional, then the drafts.
    sequence: Sequence,
    settled: usize,
    /// What is known of each draft.
    drafted: VecDeque<Drafted>,
    /// The generation ends when this many tokens are settled.
    limit: usize,
    turn: Turn,
    clock: Clock,
    prompted: Duration,
    /// When the last commit of this turn came, if the link held since.
    last_commit: Option<Duration>,
    /// Whether the drafter had nothing to propose after the last token.
    exhausted: bool,
    /// The blocks that wait for their verdicts, in order of position.
    blocks: VecDeque<Block>,
    asked: Option<Ticket>,
    asked_at: Duration,
    /// Whether the drafter has read all of the text; the first draft, for which it reads it, tells nothing of the others.
    warm: bool,
    strikes: u32,
    /// Replies since the last one that brought a token.
    barren: u32,
    /// Whether the blocks were sent again because a commit is missing.
    asked_again: bool,
    finished: bool,
    link: Link,
    calibration: Calibration,
    goodput: Goodput,
    stats: Stats,
    /// What verdicts made of the drafts in the tokens that were handed out.
    acceptance: Acceptance,
    /// How long the last verdict took, until it is told.
    round_trip: Option<Duration>,
    /// How busy the server last said it is.
    load: Option<Load>,
    actions: VecDeque<Action>,
}

impl Device {
    /// A device without a prompt and without a connection.
    #[must_use]
    pub fn new(config: DeviceConfig) -> Self {
        Self {
            link: Link::new(&config),
            config,
            sampling: SamplingParams::default(),
            logprobs: None,
            request_id: None,
            sequence: Sequence::default(),
            settled: 0,
            drafted: VecDeque::new(),
            limit: 0,
            turn: 0,
            clock: Clock::default(),
            prompted: Duration::ZERO,
            last_commit: None,
            exhausted: false,
            blocks: VecDeque::new(),
            asked: None,
            asked_at: Duration::ZERO,
            warm: false,
            strikes: 0,
            barren: 0,
            asked_again: false,
            finished: true,
            calibration: Calibration::default(),
            goodput: Goodput::default(),
            stats: Stats::default(),
            acceptance: Acceptance::default(),
            round_trip: None,
            load: None,
            actions: VecDeque::new(),
        }
    }

    /// Begins a turn. What the prompt shares with the text so far is not sent again.
    pub fn prompt(&mut self, now: Duration, prompt: Prompt) {
        self.clock.advance(now);
        self.drop_actions();
        self.drop_drafts();
        let shared = common_prefix(self.sequence.tokens(), &prompt.tokens);
        self.sequence.truncate(shared);
        self.sequence.extend(prompt.tokens.get(shared..).unwrap_or_default());
        self.settled = self.sequence.len();
        self.sequence.set_prompt_len(self.settled);
        self.limit = self.settled.saturating_add(prompt.max_tokens).min(self.config.context);
        self.sampling = prompt.sampling;
        self.logprobs = prompt.logprobs;
        self.request_id = prompt.request_id;
        self.forget_contexts();
        self.turn += 1;
        self.prompted = self.clock.now();
        self.last_commit = None;
        self.warm = false;
        self.strikes = 0;
        self.barren = 0;
        self.asked_again = false;
        self.stats = Stats::default();
        self.acceptance = Acceptance::default();
        self.finished = false;
        if self.settled >= self.limit {
            self.finish(FinishReason::Length);
            return;
        }
        self.begin_turn(shared);
        self.advance();
    }

    /// What to do next, or `None` until something happens.
    pub fn poll(&mut self) -> Option<Action> {
        let action = self.actions.pop_front();
        if let Some(Action::Emit(emitted)) = &action {
            self.acceptance.count(emitted.provenance, emitted.opens_verdict);
        }
        action
    }

    /// The settled tokens and the drafts after them: what the next draft follows.
    #[must_use]
    pub fn context(&self) -> Context<'_> {
        self.sequence.context()
    }

    /// The settled tokens, prompt included: committed ones, and provisional ones if a server was out of reach.
    #[must_use]
    pub fn settled(&self) -> &[Token] {
        self.sequence.tokens().get(..self.settled).unwrap_or_default()
    }

    /// How many of the settled tokens are the prompt of this turn.
    #[must_use]
    pub fn prompt_len(&self) -> usize {
        self.sequence.prompt_len()
    }

    /// What this turn has taken so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let Acceptance { drafts, accepted, accepted_at, .. } = self.acceptance;
        Stats { drafts, accepted_tokens: accepted, accepted_at, ..self.stats }
    }

    /// How long the block took, from here to the server and back, whose verdict was taken since the last call; `None` if there
    /// was none, or it was sent more than once.
    pub fn take_round_trip(&mut self) -> Option<Duration> {
        self.round_trip.take()
    }

    /// How busy the server said it is, as last heard.
    #[must_use]
    pub fn load(&self) -> Option<Load> {
        self.load
    }

    /// Takes what the drafter proposed for `ticket`; `None` if it had nothing to propose.
    pub fn on_draft(&mut self, now: Duration, ticket: Ticket, draft: Option<Draft>) {
        self.clock.advance(now);
        if self.asked != Some(ticket) {
            return;
        }
        self.asked = None;
        if std::mem::replace(&mut self.warm, true) {
            self.goodput.on_draft(self.clock.now().saturating_sub(self.asked_at));
        }
        if !self.finished && ticket == self.ticket() {
            match draft {
                Some(draft) => {
                    self.sequence.push(draft.token);
                    let ahead = !self.blocks.is_empty();
                    self.drafted.push_back(Drafted { confidence: draft.confidence, ahead });
                }
                None => self.exhausted = true,
            }
        }
        self.advance();
    }

    /// Takes the server's message.
    pub fn on_reply(&mut self, now: Duration, reply: Reply) {
        self.clock.advance(now);
        if self.finished || !self.link.is_up() || !self.bear() {
            return;
        }
        match reply {
            Reply::Commit(commit) if commit.turn == self.turn => self.on_commit(&commit),
            Reply::Resend { turn, from } if turn == self.turn => {
                if self.strike() {
                    self.send_context(from);
                    self.repeat();
                }
            }
            Reply::Pending { turn } if turn == self.turn => self.server_lives(),
            Reply::Closing(reason) => self.connection_lost(reason),
            Reply::Failed(reason) => self.finish(FinishReason::Failed(reason)),
            Reply::Commit(_) | Reply::Resend { .. } | Reply::Pending { .. } => {}
        }
    }

    /// Ends the generation with the first `len` tokens: a stop string was met there. Where its end was told already, only the text
    /// is cut.
    pub fn stop_at(&mut self, len: usize) {
        let was_told = self.finished && !self.actions.iter().any(|action| matches!(action, Action::Finish(_)));
        self.drop_actions();
        self.drop_drafts();
        self.settled = self.settled.min(len);
        self.sequence.truncate(self.settled);
        if was_told {
            return;
        }
        self.actions.push_back(Action::Send(Request::Stop(self.turn)));
        self.finish(FinishReason::Stop);
    }

    fn ticket(&self) -> Ticket {
        Ticket { turn: self.turn, digest: self.sequence.last_digest() }
    }

    /// Adds a settled token to the answer.
    fn emit(&mut self, emitted: Emitted) {
        let token = emitted.token;
        self.stats.time_to_first_token.get_or_insert(self.clock.now().saturating_sub(self.prompted));
        self.actions.push_back(Action::Emit(emitted));
        self.settled += 1;
        if self.config.end_of_generation.contains(&token) {
            self.finish(FinishReason::Stop);
        } else if self.settled >= self.limit {
            self.finish(FinishReason::Length);
        }
    }

    fn send_context(&mut self, from: Position) {
        let from = from.min(self.settled);
        let (Some(built_on), Some(tokens)) =
            (self.sequence.digest(from), self.sequence.tokens().get(from..self.settled))
        else {
            return;
        };
        let update = ContextUpdate {
            turn: self.turn,
            from,
            built_on,
            tokens: tokens.to_vec(),
            prompt_len: self.sequence.prompt_len(),
            limit: self.limit,
            sampling: self.sampling.clone(),
            logprobs: self.logprobs,
            request_id: self.request_id.clone(),
        };
        self.actions.push_back(Action::Send(Request::Context(update)));
    }

    fn drop_actions(&mut self) {
        // What concerns the connection is still to be done.
        let mut draft_dropped = false;
        self.actions.retain(|action| {
            draft_dropped |= matches!(action, Action::Draft(_));
            matches!(action, Action::Connect(_) | Action::Disconnect | Action::Notify(_))
        });
        if draft_dropped {
            self.asked = None;
        }
    }

    fn drop_drafts(&mut self) {
        self.sequence.truncate(self.settled);
        self.discard_drafts();
        self.blocks.clear();
        self.exhausted = false;
    }

    fn discard_drafts(&mut self) {
        self.stats.ahead_discarded += self.drafted.drain(..).filter(|draft| draft.ahead).count() as u64;
    }

    fn finish(&mut self, reason: FinishReason) {
        self.drop_drafts();
        self.finished = true;
        self.actions.push_back(Action::Finish(reason));
    }
}
