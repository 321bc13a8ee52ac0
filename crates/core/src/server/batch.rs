//! The batcher: `plan` a forward pass, let the engine run it, `complete` it.

use std::ops::Range;
use std::time::Duration;

use super::session::Pending;
use super::{Server, SessionId};
use crate::message::{Commit, Load, Reply};
use crate::sequence::common_prefix;
use crate::step::{CacheOp, Row};
use crate::{Position, Token};

/// A shorter common prefix is not worth a copy in the cache.
const MIN_SHARED_PREFIX: usize = 16;

/// After this many failed passes in a row with a session, the session is given up.
const MAX_FAILURES: u32 = 3;

/// One forward pass: what to do to the cache first, and the rows to evaluate.
#[derive(Debug)]
pub struct Step {
    /// Changes to the cache, in order, before the pass.
    pub cache_ops: Vec<CacheOp>,
    /// The rows, those of one session together and in order of position.
    pub rows: Vec<Row>,
    parts: Vec<Part>,
    planned: Duration,
    /// How many sessions have rows in it.
    sharing: u32,
    /// Whether its duration is known to the cost model.
    observed: bool,
}

impl Step {
    fn begun(now: Duration) -> Self {
        Self { cache_ops: Vec::new(), rows: Vec::new(), parts: Vec::new(), planned: now, sharing: 0, observed: false }
    }

    /// How many sessions have rows in it.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.parts.len()
    }
}

/// One session's share of a step.
#[derive(Debug)]
struct Part {
    session: SessionId,
    epoch: u64,
    /// Its rows among the rows of the step.
    rows: Range<usize>,
    /// What its last rows verify; `None` while the prompt is not evaluated to its end.
    verify: Option<Verify>,
}

/// Rows that a verdict comes from: one for the last committed token, and one for each draft.
#[derive(Debug)]
struct Verify {
    /// The block that is answered; `None` for a step that the server takes by itself.
    pending: Option<Pending>,
    /// Where the answered block began, and how many of its tokens were committed before.
    from: Position,
    known: usize,
    drafts: Vec<Token>,
    waited: Duration,
}

impl Server {
    /// The next forward pass, or `None` if nobody waits for one. `now` is when it begins.
    ///
    /// Whoever waits longest comes first. Each session gets the rows of its block, or one plain row; what the row budget
    /// does not hold is left unverified, which costs a device its tail and never a wrong token.
    pub fn plan(&mut self, now: Duration) -> Option<Step> {
        let mut queue: Vec<(Duration, SessionId)> = self
            .sessions
            .iter()
            .filter(|(_, session)| session.wants_rows())
            .map(|(&id, session)| (session.waiting_since(), id))
            .collect();
        if queue.is_empty() || self.running {
            return None;
        }
        queue.sort_unstable();
        self.running = true;
        // Where others share the pass, rows are dear: then a block waits for the verdict on the one before.
        if let [(_, only)] = queue[..]
            && let Some(session) = self.sessions.get_mut(&only)
        {
            session.join_ahead();
        }

        let mut step = Step { cache_ops: std::mem::take(&mut self.closing), ..Step::begun(now) };
        step.cache_ops.extend(self.sessions.values_mut().filter_map(|session| session.cache.roll_back()));

        // Blocks first, prompts with what is left: whoever waits for a verdict is delayed by one chunk at the most.
        let (ready, unread): (Vec<_>, Vec<_>) =
            queue.into_iter().partition(|(_, id)| self.sessions.get(id).is_some_and(|session| session.unread() == 1));
        let mut prefill = self.config.prefill_rows;
        for (_, id) in ready.into_iter().chain(unread) {
            self.add(&mut step, id, &mut prefill);
        }
        step.sharing = u32::try_from(step.parts.len()).unwrap_or(u32::MAX);
        Some(step)
    }

    /// Gives `id` its rows in `step`, as far as the budgets go.
    fn add(&mut self, step: &mut Step, id: SessionId, prefill: &mut usize) {
        self.share_prefix(step, id);
        let Some(session) = self.sessions.get(&id) else { return };
        let room = self.config.rows.saturating_sub(step.rows.len());
        let unread = session.unread();
        // The last unread token is no prompt row: its logits choose the next token.
        let context = unread.min(room).min(*prefill + 1);
        if context == 0 {
            return;
        }
        let reads_all = context == unread;
        let drafts = if reads_all {
            let most = self.config.context.saturating_sub(session.sequence.len() + 1);
            session.drafts(most.min(room - context)).to_vec()
        } else {
            Vec::new()
        };
        if !self.make_room(step, id, context + drafts.len()) {
            return;
        }
        let Some(session) = self.sessions.get_mut(&id) else { return };

        *prefill -= context - 1;
        let first = step.rows.len();
        let cached = session.cache.valid;
        let text = session.sequence.since(cached).iter().take(context).chain(&drafts);
        step.rows.extend(text.enumerate().map(|(i, &token)| Row {
            sequence: session.cache.sequence,
            position: cached + i,
            token,
            wants_logits: reads_all && i + 1 >= context,
        }));
        let verify = reads_all.then(|| {
            let waited = step.planned.saturating_sub(session.waiting_since());
            let pending = session.pending.take();
            session.verifying = pending.is_some();
            let from = pending.as_ref().map_or(session.sequence.len(), |pending| pending.block.from);
            Verify { pending, from, known: session.sequence.len() - from, drafts, waited }
        });
        session.active = step.planned;
        step.parts.push(Part { session: id, epoch: session.epoch, rows: first..step.rows.len(), verify });
    }

