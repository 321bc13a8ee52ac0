//! The connection to a server, and what happens without one.

use std::time::Duration;

use super::timer::{Backoff, Timeout};
use super::{Action, Device, DeviceConfig, Emitted, Fallback, FinishReason, Notice, Provenance, Resilience, Terms};

/// After so many timeouts in a row a connection is taken for dead, however open it looks.
const MAX_TIMEOUTS: u32 = 3;

/// How long an attempt to connect may take.
const CONNECTING: Duration = Duration::from_secs(5);

/// The connection, and what is known of the way to the server.
#[derive(Debug)]
pub(super) struct Link {
    state: State,
    /// The server that the connection is to, or will be tried next.
    server: usize,
    pub(super) timeout: Timeout,
    backoff: Backoff,
    /// When the server last said something, or was asked something while nothing else was under way; without a connection, since
    /// when it is missed.
    waiting_since: Duration,
    /// Timeouts since the server last said something.
    timeouts: u32,
    /// Timeouts and lost or refused connections since a server last said something.
    failures: u32,
    /// Whether the server of this connection has been told of any text.
    told: bool,
    /// Why the last connection was lost.
    loss: Option<Loss>,
    /// Whether the user knows that the server is lost.
    lost: bool,
    /// What the server of this connection takes.
    terms: Terms,
    /// What is known of each server.
    servers: Vec<Known>,
}

/// What is known of a server.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// Until when it asked to be left alone.
    busy_until: Duration,
    /// The longest text that it takes, if it said so in this turn.
    context: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Up,
    Connecting {
        since: Duration,
    },
    /// To be tried again at this time.
    Down {
        retry: Duration,
    },
}

/// Why there is no connection.
#[derive(Clone, Debug)]
enum Loss {
    Broken(String),
    Busy(String),
}

impl Link {
    pub(super) fn new(config: &DeviceConfig) -> Self {
        let DeviceConfig { context, max_draft, resilience, .. } = config;
        Self {
            state: State::Down { retry: Duration::ZERO },
            server: 0,
            timeout: Timeout::new(resilience.timeout),
            backoff: Backoff::new(resilience.seed),
            waiting_since: Duration::ZERO,
            timeouts: 0,
            failures: 0,
            told: false,
            loss: None,
            lost: false,
            terms: Terms { context: *context, max_draft: *max_draft },
            servers: vec![Known::default(); resilience.servers.max(1)],
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.state == State::Up
    }
}

impl Device {
    /// When [`Device::on_timer`] is to be called, in the shell's time; `None` if there is nothing to wait for.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        self.due().map(|due| self.clock.to_shell(due))
    }

    fn due(&self) -> Option<Duration> {
        if self.finished || self.is_alone() {
            return None;
        }
        match self.link.state {
            State::Up => (!self.blocks.is_empty()).then(|| self.link.waiting_since + self.link.timeout.duration()),
            State::Connecting { since } => Some(since + CONNECTING),
            State::Down { retry } => Some(self.patience().map_or(retry, |patience| patience.min(retry))),
        }
    }

    /// Until when a server that asked to be left alone is waited for before that counts as another failure.
    fn patience(&self) -> Option<Duration> {
        let Resilience { fallback, fallback_after, .. } = self.config.resilience;
        let falls_back = fallback != Fallback::Wait && self.link.failures < fallback_after;
        let is_busy = self.free_at(self.link.server) > self.link.waiting_since;
        (falls_back && is_busy).then(|| self.link.waiting_since + self.link.timeout.duration())
    }

    /// The time has come. To call it early or for nothing does no harm.
    pub fn on_timer(&mut self, now: Duration) {
        self.clock.advance(now);
        if self.due().is_none_or(|due| due > self.clock.now()) {
            return;
        }
        match self.link.state {
            State::Up => self.on_timeout(),
            State::Connecting { .. } => {
                self.actions.push_back(Action::Disconnect);
                self.connection_lost("it does not answer".to_owned());
            }
            State::Down { retry } if retry <= self.clock.now() => self.connect(),
            State::Down { .. } => {
                self.link.waiting_since = self.clock.now();
                self.fail();
                self.advance();
            }
        }
    }

    /// The connection that was asked for stands, to the server `server`, which takes what `terms` say, and a session is open.
    pub fn on_connected(&mut self, now: Duration, server: usize, terms: Terms) {
        self.clock.advance(now);
        self.link.state = State::Up;
        self.link.server = server;
        self.link.terms = terms;
        self.note_context();
        self.link.timeouts = 0;
        self.link.told = false;
        if !self.finished {
            self.begin_turn(0);
            self.advance();
        }
    }

