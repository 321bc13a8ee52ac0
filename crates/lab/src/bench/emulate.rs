//! A server and devices over real sockets whose models cost only time: drafts and outputs are replayed, and every forward pass
//! and every draft takes as long as a cost model says.

use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use sled_core::cost::CostTable;
use sled_core::device::{Ahead, Fallback, Prompt, Resilience};
use sled_core::names::Fingerprint;
use sled_core::policy::Policy;
use sled_core::sampler::{Context, Draft, Sampler};
use sled_core::step::{CacheOp, Row};
use sled_device::{Drafts, RemoteServer, Session, SessionOptions};
use sled_model::drafter::Drafter;
use sled_model::{Error, Limits, Model};
use sled_server::{Identity, Server, Settings};
use sled_sim::replay::Replay;

use super::meter::Meter;

const FINGERPRINT: Fingerprint = Fingerprint::new(0);

/// Waits until `end`, to a fraction of a millisecond.
fn wait_until(end: Instant) {
    std::thread::sleep(end.saturating_duration_since(Instant::now()));
}

/// A model whose passes take the time that they cost.
struct Paced<M> {
    model: M,
    cost: CostTable,
}

impl<M: Model> Model for Paced<M> {
    fn limits(&self) -> Limits {
        self.model.limits()
    }

    fn apply(&mut self, op: CacheOp) -> Result<(), Error> {
        self.model.apply(op)
    }

    fn forward(&mut self, rows: &[Row]) -> Result<(), Error> {
        let end = Instant::now() + self.cost.time(rows.len());
        self.model.forward(rows)?;
        wait_until(end);
        Ok(())
    }

    fn logits(&self, row: usize) -> Result<&[f32], Error> {
        self.model.logits(row)
    }
}

/// A drafter whose drafts take their time.
struct PacedDrafter<D> {
    drafter: D,
    time: Duration,
}

impl<D: Drafter> Drafter for PacedDrafter<D> {
    fn draft(&mut self, context: Context<'_>, sampler: &Sampler) -> Result<Option<Draft>, Error> {
        let end = Instant::now() + self.time;
        let draft = self.drafter.draft(context, sampler)?;
        wait_until(end);
        Ok(draft)
    }
}

/// What one device came to.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct Measured {
    pub tokens: u64,
    pub seconds: f64,
    pub rounds: u64,
    pub server_rows: u64,
}

/// What a device is in an emulation.
#[derive(Clone, Debug)]
pub struct Emulation {
    pub cost: CostTable,
    pub draft_time: Duration,
    pub rtt: Duration,
    /// `None` is a thin client.
    pub policy: Option<Policy>,
    pub ahead: Ahead,
}

/// Starts a server for this device alone, and lets it generate the outputs of `indices`.
pub async fn run(replay: &Replay, emulation: Emulation, indices: &[usize]) -> anyhow::Result<Measured> {
    let Emulation { cost, draft_time, rtt, policy, ahead } = emulation;
    let identity = Identity {
        name: "replay".to_owned(),
        model: "replay".to_owned(),
        model_fingerprint: FINGERPRINT,
        vocabulary_fingerprint: FINGERPRINT,
        vocabulary: bytes::Bytes::new(),
        end_of_generation: Vec::new(),
    };
    let model = Box::new(Paced { model: replay.target(1), cost });
    let address = SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, 0));
    let server = Server::bind(address, model, Settings::default(), identity).await?;
    let meter = Meter::start(server.address()?, rtt / 2).await?;
    let serving = tokio::spawn(server.run(std::future::pending()));
    let drafter = PacedDrafter { drafter: replay.drafter(), time: draft_time };
    let options = SessionOptions {
        drafter: match policy {
            Some(policy) => Some((Drafts::own(Box::new(drafter))?, policy)),
            None => None,
        },
        ahead,
        resilience: Resilience { fallback: Fallback::Wait, ..Resilience::default() },
        ..SessionOptions::new("bench", FINGERPRINT, &[])
    };
    let mut session = Session::open(&RemoteServer::connect(&meter.url()).await?, options).await?;
    let mut measured = Measured::default();
    for &index in indices {
        let output = replay.outputs().get(index).map(|output| output.tokens.clone()).unwrap_or_default();
        let prompt = Prompt { tokens: replay.prompt(index), max_tokens: output.len(), ..Prompt::default() };
        let generation = session.generate(prompt, |_| ControlFlow::Continue(())).await?;
        anyhow::ensure!(generation.tokens == output, "a replayed output is not what was recorded");
        measured.tokens += output.len() as u64;
        measured.seconds += generation.elapsed.as_secs_f64();
        measured.rounds += generation.stats.rounds;
        measured.server_rows += generation.stats.server_rows;
    }
    serving.abort();
    Ok(measured)
}
