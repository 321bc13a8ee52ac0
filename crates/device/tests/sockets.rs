//! Devices and a server over real sockets, with the synthetic model: equality, isolation, refusals.

#![allow(unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::time::Duration;

use sled_core::device::{Fallback, Prompt, Resilience};
use sled_core::names::Fingerprint;
use sled_core::policy::Policy;
use sled_device::{Drafts, RemoteServer, Session, SessionOptions};
use sled_model::drafter::Drafter;
use sled_wire::{PROTOCOL, pb};
use support::{CONTEXT, VOCAB, VOCABULARY, drafter, expected, prompt, serve};

fn options(drafter: Option<Box<dyn Drafter>>) -> SessionOptions {
    SessionOptions {
        drafter: drafter.map(|drafter| (Drafts::own(drafter).unwrap(), Policy::Fixed { k: 4 })),
        resilience: Resilience { fallback: Fallback::Error, fallback_after: 1, ..Resilience::default() },
        ..SessionOptions::new("test", VOCABULARY, &[0])
    }
}

async fn connect(address: SocketAddr) -> RemoteServer {
    RemoteServer::connect(&address.to_string()).await.unwrap()
}

async fn generate(address: SocketAddr, i: u32) {
    let mut session = Session::open(&connect(address).await, options(drafter(i))).await.unwrap();
    let prompt = prompt(i, 60);
    let mut streamed = Vec::new();
    let generation = session
        .generate(prompt.clone(), |committed| {
            streamed.push(committed.token);
            ControlFlow::Continue(())
        })
        .await
        .unwrap();
    assert_eq!(generation.tokens, expected(&prompt), "device {i}");
    assert_eq!(streamed, generation.tokens);
}

#[tokio::test]
async fn sixteen_devices_at_once_each_get_the_targets_own_output() {
    let server = serve(16).await;
    let devices: Vec<_> = (0..16).map(|i| tokio::spawn(generate(server.address, i))).collect();
    for device in devices {
        device.await.unwrap();
    }
    server.stop.send(()).unwrap();
    let stats = server.served.await.unwrap().unwrap();
    assert!(stats.commits > 0 && stats.rows > stats.commits);
}

#[tokio::test]
async fn a_device_that_vanishes_disturbs_no_other_and_frees_its_session() {
    let server = serve(4).await;
    let others: Vec<_> = (0..3).map(|i| tokio::spawn(generate(server.address, i))).collect();
    let mut victim = Session::open(&connect(server.address).await, options(drafter(2))).await.unwrap();
    let mut seen = 0;
    let generation = victim.generate(prompt(9, 60), |_| {
        seen += 1;
        ControlFlow::Continue(())
    });
    // Cut off in the middle of a round, with a message or a verdict under way.
    let _cut = tokio::time::timeout(Duration::from_micros(700), generation).await;
    drop(victim);
    for other in others {
        other.await.unwrap();
    }
    // Nothing is left of it, nor of the others, as soon as the server has noticed.
    let remote = connect(server.address).await;
    while !remote.sessions().await.unwrap().sessions.is_empty() {}
}

#[tokio::test]
async fn a_busy_server_is_come_back_to_when_it_said() {
    let server = serve(1).await;
    let held = Session::open(&connect(server.address).await, options(None)).await.unwrap();
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let notify = Box::new(move |sentence: &str| told.send(sentence.to_owned()).unwrap());
    let resilience = Resilience { fallback: Fallback::Wait, ..Resilience::default() };
    let second = SessionOptions { notify, resilience, ..options(drafter(2)) };
    let mut second = Session::open(&connect(server.address).await, second).await.unwrap();
    let text = prompt(2, 20);
    let expected = expected(&text);
    let running = tokio::spawn(async move { second.generate(text, |_| ControlFlow::Continue(())).await });
    let notice = heard.recv().await.unwrap();
    assert!(notice.contains("busy: it has 1 sessions") && notice.ends_with("trying again"), "{notice}");
    drop(held);
    let generation = running.await.unwrap().unwrap();
    assert_eq!((generation.tokens, generation.stats.provisional_tokens), (expected, 0));

    // Who does not want to wait is told so.
    let _held = Session::open(&connect(server.address).await, options(None)).await.unwrap();
    let resilience = Resilience { fallback: Fallback::Error, fallback_after: 1, ..Resilience::default() };
    let mut third =
        Session::open(&connect(server.address).await, SessionOptions { resilience, ..options(None) }).await.unwrap();
    let refusal = third.generate(prompt(2, 20), |_| ControlFlow::Continue(())).await.err().unwrap().to_string();
    assert!(refusal.contains("busy") && refusal.ends_with("run the command again later"), "{refusal}");
}

#[tokio::test]
async fn a_device_with_another_vocabulary_is_refused_with_both_fingerprints() {
    let server = serve(1).await;
    let other = SessionOptions { vocabulary_fingerprint: Fingerprint::new(0xffff_0000_ffff_0000), ..options(None) };
    let refusal = Session::open(&connect(server.address).await, other).await.err().unwrap().to_string();
    assert!(refusal.contains(&VOCABULARY.to_string()) && refusal.contains("ffff0000ffff0000"), "{refusal}");
}

