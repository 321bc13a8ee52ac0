//! One second of a server's life, as it is told to whoever watches.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sled_core::server::{SessionId, Tally};
use sled_wire::ListedSession;

use crate::engine::Record;

/// The most sessions in a frame, and the most passes one by one.
const SESSIONS: usize = 256;
const POINTS: u64 = 32;

/// What `GET /events` tells each second.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Frame {
    /// Seconds since the server was started.
    pub time_s: f64,
    /// What does not change.
    pub server: ServerFacts,
    /// What happened in the last second, for each second.
    pub rates: Rates,
    /// What happened since the server was started.
    pub totals: Totals,
    /// The passes of the last second.
    pub step: Step,
    /// What a pass costs, by the latest of them.
    pub cost: Cost,
    /// Passes since the server was started that had rows of one session, of two, and so on.
    pub batch_sizes: Vec<u64>,
    /// The KV cache.
    pub cells: Cells,
    /// The sessions that had most tokens in the last second, at most 256.
    pub sessions: Vec<Session>,
    /// How many sessions are open.
    pub sessions_total: usize,
}

/// What a server is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerFacts {
    /// Its target model, for people.
    pub model: String,
    /// Its version.
    pub version: String,
    /// The most tokens that one session may have.
    pub context: usize,
    /// How many sessions are in the KV cache at once.
    pub sequences: usize,
    /// How many threads compute.
    pub threads: u32,
    /// How requests become batches.
    pub batching: String,
    /// Who is given rows without having asked.
    pub assist: String,
    /// Tokens a second that each session is to get.
    pub rate_goal: Option<f64>,
}

/// What happens in a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// Committed tokens, of all sessions: WSTGR.
    pub tokens_per_s: f64,
    /// Verdicts on drafts.
    pub rounds_per_s: f64,
    /// Rows of forward passes.
    pub rows_per_s: f64,
    /// Forward passes.
    pub steps_per_s: f64,
    /// Bytes from devices.
    pub bytes_in_per_s: f64,
    /// Bytes to devices.
    pub bytes_out_per_s: f64,
}

/// What happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Committed tokens.
    pub tokens: u64,
    /// Forward passes.
    pub steps: u64,
    /// Rows in them.
    pub rows: u64,
    /// Commits sent.
    pub commits: u64,
    /// Draft tokens verified.
    pub drafted: u64,
    /// Draft tokens accepted.
    pub accepted: u64,
    /// Times that a session gave way to another in the KV cache.
    pub evictions: u64,
    /// Sessions that were not opened, because the server was busy.
    pub refused: u64,
    /// Sessions that were opened.
    pub sessions_opened: u64,
}

/// Some forward passes; means are 0 where there was none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Sessions in a pass.
    pub sessions_mean: f64,
    /// Rows in a pass.
    pub rows_mean: f64,
    /// Milliseconds that a pass took.
    pub ms_mean: f64,
    /// Milliseconds that a request for tokens waited for its pass.
    pub queue_ms_mean: f64,
    /// Rows and milliseconds of single passes, at most 32, the latest last.
    pub points: Vec<(usize, f64)>,
}

/// A pass of `n` rows takes `fixed_ms + n * row_ms` milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Without rows.
    pub fixed_ms: f64,
    /// For each row.
    pub row_ms: f64,
}

/// Cells of the KV cache; each holds a token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cells {
    /// Those in use.
    pub used: usize,
    /// All of them.
    pub total: usize,
}

/// One session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// Its number.
    pub id: u64,
    /// What its device calls itself.
    pub device: String,
    /// Tokens of its text.
    pub tokens: usize,
    /// How many of them the KV cache holds.
    pub cached: usize,
    /// Tokens committed since it was opened.
    pub committed: u64,
    /// Draft tokens verified.
    pub drafted: u64,
    /// Draft tokens accepted.
    pub accepted: u64,
    /// Tokens committed in the last second.
    pub tokens_per_s: f64,
    /// `idle`, `reading`, `waiting` or `drafting`.
    pub activity: String,
    /// Seconds since it is idle, reading or waiting.
    pub since_s: f64,
    /// Seconds since it was opened.
    pub age_s: f64,
}

/// How things stood at one time.
pub(super) struct Snapshot {
    pub(super) at: Instant,
    pub(super) record: Record,
    pub(super) received: u64,
    pub(super) sent: u64,
    pub(super) sessions: Vec<ListedSession>,
}

