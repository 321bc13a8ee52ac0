//! Who is served by the next pass, and when it is launched.
//!
//! Everything here compares what tokens are worth. A server that commits `rate` tokens a second gives up `rate * t` tokens in
//! `t` seconds, so that a row, which makes a pass `b` seconds longer, has the price `rate * b`; a draft is verified if it is
//! likelier than that to be accepted, and a pass waits for a draft that is due in `t` seconds if that brings more than
//! `rate * t` tokens (Dinkelbach, *On nonlinear fractional programming*, 1967: the best rate is where the differences are zero).
//! Tokens of sessions that are below the rate goal, or without one below what plain batching would give them, are worth more than
//! others ([`super::rate::Pace`]): then the rate is that of their worth.

use std::time::Duration;

use super::rate::Goal;
use super::scheduling::{Assist, Batching};
use super::session::{Session, Wants};
use super::{Demand, Server, SessionId};

/// A prompt delays nobody's tokens by more than about this in each pass, in seconds, or than the pass takes without it: where
/// many sessions share a pass, as many prompts come.
const PREFILL_DELAY: f64 = 0.25;

/// What reading may add to a pass that nobody else is in: whoever comes meanwhile waits for its end, and a server that is in a
/// pass answers nobody.
const PREFILL_ALONE: f64 = 1.0;

/// The least prompt rows in a pass, so that prompts are read on however slow the engine is.
const MIN_PREFILL: usize = 8;

/// Rows are a little dearer than they seem: of the drafts that are worth hardly more than their price, many are overrated.
const MARGIN: f64 = 1.05;

/// The same while prompts wait: a draft takes the time in which they would be read, and whoever has not been read to yet is missing
/// in the passes. Found by simulation.
const MARGIN_BESIDE_PROMPTS: f64 = 1.3;

/// A draft that is waited for is verified a pass earlier than it would be otherwise: so much of its worth is gained. Found by
/// simulation.
const EARLIER: f64 = 0.6;

/// Whoever is served by the next pass.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Sessions with a block, or that asked for plain decoding; then those that are assisted. Earliest deadline first.
    pub(super) decoding: Vec<SessionId>,
    /// Sessions whose text is to be read.
    pub(super) reading: Vec<SessionId>,
    /// How many rows of text may be read.
    pub(super) prefill: usize,
    /// Blocks are padded to the longest of them.
    pub(super) padded: bool,
}

/// When to launch.
#[derive(Debug)]
pub(super) enum Launch {
    Now(Batch),
    At(Duration),
    /// Nobody waits for anything.
    Never,
}

impl Server {
    /// Phase one: who is to be served, and whether it is time. Without `with_texts` nothing is read.
    pub(super) fn schedule(&mut self, now: Duration, with_texts: bool) -> Launch {
        let mut queue = Queue::default();
        for (&id, session) in self.sessions.iter().filter(|(_, session)| !session.suspicion.is_raised()) {
            match session.wants() {
                Wants::Nothing | Wants::Word => {}
                Wants::Reading if !with_texts => {}
                Wants::Reading => queue.reading.push(id),
                Wants::Tokens => queue.asking.push((self.deadline(session), id)),
                Wants::Assistance => queue.drafting.push((self.deadline(session), id)),
            }
        }
        if with_texts {
            let Queue { asking, drafting, reading } = &queue;
            self.demand = Demand { reading: reading.len(), waiting: asking.len(), drafting: drafting.len() };
            self.goal = self.goal(asking.len() + drafting.len());
        }
        match self.config.batching {
            Batching::Static { batch_size, max_wait } => {
                queue.keep_earliest(self.config.rows.max(batch_size));
                self.schedule_static(now, queue, batch_size, max_wait)
            }
            Batching::Continuous => {
                queue.keep_earliest(self.config.rows);
                self.schedule_continuous(now, queue)
            }
        }
    }

