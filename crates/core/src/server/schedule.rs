//! Who is served by the next pass, and when it is launched.
//!
//! Everything here compares what tokens are worth. A server that commits `rate` tokens a second gives up `rate * t` tokens in
//! `t` seconds. So of all batches the one is best whose value exceeds `rate` times the time of its pass by most
//! ([`super::choice`]), and a pass waits for a draft that is due in `t` seconds if that brings more than `rate * t` tokens
//! (Dinkelbach, *On nonlinear fractional programming*, 1967: the best rate is where the differences are zero).
//! Tokens of sessions that are below the rate goal, or without one below what plain batching would give them, are worth more than
//! others ([`super::rate::Pace`]): then the rate is that of their worth.

use std::time::Duration;

use super::cache::PrefixCache;
use super::choice;
use super::costs::Costs;
use super::memory::may_have_room;
use super::prices::Prices;
use super::rate::Goal;
use super::scheduling::{Assist, Batching};
use super::session::{Session, Wants};
use super::sessions::Sessions;
use super::tuning::PassTuning;
use super::{Demand, ServerConfig, SessionId};

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

/// What is looked at to decide.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'a> {
    pub(super) config: &'a ServerConfig,
    pub(super) sessions: &'a Sessions,
    pub(super) cache: &'a PrefixCache,
    pub(super) costs: &'a Costs,
}

/// Decides who is served, and when.
#[derive(Debug, Default)]
pub(super) struct Scheduler {
    /// How many sessions wanted something when this was last looked at.
    demand: Demand,
    /// What tokens were worth and rows cost then.
    prices: Prices,
    /// Whether the last pass was for a suspect.
    tried: bool,
    /// Whether a pass has failed since there was a suspect: else nobody need be looked at.
    suspects: bool,
    /// Who wants something now; kept for its memory.
    queue: Queue,
}

impl Scheduler {
    /// How many sessions wanted something when the next pass was last thought of.
    pub(super) fn demand(&self) -> Demand {
        self.demand
    }

    /// What tokens are worth and rows cost, as of when the next pass was last thought of.
    pub(super) fn prices(&self) -> Prices {
        self.prices
    }

    /// Whether suspects are to come first: they take turns with all others, so that neither wait for the other.
    pub(super) fn suspects_first(&mut self) -> bool {
        !std::mem::take(&mut self.tried)
    }

    /// A pass has failed: there may be suspects.
    pub(super) fn on_failure(&mut self) {
        self.suspects = true;
    }

    /// Whether a pass for a suspect was planned.
    pub(super) fn note_suspect(&mut self, planned: bool) {
        self.tried = planned;
    }

    /// Who is to be served, and whether it is time. Without `with_texts` nothing is read.
    pub(super) fn next(&mut self, now: Duration, with_texts: bool, view: View<'_>) -> Launch {
        let mut queue = std::mem::take(&mut self.queue);
        queue.refill(view, with_texts);
        let demand =
            Demand { reading: queue.reading.len(), waiting: queue.asking.len(), drafting: queue.drafting.len() };
        queue.keep_earliest(view);
        if with_texts {
            self.demand = demand;
            let goal = view.goal(demand.waiting + demand.drafting);
            self.prices = self.prices.at(goal, demand, view.config, view.costs);
        }
        let decision = Decision { now, view, prices: self.prices };
        let launch = match view.config.batching {
            Batching::Static { batch_size, max_wait } => decision.fixed(&mut queue, batch_size, max_wait),
            Batching::Continuous => decision.continuous(&mut queue),
        };
        self.queue = queue;
        if let Launch::Now(batch) = &launch {
            let decoding = batch.decoding.iter().filter_map(|&id| view.sessions.get(id));
            self.prices = self.prices.with_rows(now, view.config, view.costs, decoding);
        }
        launch
    }