    /// The connection broke, or could not be made.
    pub fn on_disconnected(&mut self, now: Duration, reason: String) {
        self.clock.advance(now);
        if !matches!(self.link.state, State::Down { .. }) {
            self.connection_lost(reason);
        }
    }

    /// The server that is connected, or was to be, is busy, for the reason given, and asks to be left alone for `after`.
    pub fn on_busy(&mut self, now: Duration, reason: String, after: Duration) {
        self.clock.advance(now);
        if matches!(self.link.state, State::Down { .. }) {
            return;
        }
        let until = self.clock.now().saturating_add(after);
        if let Some(server) = self.link.servers.get_mut(self.link.server) {
            server.busy_until = until;
        }
        self.lose(Loss::Busy(reason));
    }

    /// No server answers, as somebody else found out: the fallback does not wait for this device to find out too. It tries to
    /// connect all the same.
    pub fn presume_lost(&mut self) {
        self.link.failures = self.link.failures.max(self.config.resilience.fallback_after);
        if !std::mem::replace(&mut self.link.lost, true) {
            self.actions.push_back(Action::Notify(Notice::Lost("it does not answer".to_owned())));
        }
    }

    /// Tells the server the text, of which it knows the first `shared` tokens if it knows any.
    pub(super) fn begin_turn(&mut self, shared: usize) {
        match self.link.state {
            State::Up if self.is_full() => self.leave_full_server(),
            State::Up => {
                let from = if std::mem::replace(&mut self.link.told, true) { shared } else { 0 };
                self.send_context(from);
            }
            State::Connecting { .. } => {}
            State::Down { .. } if self.is_alone() => {}
            State::Down { .. } => {
                self.link.server = self.best_server(self.link.server);
                let retry = self.free_at(self.link.server);
                if retry <= self.clock.now() {
                    self.connect();
                } else {
                    self.link.state = State::Down { retry };
                    self.link.waiting_since = self.clock.now();
                    self.tell_loss();
                }
            }
        }
    }

    /// Whether there is no server at all.
    fn is_alone(&self) -> bool {
        self.config.resilience.servers == 0
    }

    fn connect(&mut self) {
        self.link.state = State::Connecting { since: self.clock.now() };
        self.actions.push_back(Action::Connect(self.link.server));
    }

    /// From now on an answer is waited for.
    pub(super) fn await_reply(&mut self) {
        self.link.waiting_since = self.clock.now();
    }

    /// The server said something that makes sense.
    pub(super) fn server_lives(&mut self) {
        self.link.waiting_since = self.clock.now();
        self.link.timeouts = 0;
        self.link.failures = 0;
        self.link.timeout.reset();
        self.link.backoff.reset();
        if std::mem::take(&mut self.link.lost) {
            self.actions.push_back(Action::Notify(Notice::Back { server: self.link.server }));
        }
    }

    fn on_timeout(&mut self) {
        self.link.timeouts += 1;
        self.link.timeout.double();
        let patience = match self.config.resilience.fallback {
            Fallback::Wait => MAX_TIMEOUTS,
            Fallback::Release | Fallback::Error => {
                MAX_TIMEOUTS.min(self.config.resilience.fallback_after.saturating_sub(self.link.failures)).max(1)
            }
        };
        if self.link.timeouts >= patience {
            self.actions.push_back(Action::Disconnect);
            self.connection_lost("it does not answer".to_owned());
            return;
        }
        self.link.failures += 1;
        self.await_reply();
        self.repeat();
    }

    /// There is no connection any more: the next server is to be tried, and what was in flight is to be sent anew.
    pub(super) fn connection_lost(&mut self, reason: String) {
        self.lose(Loss::Broken(reason));
    }

    fn lose(&mut self, loss: Loss) {
        if self.finished && self.link.is_up() {
            // Nobody waits for anything: a server may close what is idle, and the next prompt opens it again.
            self.link.state = State::Down { retry: self.clock.now() };
            return;
        }
        let servers = self.config.resilience.servers;
        if self.link.is_up() {
            self.stats.disconnections += 1;
        }
        self.link.server = self.best_server((self.link.server + 1) % servers.max(1));
        let retry = self.free_at(self.link.server) + self.link.backoff.next(servers);
        self.link.state = State::Down { retry };
        self.link.waiting_since = self.clock.now();
        self.link.loss = Some(loss);
        self.blocks.clear();
        self.last_commit = None;
        // What was to be sent to that server is not for the next.
        self.actions.retain(|action| !matches!(action, Action::Send(_) | Action::Connect(_)));
        if self.finished {
            // Nobody waits for it: a session that is idle may be closed.
            return;
        }
        self.fail();
        if self.finished {
            return;
        }
        self.tell_loss();
        self.advance();
    }

