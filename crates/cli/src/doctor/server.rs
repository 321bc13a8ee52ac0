//! Looks at the way to a server, and at what the server says of itself.

use std::time::{Duration, Instant};

use sled_core::server::Activity;
use sled_device::{RemoteServer, download_vocabulary};
use sled_wire::PROTOCOL;

use super::facts::Found;

/// How often the round trip is measured.
const ROUND_TRIPS: usize = 9;

/// Measures the way to a server, and asks it what it is doing.
pub async fn look(remote: &RemoteServer) -> anyhow::Result<Found> {
    let description = remote.description();
    let mut round_trips = Vec::new();
    for _ in 0..ROUND_TRIPS {
        round_trips.push(remote.round_trip().await?);
    }
    round_trips.sort_unstable();
    let round_trip = round_trips.get(ROUND_TRIPS / 2).copied().unwrap_or_default();
    let list = remote.sessions().await?;
    let began = Instant::now();
    let bytes = download_vocabulary(remote).await?.len();
    let busy = list.sessions.iter().filter(|session| !matches!(session.status.activity, Activity::Idle(_)));
    let each_step = |value: f64| (list.totals.steps > 0).then(|| value / list.totals.steps as f64);
    Ok(Found {
        version: description.version.to_string(),
        protocol: PROTOCOL,
        model: description.model.to_string(),
        model_fingerprint: description.model_fingerprint.to_string(),
        vocabulary_fingerprint: description.vocabulary_fingerprint.to_string(),
        context: description.bounds.context,
        round_trip_ms: millis(round_trip),
        download_mbit_per_s: mbit_per_s(bytes, began.elapsed().saturating_sub(round_trip)),
        sessions: list.sessions.len(),
        busy_sessions: busy.count(),
        cells_used: list.cells_used,
        cells: list.cells,
        step_ms: each_step(millis(list.totals.forward)),
        rows_per_step: each_step(list.totals.rows as f64),
    })
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn mbit_per_s(bytes: usize, time: Duration) -> f64 {
    8e-6 * bytes as f64 / time.as_secs_f64().max(1e-6)
}
