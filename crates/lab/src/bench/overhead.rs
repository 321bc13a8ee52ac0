//! `sled bench overhead`: the scheduler and the server by themselves, with an engine that costs nothing.

use std::collections::{BTreeSet, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::Context;
use sled_core::Token;
use sled_core::device::Prompt;
use sled_core::message::{DraftBlock, Reply, Request};
use sled_core::names::Fingerprint;
use sled_core::sequence::Digest;
use sled_core::server::{Assist, Owner, Plan, Server, ServerConfig, SessionId};
use sled_core::step::{CacheOp, Row};
use sled_model::{Error, Limits, Model};
use sled_server::{Identity, Settings};
use sled_wire::{FromServer, Open, PROTOCOL};
use tokio_stream::wrappers::ReceiverStream;

use crate::args::OverheadArgs;
use crate::output::write_json;

const VOCAB: usize = 16;

/// The target always chooses this token.
const TOKEN: Token = 1;

/// Drafts in each block.
const DRAFTS: usize = 3;

/// Tokens of each prompt.
const PROMPT: usize = 8;

const CONTEXT: usize = 1 << 20;
const FINGERPRINT: Fingerprint = Fingerprint::new(0);

#[derive(serde::Serialize)]
struct Results {
    command: String,
    scheduler: Scheduler,
    server: Rounds,
}

/// Core's server side on one core.
#[derive(serde::Serialize)]
struct Scheduler {
    sessions: usize,
    verdicts_per_s: f64,
    /// Memory of a session that has its prompt and waits, without the engine's cache.
    bytes_per_idle_session: usize,
    bytes_of_its_tokens: usize,
}

/// The whole server over real sockets, its clients on the same cores.
#[derive(serde::Serialize)]
struct Rounds {
    devices: usize,
    rounds_per_s: f64,
}

/// Measures, prints and writes.
pub async fn run(args: OverheadArgs) -> anyhow::Result<()> {
    let time = Duration::from_secs_f64(args.window);
    let sessions = usize::try_from(args.sessions)?;
    let devices = usize::try_from(args.devices)?;
    let scheduler = tokio::task::spawn_blocking(move || scheduler(sessions, time)).await??;
    println!(
        "scheduler alone: {:.0} verdicts/s with {} sessions live, {} bytes for an idle session ({} of them its tokens)",
        scheduler.verdicts_per_s, sessions, scheduler.bytes_per_idle_session, scheduler.bytes_of_its_tokens
    );
    let server = rounds(devices, time).await?;
    println!("whole server over sockets: {:.0} rounds/s of {devices} devices", server.rounds_per_s);
    let command =
        format!("sled bench overhead --sessions {} --devices {} --window {}", args.sessions, args.devices, args.window);
    write_json(&args.out, &Results { command, scheduler, server })?;
    println!("written to {}", args.out.display());
    Ok(())
}

/// Resident memory of this process, in bytes; 0 where the system does not tell.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4096
}

fn prompt(limit: usize) -> Request {
    let prompt = Prompt { tokens: vec![TOKEN; PROMPT], max_tokens: limit - PROMPT, ..Prompt::default() };
    Request::Context(prompt.into_context(1))
}

fn block(from: usize, built_on: Digest) -> Request {
    Request::Draft(DraftBlock { turn: 1, from, built_on, tokens: vec![TOKEN; DRAFTS], until: 0 })
}

/// An engine with room for so many sessions.
fn limits(sequences: usize) -> Limits {
    Limits { vocab_size: VOCAB, cells: usize::MAX / 2, sequences, rows: 512, context: CONTEXT }
}

