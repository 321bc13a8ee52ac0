//! Who finds what in the KV cache, over real sockets: nobody learns what others have written, and everybody shares what is public.

#![allow(unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::time::Duration;

use sled_core::Token;
use sled_core::device::Prompt;
use sled_core::server::Assist;
use sled_device::{RemoteServer, Session, SessionOptions};
use sled_model::synthetic::SyntheticModel;
use sled_server::{Http, Settings, SharePrefixes};
use support::{Running, config, local, open_with, serve, slow, vocabulary};

const TEMPLATE: usize = 40;

/// What somebody wrote: a template that is known, and six digits.
fn secret() -> Vec<Token> {
    template().into_iter().chain([7, 1, 9, 3, 0, 4]).chain([99; 20]).collect()
}

fn template() -> Vec<Token> {
    (100..100 + TEMPLATE as Token).collect()
}

/// A client that keeps its connection.
#[derive(Clone)]
struct Client {
    agent: ureq::Agent,
    http: SocketAddr,
}

impl Client {
    fn connect(server: &Running) -> Self {
        Self { agent: ureq::Agent::new_with_defaults(), http: server.http }
    }

    /// Asks for a token, and returns how many of the prompt's were cached.
    async fn ask(&self, prompt: Vec<Token>) -> u64 {
        let Self { agent, http } = self.clone();
        tokio::task::spawn_blocking(move || {
            let body = serde_json::json!({ "prompt": prompt, "max_tokens": 1, "temperature": 0 });
            let request =
                agent.post(format!("http://{http}/v1/completions")).header("content-type", "application/json");
            let said = request.send(body.to_string()).unwrap().body_mut().read_to_string().unwrap();
            let said: serde_json::Value = serde_json::from_str(&said).unwrap();
            said["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap()
        })
        .await
        .unwrap()
    }
}

/// Guesses the digits one by one, as far as the figures tell them; what every guess was told.
async fn attack(connect: impl Fn() -> Client) -> Vec<u64> {
    let (mut known, mut figures) = (template(), Vec::new());
    for _ in 0..6 {
        let mut best = (0, 0);
        for digit in 0..10 {
            let told = connect().ask([&known[..], &[digit, 255]].concat()).await;
            figures.push(told);
            best = best.max((told, digit));
        }
        known.push(best.1);
    }
    figures
}

/// It has room for all texts of a test.
fn synthetic() -> SyntheticModel {
    SyntheticModel::new(config(80))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_is_not_told_over_http() {
    for sharing in [SharePrefixes::Connection, SharePrefixes::Address] {
        let settings = Settings { share_prefixes: sharing, ..Settings::default() };
        let server = serve(synthetic(), settings).await;
        let victim = Client::connect(&server);
        assert_eq!(victim.ask(secret()).await, 0);
        let figures = attack(|| Client::connect(&server)).await;
        match sharing {
            SharePrefixes::Connection => assert_eq!(figures, [0; 60]),
            // All of this test are at one address: the operator has said that this is one client.
            SharePrefixes::Address => assert_eq!(figures[7], TEMPLATE as u64 + 1),
        }
        assert_eq!(victim.ask(secret()).await, secret().len() as u64 - 1, "a client finds what it wrote itself");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_connection_is_told_of_nothing_but_its_own_guesses() {
    let mut told = Vec::new();
    for somebody_wrote in [secret(), vec![5; 60]] {
        let server = serve(synthetic(), Settings::default()).await;
        assert_eq!(Client::connect(&server).ask(somebody_wrote).await, 0);
        let attacker = Client::connect(&server);
        told.push(attack(|| attacker.clone()).await);
    }
    assert_eq!(told[0], told[1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_being_read_for_another_is_not_told_either() {
    let server = serve(slow(16, Duration::from_millis(2)), Settings::default()).await;
    let asking: Vec<_> = (0..8)
        .map(|_| {
            let client = Client::connect(&server);
            tokio::spawn(async move { client.ask(secret()).await })
        })
        .collect();
    for client in asking {
        assert_eq!(client.await.unwrap(), 0);
    }
}

/// How many rows the engine computes for a device's session with this prompt.
async fn rows(server: &Running, remote: &RemoteServer, prompt: Vec<Token>) -> u64 {
    let before = (server.stats)().rows;
    let fingerprint = vocabulary::vocabulary(true).fingerprint().to_owned();
    let options = SessionOptions::new("a device", fingerprint, &[support::END]);
    let mut session = Session::open(remote, options).await.unwrap();
    let prompt = Prompt { tokens: prompt, max_tokens: 1, ..Prompt::default() };
    session.generate(prompt, |_| ControlFlow::Continue(())).await.unwrap();
    (server.stats)().rows - before
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_devices_sessions_share_its_connection_and_no_other() {
    let settings = Settings { assist: Assist::Never, ..Settings::default() };
    let server = serve(synthetic(), settings).await;
    let remote = async || RemoteServer::connect(&server.grpc.to_string()).await.unwrap();
    let (victim, all) = (remote().await, secret().len() as u64);
    assert_eq!(rows(&server, &victim, secret()).await, all);
    assert_eq!(rows(&server, &remote().await, secret()).await, all, "another device finds nothing");
    assert_eq!(rows(&server, &victim, secret()).await, 1, "its own is there");
    assert_eq!(Client::connect(&server).ask(secret()).await, 0, "nor does anybody over HTTP");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_public_prefix_is_there_for_everybody_and_nothing_behind_it() {
    let http = Http::bind(local(), sled_api::Settings::default()).await.unwrap();
    let settings = Settings { assist: Assist::Never, ..Settings::default() };
    let server =
        open_with(http, synthetic(), settings, vec![vec![3; 50], template()], b"no file".as_slice().into()).await;
    assert_eq!(Client::connect(&server).ask(secret()).await, 0, "it is read when it is first needed");
    assert_eq!(Client::connect(&server).ask(secret()).await, TEMPLATE as u64);
    assert_eq!(attack(|| Client::connect(&server)).await, [TEMPLATE as u64; 60]);
    let device = RemoteServer::connect(&server.grpc.to_string()).await.unwrap();
    assert_eq!(rows(&server, &device, secret()).await, (secret().len() - TEMPLATE) as u64);
}
