//! Devices whose network and servers fail, over real sockets, with the synthetic model.

#![allow(unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sled_core::Token;
use sled_core::device::{Emitted, Fallback, FinishReason, Provenance, Resilience};
use sled_core::policy::Policy;
use sled_core::sampler::{Context, Sampler};
use sled_device::{Drafts, Error, Generation, RemoteServer, Session, SessionOptions};
use sled_model::synthetic::SyntheticModel;
use sled_wire::pb;
use support::{
    MODEL, Proxy, Slow, VOCAB, VOCABULARY, config, drafter, expected, prompt, serve, serve_at, serve_slowly,
};

/// What the user was told.
type Told = Arc<Mutex<Vec<String>>>;

fn options(i: u32, servers: &[SocketAddr], fallback: Fallback) -> (SessionOptions, Told) {
    let told = Told::default();
    let notes = Arc::clone(&told);
    let options = SessionOptions {
        drafter: drafter(i).map(|drafter| (Drafts::own(drafter).unwrap(), Policy::Goodput)),
        servers: servers.iter().map(ToString::to_string).collect(),
        resilience: Resilience {
            timeout: Duration::from_millis(300),
            fallback,
            fallback_after: 2,
            ..Resilience::default()
        },
        notify: Box::new(move |sentence| notes.lock().unwrap().push(sentence.to_owned())),
        ..SessionOptions::new("test", VOCABULARY, &[0])
    };
    (options, told)
}

async fn open(i: u32, servers: &[SocketAddr], fallback: Fallback) -> (Session, Told) {
    let (options, told) = options(i, servers, fallback);
    let addresses = options.servers.clone();
    (Session::open(&RemoteServer::connect_any(&addresses).await.unwrap(), options).await.unwrap(), told)
}

/// Runs device `i` to the end, with `at` called for every token, and compares the output.
async fn survive(i: u32, servers: &[SocketAddr], mut at: impl FnMut(usize)) -> (Generation, Told) {
    let (mut session, told) = open(i, servers, Fallback::Wait).await;
    let prompt = prompt(i, 150);
    let mut count = 0;
    let running = session.generate(prompt.clone(), |_| {
        count += 1;
        at(count);
        ControlFlow::Continue(())
    });
    let generation = tokio::time::timeout(Duration::from_secs(60), running).await.expect("it ends").unwrap();
    assert_eq!(generation.tokens, expected(&prompt), "device {i}");
    (generation, told)
}

/// Devices whose answers are long: two with a model to draft, one with n-grams, one thin client.
const DEVICES: [u32; 4] = [7, 18, 17, 16];

#[tokio::test]
async fn connections_that_are_cut_are_made_again() {
    for i in DEVICES {
        let server = serve_slowly().await;
        let proxy = Proxy::start(server.address, Duration::from_millis(1)).await;
        let (generation, _) = survive(i, &[proxy.address], |count| {
            if count % 10 == 0 {
                proxy.cut();
            }
        })
        .await;
        assert!(generation.stats.disconnections > 0, "{:?}", generation.stats);
    }
}

#[tokio::test]
async fn connections_that_are_half_open_are_given_up() {
    for i in DEVICES {
        let server = serve_slowly().await;
        let proxy = Proxy::start(server.address, Duration::ZERO).await;
        let (generation, told) = survive(i, &[proxy.address], |count| {
            if count == 10 {
                proxy.leave_half_open();
            }
        })
        .await;
        assert_eq!(generation.stats.disconnections, 1);
        let told = told.lock().unwrap().clone();
        assert!(told.len() == 2 && told[0].contains("it does not answer") && told[1].contains("answers"), "{told:?}");
    }
}

#[tokio::test]
async fn a_stall_is_outlasted_and_what_was_repeated_is_understood() {
    for i in DEVICES {
        let server = serve_slowly().await;
        let proxy = Arc::new(Proxy::start(server.address, Duration::ZERO).await);
        survive(i, &[proxy.address], |count| {
            if count == 10 {
                proxy.stall();
                let proxy = Arc::clone(&proxy);
                // Long enough for a timeout, so that blocks are repeated and all of them arrive in the end.
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(700)).await;
                    proxy.go_on();
                });
            }
        })
        .await;
    }
}

#[tokio::test]
async fn a_pass_that_outlasts_every_timeout_loses_nobody() {
    for i in [7, 18] {
        let server = serve_at(([127, 0, 0, 1], 0).into(), Slow::with_a_long_pass(20)).await;
        let (mut session, told) = open(i, &[server.address], Fallback::Release).await;
        let prompt = prompt(i, 150);
        let generation = session.generate(prompt.clone(), |_| ControlFlow::Continue(())).await.unwrap();
        let stats = generation.stats;
        assert_eq!((generation.tokens, stats.provisional_tokens), (expected(&prompt), 0), "device {i}: {stats:?}");
        assert!(stats.disconnections == 0 && told.lock().unwrap().is_empty(), "{stats:?}");
        drop(session);
        server.stop.send(()).unwrap();
        assert!(server.served.await.unwrap().unwrap().steps > 20);
    }
}

