//! The connection to a server: timeouts, other servers, going on alone.

mod servers;
mod timer;

use std::time::Duration;

use servers::Servers;
use timer::{Backoff, Timeout};

use super::outbox::Outbox;
use super::{Action, DeviceConfig, Fallback, Notice, Resilience, Terms, Tuning};

/// The connection, and what is known of the way to the server.
#[derive(Debug)]
pub(super) struct Link {
    resilience: Resilience,
    max_timeouts: u32,
    connecting: Duration,
    state: State,
    /// The server that the connection is to, or will be tried next.
    server: usize,
    timeout: Timeout,
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
    servers: Servers,
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
pub(super) enum Loss {
    Broken(String),
    Busy(String),
}

impl Loss {
    /// The server says nothing.
    pub(super) fn silent() -> Self {
        Self::Broken("it does not answer".to_owned())
    }
}

/// What was waited for in vain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expired {
    /// A server's answer.
    Answer,
    /// A connection.
    Connection,
    /// A server that asked to be left alone.
    BusyServer,
    /// Nothing: it is time to connect.
    Delay,
}

impl Link {
    pub(super) fn new(config: &DeviceConfig) -> Self {
        let DeviceConfig { context, max_draft, resilience, tuning, .. } = config;
        let Tuning { max_timeouts, connecting, .. } = *tuning;
        Self {
            resilience: *resilience,
            max_timeouts,
            connecting,
            state: State::Down { retry: Duration::ZERO },
            server: 0,
            timeout: Timeout::new(resilience.timeout, tuning),
            backoff: Backoff::new(resilience.seed, tuning),
            waiting_since: Duration::ZERO,
            timeouts: 0,
            failures: 0,
            told: false,
            loss: None,
            lost: false,
            terms: Terms { context: *context, max_draft: *max_draft },
            servers: Servers::new(resilience.servers),
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.state == State::Up
    }

    pub(super) fn is_down(&self) -> bool {
        matches!(self.state, State::Down { .. })
    }

    /// Whether there is no server at all.
    pub(super) fn is_alone(&self) -> bool {
        self.resilience.servers == 0
    }

    /// Whether the device goes on alone.
    pub(super) fn is_releasing(&self) -> bool {
        let Resilience { fallback, fallback_after, .. } = self.resilience;
        self.is_alone() || (fallback == Fallback::Release && self.failures >= fallback_after && !self.is_up())
    }

    /// What the server at hand takes; `None` if there is none.
    pub(super) fn terms(&self) -> Option<Terms> {
        self.is_up().then_some(self.terms)
    }

    /// The longest block that the last server took.
    pub(super) fn max_draft(&self) -> usize {
        self.terms.max_draft
    }

    /// The longest text that the last server took.
    pub(super) fn context(&self) -> usize {
        self.terms.context
    }

    /// Whether any server may take a text of more than `len` tokens.
    pub(super) fn has_room(&self, len: usize) -> bool {
        self.servers.have_room(len)
    }

    /// When something has been waited for long enough. `awaiting`: an answer is to come from the server.
    pub(super) fn due(&self, now: Duration, awaiting: bool) -> Option<Duration> {
        if self.is_alone() {
            return None;
        }
        match self.state {
            State::Up => awaiting.then(|| self.waiting_since + self.timeout.duration()),
            State::Connecting { since } => Some(since + self.connecting),
            State::Down { retry } => Some(self.patience(now).map_or(retry, |patience| patience.min(retry))),
        }
    }

    /// Until when a server that asked to be left alone is waited for before that counts as another failure.
    fn patience(&self, now: Duration) -> Option<Duration> {
        let Resilience { fallback, fallback_after, .. } = self.resilience;
        let falls_back = fallback != Fallback::Wait && self.failures < fallback_after;
        let is_busy = self.servers.free_at(self.server, now) > self.waiting_since;
        (falls_back && is_busy).then(|| self.waiting_since + self.timeout.duration())
    }

    /// What was waited for until now.
    pub(super) fn expired(&self, now: Duration) -> Expired {
        match self.state {
            State::Up => Expired::Answer,
            State::Connecting { .. } => Expired::Connection,
            State::Down { retry } if retry <= now => Expired::Delay,
            State::Down { .. } => Expired::BusyServer,
        }
    }

    /// The connection stands. What it takes is told of `server`.
    pub(super) fn on_connected(&mut self, server: usize, terms: Terms) {
        self.state = State::Up;
        self.server = server;
        self.terms = terms;
        self.servers.note_context(server, terms.context);
        self.timeouts = 0;
        self.told = false;
    }

    /// The server at hand asks to be left alone until then.
    pub(super) fn on_busy(&mut self, until: Duration) {
        self.servers.note_busy(self.server, until);
    }

    /// From now on something is waited for.
    pub(super) fn wait_from(&mut self, now: Duration) {
        self.waiting_since = now;
    }

    /// The server said something that makes sense.
    pub(super) fn on_sign_of_life(&mut self, now: Duration, outbox: &mut Outbox) {
        self.waiting_since = now;
        self.timeouts = 0;
        self.failures = 0;
        self.timeout.reset();
        self.backoff.reset();
        if std::mem::take(&mut self.lost) {
            outbox.push(Action::Notify(Notice::Back { server: self.server }));
        }
    }

    /// A question that was asked once was answered after `time`.
    pub(super) fn on_answer(&mut self, time: Duration) {
        self.timeout.sample(time);
    }

    /// The server did not answer in time. True if the connection is taken for dead; else the question is asked again.
    pub(super) fn on_timeout(&mut self, now: Duration) -> bool {
        self.timeouts += 1;
        self.timeout.double();
        let Resilience { fallback, fallback_after, .. } = self.resilience;
        let patience = match fallback {
            Fallback::Wait => self.max_timeouts,
            Fallback::Release | Fallback::Error => {
                self.max_timeouts.min(fallback_after.saturating_sub(self.failures)).max(1)
            }
        };
        if self.timeouts >= patience {
            return true;
        }
        self.failures += 1;
        self.waiting_since = now;
        false
    }

    /// The server is to be told a text. Whether it was told any before.
    pub(super) fn tell(&mut self) -> bool {
        std::mem::replace(&mut self.told, true)
    }

    /// The text becomes another than any server was told. Whether any was told.
    pub(super) fn retell(&mut self) -> bool {
        std::mem::take(&mut self.told)
    }

    /// A turn begins: a server that was too small for another text may do for this one.
    pub(super) fn begin_turn(&mut self) {
        self.servers.forget_contexts();
        if self.is_up() {
            self.servers.note_context(self.server, self.terms.context);
        }
    }

    /// Looks for a server for a text of `len` tokens, if none is at hand or being connected to.
    pub(super) fn seek(&mut self, now: Duration, len: usize, outbox: &mut Outbox) {
        if !self.is_down() || self.is_alone() {
            return;
        }
        self.server = self.servers.best(self.server, len, now);
        let retry = self.servers.free_at(self.server, now);
        if retry <= now {
            self.connect(now, outbox);
        } else {
            self.state = State::Down { retry };
            self.waiting_since = now;
            self.tell_loss(outbox);
        }
    }

    pub(super) fn connect(&mut self, now: Duration, outbox: &mut Outbox) {
        self.state = State::Connecting { since: now };
        outbox.push(Action::Connect(self.server));
    }

    /// The server closed a session that nobody needed just now: the next prompt opens another.
    pub(super) fn rest(&mut self, now: Duration) {
        self.state = State::Down { retry: now };
    }

    /// There is no connection any more: the next server is to be tried with a text of `len` tokens.
    pub(super) fn go_down(&mut self, now: Duration, len: usize, loss: Loss) {
        let servers = self.resilience.servers;
        self.server = self.servers.best((self.server + 1) % servers.max(1), len, now);
        let retry = self.servers.free_at(self.server, now) + self.backoff.next(servers);
        self.state = State::Down { retry };
        self.waiting_since = now;
        self.loss = Some(loss);
    }

    /// Counts a failure, of which only so many are borne: why the answer fails, if it does.
    pub(super) fn on_failure(&mut self) -> Option<String> {
        let Resilience { fallback, fallback_after, .. } = self.resilience;
        self.failures += 1;
        (fallback == Fallback::Error && self.failures >= fallback_after).then(|| match &self.loss {
            Some(Loss::Busy(reason)) => format!("{reason}; run the command again later"),
            Some(Loss::Broken(reason)) => {
                format!("the server is lost ({reason}); run the command again when it is back")
            }
            None => "the server does not answer; run the command again when it does".to_owned(),
        })
    }

    /// No server answers, as somebody else found out.
    pub(super) fn presume_lost(&mut self, outbox: &mut Outbox) {
        self.failures = self.failures.max(self.resilience.fallback_after);
        self.notify_loss(Loss::silent(), outbox);
    }

    /// Tells the user that there is no server, if that is news.
    pub(super) fn tell_loss(&mut self, outbox: &mut Outbox) {
        if let Some(loss) = self.loss.clone() {
            self.notify_loss(loss, outbox);
        }
    }

    fn notify_loss(&mut self, loss: Loss, outbox: &mut Outbox) {
        if !std::mem::replace(&mut self.lost, true) {
            outbox.push(Action::Notify(match loss {
                Loss::Busy(reason) => Notice::Busy(reason),
                Loss::Broken(reason) => Notice::Lost(reason),
            }));
        }
    }

    /// # Panics
    /// If the connection is not what it should be.
    pub(super) fn check_invariants(&self) {
        assert!(self.server < self.resilience.servers.max(1), "there is a server {}", self.server);
        assert!(self.timeouts < self.max_timeouts || !self.is_up(), "a connection that is dead is given up");
    }
}
