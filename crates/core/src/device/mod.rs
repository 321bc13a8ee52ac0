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
//! | `blocks.rs` | what to draft, and which drafts go out as a block |
//! | `reconcile.rs` | what a reply means for the drafts |
//! | `link.rs` | the connection: timeouts, other servers, going on alone |
//! | `timer.rs` | how long to wait |

mod blocks;
mod link;
mod reconcile;
mod timer;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use blocks::Block;
use link::Link;
use timer::Clock;

use crate::acceptance::AcceptedAt;
use crate::calibration::Calibration;
use crate::goodput::Goodput;
use crate::message::{ContextUpdate, Load, Reply, Request, Turn};
use crate::policy::Policy;
use crate::sampler::{Context, Draft, Logprobs, SamplingParams};
use crate::sequence::{Digest, Sequence, common_prefix};
use crate::{Position, Token};

/// What a device is, for as long as a session lasts.
#[derive(Clone, Debug)]
pub struct DeviceConfig {
    /// How drafts are made; `None` leaves the decoding to the server.
    pub policy: Option<Policy>,
    /// What is done while a verdict is under way.
    pub ahead: Ahead,
    /// The longest that the session may get, in tokens.
    pub context: usize,
    /// The longest block that the server takes.
    pub max_draft: usize,
    /// The tokens that end a generation.
    pub end_of_generation: Arc<[Token]>,
    /// What is done when the server cannot be reached.
    pub resilience: Resilience,
}

/// What a device does while a verdict is under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ahead {
    /// Nothing: rounds are synchronous.
    Nothing,
    /// It drafts on, as if all it sent were accepted.
    Drafts,
    /// It drafts on, and sends further blocks.
    #[default]
    Blocks,
}

/// What a device does when its server cannot be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resilience {
    /// How many servers there are to try, one after the other. Without any the device decodes alone, from the first token on.
    pub servers: usize,
    /// The longest that a server is given to answer before it is asked again.
    pub timeout: Duration,
    /// What happens after `fallback_after` failures.
    pub fallback: Fallback,
    /// How many failures in a row (a timeout, a broken connection, a refused one) are borne before `fallback`.
    pub fallback_after: u32,
    /// Where the jitter of the delays between attempts comes from.
    pub seed: u64,
}

impl Default for Resilience {
    fn default() -> Self {
        let timeout = Duration::from_secs(10);
        Self { servers: 1, timeout, fallback: Fallback::Release, fallback_after: 3, seed: 0 }
    }
}

/// What happens when a server cannot be reached for long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fallback {
    /// The drafts are shown as provisional, and the device decodes alone until a server is back.
    #[default]
    Release,
    /// The device waits, as long as it takes.
    Wait,
    /// The generation fails.
    Error,
}

/// What to continue, and how.
#[derive(Clone, Debug, Default)]
pub struct Prompt {
    /// The whole text so far, in tokens; earlier turns included.
    pub tokens: Vec<Token>,
    /// The most tokens to generate.
    pub max_tokens: usize,
    /// How tokens are chosen.
    pub sampling: SamplingParams,
    /// Whether the target's log probabilities are wanted, and those of how many most likely tokens (at most
    /// [`Logprobs::MAX_TOP`]) besides the chosen one.
    pub logprobs: Option<u8>,
    /// Names the request in the logs of device and server: at most 256 printable bytes.
    pub request_id: Option<String>,
}