#[tokio::test]
async fn far_from_the_server_the_output_is_the_same() {
    let server = serve_slowly().await;
    let proxy = Proxy::start(server.address, Duration::from_millis(10)).await;
    for i in DEVICES {
        survive(i, &[proxy.address], |_| {}).await;
    }
}

#[tokio::test]
async fn a_server_that_restarts_twenty_times_changes_nothing() {
    for i in DEVICES {
        let mut server = Some(serve_slowly().await);
        let address = server.as_ref().unwrap().address;
        let (restart, mut restarts) = tokio::sync::mpsc::unbounded_channel();
        let supervisor = tokio::spawn(async move {
            let mut count = 0;
            while let Some(()) = restarts.recv().await {
                let running = server.take().unwrap();
                running.stop.send(()).unwrap();
                running.served.await.unwrap().unwrap();
                server = Some(serve_at(address, Slow::new()).await);
                count += 1;
            }
            count
        });
        let length = expected(&prompt(i, 150)).len();
        let every = (length / 21).max(1);
        survive(i, &[address], |count| {
            if count % every == 0 {
                restart.send(()).unwrap();
            }
        })
        .await;
        drop(restart);
        assert!(supervisor.await.unwrap() >= 20.min(length), "of {length} tokens");
    }
}

#[tokio::test]
async fn another_server_takes_over() {
    for i in DEVICES {
        let (first, second) = (serve_slowly().await, serve_slowly().await);
        let proxy = Proxy::start(first.address, Duration::ZERO).await;
        let (generation, told) = survive(i, &[proxy.address, second.address], |count| {
            if count == 10 {
                proxy.refuse(true);
                proxy.cut();
            }
        })
        .await;
        assert_eq!(generation.stats.disconnections, 1);
        assert!(generation.provenance.iter().all(|&provenance| provenance != Provenance::Provisional));
        let told = told.lock().unwrap().clone();
        assert!(told.len() == 2 && told[1].contains(&second.address.to_string()), "{told:?}");
    }
}

/// Every token that is not provisional is what the target chooses after the text before it.
fn assert_lawful(i: u32, emitted: &[Emitted]) {
    let prompt = prompt(i, 150);
    let sampler = Sampler::new(prompt.sampling.clone(), VOCAB).unwrap();
    let reference = SyntheticModel::new(config(1));
    let mut text: Vec<Token> = prompt.tokens.clone();
    for emitted in emitted {
        let context = Context { tokens: &text, prompt_len: prompt.tokens.len() };
        if emitted.provenance != Provenance::Provisional {
            assert_eq!(emitted.token, sampler.choose(&reference.logits_after(&text), context), "device {i}");
        }
        text.push(emitted.token);
    }
}

#[tokio::test]
async fn without_a_server_drafts_are_released_and_marked_until_one_is_back() {
    for i in [7, 18, 15] {
        let server = serve_slowly().await;
        let proxy = Proxy::start(server.address, Duration::ZERO).await;
        let (mut session, told) = open(i, &[proxy.address], Fallback::Release).await;
        let mut emitted: Vec<Emitted> = Vec::new();
        let running = session.generate(prompt(i, 150), |token| {
            let provenance = token.provenance;
            emitted.push(token);
            if emitted.len() == 10 {
                proxy.refuse(true);
                proxy.cut();
            }
            if provenance == Provenance::Provisional {
                proxy.refuse(false);
            }
            ControlFlow::Continue(())
        });
        let generation = tokio::time::timeout(Duration::from_secs(60), running).await.expect("it ends").unwrap();
        assert_lawful(i, &emitted);
        let provisional = emitted.iter().filter(|token| token.provenance == Provenance::Provisional).count();
        assert!(provisional > 0 && generation.stats.provisional_tokens == provisional as u64, "device {i}");
        assert_eq!(told.lock().unwrap().iter().filter(|told| told.contains("is lost")).count(), 1);
    }
}

#[tokio::test]
async fn fallback_error_fails_with_one_sentence() {
    let server = serve_slowly().await;
    let proxy = Proxy::start(server.address, Duration::ZERO).await;
    let (mut session, told) = open(7, &[proxy.address], Fallback::Error).await;
    let mut count = 0;
    let failed = session
        .generate(prompt(7, 150), |_| {
            count += 1;
            if count == 10 {
                proxy.refuse(true);
                proxy.cut();
            }
            ControlFlow::Continue(())
        })
        .await;
    let message = failed.unwrap_err().to_string();
    assert!(message.contains("the server is lost") && !message.contains('\n'), "{message}");
    assert!(told.lock().unwrap().len() <= 1);
}

#[tokio::test]
async fn a_list_of_servers_that_cannot_be_reached_is_named() {
    let closed = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let addresses = [closed(), closed()];
    let message = RemoteServer::connect_any(&addresses).await.unwrap_err().to_string();
    assert!(addresses.iter().all(|address| message.contains(address.as_str())) && !message.contains('\n'), "{message}");
    let typo = ["not an address".to_owned(), serve(1).await.address.to_string()];
    assert!(matches!(RemoteServer::connect_any(&typo).await, Err(Error::Address(_))));
}

