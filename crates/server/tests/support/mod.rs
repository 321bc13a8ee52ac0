//! A server with the synthetic model, and what its HTTP port says.

#![allow(dead_code, reason = "each test uses a part of it")]

#[path = "../../../api/tests/support/vocabulary.rs"]
pub mod vocabulary;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::time::Duration;

use sled_api::backend::{Backend, Event, Events, Job, Mode, Outcome};
use sled_core::Token;
use sled_core::names::Fingerprint;
use sled_core::sampler::{Sampler, SamplingParams};
use sled_core::step::{CacheOp, Row};
use sled_model::synthetic::{SyntheticConfig, SyntheticModel};
use sled_model::{Limits, Model};
use sled_server::{EngineBackend, EngineStats, Frame, Front, Http, Identity, Server, Settings};
use tokio::sync::oneshot;

pub const CONTEXT: usize = 256;
pub const VOCAB: usize = 263;
pub const END: Token = vocabulary::IM_END;

pub fn config(sequences: usize) -> SyntheticConfig {
    let cells = CONTEXT * sequences;
    SyntheticConfig { seed: 11, vocab_size: VOCAB, order: 3, cells, sequences, rows: 256, context: CONTEXT }
}

/// The synthetic model, with passes that take their time.
pub struct Slow(pub SyntheticModel, pub Duration);

impl Model for Slow {
    fn limits(&self) -> Limits {
        self.0.limits()
    }

    fn apply(&mut self, op: CacheOp) -> Result<(), sled_model::Error> {
        self.0.apply(op)
    }

    fn forward(&mut self, rows: &[Row]) -> Result<(), sled_model::Error> {
        std::thread::sleep(self.1);
        self.0.forward(rows)
    }

    fn logits(&self, row: usize) -> Result<&[f32], sled_model::Error> {
        self.0.logits(row)
    }
}

pub fn slow(sequences: usize, pass: Duration) -> Slow {
    Slow(SyntheticModel::new(config(sequences)), pass)
}

pub struct Running {
    pub grpc: SocketAddr,
    pub http: SocketAddr,
    pub backend: EngineBackend,
    pub stats: Box<dyn Fn() -> EngineStats + Send>,
    pub stop: oneshot::Sender<()>,
    pub served: tokio::task::JoinHandle<Result<EngineStats, sled_server::Error>>,
}

pub fn local() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

pub async fn serve(model: impl Model + 'static, settings: Settings) -> Running {
    let http = Http::bind(local(), sled_api::Settings::default()).await.unwrap();
    open(http, model, settings).await
}

pub async fn open(http: Http, model: impl Model + 'static, settings: Settings) -> Running {
    open_with(http, model, settings, Vec::new(), b"no file".as_slice().into()).await
}

/// A server that lets everybody share the prefixes of some texts, and has a vocabulary to send.
pub async fn open_with(
    http: Http,
    model: impl Model + 'static,
    settings: Settings,
    shared: Vec<Vec<Token>>,
    file: bytes::Bytes,
) -> Running {
    let vocab = vocabulary::vocabulary(true);
    assert_eq!((vocab.size(), vocab.eog_tokens()), (VOCAB, [END].as_slice()));
    let identity = Identity {
        name: "synthetic".to_owned(),
        model: "a synthetic model".to_owned(),
        model_fingerprint: Fingerprint::new(0xfeed_feed_feed_feed),
        vocabulary_fingerprint: vocab.fingerprint(),
        vocabulary: file,
        end_of_generation: vec![END],
    };
    let mut server =
        Server::bind(local(), Box::new(model), settings, identity).await.unwrap().with_shared_prefixes(shared);
    let http_address = http.address();
    let front = Front { vocab: vocab.clone(), threads: 1 };
    server.serve_http(http, front).unwrap();
    let (grpc, stats) = (server.address().unwrap(), Box::new(server.stats()));
    let backend = server.backend(vocab);
    let (stop, stopped) = oneshot::channel();
    let served = tokio::spawn(server.run(async {
        let _dropped = stopped.await;
    }));
    Running { grpc, http: http_address, backend, stats, stop, served }
}

