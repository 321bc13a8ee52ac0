//! `sled ps`: what a server's sessions are doing.

use indicatif::HumanDuration;
use sled_core::server::{Activity, Tally};
use sled_device::RemoteServer;
use sled_wire::ListedSession;

use crate::args::PsArgs;

#[derive(serde::Serialize)]
struct Listing {
    sessions: Vec<Session>,
    cells_used: usize,
    cells: usize,
}

#[derive(serde::Serialize)]
struct Session {
    id: u64,
    device: String,
    activity: &'static str,
    since_s: f64,
    age_s: f64,
    tokens: usize,
    cached: usize,
    committed: u64,
    drafted: u64,
    accepted: u64,
}

/// Prints the sessions.
pub async fn ps(args: &PsArgs) -> anyhow::Result<()> {
    let list = RemoteServer::connect(&args.server).await?.sessions().await?;
    if args.json {
        let sessions = list.sessions.into_iter().map(Session::from).collect();
        let listing = Listing { sessions, cells_used: list.cells_used, cells: list.cells };
        println!("{}", serde_json::to_string_pretty(&listing)?);
        return Ok(());
    }
    let width = list.sessions.iter().map(|session| session.device.chars().count()).max().unwrap_or(0).max(6);
    println!(
        "{:>6}  {:<width$}  {:<16}  {:>7}  {:>7}  {:>9}  {:>8}  AGE",
        "ID", "DEVICE", "STATE", "TOKENS", "CACHED", "COMMITTED", "ACCEPTED"
    );
    for ListedSession { device, age, status } in list.sessions {
        let acceptance = match status.tally.drafted {
            0 => "-".to_owned(),
            drafted => format!("{:.0} %", 100.0 * status.tally.accepted as f64 / drafted as f64),
        };
        println!(
            "{:>6}  {device:<width$}  {:<16}  {:>7}  {:>7}  {:>9}  {acceptance:>8}  {}",
            status.id.0,
            state(status.activity),
            status.tokens,
            status.cached,
            status.tally.committed,
            HumanDuration(age)
        );
    }
    println!("{} of {} tokens of KV cache in use", list.cells_used, list.cells);
    Ok(())
}

fn state(activity: Activity) -> String {
    match activity {
        Activity::Drafting => activity.name().to_owned(),
        _ => format!("{} {:.1} s", activity.name(), activity.since().as_secs_f64()),
    }
}

impl From<ListedSession> for Session {
    fn from(ListedSession { device, age, status }: ListedSession) -> Self {
        let Tally { committed, drafted, accepted } = status.tally;
        Self {
            id: status.id.0,
            device: device.into(),
            activity: status.activity.name(),
            since_s: status.activity.since().as_secs_f64(),
            age_s: age.as_secs_f64(),
            tokens: status.tokens,
            cached: status.cached,
            committed,
            drafted,
            accepted,
        }
    }
}
