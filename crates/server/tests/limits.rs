//! Devices that misbehave, over real sockets, beside others that do not: what one may take, and that nobody else notices.

#![allow(unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sled_api::backend::{Backend, Job};
use sled_core::device::{Fallback, Prompt, Resilience};
use sled_core::message::{DraftBlock, Request};
use sled_core::policy::Policy;
use sled_core::sequence::Digest;
use sled_core::step::{CacheOp, Row};
use sled_device::{Drafts, RemoteServer, Session, SessionOptions};
use sled_model::synthetic::{SyntheticDrafter, SyntheticModel};
use sled_model::{Limits, Model};
use sled_server::{Error, Settings};
use sled_wire::{FromServer, Open, SledClient, pb};
use support::{CONTEXT, END, Running, VOCAB, answer, collect, config, expected, get, job, serve, slow, vocabulary};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

/// Nothing that is waited for takes longer, however busy the machine is.
const LONG: Duration = Duration::from_secs(60);

fn synthetic(sequences: usize) -> SyntheticModel {
    SyntheticModel::new(config(sequences))
}

async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, work).await.expect("it ends")
}

fn prompt_of(job: &Job) -> Prompt {
    let Job { prompt, max_tokens, sampling, .. } = job.clone();
    Prompt { tokens: prompt, max_tokens, sampling, ..Prompt::default() }
}

/// The first job whose answer is as long as it may get.
fn long_job(max_tokens: usize) -> Job {
    (0..).map(|i| job(i, max_tokens)).find(|job| expected(job).len() == max_tokens).unwrap()
}

/// A well-behaved device, which takes no loss of its server for granted, and what its user was told.
async fn device(server: SocketAddr) -> (Session, Arc<Mutex<Vec<String>>>) {
    let told = Arc::new(Mutex::new(Vec::new()));
    let notes = Arc::clone(&told);
    let vocabulary = vocabulary::vocabulary(true);
    let drafter = SyntheticDrafter::new(&synthetic(1), 0.7, 3);
    let options = SessionOptions {
        drafter: Some((Drafts::own(Box::new(drafter)).unwrap(), Policy::Fixed { k: 4 })),
        resilience: Resilience { fallback: Fallback::Error, fallback_after: 1, ..Resilience::default() },
        notify: Box::new(move |sentence| notes.lock().unwrap().push(sentence.to_owned())),
        ..SessionOptions::new("a device", vocabulary.fingerprint(), &[END])
    };
    (Session::open(&RemoteServer::connect(&server.to_string()).await.unwrap(), options).await.unwrap(), told)
}

/// Lets `session` answer `job`, and compares.
async fn check(session: &mut Session, job: &Job) {
    let answered = soon(session.generate(prompt_of(job), |_| ControlFlow::Continue(()))).await.unwrap();
    assert_eq!((answered.tokens, answered.stats.provisional_tokens), (expected(job), 0));
}

/// Devices and HTTP requests that have done nothing wrong get what the target alone says.
async fn check_healthy(server: &Running) {
    let (mut session, told) = device(server.grpc).await;
    for i in 0..4 {
        check(&mut session, &job(i, 60)).await;
        assert_eq!(soon(answer(&server.backend, job(i, 60))).await.0, expected(&job(i, 60)));
    }
    assert_eq!(told.lock().unwrap().as_slice(), &[] as &[String]);
}

async fn channel(server: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{server}")).unwrap().connect().await.unwrap()
}

/// A session by hand.
struct Raw {
    requests: mpsc::Sender<pb::DeviceMessage>,
    replies: Streaming<pb::ServerMessage>,
}

impl Raw {
    async fn open(server: SocketAddr) -> Result<Self, Status> {
        let (requests, outbox) = mpsc::channel(16);
        let open = Open {
            device: "raw".into(),
            vocabulary_fingerprint: vocabulary::vocabulary(true).fingerprint().to_owned(),
            model_fingerprint: None,
        };
        requests.send(sled_wire::encode_open(open)).await.unwrap();
        let mut client = SledClient::new(channel(server).await).max_encoding_message_size(usize::MAX);
        let mut replies = client.session(ReceiverStream::new(outbox)).await?.into_inner();
        replies.message().await?.expect("it is open");
        Ok(Self { requests, replies })
    }

    async fn send(&self, request: Request) -> bool {
        self.requests.send(sled_wire::encode_request(request)).await.is_ok()
    }

    /// The next reply.
    async fn receive(&mut self) -> FromServer {
        let bounds = sled_wire::Bounds { vocabulary_size: VOCAB, context: CONTEXT, max_draft: 64 };
        sled_wire::decode_server(soon(self.replies.message()).await.unwrap().unwrap(), &bounds).unwrap()
    }

    /// Reads to the end; why it ended.
    async fn ending(&mut self) -> Status {
        loop {
            match soon(self.replies.message()).await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it ended without a word"),
                Err(status) => return status,
            }
        }
    }
}