#[tokio::test]
async fn a_busy_server_is_passed_over() {
    let (busy, free) = (serve(1).await, serve(1).await);
    let (_held, _) = open(16, &[busy.address], Fallback::Error).await;
    survive(16, &[busy.address, free.address], |_| {}).await;
}

/// A server that says whatever it is given after the first draft block.
struct Liar(Vec<pb::ServerMessage>);

#[tonic::async_trait]
impl sled_wire::Sled for Liar {
    type VocabularyStream = tokio_stream::Empty<Result<pb::VocabularyChunk, tonic::Status>>;
    type SessionStream =
        std::pin::Pin<Box<dyn tokio_stream::Stream<Item = Result<pb::ServerMessage, tonic::Status>> + Send + 'static>>;

    async fn describe(
        &self,
        _request: tonic::Request<pb::DescribeRequest>,
    ) -> Result<tonic::Response<pb::ServerDescription>, tonic::Status> {
        Ok(tonic::Response::new(sled_wire::encode_description(sled_wire::Description {
            version: "0".into(),
            name: "liar".into(),
            model: "liar".into(),
            model_fingerprint: MODEL,
            vocabulary_fingerprint: VOCABULARY,
            vocabulary_file: sled_wire::VocabularyFile::of(b"no file"),
            bounds: sled_wire::Bounds { vocabulary_size: VOCAB, context: 200, max_draft: 64 },
        })))
    }

    async fn vocabulary(
        &self,
        _request: tonic::Request<pb::VocabularyRequest>,
    ) -> Result<tonic::Response<Self::VocabularyStream>, tonic::Status> {
        Ok(tonic::Response::new(tokio_stream::empty()))
    }

    async fn sessions(
        &self,
        _: tonic::Request<pb::SessionsRequest>,
    ) -> Result<tonic::Response<pb::SessionList>, tonic::Status> {
        Ok(tonic::Response::new(pb::SessionList::default()))
    }

    async fn session(
        &self,
        request: tonic::Request<tonic::Streaming<pb::DeviceMessage>>,
    ) -> Result<tonic::Response<Self::SessionStream>, tonic::Status> {
        use tokio_stream::StreamExt;
        let opened = sled_wire::encode_opened(sled_wire::Opened { context: 200, max_draft: 64 });
        let lies = self.0.clone();
        // Every message of the device is answered with all lies.
        let answers = request.into_inner().skip(1).filter_map(Result::ok);
        let (sender, receiver) = tokio::sync::mpsc::channel(1024);
        sender.try_send(Ok(opened)).unwrap();
        tokio::spawn(async move {
            tokio::pin!(answers);
            while answers.next().await.is_some() {
                for lie in &lies {
                    if sender.send(Ok(lie.clone())).await.is_err() {
                        return;
                    }
                }
            }
        });
        Ok(tonic::Response::new(Box::pin(tokio_stream::wrappers::ReceiverStream::new(receiver))))
    }
}

async fn lie(lies: Vec<pb::ServerMessage>) -> Result<Generation, Error> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let service = sled_wire::server(Liar(lies));
    tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
    let (mut session, _) = open(2, &[address], Fallback::Error).await;
    let running = session.generate(prompt(2, 50), |token| panic!("a token was believed: {token:?}"));
    tokio::time::timeout(Duration::from_secs(30), running).await.expect("it ends")
}

#[tokio::test]
async fn a_server_that_answers_nonsense_is_never_believed() {
    let commit = |turn, from, accepted, tokens: Vec<u32>| pb::ServerMessage {
        body: Some(pb::server_message::Body::Commit(pb::Commit {
            turn,
            from,
            accepted,
            tokens,
            digest: 12345,
            rows: 1,
            ..Default::default()
        })),
    };
    let cases = [
        // A verdict for a position that was never sent; one that builds on nothing; another turn's; a commit of nothing.
        vec![commit(1, 150, 2, vec![3])],
        vec![commit(1, 7, 0, vec![3])],
        vec![commit(1, 7, 9, vec![3])],
        vec![commit(9, 7, 0, vec![3])],
        vec![commit(1, 0, 0, vec![])],
        vec![commit(1, 7, 0, vec![VOCAB as u32])],
        vec![commit(1, u32::MAX, u32::MAX, vec![3])],
        vec![pb::ServerMessage { body: Some(pb::server_message::Body::Resend(pb::Resend { turn: 1, from: 3 })) }],
        vec![pb::ServerMessage { body: Some(pb::server_message::Body::Opened(pb::Opened::default())) }],
        vec![pb::ServerMessage { body: None }],
    ];
    for case in cases {
        let ended = lie(case.clone()).await;
        let message = ended.map(|generation| generation.reason == FinishReason::Stop).unwrap_err().to_string();
        assert!(!message.contains('\n') && !message.is_empty(), "{case:?}: {message}");
    }
}