/// A job, greedy or sampled.
pub fn job(i: u32, max_tokens: usize) -> Job {
    let temperature = if i.is_multiple_of(2) { 0.0 } else { 0.9 };
    let sampling = SamplingParams { temperature, seed: i.into(), ..SamplingParams::default() };
    Job {
        request_id: format!("test-{i}"),
        prompt: (0..20 + i % 17).map(|t| (t * 7 + i * 13) % 250).collect(),
        max_tokens,
        sampling,
        logprobs: None,
        mode: Mode::Server,
        client: None,
    }
}

/// What the target alone answers.
pub fn expected(job: &Job) -> Vec<Token> {
    let sampler = Sampler::new(job.sampling.clone(), VOCAB).unwrap();
    SyntheticModel::new(config(1)).generate(&sampler, &job.prompt, job.max_tokens, &[END])
}

/// All tokens of an answer, and how it ended.
pub async fn collect(mut events: Events) -> (Vec<Token>, Result<Outcome, String>) {
    let mut tokens = Vec::new();
    while let Some(event) = events.recv().await {
        match event {
            Event::Token(token) => tokens.push(token.token),
            Event::Done(outcome) => return (tokens, Ok(*outcome)),
            Event::Failed(reason) => return (tokens, Err(reason)),
            Event::Started | Event::Notice(_) => {}
        }
    }
    panic!("the answer has no end");
}

pub async fn answer(backend: &EngineBackend, job: Job) -> (Vec<Token>, Outcome) {
    let (tokens, outcome) = collect(backend.start(job).unwrap()).await;
    (tokens, outcome.unwrap())
}

/// Status and body.
pub async fn get(http: SocketAddr, path: &str) -> (u16, String) {
    let url = format!("http://{http}{path}");
    tokio::task::spawn_blocking(move || {
        let agent = ureq::Agent::new_with_config(ureq::Agent::config_builder().http_status_as_error(false).build());
        let mut response = agent.get(&url).call().unwrap();
        (response.status().as_u16(), response.body_mut().read_to_string().unwrap())
    })
    .await
    .unwrap()
}

/// The next frames of `/events`.
pub async fn frames(http: SocketAddr, count: usize) -> Vec<Frame> {
    let read = move || {
        let body = ureq::get(format!("http://{http}/events")).call().unwrap().into_body();
        let lines = BufReader::new(body.into_reader()).lines().map(Result::unwrap);
        let data = lines.filter_map(|line| line.strip_prefix("data:").map(|data| data.trim().to_owned()));
        data.take(count).map(|json| serde_json::from_str(&json).unwrap()).collect()
    };
    tokio::task::spawn_blocking(read).await.unwrap()
}

/// The samples of a page for Prometheus; each is checked to belong to a family that was declared.
pub fn samples(page: &str) -> std::collections::BTreeMap<String, f64> {
    assert!(page.ends_with("# EOF\n"), "{page}");
    let mut samples = std::collections::BTreeMap::new();
    let mut families = std::collections::BTreeMap::new();
    for line in page.lines().filter(|line| *line != "# EOF") {
        if let Some(rest) = line.strip_prefix("# ") {
            let words: Vec<_> = rest.splitn(3, ' ').collect();
            match words[..] {
                ["TYPE", name, kind] => {
                    assert!(families.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} twice")
                }
                ["HELP", ..] => {}
                _ => panic!("{line}"),
            }
            continue;
        }
        let (name, value) = line.rsplit_once(' ').unwrap();
        let bare = name.split('{').next().unwrap();
        let suffixes = ["_total", "_bucket", "_count", "_sum"];
        let family = suffixes.iter().find_map(|suffix| families.get(bare.strip_suffix(suffix)?)).or(families.get(bare));
        assert!(family.is_some(), "{line} belongs to nothing");
        assert!(samples.insert(name.to_owned(), value.parse().unwrap()).is_none(), "{name} twice");
    }
    samples
}
