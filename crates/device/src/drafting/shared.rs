//! One draft model for many sessions: each has a sequence of the model's cache, and the drafts that are wanted at the same time
//! are made in one forward pass.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use sled_core::step::Row;
use sled_core::suspicion::Suspicion;
use sled_model::Model;

use super::cache::{Cache, sequence};
use super::{Drafts, Message, Task};
use crate::Error;

/// Tokens of prompts that a pass reads while others draft, and while nobody does: reading must not stop the drafting.
const READ_BESIDE: usize = 8;
const READ_ALONE: usize = 64;

/// Who has more than this to evaluate is reading a prompt.
const DRAFTING: usize = 4;

/// How long a pass waits for the sessions that were in the last one: they ask for their next drafts as soon as they have had
/// those. Hardly a part of a pass of any model.
const GATHER: Duration = Duration::from_millis(1);

/// A model that drafts for many sessions, on a thread that ends when this and all its [`Drafts`] are dropped.
pub struct SharedDrafter {
    thread: mpsc::Sender<Message>,
    clients: AtomicU64,
}

impl SharedDrafter {
    /// Drafts with `model`, whose cache must be empty.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn start(model: impl Model + 'static) -> Result<Self, Error> {
        let batcher = Batcher { cache: Cache::new(model), wanted: Vec::new(), together: 0 };
        Ok(Self { thread: super::start(move |inbox| batcher.run(&inbox))?, clients: AtomicU64::new(0) })
    }

    /// Drafts for another session.
    #[must_use]
    pub fn drafts(&self) -> Drafts {
        Drafts { thread: self.thread.clone(), client: self.clients.fetch_add(1, Ordering::Relaxed) }
    }
}

/// A draft that is wanted.
struct Wanted {
    task: Task,
    /// Whether passes fail because of it. It is then evaluated by itself and from an empty cache.
    suspicion: Suspicion,
}

/// What a pass does for a wanted draft.
struct Part {
    wanted: Wanted,
    seat: usize,
    /// The tokens that are evaluated.
    from: usize,
    end: usize,
    /// The row of the last of them.
    last_row: usize,
}

struct Batcher<M> {
    cache: Cache<M>,
    wanted: Vec<Wanted>,
    /// Sessions in the last pass.
    together: usize,
}

impl<M: Model> Batcher<M> {
    fn run(mut self, inbox: &mpsc::Receiver<Message>) {
        while self.gather(inbox) {
            let (rows, parts) = self.plan();
            if rows.is_empty() {
                continue;
            }
            self.together = parts.len();
            match self.cache.model.forward(&rows) {
                Ok(()) => self.complete(parts),
                Err(error) => self.fail(parts, error),
            }
        }
    }

    /// Takes what is wanted; false if nobody will want anything any more.
    fn gather(&mut self, inbox: &mpsc::Receiver<Message>) -> bool {
        if self.wanted.is_empty() {
            let Ok(first) = inbox.recv() else { return false };
            self.take(first);
        }
        let until = Instant::now() + GATHER;
        loop {
            let is_complete = self.wanted.len() >= self.together;
            let patience = if is_complete { Duration::ZERO } else { until.saturating_duration_since(Instant::now()) };
            match inbox.recv_timeout(patience) {
                Ok(message) => self.take(message),
                Err(_none) => return true,
            }
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Draft(task) if (1..=self.cache.limits().context).contains(&task.tokens.len()) => {
                self.wanted.push(Wanted { task, suspicion: Suspicion::default() });
            }
            Message::Draft(task) => {
                let _unwanted = task.answer.send(Ok(None));
            }
            Message::Leave(client) => self.cache.leave(client),
        }
    }

    /// The next pass. Whoever has the least to evaluate comes first, so that drafts go before prompts; but a suspect goes before
    /// all, and alone.
    fn plan(&mut self) -> (Vec<Row>, Vec<Part>) {
        self.cache.begin_pass();
        self.wanted.retain(|wanted| !wanted.task.answer.is_closed());
        let unread = |wanted: &Wanted| self.cache.unread(wanted.task.client, &wanted.task.tokens);
        self.wanted.sort_by_cached_key(|wanted| (!wanted.suspicion.is_raised(), unread(wanted)));
        let first = self.wanted.first();
        let most = if first.is_some_and(|first| first.suspicion.is_raised()) { 1 } else { self.wanted.len() };
        let mut reading = if first.is_some_and(|first| unread(first) <= DRAFTING) { READ_BESIDE } else { READ_ALONE };
        let (mut rows, mut parts) = (Vec::new(), Vec::new());
        for wanted in self.wanted.drain(..most).collect::<Vec<_>>() {
            match self.plan_part(wanted, &mut rows, &mut reading) {
                Ok(part) => parts.push(part),
                Err(wanted) => self.wanted.push(wanted),
            }
        }
        (rows, parts)
    }

    /// Adds the rows of `wanted` to a pass, of which `reading` may be of prompts; or hands it back, if it has to wait.
    fn plan_part(&mut self, wanted: Wanted, rows: &mut Vec<Row>, reading: &mut usize) -> Result<Part, Wanted> {
        let Task { client, tokens, .. } = &wanted.task;
        let Some((seat, from)) = self.cache.seat(*client, tokens) else { return Err(wanted) };
        let is_reading = tokens.len() - from > DRAFTING;
        let most = if is_reading { *reading } else { DRAFTING };
        let most = most.min(tokens.len() - from).min(self.cache.limits().rows - rows.len());
        let len = self.cache.make_room(most, rows.len());
        if len == 0 {
            return Err(wanted);
        }
        let end = from + len;
        rows.extend((from..).zip(&tokens[from..end]).map(|(position, &token)| Row {
            sequence: sequence(seat),
            position,
            token,
            wants_logits: position + 1 == tokens.len(),
        }));
        *reading -= if is_reading { len } else { 0 };
        Ok(Part { wanted, seat, from, end, last_row: rows.len() - 1 })
    }

    fn complete(&mut self, parts: Vec<Part>) {
        for Part { wanted, seat, from, end, last_row } in parts {
            let task = wanted.task;
            self.cache.extend(seat, &task.tokens[from..end]);
            if end < task.tokens.len() {
                self.wanted.push(Wanted { task, ..wanted });
                continue;
            }
            let logits = self.cache.model.logits(last_row);
            let draft = logits.map(|logits| Some(task.sampler.draft(logits, task.context())));
            // Without its grammar, a drafter has nothing to propose.
            let draft = draft.map(|draft| draft.filter(|_| task.sampler.failure().is_none()));
            // Whoever asked may have stopped caring.
            let _unwanted = task.answer.send(draft);
        }
    }

    fn fail(&mut self, parts: Vec<Part>, error: sled_model::Error) {
        let is_alone = parts.len() == 1;
        let mut error = Some(error);
        for Part { mut wanted, seat, .. } in parts {
            // After an error nothing is known of what the engine holds of these sequences.
            self.cache.cut(seat, 0);
            match error.take_if(|_| wanted.suspicion.on_failure(is_alone)) {
                Some(error) => {
                    let _unwanted = wanted.task.answer.send(Err(error));
                }
                None => self.wanted.push(wanted),
            }
        }
    }
}
