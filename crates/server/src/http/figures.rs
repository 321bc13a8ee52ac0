//! How the server is doing, as one stream of JSON for everybody who wants to watch: `GET /events`.
//!
//! A frame is made once a second, by one task, as long as somebody listens. Whoever reads slowly misses frames.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::response::IntoResponse;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::stream;
use serde::Serialize;
use sled_core::server;
use sled_wire::{Activity, SessionStatus};
use tokio::sync::{Notify, oneshot, watch};

use crate::engine::{Engine, Record};
use crate::roster::Roster;
use crate::traffic::Traffic;

/// From one frame to the next.
const PERIOD: Duration = Duration::from_secs(1);

/// How long a frame waits for the engine to tell of its sessions. It answers between two passes; when one takes longer, the frame
/// has the sessions of the one before.
const PATIENCE: Duration = Duration::from_millis(400);

/// The most sessions in a frame, and the most passes one by one.
const SESSIONS: usize = 256;
const POINTS: u64 = 32;

/// The stream, for as many listeners as come.
#[derive(Clone)]
pub(crate) struct Figures(Arc<Channel>);

struct Channel {
    /// The latest frame; `None` when there are to be no more.
    frames: watch::Sender<Option<Arc<str>>>,
    listener: Notify,
}

/// What does not change while a server runs.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct About {
    pub(crate) model: String,
    pub(crate) version: &'static str,
    pub(crate) context: usize,
    pub(crate) sequences: usize,
    pub(crate) threads: u32,
    pub(crate) batching: String,
    pub(crate) assist: String,
    pub(crate) rate_goal: Option<f64>,
}

impl Figures {
    /// Starts the task, which ends with the engine.
    pub(crate) fn start(about: About, engine: Engine, roster: Roster, traffic: Traffic) -> Self {
        let channel = Arc::new(Channel { frames: watch::Sender::new(Some("".into())), listener: Notify::new() });
        let source =
            Source { about, engine, roster, traffic, began: Instant::now(), pending: None, sessions: Vec::new() };
        let figures = Self(Arc::clone(&channel));
        tokio::spawn(async move {
            source.run(&channel).await;
            channel.frames.send_replace(None);
        });
        figures
    }
}

/// `GET /events`.
pub(crate) async fn events(State(figures): State<Figures>) -> impl IntoResponse {
    let frames = figures.0.frames.subscribe();
    figures.0.listener.notify_one();
    let frames = stream::unfold(frames, |mut frames| async move {
        if frames.borrow().is_some() {
            frames.changed().await.ok()?;
        }
        let frame = frames.borrow_and_update().clone()?;
        Some((Ok::<_, Infallible>(Event::default().data(frame)), frames))
    });
    Sse::new(frames).keep_alive(KeepAlive::default())
}

/// Where frames come from.
struct Source {
    about: About,
    engine: Engine,
    roster: Roster,
    traffic: Traffic,
    began: Instant,
    /// What the engine was asked and has not answered.
    pending: Option<oneshot::Receiver<Vec<server::Status>>>,
    sessions: Vec<SessionStatus>,
}

/// How things stood at one time.
struct Snapshot {
    at: Instant,
    record: Record,
    received: u64,
    sent: u64,
    committed: HashMap<u64, u64>,
}

impl Source {
    async fn run(mut self, channel: &Channel) {
        loop {
            channel.listener.notified().await;
            let Some(mut before) = self.snapshot().await else { return };
            let mut second = tokio::time::interval_at((before.at + PERIOD).into(), PERIOD);
            second.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            while channel.frames.receiver_count() > 0 {
                second.tick().await;
                let Some(now) = self.snapshot().await else { return };
                let frame = self.frame(&before, &now);
                if let Ok(json) = serde_json::to_string(&frame) {
                    channel.frames.send_replace(Some(json.into()));
                }
                before = now;
            }
        }
    }

    /// How things stand; `None` if the engine has stopped.
    async fn snapshot(&mut self) -> Option<Snapshot> {
        let mut pending = match self.pending.take() {
            Some(pending) => pending,
            None => self.engine.report().await,
        };
        match tokio::time::timeout(PATIENCE, &mut pending).await {
            Ok(report) => self.sessions = self.roster.describe(&report.ok()?),
            Err(_elapsed) => self.pending = Some(pending),
        }
        Some(Snapshot {
            at: Instant::now(),
            record: self.engine.record().clone(),
            received: self.traffic.received(),
            sent: self.traffic.sent(),
            committed: self.sessions.iter().map(|session| (session.id, session.committed)).collect(),
        })
    }