impl Prompt {
    /// The message that tells a server all of it, as turn `turn` of a session: for those who need no device between.
    #[must_use]
    pub fn into_context(self, turn: Turn) -> ContextUpdate {
        let prompt_len = self.tokens.len();
        ContextUpdate {
            turn,
            from: 0,
            built_on: Digest::EMPTY,
            tokens: self.tokens,
            prompt_len,
            limit: prompt_len.saturating_add(self.max_tokens),
            sampling: self.sampling,
            logprobs: self.logprobs,
            request_id: self.request_id,
        }
    }
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
    /// Connect to the server of this index, and open a session; then [`Device::on_connected`] or
    /// [`Device::on_disconnected`].
    Connect(usize),
    /// Close the connection, or give up the attempt; nothing of it is to arrive any more.
    Disconnect,
    /// Send this to the server.
    Send(Request),
    /// Draft the token after [`Device::context`] and hand it to [`Device::on_draft`].
    Draft(Ticket),
    /// A token of the answer; show it.
    Emit(Emitted),
    /// Tell the user, once.
    Notify(Notice),
    /// The generation is over.
    Finish(FinishReason),
}

/// A token of the answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Emitted {
    /// Where it stands.
    pub position: Position,
    /// The token.
    pub token: Token,
    /// Who proposed it, and whether the target decided it.
    pub provenance: Provenance,
    /// The target's log probabilities here, if they were asked for and the target decided the token.
    pub logprobs: Option<Logprobs>,
}

/// How a token came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provenance {
    /// The device drafted it, and the target chose the same.
    Accepted,
    /// The target chose it instead of the device's draft.
    Corrected,
    /// The target chose it where the device had sent no draft.
    Bonus,
    /// The device drafted it, and no target has seen it: no server could be reached. It is not committed.
    Provisional,
}

/// What the user is to know about the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The server cannot be reached; the reason, in a few words.
    Lost(String),
    /// The server takes no more sessions for now; one sentence without a full stop.
    Busy(String),
    /// A server answers again.
    Back {
        /// Which one.
        server: usize,
    },
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
    /// Draft tokens sent; what is sent again counts once.
    pub draft_tokens: u64,
    /// Draft tokens that became committed tokens.
    pub accepted_tokens: u64,
    /// Verdicts on at least one draft token.
    pub drafts: u64,
    /// Accepted draft tokens by their place in a verdict.
    pub accepted_at: AcceptedAt,
    /// Tokens that no target has seen.
    pub provisional_tokens: u64,
    /// Rows that the server spent on verdicts.
    pub server_rows: u64,
    /// Draft tokens made while a verdict was under way that came to stand in the text.
    pub ahead_kept: u64,
    /// Those that did not.
    pub ahead_discarded: u64,
    /// Times that a connection was lost.
    pub disconnections: u64,
    /// From the prompt to the first token.
    pub time_to_first_token: Option<Duration>,
}

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
    /// Whether the blocks were sent again because a commit is missing.
    asked_again: bool,
    finished: bool,
    link: Link,
    calibration: Calibration,
    goodput: Goodput,
    stats: Stats,
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
            link: Link::new(&config.resilience),
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
            asked_again: false,
            finished: true,
            calibration: Calibration::default(),
            goodput: Goodput::default(),
            stats: Stats::default(),
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
        self.turn += 1;
        self.prompted = self.clock.now();
        self.last_commit = None;
        self.warm = false;
        self.strikes = 0;
        self.asked_again = false;
        self.stats = Stats::default();
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
        self.actions.pop_front()
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
        self.stats
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
        if self.finished || !self.link.is_up() {
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

    /// Ends the generation with the first `len` tokens: a stop string was met there.
    pub fn stop_at(&mut self, len: usize) {
        self.drop_actions();
        self.drop_drafts();
        self.settled = self.settled.min(len);
        self.sequence.truncate(self.settled);
        self.actions.push_back(Action::Send(Request::Stop(self.turn)));
        self.finish(FinishReason::Stop);
    }

    fn ticket(&self) -> Ticket {
        Ticket { turn: self.turn, digest: self.sequence.last_digest() }
    }

    /// Adds a settled token to the answer.
    fn emit(&mut self, token: Token, provenance: Provenance, logprobs: Option<Logprobs>) {
        self.stats.time_to_first_token.get_or_insert(self.clock.now().saturating_sub(self.prompted));
        self.actions.push_back(Action::Emit(Emitted { position: self.settled, token, provenance, logprobs }));
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
