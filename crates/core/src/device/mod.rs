//! The device's side of a session: when to draft, when to send, what a commit means for the drafts at hand, and what to do
//! when nobody answers.
//!
//! [`Device`] is a state machine. The shell feeds it what happens (a token was drafted, a reply arrived, the connection broke,
//! the time of [`Device::deadline`] has come) with the time since any fixed moment, and carries out the [`Action`]s that
//! [`Device::poll`] hands out. The drafts stand behind the committed tokens in one sequence; every commit is reconciled with
//! them by position: what agrees stays, at the first disagreement the rest is dropped. It makes no difference whether a
//! commit answers a whole block, a part of it, comes twice, or unasked.
//!
//! A device is composed of smaller state machines. Each has its own data, and none knows of the others but by what it is handed:
//!
//! | file | what it knows | what it decides |
//! |---|---|---|
//! | `answer.rs`, `acceptance.rs` | what is asked in this turn, and how it went | |
//! | `drafts/` | the text: settled tokens, and drafts | what a commit means for the drafts |
//! | `blocks.rs` | which drafts are out as blocks | which go out next, as the [`DraftPolicy`] says |
//! | `link/` | the connection, and the servers | timeouts, which server is next, when to go on alone |
//! | `meter.rs` | when verdicts came, and how busy the server was | what is measured by a verdict |
//! | `tolerance.rs` | replies of no use | when they are too many |
//! | `outbox.rs` | what the shell is still to do | |
//! | `mod.rs` | these parts | what an event means for each of them |
//! | `steps.rs` | | what is done after each event, and how an answer ends |
//! | `config.rs`, `action.rs` | what a device is given, and what it hands out | |

mod acceptance;
mod action;
mod answer;
mod blocks;
mod clock;
mod config;
mod drafts;
mod link;
mod meter;
mod outbox;
mod steps;
mod tolerance;

use std::time::Duration;

pub use crate::tuning::Tuning;
pub use acceptance::Acceptance;
pub use action::{Action, Emitted, FinishReason, Notice, Provenance, Stats, Ticket};
use answer::Answer;
use blocks::Blocks;
use clock::Clock;
pub use config::{Ahead, DeviceConfig, Fallback, Prompt, Resilience, Terms};
use drafts::Drafts;
use link::{Expired, Link, Loss};
use meter::Meter;
use outbox::Outbox;
use tolerance::Tolerance;

use crate::Token;
use crate::message::{Load, Reply, Request};
use crate::policy::DraftPolicy;
use crate::sampler::{Context, Draft};

/// The device's side of a session.
#[derive(Debug)]
pub struct Device {
    config: DeviceConfig,
    clock: Clock,
    answer: Answer,
    drafts: Drafts,
    blocks: Blocks,
    link: Link,
    /// `None` if nothing is drafted here.
    policy: Option<Box<dyn DraftPolicy>>,
    meter: Meter,
    tolerance: Tolerance,
    outbox: Outbox,
}

impl Device {
    /// A device without a prompt and without a connection, which drafts as the policy of `config` says.
    #[must_use]
    pub fn new(config: DeviceConfig) -> Self {
        let policy = config.policy.map(|policy| policy.build(&config.tuning));
        Self::with_policy(config, policy)
    }

    /// The same with a policy of the caller's own, in place of that of `config`; `None` leaves the decoding to the server.
    #[must_use]
    pub fn with_policy(config: DeviceConfig, policy: Option<Box<dyn DraftPolicy>>) -> Self {
        Self {
            clock: Clock::default(),
            answer: Answer::default(),
            drafts: Drafts::new(&config.tuning),
            blocks: Blocks::new(config.ahead, &config.tuning),
            link: Link::new(&config),
            policy,
            meter: Meter::default(),
            tolerance: Tolerance::default(),
            outbox: Outbox::default(),
            config,
        }
    }

    /// Begins a turn. What the prompt shares with the text so far is not sent again.
    pub fn prompt(&mut self, now: Duration, prompt: Prompt) {
        self.clock.advance(now);
        self.drop_actions();
        let shared = self.drafts.begin(&prompt.tokens);
        self.answer.begin(self.clock.now(), prompt, self.config.context);
        self.blocks.begin();
        self.link.begin_turn();
        self.meter.pause();
        self.tolerance = Tolerance::default();
        if self.drafts.settled() >= self.answer.limit() {
            self.finish(FinishReason::Length);
            return;
        }
        self.tell_text(shared);
        self.advance();
    }

    /// What to do next, or `None` until something happens.
    pub fn poll(&mut self) -> Option<Action> {
        let action = self.outbox.pop();
        if let Some(Action::Emit(emitted)) = &action {
            self.answer.on_emitted(emitted);
        }
        action
    }

