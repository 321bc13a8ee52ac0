//! `sled doctor`: looks at a device or a server, and says what to do.
//!
//! | file | what it does |
//! |---|---|
//! | `facts.rs` | what was found out, as plain data |
//! | `machine.rs`, `drafter.rs`, `server.rs`, `trial.rs`, `target.rs`, `formats.rs` | find it out |
//! | `expect.rs` | the speeds that follow, by the simulator |
//! | `checks.rs`, `advice.rs` | what is well and what is not, and the command to run |
//! | `choice.rs` | which of a model's formats to serve |
//! | `text.rs` | all of it as lines |

mod advice;
mod checks;
mod choice;
mod drafter;
mod expect;
mod facts;
mod formats;
mod machine;
mod server;
mod target;
#[cfg(test)]
mod tests;
mod text;
mod trial;

use std::io::IsTerminal;

use indicatif::ProgressBar;
use serde::Serialize;
use sled_device::RemoteServer;

use crate::args::DoctorArgs;
use advice::Advice;
use checks::{Check, Mark};
use expect::Speeds;
use facts::{Facts, Server, Trial};
use sled_launch::progress::bar;
use sled_launch::threads::{Threads, Work};
use sled_model::drafter::Drafter;

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    checks: Vec<Check>,
    /// Tokens a second: of one that is alone, and at the present load.
    expected: Vec<Speeds>,
    advice: Option<Advice>,
    facts: Facts,
}

/// Looks, and prints what was found; an error if something is a problem.
pub async fn run(args: &DoctorArgs) -> anyhow::Result<()> {
    let report = match args.model.split_first() {
        Some((name, others)) => of_server(args, name, others)?,
        None => of_device(args).await?,
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        for line in text::lines(&report, std::io::stdout().is_terminal()) {
            println!("{line}");
        }
    }
    match report.checks.iter().filter(|check| check.mark == Mark::Problem).count() {
        0 => Ok(()),
        1 => anyhow::bail!("there is a problem; what to do is said below it"),
        problems => anyhow::bail!("there are {problems} problems; what to do is said below each"),
    }
}

fn of_server(args: &DoctorArgs, name: &str, others: &[String]) -> anyhow::Result<Report> {
    let steps = target::steps(target::devices(args));
    let bar = bar(steps, "passes of the model".to_owned());
    let machine = machine::look(&args.threads.count(Work::Serving));
    let target = target::look(args, name, || bar.inc(1));
    let begin = |format: &str| {
        bar.set_message(format!("passes of {format}"));
        bar.set_length(bar.position() + steps as u64);
    };
    let formats = formats::look(&target, others, begin, || bar.inc(1));
    let best = target.passes.first();
    let expected = best.map(|best| expect::of_server(best, target.devices)).transpose()?.unwrap_or_default();
    bar.finish_and_clear();
    Ok(Report::new(Facts { machine, target: Some(target), formats, ..Facts::default() }, expected, args.threads))
}

async fn of_device(args: &DoctorArgs) -> anyhow::Result<Report> {
    // One step for each draft; and the way to the server, two answers and the simulation.
    let bar = bar(drafter::DRAFTS + 4, "the way to the server".to_owned());
    let mut facts = Facts { machine: machine::look(&args.threads.count(Work::Drafting)), ..Facts::default() };
    let remote = reach(args, &mut facts).await;
    bar.inc(1);
    let found = facts.server.as_ref().and_then(|server| server.found.as_ref());
    let name = drafter::choose(args, found);
    bar.set_message("drafts");
    let (drafter, drafts) = drafter::measure(args, &name, found.map(|found| found.context), || bar.inc(1));
    facts.drafter = Some(drafter);
    if let Some(remote) = remote {
        bar.set_message("answers of the server");
        facts.trial = Some(try_out(&remote, &facts, drafts, &bar).await);
    }
    bar.set_message("simulating");
    let expected = expect::of_device(&facts)?;
    bar.finish_and_clear();
    Ok(Report::new(facts, expected, args.threads))
}

/// Connects to the first server that answers, and looks at it.
async fn reach(args: &DoctorArgs, facts: &mut Facts) -> Option<RemoteServer> {
    if args.server == ["none"] {
        return None;
    }
    let mut server = Server { address: args.server.join(", "), ..Server::default() };
    let found = async {
        let remote = RemoteServer::connect_any(&args.server).await?;
        let found = server::look(&remote).await?;
        anyhow::Ok((remote, found))
    };
    let remote = match found.await {
        Ok((remote, found)) => {
            server.address = remote.address().to_owned();
            server.is_here = is_here(remote.address());
            server.found = Some(found);
            Some(remote)
        }
        Err(error) => {
            server.error = Some(error.to_string());
            None
        }
    };
    facts.server = Some(server);
    remote
}

/// Whether an address is one of this machine alone.
fn is_here(address: &str) -> bool {
    let host = address.split_once("://").map_or(address, |(_, rest)| rest);
    ["127.", "localhost:", "[::1]"].iter().any(|here| host.starts_with(here))
}

async fn try_out(remote: &RemoteServer, facts: &Facts, drafts: Option<Box<dyn Drafter>>, bar: &ProgressBar) -> Trial {
    let theirs = remote.description().vocabulary_fingerprint.to_string();
    let model = facts.drafter.as_ref().and_then(|drafter| drafter.model.as_ref());
    let drafts = drafts.filter(|_| model.is_none_or(|model| model.vocabulary_fingerprint == theirs));
    let failed = |error: anyhow::Error| Trial { error: Some(error.to_string()), ..Trial::default() };
    trial::run(remote, drafts, || bar.inc(1)).await.unwrap_or_else(failed)
}

impl Report {
    fn new(facts: Facts, expected: Vec<Speeds>, threads: Threads) -> Self {
        let advice = advice::of(&facts, &expected, threads);
        Self { checks: checks::of(&facts), expected, advice, facts }
    }
}