    /// A pass for each of those whose fault it may be that a pass failed, by itself; who came first is first.
    pub(super) fn suspects(&mut self, view: View<'_>) -> Vec<Batch> {
        if !self.suspects {
            return Vec::new();
        }
        let suspects = view.sessions.iter().filter(|(_, session)| session.suspicion.is_raised());
        let mut suspects: Vec<_> =
            suspects.map(|(id, session)| (session.place.senior(), id, session.wants())).collect();
        self.suspects = !suspects.is_empty();
        suspects.sort_unstable_by_key(|&(senior, id, _)| (senior, id));
        let prefill = view.rows_in(view.config.tuning.passes.prefill_delay, 0);
        let batch = |(_, id, wants)| match wants {
            Wants::Reading => Some(Batch { reading: vec![id], prefill, ..Batch::default() }),
            Wants::Tokens => Some(Batch { decoding: vec![id], ..Batch::default() }),
            Wants::Assistance if view.config.assist != Assist::Never => {
                Some(Batch { decoding: vec![id], ..Batch::default() })
            }
            Wants::Assistance | Wants::Word | Wants::Nothing => None,
        };
        suspects.into_iter().filter_map(batch).collect()
    }
}

impl View<'_> {
    /// By when a session is to have its next token: when it would fall below its rate goal, or if there is none, as soon as it
    /// began to wait.
    fn deadline(&self, session: &Session) -> Duration {
        match self.config.rate_goal {
            Some(goal) => {
                let text = session.text.sequence();
                let generated = text.len() - text.prompt_len() + 1;
                session.begun() + Duration::try_from_secs_f64(generated as f64 / goal).unwrap_or(Duration::MAX / 2)
            }
            None => session.waiting_since(),
        }
    }

    /// What each of `sessions` is to get, if possible: the rate goal, or else what plain batching would give it.
    fn goal(&self, sessions: usize) -> Goal {
        match self.config.rate_goal {
            Some(rate) => Goal::asked(rate, self.config.tuning.fairness),
            None if sessions > 1 => {
                let served = sessions.min(self.config.sequences).min(self.config.rows) as f64;
                let pass = self.costs.pass((served * (1.0 + self.costs.prompt_share())) as usize);
                let rate = served / sessions as f64 / pass;
                if pass > 0.0 { Goal::plain(rate, self.config.tuning.fairness) } else { Goal::default() }
            }
            None => Goal::default(),
        }
    }

    /// How many rows of text take `seconds` beside `base` others.
    fn rows_in(&self, seconds: f64, base: usize) -> usize {
        let rows = self.costs.rows_in(seconds, base, self.config.rows);
        rows.map_or(self.config.rows, |rows| rows.max(self.config.tuning.passes.min_prefill))
    }

    /// From when on a session with this deadline is assisted: its token is to be there in time.
    fn assisted_from(&self, deadline: Duration) -> Duration {
        let pass = Duration::try_from_secs_f64(self.costs.pass(1)).unwrap_or_default();
        deadline.saturating_sub(pass)
    }
}

/// What is to be done at one moment.
struct Decision<'a> {
    now: Duration,
    view: View<'a>,
    prices: Prices,
}