    /// How many cells are in use, by what the engine holds and by the rows of `step`. A shared prefix counts for each session
    /// that has it, though the engine stores it once.
    fn used_cells(&self, step: &Step) -> usize {
        self.sessions.values().map(|session| session.cache.held).sum::<usize>() + step.rows.len()
    }

    /// If the cache of `id` is empty, fills it with the longest prefix that it shares with another session's.
    fn share_prefix(&mut self, step: &mut Step, id: SessionId) {
        let Some(session) = self.sessions.get(&id).filter(|session| session.cache.held == 0) else { return };
        let most = session.sequence.len().saturating_sub(1);
        let donor = self
            .sessions
            .iter()
            .filter(|(other, _)| **other != id)
            .map(|(_, other)| {
                let cached = &other.sequence.tokens()[..other.cache.valid];
                (common_prefix(cached, session.sequence.tokens()).min(most), other.cache.sequence)
            })
            .max_by_key(|(len, _)| *len)
            .filter(|(len, _)| *len >= MIN_SHARED_PREFIX && self.used_cells(step) + len <= self.config.cells);
        if let (Some((len, from)), Some(session)) = (donor, self.sessions.get_mut(&id)) {
            step.cache_ops.push(CacheOp::CopyPrefix { from, to: session.cache.sequence, len });
            session.cache.held = len;
            session.cache.valid = len;
        }
    }

    /// Makes sure that the cache holds `wanted` more rows for `id`, by evicting whoever was idle longest and has no rows in
    /// this step. The evicted session keeps its tokens; they are evaluated again when it needs them.
    fn make_room(&mut self, step: &mut Step, id: SessionId, wanted: usize) -> bool {
        while self.used_cells(step) + wanted > self.config.cells {
            let idlest = self
                .sessions
                .iter_mut()
                .filter(|(other, session)| {
                    **other != id && session.cache.held > 0 && step.parts.iter().all(|part| part.session != **other)
                })
                .min_by_key(|(_, session)| session.active);
            let Some((_, session)) = idlest else { return false };
            session.cache.valid = 0;
            step.cache_ops.extend(session.cache.roll_back());
        }
        true
    }

    /// Takes the logits of a pass that `plan` handed out, and returns what it commits. `logits(i)` are the logits of row `i`
    /// of the step; they are asked for only as far as drafts are accepted.
    ///
    /// # Errors
    /// Whatever `logits` returns; the step must then be handed to [`Server::fail`].
    pub fn complete<'a, E>(
        &mut self,
        now: Duration,
        step: &mut Step,
        mut logits: impl FnMut(usize) -> Result<&'a [f32], E>,
    ) -> Result<Vec<(SessionId, Reply)>, E> {
        let duration = now.saturating_sub(step.planned);
        if !step.observed {
            step.observed = true;
            self.cost.observe(step.rows.len(), duration);
        }
        let row = self.cost.row();
        let mut replies = Vec::new();
        while let Some(part) = step.parts.last_mut() {
            let Some(session) = self.sessions.get_mut(&part.session) else {
                step.parts.pop();
                continue;
            };
            if session.epoch == part.epoch {
                let cached = session.cache.valid + part.rows.len();
                match &mut part.verify {
                    None => session.cache.valid = cached,
                    Some(verify) => {
                        let first = part.rows.end - verify.drafts.len() - 1;
                        let (accepted, tokens) =
                            session.accept(&self.config.end_of_generation, &verify.drafts, |i| logits(first + i))?;
                        session.cache.valid = cached - verify.drafts.len() + accepted;
                        let commit = Commit {
                            turn: session.turn,
                            from: verify.from,
                            accepted: verify.known + accepted,
                            tokens,
                            digest: session.sequence.last_digest(),
                            rows: u32::try_from(verify.drafts.len() + 1).unwrap_or(u32::MAX),
                            load: Load { queue: verify.waited, step: duration, row, sharing: step.sharing },
                        };
                        replies.push((part.session, Reply::Commit(commit)));
                        // What the row budget cut off a block is still to be answered, if nothing newer has come.
                        let cut = |pending: &Pending| verify.known + verify.drafts.len() < pending.block.tokens.len();
                        session.pending = session.pending.take().or(verify.pending.take().filter(cut));
                    }
                }
                session.failures = 0;
            }
            session.cache.held += part.rows.len();
            session.active = now;
            session.verifying = false;
            let settled = session.settle(&self.config);
            replies.extend(settled.into_iter().map(|reply| (part.session, reply)));
            step.parts.pop();
        }
        self.running = false;
        Ok(replies)
    }

    /// Takes back a step that the engine could not run. Sessions are evaluated anew from their tokens; one that fails
    /// again and again is given up, and only that one.
    pub fn fail(&mut self, step: Step, reason: &str) -> Vec<(SessionId, Reply)> {
        self.running = false;
        // How far the engine got with the cache is unknown, for whoever had an operation or a row in the step.
        for session in self.sessions.values_mut() {
            session.cache.valid = 0;
            session.cache.held = session.cache.held.max(1);
        }
        let mut replies = Vec::new();
        for part in step.parts {
            let Some(session) = self.sessions.get_mut(&part.session) else { continue };
            session.verifying = false;
            session.failures += 1;
            if session.failures >= MAX_FAILURES {
                replies.push((part.session, Reply::Closing(format!("the server's engine failed: {reason}"))));
                session.sampler = None;
            } else if session.epoch == part.epoch && session.pending.is_none() {
                session.pending = part.verify.and_then(|verify| verify.pending);
            }
        }
        replies
    }
}