    /// Counts a failure, of which only so many are borne.
    fn fail(&mut self) {
        let Resilience { fallback, fallback_after, .. } = self.config.resilience;
        self.link.failures += 1;
        if fallback == Fallback::Error && self.link.failures >= fallback_after {
            self.finish(FinishReason::Failed(match &self.link.loss {
                Some(Loss::Busy(reason)) => format!("{reason}; run the command again later"),
                Some(Loss::Broken(reason)) => {
                    format!("the server is lost ({reason}); run the command again when it is back")
                }
                None => "the server does not answer; run the command again when it does".to_owned(),
            }));
        }
    }

    /// Tells the user that there is no server, if that is news.
    fn tell_loss(&mut self) {
        if let Some(loss) = self.link.loss.clone()
            && !std::mem::replace(&mut self.link.lost, true)
        {
            self.actions.push_back(Action::Notify(match loss {
                Loss::Busy(reason) => Notice::Busy(reason),
                Loss::Broken(reason) => Notice::Lost(reason),
            }));
        }
    }

    /// The server to try next: of those that are not known to have no room for the text, the one that may be asked first, from
    /// `first` on.
    fn best_server(&self, first: usize) -> usize {
        let count = self.link.servers.len();
        let in_turn = (0..count).map(|step| (first + step) % count);
        in_turn.filter(|&server| self.has_room(server)).min_by_key(|&server| self.free_at(server)).unwrap_or(first)
    }

    /// When a server may be asked.
    fn free_at(&self, server: usize) -> Duration {
        let busy_until = self.link.servers.get(server).map_or(Duration::ZERO, |known| known.busy_until);
        busy_until.max(self.clock.now())
    }

    /// Whether a server may take a longer text than this one is now.
    fn has_room(&self, server: usize) -> bool {
        let context = self.link.servers.get(server).and_then(|known| known.context);
        context.is_none_or(|context| context > self.settled)
    }

    /// Whether the server at hand takes no longer text than this one is, and this one is to get longer.
    pub(super) fn is_full(&self) -> bool {
        self.link.is_up() && (self.link.terms.context..self.limit).contains(&self.settled)
    }

    /// Goes on with a server that takes longer texts. If there is none, the answer ends.
    pub(super) fn leave_full_server(&mut self) {
        let (len, context) = (self.settled, self.link.terms.context);
        if (0..self.link.servers.len()).any(|server| self.has_room(server)) {
            self.actions.push_back(Action::Disconnect);
            self.connection_lost(format!("its texts have {context} tokens at most, and this one has {len}"));
        } else if len > self.sequence.prompt_len() {
            self.finish(FinishReason::Length);
        } else {
            self.finish(FinishReason::Failed(format!(
                "the text has {len} tokens, and the servers take {context} at most; shorten it, or start one with a larger -c"
            )));
        }
    }

    /// A turn begins: a server that was too small for another text may do for this one.
    pub(super) fn forget_contexts(&mut self) {
        self.link.servers.iter_mut().for_each(|known| known.context = None);
        if self.link.is_up() {
            self.note_context();
        }
    }

    fn note_context(&mut self) {
        if let Some(known) = self.link.servers.get_mut(self.link.server) {
            known.context = Some(self.link.terms.context);
        }
    }

    /// How long the text gets, as far as the server at hand takes it.
    pub(super) fn end(&self) -> usize {
        if self.link.is_up() { self.limit.min(self.link.terms.context) } else { self.limit }
    }

    /// The longest block that the server at hand takes.
    pub(super) fn max_draft(&self) -> usize {
        self.config.max_draft.min(self.link.terms.max_draft)
    }

    /// Whether the device goes on alone.
    pub(super) fn is_releasing(&self) -> bool {
        let Resilience { fallback, fallback_after, .. } = self.config.resilience;
        self.is_alone() || (fallback == Fallback::Release && self.link.failures >= fallback_after && !self.link.is_up())
    }

    /// Shows the drafts as they are, if the device goes on alone. They become text that the next server takes as given.
    pub(super) fn release(&mut self) {
        if !self.is_releasing() || self.finished {
            return;
        }
        if self.sequence.len() == self.settled {
            // Nobody else will add anything.
            if self.exhausted && self.is_alone() {
                self.finish(FinishReason::Length);
            }
            return;
        }
        if std::mem::take(&mut self.link.told) {
            // What any server still says about this turn is about another text.
            self.turn += 1;
        }
        while let Some(&token) = self.sequence.tokens().get(self.settled) {
            self.stats.ahead_kept += u64::from(self.drafted.pop_front().is_some_and(|draft| draft.ahead));
            self.stats.provisional_tokens += 1;
            let (position, provenance) = (self.settled, Provenance::Provisional);
            self.emit(Emitted { position, token, provenance, opens_verdict: false, logprobs: None });
            if self.finished {
                return;
            }
        }
    }
}
