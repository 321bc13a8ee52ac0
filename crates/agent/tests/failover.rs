//! Which server a device goes to, over real sockets: servers that stop, are busy, say nothing, or take less than the last.

#![allow(unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod agents;
#[path = "../../device/tests/support/mod.rs"]
mod support;

use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::time::Duration;

use agents::{ask, job, model, options as agent_options, read, slow};
use sled_agent::{Agent, Target};
use sled_api::backend::{Backend, Mode};
use sled_core::device::{Fallback, FinishReason, Resilience};
use sled_core::policy::Policy;
use sled_device::{Drafts, Error, Generation, RemoteServer, Session, SessionOptions};
use sled_server::Settings;
use sled_wire::{busy, pb};
use support::stub::{Stub, black_hole};
use support::{CONTEXT, Proxy, Running, Slow, drafter, expected, prompt, serve_with_bounds, vocabulary};
use tonic::Status;

const LONG: Duration = Duration::from_secs(300);

fn options(servers: &[SocketAddr], fallback: Fallback) -> SessionOptions {
    SessionOptions {
        drafter: Some((Drafts::own(drafter(7).unwrap()).unwrap(), Policy::Fixed { k: 8 })),
        servers: servers.iter().map(ToString::to_string).collect(),
        resilience: Resilience {
            timeout: Duration::from_millis(300),
            fallback,
            fallback_after: 2,
            ..Resilience::default()
        },
        ..SessionOptions::new("test", vocabulary::vocab().fingerprint(), &[0])
    }
}

async fn open(servers: &[SocketAddr], fallback: Fallback) -> Result<Session, Error> {
    let options = options(servers, fallback);
    Session::open(&RemoteServer::connect_any(&options.servers).await?, options).await
}

async fn generate(session: &mut Session, mut at: impl FnMut(usize)) -> Result<Generation, Error> {
    let mut count = 0;
    let running = session.generate(prompt(7, 150), |_| {
        count += 1;
        at(count);
        ControlFlow::Continue(())
    });
    tokio::time::timeout(Duration::from_secs(60), running).await.expect("it ends")
}

/// A server for texts of `context` tokens and blocks of `max_draft`.
async fn serve(context: usize, max_draft: usize) -> Running {
    serve_with_bounds(Slow::with_context(context), Settings { sessions: 4, max_draft, ..Settings::default() }).await
}

#[tokio::test]
async fn a_server_that_stops_does_not_end_what_a_device_is_asked() {
    for status in [Status::unavailable("the server is shutting down"), Status::aborted("the session was idle")] {
        let address = Stub::Refuses(status).serve().await;
        let folder = tempfile::tempdir().unwrap();
        let options = agent_options(model(), &[address], folder.path());
        let target = Target::from_server(&options.servers, &options.vocabularies).await.unwrap();
        let agent = Agent::start(target, options);
        let answer = ask(&agent, &prompt(7, 30), Mode::Sled).await;
        assert_eq!((answer.tokens.len(), answer.provisional()), (30, 30));
    }
}

#[tokio::test]
async fn a_request_in_the_middle_of_a_restart_is_answered() {
    let server = slow().await;
    let folder = tempfile::tempdir().unwrap();
    let options = agent_options(model(), &[server.address], folder.path());
    let agent = Agent::start(Target::from_server(&options.servers, &options.vocabularies).await.unwrap(), options);
    // Sessions that the server has to take leave of.
    let under_way: Vec<_> = (0..4).map(|_| agent.start(job(&prompt(7, 150), Mode::Sled)).unwrap()).collect();
    server.stop.send(()).unwrap();
    let later = ask(&agent, &prompt(18, 30), Mode::Sled).await;
    assert_eq!(later.tokens.len(), later.ids().len());
    for events in under_way {
        assert!(!read(events, |_, _| {}).await.tokens.is_empty());
    }
}