    fn frame(&self, before: &Snapshot, now: &Snapshot) -> Frame<'_> {
        let seconds = now.at.saturating_duration_since(before.at).as_secs_f64().max(1e-3);
        let (old, new) = (&before.record.stats, &now.record.stats);
        let since = |now: u64, before: u64| now.saturating_sub(before) as f64;
        let rate = |now, before| round(since(now, before) / seconds);
        let steps = new.steps.saturating_sub(old.steps);
        let mean = |sum: f64, count: u64| if count == 0 { 0.0 } else { round(sum / count as f64) };
        let in_passes = |sizes: &[u64]| (1..).zip(sizes).map(|(size, count)| size * count).sum::<u64>();
        let waits = new.verdict_waits.count().saturating_sub(old.verdict_waits.count());
        let mut sessions: Vec<_> = self
            .sessions
            .iter()
            .map(|session| {
                let committed = before.committed.get(&session.id).copied().unwrap_or(0);
                Session::new(session, rate(session.committed, committed))
            })
            .collect();
        sessions.sort_by(|a, b| {
            b.tokens_per_s.total_cmp(&a.tokens_per_s).then(b.committed.cmp(&a.committed)).then(a.id.cmp(&b.id))
        });
        sessions.truncate(SESSIONS);
        Frame {
            time_s: round(self.began.elapsed().as_secs_f64()),
            server: &self.about,
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
            step: Step {
                sessions_mean: mean(since(in_passes(&new.batch_sizes), in_passes(&old.batch_sizes)), steps),
                rows_mean: mean(since(new.rows, old.rows), steps),
                ms_mean: mean(since(new.step_times.sum(), old.step_times.sum()) / 1e3, steps),
                queue_ms_mean: mean(since(new.verdict_waits.sum(), old.verdict_waits.sum()) / 1e3, waits),
                points: now.record.latest(steps.min(POINTS)).map(|(rows, time)| (rows, millis(time))).collect(),
            },
            cost: Cost { fixed_ms: round(1e3 * now.record.cost.0), row_ms: round(1e3 * now.record.cost.1) },
            batch_sizes: new.batch_sizes.clone(),
            cells: Cells { used: now.record.cells.0, total: now.record.cells.1 },
            sessions,
            sessions_total: self.sessions.len(),
        }
    }
}

#[derive(Debug, Serialize)]
struct Frame<'a> {
    time_s: f64,
    server: &'a About,
    rates: Rates,
    totals: Totals,
    step: Step,
    cost: Cost,
    batch_sizes: Vec<u64>,
    cells: Cells,
    sessions: Vec<Session<'a>>,
    sessions_total: usize,
}

/// Over the last second.
#[derive(Debug, Serialize)]
struct Rates {
    tokens_per_s: f64,
    rounds_per_s: f64,
    rows_per_s: f64,
    steps_per_s: f64,
    bytes_in_per_s: f64,
    bytes_out_per_s: f64,
}

/// Since the server was started.
#[derive(Debug, Serialize)]
struct Totals {
    tokens: u64,
    steps: u64,
    rows: u64,
    commits: u64,
    drafted: u64,
    accepted: u64,
    evictions: u64,
    refused: u64,
    sessions_opened: u64,
}

/// The passes of the last second.
#[derive(Debug, Serialize)]
struct Step {
    sessions_mean: f64,
    rows_mean: f64,
    ms_mean: f64,
    queue_ms_mean: f64,
    /// Rows and milliseconds of single passes.
    points: Vec<(usize, f64)>,
}

#[derive(Debug, Serialize)]
struct Cost {
    fixed_ms: f64,
    row_ms: f64,
}

#[derive(Debug, Serialize)]
struct Cells {
    used: usize,
    total: usize,
}

#[derive(Debug, Serialize)]
struct Session<'a> {
    id: u64,
    device: &'a str,
    tokens: usize,
    cached: usize,
    committed: u64,
    drafted: u64,
    accepted: u64,
    tokens_per_s: f64,
    activity: &'static str,
    since_s: f64,
    age_s: f64,
}

impl<'a> Session<'a> {
    fn new(session: &'a SessionStatus, tokens_per_s: f64) -> Self {
        Self {
            id: session.id,
            device: &session.device,
            tokens: session.tokens,
            cached: session.cached,
            committed: session.committed,
            drafted: session.drafted,
            accepted: session.accepted,
            tokens_per_s,
            activity: match session.activity {
                Activity::Idle => "idle",
                Activity::Reading => "reading",
                Activity::Waiting => "waiting",
                Activity::Drafting => "drafting",
            },
            since_s: round(session.since.as_secs_f64()),
            age_s: round(session.age.as_secs_f64()),
        }
    }
}

/// To thousandths, which is all that anybody reads.
fn round(value: f64) -> f64 {
    (1e3 * value).round() / 1e3
}

fn millis(time: Duration) -> f64 {
    round(1e3 * time.as_secs_f64())
}
