//! What the server tells of itself: its sessions, and that it takes no more.

use std::time::Duration;

use sled_core::names::PlainText;
use sled_core::server::{Activity, SessionId, SessionStatus, Tally};
use tonic::{Code, Status};

use crate::bounds::{narrow, widen};
use crate::handshake::name;
use crate::{WireError, pb};

/// In milliseconds, how long a client is to wait: gRPC's own name for it (gRFC A6).
const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// A device is not told to wait longer than this by a server that means well.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// What all sessions are doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionList {
    /// One entry for each.
    pub sessions: Vec<ListedSession>,
    /// Cells of the KV cache in use.
    pub cells_used: usize,
    /// Cells of the KV cache.
    pub cells: usize,
    /// What the engine has done since the server was started.
    pub totals: Totals,
}

/// What an engine has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Forward passes.
    pub steps: u64,
    /// Rows in them.
    pub rows: u64,
    /// Commits sent.
    pub commits: u64,
    /// Time in forward passes.
    pub forward: Duration,
    /// Time in everything else but waiting.
    pub overhead: Duration,
    /// Times that a session had to give way to another in the KV cache.
    pub evictions: u64,
    /// How many passes had rows of one session, of two, and so on.
    pub batch_sizes: Vec<u64>,
}

/// One session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedSession {
    /// What the device calls itself.
    pub device: PlainText,
    /// For how long it has been open.
    pub age: Duration,
    /// What the server knows of it.
    pub status: SessionStatus,
}

/// The list as a message.
#[must_use]
pub fn encode_sessions(list: SessionList) -> pb::SessionList {
    let encode = |ListedSession { device, age, status }: ListedSession| pb::SessionStatus {
        id: status.id.0,
        device: device.into(),
        tokens: narrow(status.tokens),
        cached: narrow(status.cached),
        committed: status.tally.committed,
        drafted: status.tally.drafted,
        accepted: status.tally.accepted,
        activity: match status.activity {
            Activity::Idle(_) => pb::Activity::Idle,
            Activity::Reading(_) => pb::Activity::Reading,
            Activity::Waiting(_) => pb::Activity::Waiting,
            Activity::Drafting => pb::Activity::Drafting,
        }
        .into(),
        since_us: micros(status.activity.since()),
        age_us: micros(age),
    };
    pb::SessionList {
        sessions: list.sessions.into_iter().map(encode).collect(),
        cells_used: narrow(list.cells_used),
        cells: narrow(list.cells),
        totals: Some(pb::Totals {
            steps: list.totals.steps,
            rows: list.totals.rows,
            commits: list.totals.commits,
            forward_us: micros(list.totals.forward),
            overhead_us: micros(list.totals.overhead),
            evictions: list.totals.evictions,
            batch_sizes: list.totals.batch_sizes,
        }),
    }
}

/// Reads the list.
///
/// # Errors
/// If a name is too long.
pub fn decode_sessions(list: pb::SessionList) -> Result<SessionList, WireError> {
    let decode = |session: pb::SessionStatus| {
        let since = Duration::from_micros(session.since_us);
        let activity = match session.activity() {
            pb::Activity::Idle => Activity::Idle(since),
            pb::Activity::Reading => Activity::Reading(since),
            pb::Activity::Waiting => Activity::Waiting(since),
            pb::Activity::Drafting => Activity::Drafting,
        };
        Ok(ListedSession {
            device: name("device's name", session.device)?,
            age: Duration::from_micros(session.age_us),
            status: SessionStatus {
                id: SessionId(session.id),
                tokens: widen(session.tokens),
                cached: widen(session.cached),
                tally: Tally { committed: session.committed, drafted: session.drafted, accepted: session.accepted },
                activity,
            },
        })
    };
    let totals = list.totals.unwrap_or_default();
    Ok(SessionList {
        sessions: list.sessions.into_iter().map(decode).collect::<Result<_, _>>()?,
        cells_used: widen(list.cells_used),
        cells: widen(list.cells),
        totals: Totals {
            steps: totals.steps,
            rows: totals.rows,
            commits: totals.commits,
            forward: Duration::from_micros(totals.forward_us),
            overhead: Duration::from_micros(totals.overhead_us),
            evictions: totals.evictions,
            batch_sizes: totals.batch_sizes,
        },
    })
}

/// The refusal of a server that takes no more sessions for `after`.
#[must_use]
pub fn busy(reason: &str, after: Duration) -> Status {
    let mut status = Status::resource_exhausted(reason);
    if let Ok(value) = after.as_millis().to_string().parse() {
        status.metadata_mut().insert(PUSHBACK, value);
    }
    status
}

/// How long to wait, if the status is the refusal of a busy server.
#[must_use]
pub fn retry_after(status: &Status) -> Option<Duration> {
    let told = || status.metadata().get(PUSHBACK)?.to_str().ok()?.parse().ok().map(Duration::from_millis);
    (status.code() == Code::ResourceExhausted).then(told).flatten().map(|after| after.min(LONGEST_WAIT))
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