#[tokio::test]
async fn a_server_that_says_nothing_does_not_hide_the_next() {
    let (_hole, silent) = black_hole();
    let good = serve(CONTEXT, 64).await;
    let addresses = [silent.to_string(), good.address.to_string()];
    let connecting = RemoteServer::connect_any(&addresses);
    let remote = tokio::time::timeout(Duration::from_secs(8), connecting).await.expect("it does not wait").unwrap();
    assert_eq!(remote.address(), good.address.to_string());
    // One that says what it is, and opens nothing.
    let mute = Stub::Silent.serve().await;
    let options = options(&[mute, good.address], Fallback::Error);
    let remote = RemoteServer::connect(&mute.to_string()).await.unwrap();
    let opening = Session::open(&remote, options);
    let mut session = tokio::time::timeout(Duration::from_secs(8), opening).await.expect("it does not wait").unwrap();
    assert_eq!(generate(&mut session, |_| {}).await.unwrap().tokens, expected(&prompt(7, 150)));
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up() {
    let mute = Stub::Silent.serve().await;
    let remote = RemoteServer::connect(&mute.to_string()).await.unwrap();
    let opening = Session::open(&remote, options(&[mute], Fallback::Error));
    let (opened, listed) =
        tokio::time::timeout(Duration::from_secs(30), async { tokio::join!(opening, remote.sessions()) })
            .await
            .expect("neither waits for ever");
    let error = opened.err().unwrap();
    assert!(matches!(error, Error::Unreachable { .. }) && error.to_string().contains("does not open"), "{error}");
    assert!(listed.unwrap_err().to_string().contains("does not answer"));
}

#[tokio::test]
async fn a_busy_server_delays_neither_another_server_nor_the_fallback() {
    let busy = Stub::Refuses(busy("the server is busy", LONG)).serve().await;
    let good = serve(CONTEXT, 64).await;
    let proxy = Proxy::start(good.address, Duration::ZERO).await;
    let mut session = open(&[proxy.address, busy], Fallback::Wait).await.unwrap();
    let generation = generate(&mut session, |count| {
        if count == 10 {
            proxy.cut();
        }
    });
    let generation = generation.await.unwrap();
    assert_eq!((generation.tokens, generation.stats.provisional_tokens), (expected(&prompt(7, 150)), 0));
    // And where there is no other.
    let mut alone = open(&[busy], Fallback::Release).await.unwrap();
    let generation = generate(&mut alone, |_| {}).await.unwrap();
    assert_eq!(generation.stats.provisional_tokens, generation.tokens.len() as u64);
    let mut failing = open(&[busy], Fallback::Error).await.unwrap();
    let error = generate(&mut failing, |_| {}).await.unwrap_err().to_string();
    assert_eq!(error, "the server is busy; run the command again later");
}

#[tokio::test]
async fn a_session_that_a_server_ends_goes_on_elsewhere() {
    let endings = [
        busy("the server is busy", LONG),
        Status::unavailable("the server is shutting down"),
        Status::aborted("the session was idle"),
        Status::resource_exhausted("too many messages"),
    ];
    for status in endings {
        let ending = Stub::Ends(status.clone()).serve().await;
        let good = serve(CONTEXT, 64).await;
        let mut session = open(&[ending, good.address], Fallback::Wait).await.unwrap();
        let generation = generate(&mut session, |_| {}).await.unwrap();
        assert_eq!(generation.tokens, expected(&prompt(7, 150)), "{status}");
    }
}

#[tokio::test]
async fn a_server_that_takes_less_takes_over() {
    // Shorter blocks; then shorter texts, but long enough for this one.
    let needed = prompt(7, 150).tokens.len() + 150;
    for (context, max_draft) in [(CONTEXT, 2), (needed, 64), (needed, 1)] {
        let (first, second) = (serve(CONTEXT, 64).await, serve(context, max_draft).await);
        let proxy = Proxy::start(first.address, Duration::ZERO).await;
        let mut session = open(&[proxy.address, second.address], Fallback::Wait).await.unwrap();
        let generation = generate(&mut session, |count| {
            if count == 10 {
                proxy.refuse(true);
                proxy.cut();
            }
        });
        let generation = generation.await.unwrap();
        assert_eq!(generation.tokens, expected(&prompt(7, 150)), "{context} {max_draft}");
        assert_eq!(generation.stats.disconnections, 1);
    }
}

#[tokio::test]
async fn a_text_that_outgrows_a_server_goes_on_with_a_larger_one() {
    let (first, small, last) = (serve(CONTEXT, 64).await, serve(40, 64).await, serve(CONTEXT, 64).await);
    let proxy = Proxy::start(first.address, Duration::ZERO).await;
    let mut session = open(&[proxy.address, small.address, last.address], Fallback::Wait).await.unwrap();
    let generation = generate(&mut session, |count| {
        if count == 10 {
            proxy.refuse(true);
            proxy.cut();
        }
    });
    assert_eq!(generation.await.unwrap().tokens, expected(&prompt(7, 150)));
    // Where there is no larger one the answer is as long as the server takes it.
    let (first, small) = (serve(CONTEXT, 64).await, serve(40, 64).await);
    let proxy = Proxy::start(first.address, Duration::ZERO).await;
    let mut options = options(&[proxy.address], Fallback::Wait);
    options.drafter = None;
    let mut session =
        Session::open(&RemoteServer::connect(&proxy.address.to_string()).await.unwrap(), options).await.unwrap();
    proxy.to(small.address);
    let generation = generate(&mut session, |count| {
        if count == 10 {
            proxy.cut();
        }
    });
    let generation = generation.await.unwrap();
    let room = 40 - prompt(7, 150).tokens.len();
    assert_eq!((generation.tokens.len(), &generation.reason), (room, &FinishReason::Length));
    assert_eq!(generation.tokens, expected(&prompt(7, 150))[..room]);
}

#[tokio::test]
async fn a_server_that_talks_without_end_and_says_nothing_is_given_up() {
    use pb::server_message::Body;
    let stale = pb::Commit { turn: 9, tokens: vec![1], ..Default::default() };
    let bodies = [
        Body::Pending(pb::Pending { turn: 1 }),
        Body::Resend(pb::Resend { turn: 9, from: 0 }),
        Body::Commit(stale),
        Body::Opened(pb::Opened { context: 200, max_draft: 64 }),
    ];
    for body in bodies {
        let address = Stub::Repeats(pb::ServerMessage { body: Some(body.clone()) }).serve().await;
        let mut session = open(&[address], Fallback::Error).await.unwrap();
        let error = generate(&mut session, |_| {}).await.unwrap_err().to_string();
        let said = ["do not fit this session", "it does not answer", "opened the session twice"];
        assert!(said.iter().any(|said| error.contains(said)), "{body:?}: {error}");
    }
}