async fn sessions(server: SocketAddr) -> usize {
    RemoteServer::connect(&server.to_string()).await.unwrap().sessions().await.unwrap().sessions.len()
}

async fn until_sessions(server: SocketAddr, count: usize) {
    soon(async {
        while sessions(server).await != count {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// MiB of memory that this process has.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() >> 10
}

/// "What do you have from the prompt on?"
fn repeat(job: &Job, until: usize) -> Request {
    let built_on = Digest::EMPTY.then_all(&job.prompt);
    Request::Draft(DraftBlock { turn: 1, from: job.prompt.len(), built_on, tokens: Vec::new(), until })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_asks_again_and_again_and_reads_nothing_fills_no_memory() {
    let server = serve(synthetic(8), Settings::default()).await;
    let job = long_job(200);
    let end = job.prompt.len() + 200;
    let mut greedy = Vec::new();
    for _ in 0..4 {
        let mut raw = Raw::open(server.grpc).await.unwrap();
        let prompt = Prompt { logprobs: Some(20), ..prompt_of(&job) };
        raw.send(Request::Context(prompt.into_context(1))).await;
        raw.send(repeat(&job, end)).await;
        // The whole answer, so that each repeat weighs 40 KiB.
        loop {
            if let FromServer::Reply(sled_core::message::Reply::Commit(commit)) = raw.receive().await
                && commit.end() == end
            {
                break;
            }
        }
        greedy.push(raw);
    }
    let before = resident();
    let asking: Vec<_> = greedy
        .iter()
        .map(|raw| {
            let (requests, request) = (raw.requests.clone(), sled_wire::encode_request(repeat(&job, 0)));
            tokio::spawn(async move {
                for _ in 0..4_000 {
                    if requests.send(request.clone()).await.is_err() {
                        break;
                    }
                }
            })
        })
        .collect();
    check_healthy(&server).await;
    for asking in asking {
        asking.await.unwrap();
    }
    check_healthy(&server).await;
    // Of answers that tell again what was told, the newest waits, beside those that the connection holds already.
    let grown = resident().saturating_sub(before);
    assert!(grown < 100, "{grown} MiB");
    assert_eq!(sessions(server.grpc).await, 4);
    drop(greedy);
    until_sessions(server.grpc, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_too_large_is_said_to_be() {
    let server = serve(synthetic(2), Settings::default()).await;
    let mut raw = Raw::open(server.grpc).await.unwrap();
    let prompt = Prompt { tokens: vec![1 << 20; 400_000], max_tokens: 1, ..Prompt::default() };
    raw.send(Request::Context(prompt.into_context(1))).await;
    let status = raw.ending().await;
    assert_eq!(
        (status.code(), status.message()),
        (
            Code::OutOfRange,
            "a message of the device has more than 1024 KiB, which is the most that the server takes; shorten the prompt"
        )
    );
    check_healthy(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_at_full_speed_keep_nobody_from_an_answer() {
    let server = serve(slow(8, Duration::from_millis(1)), Settings::default()).await;
    let mut floods = Vec::new();
    for _ in 0..4 {
        let raw = Raw::open(server.grpc).await.unwrap();
        let requests = raw.requests.clone();
        let stale = sled_wire::encode_request(Request::Stop(7));
        let flood = tokio::spawn(async move { while requests.send(stale.clone()).await.is_ok() {} });
        floods.push((raw, flood));
    }
    check_healthy(&server).await;
    floods.iter().for_each(|(_, flood)| flood.abort());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_address_has_so_many_sessions_and_no_more() {
    let settings = Settings { sessions: 8, sessions_per_client: 2, ..Settings::default() };
    let server = serve(synthetic(4), settings).await;
    let mut held = vec![Raw::open(server.grpc).await.unwrap(), Raw::open(server.grpc).await.unwrap()];
    let refusal = Raw::open(server.grpc).await.err().unwrap();
    assert_eq!(
        refusal.message(),
        "the server is busy: it has 2 sessions of this device's address, and takes no more of it; close some, or start the \
         server with a larger --max-sessions-per-client"
    );
    assert_eq!(sled_wire::retry_after(&refusal), Some(Duration::from_secs(1)));
    // The HTTP port bounds its requests itself.
    assert_eq!(answer(&server.backend, job(0, 20)).await.0, expected(&job(0, 20)));
    held.pop();
    until_sessions(server.grpc, 1).await;
    held.push(Raw::open(server.grpc).await.unwrap());
    assert_eq!(sessions(server.grpc).await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_is_idle_for_long_is_closed_and_its_device_goes_on() {
    let settings = Settings { idle_timeout: Duration::from_millis(200), ..Settings::default() };
    let server = serve(synthetic(4), settings).await;
    let (mut session, told) = device(server.grpc).await;
    for i in 0..3 {
        check(&mut session, &job(i, 40)).await;
        until_sessions(server.grpc, 0).await;
    }
    check(&mut session, &job(3, 40)).await;
    assert_eq!(session.stats().disconnections, 0);
    assert_eq!(told.lock().unwrap().as_slice(), &[] as &[String]);

    let mut raw = Raw::open(server.grpc).await.unwrap();
    let status = raw.ending().await;
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("idle") && status.message().contains("opens it again"), "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_server_makes_room_for_a_newcomer_where_a_session_is_idle() {
    let server = serve(synthetic(4), Settings { sessions: 2, ..Settings::default() }).await;
    let (mut first, told) = device(server.grpc).await;
    let (mut second, _) = device(server.grpc).await;
    check(&mut first, &job(0, 20)).await;
    check(&mut second, &job(1, 20)).await;
    // Not at once: both may be about to go on.
    assert_eq!(sled_wire::retry_after(&Raw::open(server.grpc).await.err().unwrap()), Some(Duration::from_secs(1)));
    let newcomer = soon(async {
        loop {
            match Raw::open(server.grpc).await {
                Ok(raw) => return raw,
                Err(refusal) => assert!(sled_wire::retry_after(&refusal).is_some(), "{refusal}"),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    assert_eq!(sessions(server.grpc).await, 2);
    check(&mut second, &job(2, 20)).await;
    // Over HTTP too there is room, since the newcomer will be idle.
    drop(newcomer);
    until_sessions(server.grpc, 1).await;
    check(&mut first, &job(3, 20)).await;
    assert_eq!(told.lock().unwrap().as_slice(), &[] as &[String]);
}

/// The synthetic model, which does something else once its server serves.
struct Odd<F>(SyntheticModel, usize, F);

impl<F: FnMut() + Send> Model for Odd<F> {
    fn limits(&self) -> Limits {
        self.0.limits()
    }

    fn apply(&mut self, op: CacheOp) -> Result<(), sled_model::Error> {
        self.0.apply(op)
    }

    fn forward(&mut self, rows: &[Row]) -> Result<(), sled_model::Error> {
        self.1 += 1;
        // The server measures it with six passes before the first for a session.
        if self.1 > 10 {
            (self.2)();
        }
        self.0.forward(rows)
    }

    fn logits(&self, row: usize) -> Result<&[f32], sled_model::Error> {
        self.0.logits(row)
    }
}

async fn health(server: SocketAddr, service: &str) -> Result<ServingStatus, Code> {
    let request = HealthCheckRequest { service: service.to_owned() };
    let answer = HealthClient::new(channel(server).await).check(request).await.map_err(|status| status.code())?;
    Ok(answer.into_inner().status())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_whose_engine_dies_says_so_and_ends() {
    let server = serve(Odd(synthetic(4), 0, || panic!("the cells have melted")), Settings::default()).await;
    let mut idle = Raw::open(server.grpc).await.unwrap();
    let (_, outcome) = soon(collect(server.backend.start(long_job(200)).unwrap())).await;
    assert_eq!(outcome.unwrap_err(), "the server's engine has stopped");
    let status = idle.ending().await;
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "the server's engine has stopped"));
    let error = soon(server.served).await.unwrap().unwrap_err();
    assert!(matches!(&error, Error::Engine(reason) if reason == "the cells have melted"), "{error}");
    assert!(error.to_string().contains("start the server again"), "{error}");
    drop(server.stop);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_stops_although_its_engine_is_in_a_pass_without_end() {
    let (release, stuck) = std::sync::mpsc::channel::<()>();
    let stuck = Mutex::new(stuck);
    let (entered, mut passes) = mpsc::unbounded_channel();
    let hang = move || {
        let _waits_for_us = entered.send(());
        let _released = stuck.lock().unwrap().recv();
    };
    let server = serve(Odd(synthetic(4), 0, hang), Settings::default()).await;
    let mut idle = Raw::open(server.grpc).await.unwrap();
    let mut events = server.backend.start(long_job(200)).unwrap();
    soon(passes.recv()).await.unwrap();
    assert_eq!(get(server.http, "/health").await.0, 200);
    server.stop.send(()).unwrap();
    let status = idle.ending().await;
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "the server is shutting down"));
    let stats = soon(server.served).await.unwrap().unwrap();
    assert!(stats.steps < 10, "{}", stats.steps);
    while soon(events.recv()).await.is_some() {}
    drop(release);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_health_follows_the_engine() {
    let server = serve(synthetic(4), Settings::default()).await;
    for service in ["", "sled.v1.Sled"] {
        soon(async {
            while health(server.grpc, service).await != Ok(ServingStatus::Serving) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }
    assert_eq!(health(server.grpc, "another").await, Err(Code::NotFound));
    assert_eq!(get(server.http, "/health").await, (200, r#"{"status":"ok"}"#.to_owned()));
    server.stop.send(()).unwrap();
    soon(server.served).await.unwrap().unwrap();
}