#[tokio::test]
async fn a_chat_goes_on_where_it_was_and_a_stop_ends_a_turn_anywhere() {
    let server = serve(1).await;
    let mut session = Session::open(&connect(server.address).await, options(drafter(3))).await.unwrap();
    let mut text = vec![5, 6, 7];
    for turn in 0..4u32 {
        text.extend([10 + turn, 20]);
        let mut prompt = prompt(1 + turn, 30);
        prompt.tokens.clone_from(&text);
        let mut count = 0;
        let generation = session
            .generate(prompt.clone(), |_| {
                count += 1;
                if count == 3 + turn { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
            .await
            .unwrap();
        let mut expected = expected(&prompt);
        expected.truncate(3 + turn as usize);
        assert_eq!(generation.tokens, expected, "turn {turn}");
        text.extend(&generation.tokens);
        assert_eq!(session.tokens(), text);
    }
}

/// What the server answers to raw messages after the session is open.
async fn raw(address: SocketAddr, messages: Vec<pb::DeviceMessage>) -> tonic::Status {
    let channel =
        tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    let (sender, outbox) = tokio::sync::mpsc::channel(16);
    for message in messages {
        sender.send(message).await.unwrap();
    }
    let outbox = tokio_stream::wrappers::ReceiverStream::new(outbox);
    let mut replies = match sled_wire::client(channel).session(outbox).await {
        Ok(replies) => replies.into_inner(),
        Err(status) => return status,
    };
    loop {
        match replies.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ended without a word"),
            Err(status) => return status,
        }
    }
}

fn open(protocol: u32) -> pb::DeviceMessage {
    let open = pb::Open {
        protocol,
        device: "raw".to_owned(),
        vocabulary_fingerprint: VOCABULARY.to_string(),
        model_fingerprint: String::new(),
    };
    pb::DeviceMessage { body: Some(pb::device_message::Body::Open(open)) }
}

fn draft(from: u32, tokens: Vec<u32>) -> pb::DeviceMessage {
    let draft = pb::DraftBlock { turn: 1, from, tokens, ..Default::default() };
    pb::DeviceMessage { body: Some(pb::device_message::Body::Draft(draft)) }
}

fn context(tokens: Vec<u32>, prompt_len: u32) -> pb::DeviceMessage {
    let built_on = sled_core::sequence::Digest::EMPTY.0;
    let context = pb::ContextUpdate { turn: 1, from: 0, built_on, tokens, prompt_len, ..Default::default() };
    pb::DeviceMessage { body: Some(pb::device_message::Body::Context(context)) }
}

#[tokio::test]
async fn what_cannot_be_ends_its_own_session_with_one_sentence() {
    let server = serve(4).await;
    let bystander = tokio::spawn(generate(server.address, 2));
    let cases = [
        (vec![open(PROTOCOL + 1)], "protocol"),
        (vec![draft(0, vec![])], "must open"),
        (vec![pb::DeviceMessage { body: None }], "no content"),
        (vec![open(PROTOCOL), open(PROTOCOL)], "open already"),
        (vec![open(PROTOCOL), context(vec![1, VOCAB as u32], 2)], "token 64 is not in the vocabulary of 64"),
        (vec![open(PROTOCOL), context(vec![1; CONTEXT + 1], 1)], "too long"),
        (vec![open(PROTOCOL), context(vec![1; CONTEXT], 1)], "at most 199"),
        (vec![open(PROTOCOL), context(vec![], 0)], "prompt is empty"),
        (vec![open(PROTOCOL), context(vec![1], 2)], "prompt of 2"),
        (vec![open(PROTOCOL), draft(u32::MAX, vec![1; 4])], "too long"),
        (vec![open(PROTOCOL), draft(0, vec![1; 65])], "draft of 65"),
        (vec![open(PROTOCOL), draft(0, vec![u32::MAX])], "not in the vocabulary"),
    ];
    for (messages, word) in cases {
        let status = raw(server.address, messages).await;
        assert!(status.message().contains(word), "{word:?} is not in {:?}", status.message());
        assert!(!status.message().contains('\n'));
    }
    bystander.await.unwrap();
    generate(server.address, 3).await;
}

#[tokio::test]
async fn a_server_that_shuts_down_says_so_to_its_sessions() {
    let server = serve(1).await;
    let mut session = Session::open(&connect(server.address).await, options(None)).await.unwrap();
    let mut stop = Some(server.stop);
    let ended = session
        .generate(Prompt { max_tokens: CONTEXT, ..prompt(2, 0) }, |_| {
            if let Some(stop) = stop.take() {
                stop.send(()).unwrap();
            }
            ControlFlow::Continue(())
        })
        .await;
    // The synthetic model is fast enough that the answer may be complete before the server has noticed.
    if let Err(error) = ended {
        assert!(error.to_string().contains("shutting down"), "{error}");
    }
    drop(session);
    server.served.await.unwrap().unwrap();
    let gone = RemoteServer::connect(&server.address.to_string()).await.unwrap_err().to_string();
    assert!(gone.contains("cannot reach the server") && gone.contains("refused"), "{gone}");
}

#[tokio::test]
async fn what_is_no_server_is_named_so() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let web = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _written = tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    });
    let error = RemoteServer::connect(&address.to_string()).await.unwrap_err().to_string();
    assert!(error.contains("cannot reach the server") && !error.contains('\n'), "{error}");
    web.await.unwrap();
    let error = RemoteServer::connect("not an address").await.unwrap_err().to_string();
    assert!(error.contains("`not an address` is not a server address"), "{error}");
}
