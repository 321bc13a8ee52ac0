//! `sled ps`: what a server's sessions are doing.

use indicatif::HumanDuration;
use sled_device::RemoteServer;
use sled_wire::{Activity, SessionStatus};

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
    for session in list.sessions {
        let acceptance = match session.drafted {
            0 => "-".to_owned(),
            drafted => format!("{:.0} %", 100.0 * session.accepted as f64 / drafted as f64),
        };
        println!(
            "{:>6}  {:<width$}  {:<16}  {:>7}  {:>7}  {:>9}  {acceptance:>8}  {}",
            session.id,
            session.device,
            state(&session),
            session.tokens,
            session.cached,
            session.committed,
            HumanDuration(session.age)
        );
    }
    println!("{} of {} tokens of KV cache in use", list.cells_used, list.cells);
    Ok(())
}

fn state(session: &SessionStatus) -> String {
    match session.activity {
        Activity::Drafting => "drafting".to_owned(),
        other => format!("{} {:.1} s", name(other), session.since.as_secs_f64()),
    }
}

fn name(activity: Activity) -> &'static str {
    match activity {
        Activity::Idle => "idle",
        Activity::Reading => "reading",
        Activity::Waiting => "waiting",
        Activity::Drafting => "drafting",
    }
}

impl From<SessionStatus> for Session {
    fn from(session: SessionStatus) -> Self {
        Self {
            id: session.id,
            activity: name(session.activity),
            since_s: session.since.as_secs_f64(),
            age_s: session.age.as_secs_f64(),
            tokens: session.tokens,
            cached: session.cached,
            committed: session.committed,
            drafted: session.drafted,
            accepted: session.accepted,
            device: session.device.into(),
        }
    }
}