fn scheduler(sessions: usize, time: Duration) -> anyhow::Result<Scheduler> {
    let mut server = Server::new(ServerConfig { assist: Assist::Never, ..limits(sessions).server_config(Vec::new()) });
    let before = resident();
    let began = Instant::now();
    let mut logits = vec![0.0; VOCAB];
    logits[TOKEN as usize] = 1.0;
    let mut waiting: VecDeque<(SessionId, usize, Digest)> = VecDeque::new();
    for _ in 0..sessions {
        let id = server.open(began.elapsed(), Owner(0)).map_err(|(busy, _)| busy)?;
        server.request(began.elapsed(), id, prompt(CONTEXT));
        waiting.push_back((id, PROMPT, Digest::EMPTY.then_all(&[TOKEN; PROMPT])));
    }
    let bytes = resident().saturating_sub(before) / sessions.max(1);

    // Sessions that have had a verdict: until all have, prompts are read beside.
    let mut served = BTreeSet::new();
    let mut verdicts = 0u64;
    let mut since = Instant::now();
    while served.len() < sessions || since.elapsed() < time {
        for (id, from, digest) in waiting.drain(..) {
            server.request(began.elapsed(), id, block(from, digest));
        }
        let Plan::Run(mut step) = server.plan(began.elapsed()) else { continue };
        let replies = server.complete(began.elapsed(), &mut step, |_| Ok::<_, anyhow::Error>(logits.as_slice()))?;
        for (id, reply) in replies {
            if let Reply::Commit(commit) = reply {
                waiting.push_back((id, commit.end(), commit.digest));
                verdicts += 1;
                if served.len() < sessions && served.insert(id) {
                    (verdicts, since) = (0, Instant::now());
                }
            }
        }
    }
    Ok(Scheduler {
        sessions,
        verdicts_per_s: verdicts as f64 / since.elapsed().as_secs_f64(),
        bytes_per_idle_session: bytes,
        // A token and the digest of the text up to it.
        bytes_of_its_tokens: PROMPT * (size_of::<Token>() + size_of::<Digest>()),
    })
}

/// An engine that costs nothing.
struct Free {
    limits: Limits,
    logits: Vec<f32>,
}

impl Model for Free {
    fn limits(&self) -> Limits {
        self.limits
    }

    fn apply(&mut self, _op: CacheOp) -> Result<(), Error> {
        Ok(())
    }

    fn forward(&mut self, _rows: &[Row]) -> Result<(), Error> {
        Ok(())
    }

    fn logits(&self, _row: usize) -> Result<&[f32], Error> {
        Ok(&self.logits)
    }
}

async fn rounds(devices: usize, time: Duration) -> anyhow::Result<Rounds> {
    let limits = limits(devices);
    let mut logits = vec![0.0; VOCAB];
    logits[TOKEN as usize] = 1.0;
    let identity = Identity {
        name: "free".to_owned(),
        model: "free".to_owned(),
        model_fingerprint: FINGERPRINT,
        vocabulary_fingerprint: FINGERPRINT,
        vocabulary: bytes::Bytes::new(),
        end_of_generation: Vec::new(),
    };
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let sessions = Settings::default().sessions.max(devices);
    let settings = Settings { assist: Assist::Never, sessions, sessions_per_client: sessions, ..Settings::default() };
    let server = sled_server::Server::bind(address, Box::new(Free { limits, logits }), settings, identity).await?;
    let url = format!("http://{}", server.address()?);
    let serving = tokio::spawn(server.run(std::future::pending()));
    let running: Vec<_> = (0..devices).map(|_| tokio::spawn(device(url.clone(), time))).collect();
    let mut rounds = 0;
    for device in running {
        rounds += device.await??;
    }
    serving.abort();
    Ok(Rounds { devices, rounds_per_s: rounds as f64 / time.as_secs_f64() })
}

/// Sends a block, waits for the verdict, and so on; how many there were.
async fn device(url: String, time: Duration) -> anyhow::Result<u64> {
    let channel = tonic::transport::Endpoint::from_shared(url)?.tcp_nodelay(true).connect().await?;
    let mut client = sled_wire::client(channel);
    let description = client.describe(sled_wire::pb::DescribeRequest { protocol: PROTOCOL }).await?.into_inner();
    let bounds = sled_wire::decode_description(description)?.bounds;
    let (requests, outbox) = tokio::sync::mpsc::channel(4);
    let open = Open { device: "bench".into(), vocabulary_fingerprint: FINGERPRINT, model_fingerprint: None };
    requests.send(sled_wire::encode_open(open)).await?;
    let mut replies = client.session(ReceiverStream::new(outbox)).await?.into_inner();
    requests.send(sled_wire::encode_request(prompt(CONTEXT))).await?;
    let (mut from, mut digest) = (PROMPT, Digest::EMPTY.then_all(&[TOKEN; PROMPT]));
    let (mut rounds, began) = (0, Instant::now());
    requests.send(sled_wire::encode_request(block(from, digest))).await?;
    while began.elapsed() < time {
        let message = replies.message().await?.context("the server hung up")?;
        let FromServer::Reply(Reply::Commit(commit)) = sled_wire::decode_server(message, &bounds)? else { continue };
        (from, digest) = (commit.end(), commit.digest);
        rounds += 1;
        requests.send(sled_wire::encode_request(block(from, digest))).await?;
    }
    Ok(rounds)
}