    /// By when a session is to have its next token: when it would fall below its rate goal, or if there is none, as soon as it
    /// began to wait.
    fn deadline(&self, session: &Session) -> Duration {
        match self.config.rate_goal {
            Some(goal) => {
                let generated = session.sequence.len() - session.sequence.prompt_len() + 1;
                session.begun + Duration::try_from_secs_f64(generated as f64 / goal).unwrap_or(Duration::MAX / 2)
            }
            None => session.waiting_since(),
        }
    }

    /// What each of `sessions` is to get, if possible: the rate goal, or else what plain batching would give it.
    fn goal(&self, sessions: usize) -> Goal {
        match self.config.rate_goal {
            Some(rate) => Goal::asked(rate),
            None if sessions > 1 => {
                let served = sessions.min(self.config.sequences).min(self.config.rows) as f64;
                let pass = self.cost.pass(served * (1.0 + self.rate.prompt_share()));
                if pass > 0.0 { Goal::plain(served / sessions as f64 / pass) } else { Goal::default() }
            }
            None => Goal::default(),
        }
    }

    /// What a token of this session is worth beside one of a session that has its rate goal.
    pub(super) fn worth(&self, now: Duration, session: &Session) -> f64 {
        let is_waiting = session.is_generating();
        session.pace.worth(self.goal, is_waiting.then_some(now))
    }

    /// What one more row of this session costs, in tokens of it.
    pub(super) fn price(&self, now: Duration, session: &Session) -> f64 {
        let Demand { reading, waiting, drafting } = self.demand;
        let margin = if reading > 0 && waiting + drafting > 0 { MARGIN_BESIDE_PROMPTS } else { MARGIN };
        (margin * self.rate.get() * self.cost.row() / self.worth(now, session)).min(1.0)
    }

    fn schedule_static(&self, now: Duration, mut queue: Queue, batch_size: usize, max_wait: Duration) -> Launch {
        if !queue.reading.is_empty() {
            return Launch::Now(Batch { reading: queue.reading, prefill: self.config.rows, ..Batch::default() });
        }
        queue.asking.retain(|&(_, id)| self.may_have_room(id));
        let arrived = |id: &SessionId| self.sessions.get(id).map_or(now, Session::waiting_since);
        let Some(first) = queue.asking.iter().map(|(_, id)| arrived(id)).min() else { return Launch::Never };
        if queue.asking.len() < batch_size && first + max_wait > now {
            return Launch::At(first + max_wait);
        }
        queue.asking.truncate(batch_size);
        Launch::Now(Batch { decoding: ids(&queue.asking), padded: true, ..Batch::default() })
    }

    fn schedule_continuous(&self, now: Duration, queue: Queue) -> Launch {
        let assisted: Vec<_> = queue.drafting.iter().copied().filter(|&queued| self.assists(now, queued)).collect();
        if queue.asking.is_empty() && queue.reading.is_empty() && assisted.is_empty() {
            // A session that is ahead of its goal may fall behind it before its draft comes.
            let next = queue.drafting.first().filter(|_| self.config.assist == Assist::Auto);
            return next.map_or(Launch::Never, |&(deadline, _)| Launch::At(self.assisted_from(deadline)));
        }
        if queue.reading.is_empty()
            && self.config.assist != Assist::Always
            && let Some(wait) = self.worth_waiting(now, &queue)
        {
            return Launch::At(now + wait);
        }
        let somebody_decodes = !queue.asking.is_empty() || !queue.drafting.is_empty();
        let least = if somebody_decodes { PREFILL_DELAY } else { PREFILL_ALONE };
        // Long passes are few: each of them reads the more.
        let drafts = |&(_, id): &(Duration, SessionId)| self.worthwhile_drafts(now, id, self.config.rows);
        let drafts: usize = if queue.reading.is_empty() { 0 } else { queue.asking.iter().map(drafts).sum() };
        let delay = least.max(self.cost.pass((queue.asking.len() + assisted.len() + drafts) as f64));
        let prefill = self.rows_in(delay);
        let decoding = queue.asking.iter().chain(&assisted).map(|&(_, id)| id).take(self.config.rows).collect();
        Launch::Now(Batch { decoding, reading: queue.reading, prefill, padded: false })
    }