impl Frame {
    /// What happened between two times.
    pub(super) fn between(before: &Snapshot, now: &Snapshot, server: &ServerFacts, time: Duration) -> Self {
        let seconds = now.at.saturating_duration_since(before.at).as_secs_f64().max(1e-3);
        let rate = |now: u64, before: u64| round(now.saturating_sub(before) as f64 / seconds);
        let (old, new) = (&before.record.stats, &now.record.stats);
        Self {
            time_s: round(time.as_secs_f64()),
            server: server.clone(),
            rates: Rates {
                tokens_per_s: rate(new.totals.committed, old.totals.committed),
                rounds_per_s: rate(new.totals.drafts, old.totals.drafts),
                rows_per_s: rate(new.rows, old.rows),
                steps_per_s: rate(new.steps, old.steps),
                bytes_in_per_s: rate(now.received, before.received),
                bytes_out_per_s: rate(now.sent, before.sent),
            },
            totals: Totals {
                tokens: new.totals.committed,
                steps: new.steps,
                rows: new.rows,
                commits: new.commits,
                drafted: new.totals.drafted,
                accepted: new.totals.accepted,
                evictions: new.evictions,
                refused: new.refused,
                sessions_opened: new.opened,
            },
            step: Step::between(&before.record, &now.record),
            cost: Cost { fixed_ms: round(1e3 * now.record.cost.0), row_ms: round(1e3 * now.record.cost.1) },
            batch_sizes: new.batch_sizes.clone(),
            cells: Cells { used: now.record.cells.0, total: now.record.cells.1 },
            sessions: sessions(&before.sessions, &now.sessions, seconds),
            sessions_total: now.sessions.len(),
        }
    }
}

impl Step {
    fn between(before: &Record, now: &Record) -> Self {
        let (old, new) = (&before.stats, &now.stats);
        let steps = new.steps.saturating_sub(old.steps);
        let waits = new.verdict_waits.count().saturating_sub(old.verdict_waits.count());
        let mean = |now: u64, before: u64, count: u64| match count {
            0 => 0.0,
            _ => now.saturating_sub(before) as f64 / count as f64,
        };
        let in_passes = |sizes: &[u64]| (1..).zip(sizes).map(|(size, count)| size * count).sum::<u64>();
        Self {
            sessions_mean: round(mean(in_passes(&new.batch_sizes), in_passes(&old.batch_sizes), steps)),
            rows_mean: round(mean(new.rows, old.rows, steps)),
            ms_mean: round(mean(new.step_times.sum(), old.step_times.sum(), steps) / 1e3),
            queue_ms_mean: round(mean(new.verdict_waits.sum(), old.verdict_waits.sum(), waits) / 1e3),
            points: now.latest(steps.min(POINTS)).map(|(rows, time)| (rows, round(1e3 * time.as_secs_f64()))).collect(),
        }
    }
}

/// The sessions, the most active first.
fn sessions(before: &[ListedSession], now: &[ListedSession], seconds: f64) -> Vec<Session> {
    let before = before.iter().map(|ListedSession { status, .. }| (status.id, status.tally.committed));
    let committed: HashMap<SessionId, u64> = before.collect();
    let describe = |ListedSession { device, age, status }: &ListedSession| {
        let Tally { committed: so_far, drafted, accepted } = status.tally;
        let lately = so_far.saturating_sub(committed.get(&status.id).copied().unwrap_or(0));
        Session {
            id: status.id.0,
            device: device.to_string(),
            tokens: status.tokens,
            cached: status.cached,
            committed: so_far,
            drafted,
            accepted,
            tokens_per_s: round(lately as f64 / seconds),
            activity: status.activity.name().to_owned(),
            since_s: round(status.activity.since().as_secs_f64()),
            age_s: round(age.as_secs_f64()),
        }
    };
    let mut sessions: Vec<_> = now.iter().map(describe).collect();
    let rank = |session: &Session| (session.activity == "idle", session.id);
    sessions.sort_by(|a, b| b.tokens_per_s.total_cmp(&a.tokens_per_s).then_with(|| rank(a).cmp(&rank(b))));
    sessions.truncate(SESSIONS);
    sessions
}

/// To thousandths, which is all that anybody reads.
fn round(value: f64) -> f64 {
    (1e3 * value).round() / 1e3
}