impl Decision<'_> {
    /// A batch of a fixed size, or whatever there is after a time.
    fn fixed(&self, queue: &mut Queue, batch_size: usize, max_wait: Duration) -> Launch {
        let View { config, sessions, cache, .. } = self.view;
        if !queue.reading.is_empty() {
            let reading = std::mem::take(&mut queue.reading);
            return Launch::Now(Batch { reading, prefill: config.rows, ..Batch::default() });
        }
        queue.asking.retain(|&(_, id)| may_have_room(sessions, cache, id));
        let arrived = |id: SessionId| sessions.get(id).map_or(self.now, Session::waiting_since);
        let Some(first) = queue.asking.iter().map(|&(_, id)| arrived(id)).min() else { return Launch::Never };
        if queue.asking.len() < batch_size && first + max_wait > self.now {
            return Launch::At(first + max_wait);
        }
        queue.asking.truncate(batch_size);
        Launch::Now(Batch { decoding: ids(&queue.asking), padded: true, ..Batch::default() })
    }

    /// Whatever is ready, unless it is worth to wait for more.
    fn continuous(&self, queue: &mut Queue) -> Launch {
        let config = self.view.config;
        let assisted: Vec<_> = queue.drafting.iter().copied().filter(|&queued| self.assists(queued)).collect();
        if queue.asking.is_empty() && queue.reading.is_empty() && assisted.is_empty() {
            // A session that is ahead of its goal may fall behind it before its draft comes.
            let next = queue.drafting.first().filter(|_| config.assist == Assist::Auto);
            return next.map_or(Launch::Never, |&(deadline, _)| Launch::At(self.view.assisted_from(deadline)));
        }
        if queue.reading.is_empty()
            && config.assist != Assist::Always
            && let Some(wait) = self.worth_waiting(queue)
        {
            return Launch::At(self.now + wait);
        }
        let prefill = self.prefill(queue, assisted.len());
        let decoding = queue.asking.iter().chain(&assisted).map(|&(_, id)| id).take(config.rows).collect();
        Launch::Now(Batch { decoding, reading: std::mem::take(&mut queue.reading), prefill, padded: false })
    }

    /// How many rows of text may be read beside those who are asking, and `assisted` others.
    fn prefill(&self, queue: &Queue, assisted: usize) -> usize {
        let View { config, sessions, costs, .. } = self.view;
        let somebody_decodes = !queue.asking.is_empty() || !queue.drafting.is_empty();
        let PassTuning { prefill_delay, prefill_alone, .. } = config.tuning.passes;
        let least = if somebody_decodes { prefill_delay } else { prefill_alone };
        // Long passes are few: each of them reads the more.
        let drafts = |&(_, id): &(Duration, SessionId)| {
            sessions.get(id).map_or(0, |session| {
                let most = session.drafts_within(config.context).min(config.rows);
                self.prices.worthwhile(self.now, session, most)
            })
        };
        let drafts: usize = if queue.reading.is_empty() { 0 } else { queue.asking.iter().map(drafts).sum() };
        let decoding = queue.asking.len() + assisted + drafts;
        self.view.rows_in(least.max(costs.pass(decoding)), decoding)
    }

    /// Whether a session is given a row that it has not asked for.
    fn assists(&self, (deadline, id): (Duration, SessionId)) -> bool {
        let View { config, sessions, .. } = self.view;
        let is_behind = || sessions.get(id).is_some_and(|session| self.prices.worth(self.now, session) > 1.0);
        match config.assist {
            Assist::Never => false,
            Assist::Always => true,
            Assist::Auto => config.rate_goal.is_none() || self.now >= self.view.assisted_from(deadline) || is_behind(),
        }
    }

    /// How long to wait for drafts that are due, if that raises the expected rate; never longer than until the next of them.
    fn worth_waiting(&self, queue: &Queue) -> Option<Duration> {
        let rate = self.view.costs.rate();
        let row = self.row_beside(queue);
        let mut due: Vec<(f64, f64)> = queue.drafting.iter().filter_map(|&queued| self.expected(queued, row)).collect();
        due.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut gained = 0.0;
        let pays = due.iter().any(|&(wait, gain)| {
            gained += gain;
            gained > rate * wait
        });
        pays.then(|| due.first()).flatten().and_then(|&(wait, _)| Duration::try_from_secs_f64(wait).ok())
    }

    /// What a row costs of those that may come to the batch that is at hand, in tokens of sessions that have their goal: as little
    /// as it costs in any batch that is filled up by them.
    fn row_beside(&self, queue: &Queue) -> f64 {
        let View { config, sessions, costs, .. } = self.view;
        let (mut values, mut more) = (Vec::new(), 0.0);
        for session in queue.asking.iter().filter_map(|&(_, id)| sessions.get(id)) {
            let drafts = session.drafts_within(config.context);
            let worth = self.prices.worth(self.now, session);
            values.extend((1..=drafts).map(|len| worth * session.record.forecast().survival(len)));
        }
        values.sort_unstable_by(|a, b| b.total_cmp(a));
        for session in queue.drafting.iter().filter_map(|&(_, id)| sessions.get(id)) {
            more += 1.0 + session.record.forecast().length();
        }
        let base = queue.asking.len();
        let base = base + choice::best(&values, base, self.prices.second(), costs);
        let most = (more as usize).min(config.rows.saturating_sub(base)).max(1);
        (1..=most).map(|more| choice::row(more, base, self.prices.second(), costs)).fold(f64::INFINITY, f64::min)
    }

    /// In how many seconds the next draft of a session is due, and what it brings to wait for it, if it brings anything, where a row
    /// costs `row`.
    fn expected(&self, (deadline, id): (Duration, SessionId), row: f64) -> Option<(f64, f64)> {
        let session = self.view.sessions.get(id)?;
        let forecast = session.record.forecast();
        let wait = forecast.due(self.now)?;
        let len = forecast.length();
        let price = (row / self.prices.worth(self.now, session)).min(1.0);
        let worth = forecast.tokens(len) - price * (len + 1.0);
        let earlier = self.view.config.tuning.passes.earlier;
        let gain = if self.assists((deadline, id)) { earlier * (worth - (1.0 - price)) } else { worth };
        (gain > 0.0).then(|| (wait, self.prices.worth(self.now, session) * gain))
    }
}

