//! An engine that fails for some of those who share its passes, over real sockets: every answer ends, right or with an error, and
//! what is counted is what was answered.

#![allow(unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::time::Duration;

use sled_api::backend::Backend;
use sled_core::Token;
use sled_core::message::{DraftBlock, Reply, Request};
use sled_core::sequence::Digest;
use sled_core::step::{CacheOp, Row};
use sled_device::{RemoteServer, Session, SessionOptions};
use sled_model::synthetic::SyntheticModel;
use sled_model::{Error, Limits, Model};
use sled_server::Settings;
use sled_wire::{FromServer, Open, SledClient};
use support::{CONTEXT, END, Running, VOCAB, answer, collect, config, expected, get, job, samples, serve, vocabulary};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;

/// Nothing that is waited for takes longer, however busy the machine is.
const LONG: Duration = Duration::from_secs(60);

/// A token that no text has but the poisoned one.
const POISON: Token = 255;

/// The synthetic model, whose later logits are missing after every fifth pass, and whose poisoned ones always.
struct Broken {
    model: SyntheticModel,
    poison: Option<Token>,
    passes: u32,
    tokens: Vec<Token>,
}

impl Broken {
    fn new(poison: Option<Token>) -> Self {
        Self { model: SyntheticModel::new(config(8)), poison, passes: 0, tokens: Vec::new() }
    }
}

impl Model for Broken {
    fn limits(&self) -> Limits {
        self.model.limits()
    }

    fn apply(&mut self, op: CacheOp) -> Result<(), Error> {
        self.model.apply(op)
    }

    fn forward(&mut self, rows: &[Row]) -> Result<(), Error> {
        self.passes += 1;
        self.tokens = rows.iter().map(|row| row.token).collect();
        // So that several are ready for the next pass.
        std::thread::sleep(Duration::from_millis(1));
        self.model.forward(rows)
    }

    fn logits(&self, row: usize) -> Result<&[f32], Error> {
        let fails = self.passes.is_multiple_of(5) && row > 0;
        if fails || Some(self.tokens[row]) == self.poison {
            return Err(Error::Pass("a test".to_owned()));
        }
        self.model.logits(row)
    }
}

async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, work).await.expect("it ends")
}

/// A thin client gets the target's own tokens, by however many verdicts.
async fn a_device_is_served(server: &Running, i: u32) -> u64 {
    let job = job(i, 40);
    let remote = RemoteServer::connect(&server.grpc.to_string()).await.unwrap();
    let options = SessionOptions::new("a device", vocabulary::vocabulary(true).fingerprint(), &[END]);
    let mut session = Session::open(&remote, options).await.unwrap();
    let prompt = sled_core::device::Prompt {
        tokens: job.prompt.clone(),
        max_tokens: job.max_tokens,
        sampling: job.sampling.clone(),
        ..Default::default()
    };
    let answer = soon(session.generate(prompt, |_| std::ops::ControlFlow::Continue(()))).await.unwrap();
    assert_eq!(answer.tokens, expected(&job), "device {i}");
    assert_eq!(answer.stats.disconnections, 0);
    answer.tokens.len() as u64
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_whose_passes_fail_go_on_and_are_counted_once() {
    let server = serve(Broken::new(None), Settings::default()).await;
    let mut tokens = 0;
    for round in 0..4 {
        let asked: Vec<_> = (0..6).map(|i| server.backend.start(job(6 * round + i, 40)).unwrap()).collect();
        let devices = async { a_device_is_served(&server, round).await + a_device_is_served(&server, round + 1).await };
        let programs = async {
            let mut tokens = 0;
            for (i, events) in (0..).zip(asked) {
                let (answered, outcome) = soon(collect(events)).await;
                assert_eq!((answered.as_slice(), outcome.err()), (&*expected(&job(6 * round + i, 40)), None));
                tokens += answered.len() as u64;
            }
            tokens
        };
        let (of_devices, of_programs) = tokio::join!(devices, programs);
        tokens += of_devices + of_programs;
    }
    // Nobody drafts, so that each token is a commit of its own, and none is one that failed.
    let stats = (server.stats)();
    assert_eq!((stats.totals.committed, stats.commits), (tokens, tokens));
    assert_eq!(samples(&get(server.http, "/metrics").await.1)["sled:commits_total"], tokens as f64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_fails_for_ever_is_told_so_and_nobody_else() {
    let server = serve(Broken::new(Some(POISON)), Settings::default()).await;
    for round in 0..4 {
        let mut poisoned = job(round, 40);
        poisoned.prompt.push(POISON);
        let poisoned = server.backend.start(poisoned).unwrap();
        let healthy: Vec<_> = (0..4).map(|i| server.backend.start(job(i, 40)).unwrap()).collect();
        let (answered, outcome) = soon(collect(poisoned)).await;
        assert!(answered.is_empty() && outcome.unwrap_err().contains("the server's engine failed"));
        for (i, events) in (0..).zip(healthy) {
            let (answered, outcome) = soon(collect(events)).await;
            assert_eq!((answered.as_slice(), outcome.err()), (&*expected(&job(i, 40)), None));
        }
        assert_eq!(soon(answer(&server.backend, job(9, 20))).await.0, expected(&job(9, 20)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_are_told_again_are_no_commits() {
    let server = serve(SyntheticModel::new(config(4)), Settings::default()).await;
    let job = (0..).map(|i| job(i, 20)).find(|job| expected(job).len() == 20).unwrap();
    let end = job.prompt.len() + 20;
    let (requests, outbox) = tokio::sync::mpsc::channel(16);
    let open = Open {
        device: "raw".into(),
        vocabulary_fingerprint: vocabulary::vocabulary(true).fingerprint(),
        model_fingerprint: None,
    };
    requests.send(sled_wire::encode_open(open)).await.unwrap();
    let channel = Endpoint::from_shared(format!("http://{}", server.grpc)).unwrap().connect().await.unwrap();
    let mut client = SledClient::new(channel);
    let mut replies = client.session(ReceiverStream::new(outbox)).await.unwrap().into_inner();
    replies.message().await.unwrap().expect("it is open");
    let built_on = Digest::EMPTY.then_all(&job.prompt);
    let from = job.prompt.len();
    let repeat = Request::Draft(DraftBlock { turn: 1, from, built_on, tokens: Vec::new(), until: end });
    let prompt = sled_core::device::Prompt {
        tokens: job.prompt.clone(),
        max_tokens: 20,
        sampling: job.sampling.clone(),
        ..Default::default()
    };
    requests.send(sled_wire::encode_request(Request::Context(prompt.into_context(1)))).await.unwrap();
    let bounds = sled_wire::Bounds { vocabulary_size: VOCAB, context: CONTEXT, max_draft: 64 };
    let (mut new, mut again) = (0, 0);
    while again < 10 {
        requests.send(sled_wire::encode_request(repeat.clone())).await.unwrap();
        // It may have no answer yet, or several.
        let message = soon(replies.message()).await.unwrap().unwrap();
        let FromServer::Reply(reply) = sled_wire::decode_server(message, &bounds).unwrap() else { continue };
        match &reply {
            Reply::Commit(commit) if reply.is_repeated() => again += usize::from(commit.end() == end),
            Reply::Commit(_) => new += 1,
            _ => {}
        }
    }
    let stats = (server.stats)();
    assert_eq!((stats.commits, stats.totals.committed), (new, 20));
}