    /// The settled tokens and the drafts after them: what the next draft follows.
    #[must_use]
    pub fn context(&self) -> Context<'_> {
        self.drafts.context()
    }

    /// The settled tokens, prompt included: committed ones, and provisional ones if a server was out of reach.
    #[must_use]
    pub fn settled(&self) -> &[Token] {
        self.drafts.settled_tokens()
    }

    /// How many of the settled tokens are the prompt of this turn.
    #[must_use]
    pub fn prompt_len(&self) -> usize {
        self.drafts.prompt_len()
    }

    /// What this turn has taken so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let ahead = self.drafts.ahead_counts();
        Stats {
            draft_tokens: self.blocks.drafts_sent(),
            ahead_kept: ahead.kept,
            ahead_discarded: ahead.discarded,
            ..self.answer.stats()
        }
    }

    /// How long the block took, from here to the server and back, whose verdict was taken since the last call; `None` if there
    /// was none, or it was sent more than once.
    pub fn take_round_trip(&mut self) -> Option<Duration> {
        self.meter.take_round_trip()
    }

    /// How busy the server said it is, as last heard.
    #[must_use]
    pub fn load(&self) -> Option<Load> {
        self.meter.load()
    }

    /// Takes what the drafter proposed for `ticket`; `None` if it had nothing to propose.
    pub fn on_draft(&mut self, now: Duration, ticket: Ticket, draft: Option<Draft>) {
        self.clock.advance(now);
        if !self.drafts.is_answer(ticket) {
            return;
        }
        if let Some(time) = self.drafts.draft_time(self.clock.now())
            && let Some(policy) = &mut self.policy
        {
            policy.on_draft(time);
        }
        if !self.answer.is_finished() {
            self.drafts.add(ticket, self.answer.turn(), draft, !self.blocks.is_empty());
        }
        self.advance();
    }

    /// Takes the server's message.
    pub fn on_reply(&mut self, now: Duration, reply: Reply) {
        self.clock.advance(now);
        if self.answer.is_finished() || !self.link.is_up() {
            return;
        }
        if !self.tolerance.allows_reply() {
            self.finish(FinishReason::Failed(Tolerance::EXCEEDED.to_owned()));
            return;
        }
        let turn = self.answer.turn();
        match reply {
            Reply::Commit(commit) if commit.turn == turn => self.on_commit(&commit),
            Reply::Resend { turn: asked, from } if asked == turn => {
                if self.tolerance.asks_anew(from) && self.allows_misfit() {
                    self.send_text(from);
                    self.repeat();
                }
            }
            Reply::Pending { turn: asked } if asked == turn => self.hear(),
            Reply::Closing(reason) => self.lose(Loss::Broken(reason)),
            Reply::Failed(reason) => self.finish(FinishReason::Failed(reason)),
            Reply::Commit(_) | Reply::Resend { .. } | Reply::Pending { .. } => {}
        }
    }

    /// Ends the generation with the first `len` tokens: a stop string was met there. Where its end was told already, only the text
    /// is cut.
    pub fn stop_at(&mut self, len: usize) {
        let was_told = self.answer.is_finished() && !self.outbox.has_finish();
        self.drop_actions();
        self.drafts.cut(len);
        self.blocks.clear();
        if was_told {
            return;
        }
        self.outbox.push(Action::Send(Request::Stop(self.answer.turn())));
        self.finish(FinishReason::Stop);
    }

    /// When [`Device::on_timer`] is to be called, in the shell's time; `None` if there is nothing to wait for.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        self.due().map(|due| self.clock.to_shell(due))
    }

    fn due(&self) -> Option<Duration> {
        if self.answer.is_finished() {
            return None;
        }
        self.link.due(self.clock.now(), !self.blocks.is_empty())
    }

    /// The time has come. To call it early or for nothing does no harm.
    pub fn on_timer(&mut self, now: Duration) {
        self.clock.advance(now);
        let now = self.clock.now();
        if self.due().is_none_or(|due| due > now) {
            return;
        }
        match self.link.expired(now) {
            Expired::Answer => {
                if self.link.on_timeout(now) {
                    self.leave(Loss::silent());
                } else {
                    self.tolerance.forget_resent();
                    self.repeat();
                }
            }
            Expired::Connection => self.leave(Loss::silent()),
            Expired::Delay => self.link.connect(now, &mut self.outbox),
            Expired::BusyServer => {
                self.link.wait_from(now);
                self.count_failure();
                self.advance();
            }
        }
    }

    /// The connection that was asked for stands, to the server `server`, which takes what `terms` say, and a session is open.
    pub fn on_connected(&mut self, now: Duration, server: usize, terms: Terms) {
        self.clock.advance(now);
        self.link.on_connected(server, terms);
        self.tolerance.forget_resent();
        if !self.answer.is_finished() {
            self.tell_text(0);
            self.advance();
        }
    }

    /// The connection broke, or could not be made.
    pub fn on_disconnected(&mut self, now: Duration, reason: String) {
        self.clock.advance(now);
        if !self.link.is_down() {
            self.lose(Loss::Broken(reason));
        }
    }

    /// The server that is connected, or was to be, is busy, for the reason given, and asks to be left alone for `after`.
    pub fn on_busy(&mut self, now: Duration, reason: String, after: Duration) {
        self.clock.advance(now);
        if !self.link.is_down() {
            self.link.on_busy(self.clock.now().saturating_add(after));
            self.lose(Loss::Busy(reason));
        }
    }

    /// No server answers, as somebody else found out: the fallback does not wait for this device to find out too. It tries to
    /// connect all the same.
    pub fn presume_lost(&mut self) {
        self.link.presume_lost(&mut self.outbox);
    }

    /// Whether all is as it should be between two events: for tests.
    ///
    /// # Panics
    /// If it is not.
    pub fn check_invariants(&self) {
        self.drafts.check_invariants();
        self.blocks.check_invariants(self.drafts.end());
        self.link.check_invariants();
        let is_finished = self.answer.is_finished();
        assert!(!is_finished || self.drafts.count() == 0, "an answer that is over has no drafts");
        assert!(
            self.blocks.is_empty() || (self.link.is_up() && !is_finished),
            "a block is out for a server that answers it"
        );
        assert!(is_finished || self.drafts.settled() < self.answer.limit(), "an answer at its limit is over");
        let waits = self.drafts.is_asked() || self.due().is_some() || !self.outbox.is_empty();
        let could_go_on = self.policy.is_some() || !self.link.is_alone();
        assert!(is_finished || waits || !could_go_on, "until the answer is over, something is to happen");
    }
}
