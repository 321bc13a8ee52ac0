//! A forward pass that is planned: its rows, and what is to become of them.

use std::ops::Range;
use std::time::Duration;

use super::SessionId;
use super::rate::Brought;
use crate::message::Reply;
use crate::step::{CacheOp, Row, SequenceId};
use crate::{Position, Token};

/// What the engine is to do.
#[derive(Debug)]
pub enum Plan {
    /// A forward pass.
    Run(Step),
    /// Nothing before this time, unless a message comes.
    Wait(Duration),
    /// Nothing until a message comes.
    Idle,
}

/// One forward pass: what to do to the cache first, and the rows to evaluate.
///
/// Once it has run it is to be handed back to [`complete`](super::Server::complete) or [`fail`](super::Server::fail): until then no other
/// pass is planned. It holds nothing that the server has not: the blocks that it answers stay with their sessions.
#[must_use = "no other pass is planned before it is complete or has failed"]
#[derive(Debug)]
pub struct Step {
    /// Changes to the cache, in order, before the pass.
    pub cache_ops: Vec<CacheOp>,
    /// The rows, those of one session together and in order of position.
    pub rows: Vec<Row>,
    /// How long whoever has rows in it had waited.
    pub waits: Waits,
    pub(super) parts: Vec<Part>,
    pub(super) planned: Duration,
    /// How many sessions have rows in it.
    pub(super) sharing: u32,
    /// What completing it has brought so far.
    pub(super) brought: Brought,
    /// How long it took; `None` until the engine has run it.
    pub(super) duration: Option<Duration>,
    /// What completing it has to tell so far.
    pub(super) replies: Vec<(SessionId, Reply)>,
}

/// How long those who are served by a pass had waited when it was planned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waits {
    /// Since their prompt came, of those of which it is the first pass.
    pub prompts: Vec<Duration>,
    /// Since what they asked for was asked, or since the last token of those who are decoded plainly.
    pub verdicts: Vec<Duration>,
}

impl Step {
    pub(super) fn new(planned: Duration) -> Self {
        Self {
            cache_ops: Vec::new(),
            rows: Vec::new(),
            waits: Waits::default(),
            parts: Vec::new(),
            planned,
            sharing: 0,
            brought: Brought::default(),
            duration: None,
            replies: Vec::new(),
        }
    }

    /// How many sessions have rows in it.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.parts.len()
    }

    /// The tokens of the rows of `part`.
    pub(super) fn tokens(&self, part: &Part) -> impl Iterator<Item = Token> {
        self.rows.get(part.rows.clone()).unwrap_or_default().iter().map(|row| row.token)
    }

    /// How many of its rows are no prompt rows.
    pub(super) fn deciding(&self) -> usize {
        self.parts.iter().filter_map(|part| part.verify.as_ref()).map(|verify| verify.rows).sum()
    }

    /// Whoever has rows in it.
    pub(super) fn served(&self) -> impl Iterator<Item = SessionId> {
        self.parts.iter().map(|part| part.session)
    }

    pub(super) fn has(&self, id: SessionId) -> bool {
        self.served().any(|served| served == id)
    }
}

/// One session's share of a step.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) session: SessionId,
    pub(super) sequence: SequenceId,
    pub(super) epoch: u64,
    /// Its rows among the rows of the step.
    pub(super) rows: Range<usize>,
    /// What its rows verify; `None` while its text is not read to the end.
    pub(super) verify: Option<Verify>,
}

/// Rows that a verdict comes from: one for the last committed token, and one for each draft.
#[derive(Debug)]
pub(super) struct Verify {
    /// Where the answered block began, or the text ended if there is none, and how many of its tokens were committed before.
    pub(super) from: Position,
    pub(super) known: usize,
    /// The row of the last committed token, and how many there are from there on.
    pub(super) first: usize,
    pub(super) rows: usize,
    pub(super) drafts: Vec<Token>,
    pub(super) waited: Duration,
}