/// The sessions that want something, each with what it is sorted by.
#[derive(Debug, Default)]
struct Queue {
    asking: Vec<(Duration, SessionId)>,
    drafting: Vec<(Duration, SessionId)>,
    reading: Vec<SessionId>,
}

impl Queue {
    /// Whoever wants something, and is not to be alone in a pass.
    fn refill(&mut self, view: View<'_>, with_texts: bool) {
        let Self { asking, drafting, reading } = self;
        asking.clear();
        drafting.clear();
        reading.clear();
        for (id, session) in view.sessions.iter().filter(|(_, session)| !session.suspicion.is_raised()) {
            match session.wants() {
                Wants::Nothing | Wants::Word => {}
                Wants::Reading if !with_texts => {}
                Wants::Reading => reading.push(id),
                Wants::Tokens => asking.push((view.deadline(session), id)),
                Wants::Assistance => drafting.push((view.deadline(session), id)),
            }
        }
    }

    /// Sorts who decodes, and drops whoever is not among the first of a kind: a pass has no rows for them.
    fn keep_earliest(&mut self, view: View<'_>) {
        let most = match view.config.batching {
            Batching::Static { batch_size, .. } => view.config.rows.max(batch_size),
            Batching::Continuous => view.config.rows,
        };
        for part in [&mut self.asking, &mut self.drafting] {
            if part.len() > most {
                keep_earliest(part, most, view);
            }
            part.sort_unstable();
        }
    }
}

/// Keeps the earliest `most`. Whoever cannot have a place in the cache is not among them, else those who have one would not be
/// served. Where room is short, the most senior is: it can have it, whoever else is to give way.
fn keep_earliest(part: &mut Vec<(Duration, SessionId)>, most: usize, view: View<'_>) {
    let View { sessions, cache, .. } = view;
    let seniority = |id: SessionId| sessions.get(id).map(|session| (session.place.senior(), id));
    let stands = |id: SessionId| sessions.get(id).is_some_and(|session| session.place.sequence().is_none());
    let mut first = part.iter().map(|&(_, id)| id).filter(|&id| stands(id)).min_by_key(|&id| seniority(id));
    if first.take_if(|id| !may_have_room(sessions, cache, *id)).is_some() {
        part.retain(|&(_, id)| !stands(id));
    }
    if part.len() > most {
        if first.is_none() && cache.room() == 0 {
            first = part.iter().map(|&(_, id)| id).min_by_key(|&id| seniority(id));
        }
        part.select_nth_unstable_by_key(most, |&(deadline, id)| (Some(id) != first, deadline, id));
        part.truncate(most);
    }
}

fn ids(queue: &[(Duration, SessionId)]) -> Vec<SessionId> {
    queue.iter().map(|&(_, id)| id).collect()
}