    /// How many rows of text take `seconds`.
    fn rows_in(&self, seconds: f64) -> usize {
        match self.cost.row() {
            row if row > 0.0 => ((seconds / row) as usize).max(MIN_PREFILL),
            _ => self.config.rows,
        }
    }

    /// A pass for each of those whose fault it may be that a pass failed, by itself; who came first is first.
    pub(super) fn suspects(&self) -> Vec<Batch> {
        let suspects = self.sessions.iter().filter(|(_, session)| session.suspicion.is_raised());
        let mut suspects: Vec<_> = suspects.map(|(&id, session)| (session.senior, id, session.wants())).collect();
        suspects.sort_unstable_by_key(|&(senior, id, _)| (senior, id));
        let prefill = self.rows_in(PREFILL_DELAY);
        let batch = |(_, id, wants)| match wants {
            Wants::Reading => Some(Batch { reading: vec![id], prefill, ..Batch::default() }),
            Wants::Tokens => Some(Batch { decoding: vec![id], ..Batch::default() }),
            Wants::Assistance if self.config.assist != Assist::Never => {
                Some(Batch { decoding: vec![id], ..Batch::default() })
            }
            Wants::Assistance | Wants::Word | Wants::Nothing => None,
        };
        suspects.into_iter().filter_map(batch).collect()
    }

    /// Whether a session is given a row that it has not asked for.
    fn assists(&self, now: Duration, (deadline, id): (Duration, SessionId)) -> bool {
        let is_behind = || self.sessions.get(&id).is_some_and(|session| self.worth(now, session) > 1.0);
        match self.config.assist {
            Assist::Never => false,
            Assist::Always => true,
            Assist::Auto => self.config.rate_goal.is_none() || now >= self.assisted_from(deadline) || is_behind(),
        }
    }

    /// From when on a session with this deadline is assisted: its token is to be there in time.
    fn assisted_from(&self, deadline: Duration) -> Duration {
        let pass = Duration::try_from_secs_f64(self.cost.pass(1.0)).unwrap_or_default();
        deadline.saturating_sub(pass)
    }

    /// How long to wait for drafts that are due, if that raises the expected rate; never longer than until the next of them.
    fn worth_waiting(&self, now: Duration, queue: &Queue) -> Option<Duration> {
        let rate = self.rate.get();
        let mut due: Vec<(f64, f64)> = Vec::new();
        for &(deadline, id) in &queue.drafting {
            let Some(session) = self.sessions.get(&id) else { continue };
            let Some(wait) = session.forecast.due(now) else { continue };
            let len = session.forecast.length();
            let price = self.price(now, session);
            let worth = session.forecast.tokens(len) - price * (len + 1.0);
            let gain = if self.assists(now, (deadline, id)) { EARLIER * (worth - (1.0 - price)) } else { worth };
            if gain > 0.0 {
                due.push((wait, self.worth(now, session) * gain));
            }
        }
        due.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut gained = 0.0;
        let pays = due.iter().any(|&(wait, gain)| {
            gained += gain;
            gained > rate * wait
        });
        pays.then(|| due.first()).flatten().and_then(|&(wait, _)| Duration::try_from_secs_f64(wait).ok())
    }
}

/// The sessions that want something, each with what it is sorted by.
#[derive(Default)]
struct Queue {
    asking: Vec<(Duration, SessionId)>,
    drafting: Vec<(Duration, SessionId)>,
    reading: Vec<SessionId>,
}

impl Queue {
    /// Sorts who decodes, and drops whoever is not among the first `most` of a kind: a pass has no rows for them.
    fn keep_earliest(&mut self, most: usize) {
        for part in [&mut self.asking, &mut self.drafting] {
            if part.len() > most {
                part.select_nth_unstable(most);
                part.truncate(most);
            }
            part.sort_unstable();
        }
    }
}

fn ids(queue: &[(Duration, SessionId)]) -> Vec<SessionId> {
    queue.iter().map(|&(_, id)| id).collect()
}
