//! How a server ends that is told to: answers under way are finished, nobody else is let in, and nothing keeps it.

#![allow(unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::sync::mpsc;
use std::time::Duration;

use sled_api::backend::{Backend, Event, Refusal};
use sled_core::step::{CacheOp, Row};
use sled_device::{RemoteServer, Session, SessionOptions};
use sled_model::synthetic::SyntheticModel;
use sled_model::{Limits, Model};
use sled_server::Settings;
use support::{collect, config, expected, get, job, serve, slow, vocabulary};

/// The synthetic model, which never comes back from a pass with so many rows.
struct Stuck {
    model: SyntheticModel,
    rows: usize,
    stuck: mpsc::Sender<()>,
}

impl Model for Stuck {
    fn limits(&self) -> Limits {
        self.model.limits()
    }

    fn apply(&mut self, op: CacheOp) -> Result<(), sled_model::Error> {
        self.model.apply(op)
    }

    fn forward(&mut self, rows: &[Row]) -> Result<(), sled_model::Error> {
        if rows.len() >= self.rows {
            self.stuck.send(()).unwrap();
            loop {
                std::thread::park();
            }
        }
        self.model.forward(rows)
    }

    fn logits(&self, row: usize) -> Result<&[f32], sled_model::Error> {
        self.model.logits(row)
    }
}

fn options() -> SessionOptions {
    SessionOptions::new("a device", vocabulary::vocabulary(true).fingerprint(), &[support::END])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_under_way_are_finished_and_others_refused() {
    let grace = Duration::from_secs(3600);
    let server = serve(slow(4, Duration::from_millis(10)), Settings { grace, ..Settings::default() }).await;
    let remote = RemoteServer::connect(&server.grpc.to_string()).await.unwrap();
    let _idle = Session::open(&remote, options()).await.unwrap();
    let mut answer = server.backend.start(job(0, 200)).unwrap();
    let Event::Token(first) = answer.recv().await.unwrap() else { panic!("it begins with a token") };
    server.stop.send(()).unwrap();
    // The answer is long enough for this to be seen.
    while (get(server.http, "/health").await).0 == 200 {}
    assert_eq!(server.backend.start(job(1, 5)).unwrap_err(), Refusal::Closing);
    let (status, body) = get(server.http, "/v1/models").await;
    assert!(status == 503 && body.contains("shutting down"), "{status} {body}");
    let refused = Session::open(&remote, options()).await.err().expect("it is refused").to_string();
    assert!(refused.contains("the server is shutting down"), "{refused}");
    let (rest, outcome) = collect(answer).await;
    outcome.unwrap();
    let tokens: Vec<_> = std::iter::once(first.token).chain(rest).collect();
    assert_eq!(tokens, expected(&job(0, 200)));
    server.served.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_take_longer_than_the_grace_are_cut_off_with_a_word() {
    let grace = Duration::from_millis(50);
    let server = serve(slow(4, Duration::from_millis(50)), Settings { grace, ..Settings::default() }).await;
    let mut answer = server.backend.start(job(0, 200)).unwrap();
    let _first = answer.recv().await.unwrap();
    server.stop.send(()).unwrap();
    let (_, outcome) = collect(answer).await;
    assert_eq!(outcome.unwrap_err(), "the server is shutting down");
    server.served.await.unwrap().unwrap();
}

#[test]
fn an_engine_that_never_comes_back_from_a_pass_is_left_behind() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let (stuck, is_stuck) = mpsc::channel();
        let model = Stuck { model: SyntheticModel::new(config(4)), rows: 17, stuck };
        let grace = Duration::from_millis(50);
        let server = serve(model, Settings { grace, ..Settings::default() }).await;
        let answer = server.backend.start(job(0, 20)).unwrap();
        tokio::task::spawn_blocking(move || is_stuck.recv().unwrap()).await.unwrap();
        server.stop.send(()).unwrap();
        server.served.await.unwrap().unwrap();
        drop(answer);
    });
}
