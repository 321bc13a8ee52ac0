//! The agent over real sockets, with the synthetic model: many requests at once, readers that are slow or go away, servers that
//! do the same.

#![allow(unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod agents;
#[path = "../../device/tests/support/mod.rs"]
mod support;

use std::time::Duration;

use agents::*;
use sled_agent::{Agent, Drafter, Http, Target};
use sled_api::backend::{Backend, Event, Job, Mode, Refusal};
use sled_api::listen::Limits;
use sled_core::device::{FinishReason, Prompt, Provenance};
use sled_core::server::Activity;
use sled_device::{RemoteServer, SharedDrafter};
use sled_model::synthetic::SyntheticModel;
use sled_sim::rng::Rng;
use support::{CONTEXT, MODEL, Proxy, config, expected, prompt, serve_with_vocabulary, vocabulary};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test]
async fn requests_at_once_each_get_the_targets_own_output() {
    let server = fast().await;
    for (drafter, modes) in [
        (model(), &[Mode::Sled, Mode::Server][..]),
        (Drafter::Ngram, &[Mode::Sled, Mode::Server]),
        (Drafter::Nothing, &[Mode::Server]),
    ] {
        let agent = agent(drafter, server.address, 4, 64).await;
        // Whether a draft is made ahead of a verdict, and which verdict it meets, is a matter of threads: more is asked until both
        // have happened.
        let both = || agent.counters().ahead_kept.get() > 0 && agent.counters().ahead_discarded.get() > 0;
        for round in 0.. {
            assert!(round < 100, "in {round} rounds of requests drafts made ahead were not both kept and discarded");
            let asked: Vec<_> = (0..24u32)
                .map(|i| {
                    let (agent, mode) = (agent.clone(), modes[i as usize % modes.len()]);
                    tokio::spawn(async move {
                        let prompt = prompt(i, 60);
                        assert_eq!(ask(&agent, &prompt, mode).await.ids(), expected(&prompt), "request {i}, {mode:?}");
                    })
                })
                .collect();
            for asked in asked {
                asked.await.unwrap();
            }
            assert_eq!(agent.load(), (0, 0));
            if !agent.model().modes.contains(&Mode::Device) || both() {
                break;
            }
        }
    }
}

#[tokio::test]
async fn the_draft_model_alone_gives_its_own_output_and_marks_it() {
    let folder = tempfile::tempdir().unwrap();
    let target = Target::from_drafter(drafter_card(), vocabulary::vocab(), CONTEXT);
    let agent = Agent::start(target, options(model(), &[], folder.path()));
    assert_eq!((agent.model().id.as_str(), agent.model().modes.as_slice()), ("synthetic", &[Mode::Device][..]));
    for i in 0..8 {
        let prompt = prompt(i, 60);
        let answer = ask(&agent, &prompt, Mode::Device).await;
        assert_eq!(answer.ids(), Draft::new().alone(&prompt), "request {i}");
        assert_eq!(answer.provisional(), answer.tokens.len());
        assert_eq!((answer.notices.len(), answer.outcome().stats.rounds), (0, 0));
    }
    let refused = agent.start(job(&prompt(1, 5), Mode::Sled)).unwrap_err();
    assert!(matches!(refused, Refusal::Invalid(_)), "{refused}");
}

#[tokio::test]
async fn a_reader_that_goes_away_frees_its_place_and_stops_the_server() {
    let server = slow().await;
    let remote = RemoteServer::connect(&server.address.to_string()).await.unwrap();
    for mode in [Mode::Sled, Mode::Server] {
        let agent = agent(model(), server.address, 1, 4).await;
        let mut events = agent.start(job(&prompt(7, 150), mode)).unwrap();
        for _ in 0..4 {
            assert!(matches!(events.recv().await, Some(Event::Started | Event::Token(_))));
        }
        let next = agent.start(job(&prompt(18, 20), mode)).unwrap();
        assert_eq!(agent.load(), (1, 1));
        drop(events);
        assert_eq!(read(next, |_, _| {}).await.ids(), expected(&prompt(18, 20)));
        // Both sessions are kept for another turn, and nothing is done for them.
        let sessions = remote.sessions().await.unwrap().sessions;
        assert_eq!(sessions.len(), 2);
        assert!(sessions.iter().all(|session| matches!(session.status.activity, Activity::Idle(_))), "{sessions:?}");
        assert!(
            sessions.iter().any(|session| session.status.tally.committed < 100),
            "it was not generated to the end: {sessions:?}"
        );
        agent.close(Duration::ZERO).await;
        drop(agent);
        while !remote.sessions().await.unwrap().sessions.is_empty() {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn a_reader_that_has_enough_is_told_what_it_took() {
    let server = slow().await;
    let agent = agent(model(), server.address, 1, 4).await;
    let mut events = agent.start(job(&prompt(7, 150), Mode::Sled)).unwrap();
    let mut tokens = 0;
    while tokens < 10 {
        tokens += usize::from(matches!(events.recv().await, Some(Event::Token(_))));
    }
    events.close();
    let mut last = None;
    while let Some(event) = events.recv().await {
        last = Some(event);
    }
    let Some(Event::Done(outcome)) = last else { panic!("{last:?}") };
    assert_eq!(outcome.reason, FinishReason::Stop);
    assert!((1..100).contains(&outcome.stats.rounds), "{:?}", outcome.stats);
}

#[tokio::test]
async fn beyond_the_queue_requests_are_refused_until_there_is_room() {
    let server = slow().await;
    let agent = agent(Drafter::Nothing, server.address, 1, 1).await;
    let long = job(&prompt(7, 150), Mode::Server);
    let first = agent.start(long.clone()).unwrap();
    let second = agent.start(long.clone()).unwrap();
    assert!(matches!(agent.start(long.clone()), Err(Refusal::Busy { .. })));
    drop(second);
    while agent.load() != (1, 0) {
        tokio::task::yield_now().await;
    }
    let third = agent.start(long).unwrap();
    drop(first);
    assert_eq!(read(third, |_, _| {}).await.ids(), expected(&prompt(7, 150)));
}

#[tokio::test]
async fn what_cannot_be_done_is_refused_with_a_sentence() {
    let server = fast().await;
    let agent = agent(Drafter::Ngram, server.address, 1, 1).await;
    let refuse = |change: fn(&mut Job)| {
        let mut job = job(&prompt(1, 5), Mode::Sled);
        change(&mut job);
        agent.start(job).unwrap_err().to_string()
    };
    for (sentence, word) in [
        (refuse(|job| job.prompt.clear()), "at least one token"),
        (refuse(|job| job.max_tokens = 0), "at least"),
        (refuse(|job| job.prompt = vec![1; CONTEXT]), "has 200 tokens, but the context has 200"),
        (refuse(|job| job.prompt[0] = 64), "token 64 is not in the vocabulary of 64"),
        (refuse(|job| job.sampling.temperature = -1.0), "temperature"),
        (refuse(|job| job.mode = Mode::Device), "no draft model"),
    ] {
        assert!(sentence.contains(word) && !sentence.contains('\n'), "{sentence}");
    }
}

#[tokio::test]
async fn a_chats_next_turn_is_read_only_from_where_it_goes_on() {
    let server = fast().await;
    let remote = RemoteServer::connect(&server.address.to_string()).await.unwrap();
    for mode in [Mode::Sled, Mode::Server] {
        let agent = agent(model(), server.address, 2, 4).await;
        let first = Prompt { tokens: (0..80).map(|t| 1 + t * 5 % 63).collect(), ..prompt(6, 20) };
        let answer = ask(&agent, &first, mode).await;
        assert_eq!(answer.outcome().cached, 0);
        // Another chat comes between.
        ask(&agent, &prompt(9, 20), mode).await;
        let mut tokens = first.tokens.clone();
        tokens.extend(answer.ids());
        let known = tokens.len();
        tokens.extend([7, 8, 9]);
        let second = Prompt { tokens, ..prompt(3, 20) };
        let before = remote.sessions().await.unwrap().totals.rows;
        let answer = ask(&agent, &second, mode).await;
        let rows = remote.sessions().await.unwrap().totals.rows - before;
        assert_eq!(answer.ids(), expected(&second));
        assert_eq!(answer.outcome().cached, known);
        assert!(rows < 80, "the server evaluated {rows} rows, for a text that it has {known} tokens of");
        assert_eq!(remote.sessions().await.unwrap().sessions.len(), 2, "it is the same session");
        agent.close(Duration::ZERO).await;
        drop(agent);
        while !remote.sessions().await.unwrap().sessions.is_empty() {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn fifty_readers_some_slow_some_gone_starve_nobody() {
    let server = slow().await;
    let agent = agent(model(), server.address, 8, 64).await;
    let mut readers = Vec::new();
    for i in 0..50u32 {
        let agent = agent.clone();
        readers.push(tokio::spawn(async move {
            let prompt = prompt(i, 60);
            let mut rng = Rng(u64::from(i));
            let mode = if i.is_multiple_of(3) { Mode::Server } else { Mode::Sled };
            let mut events = agent.start(job(&prompt, mode)).unwrap();
            if i % 5 == 0 {
                // It goes away in the middle, or before it had anything.
                for _ in 0..rng.within(0..=10) {
                    events.recv().await;
                }
                return None;
            }
            let slow = i % 5 == 1;
            let mut tokens = Vec::new();
            while let Some(event) = events.recv().await {
                match event {
                    Event::Token(generated) => tokens.push(generated.token),
                    Event::Started => {}
                    Event::Done(_) => return Some(tokens == expected(&prompt)),
                    other => panic!("{other:?}"),
                }
                if slow {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            panic!("request {i} ended without a word")
        }));
    }
    let all = async {
        let mut complete = 0;
        for reader in readers {
            complete += match reader.await.unwrap() {
                Some(right) => usize::from(right),
                None => continue,
            };
        }
        complete
    };
    let complete = tokio::time::timeout(Duration::from_secs(60), all).await.expect("nobody waits for ever");
    assert_eq!(complete, 40);
    while agent.load() != (0, 0) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_reader_that_stands_still_holds_up_nobody_and_fills_nothing() {
    let server = fast().await;
    let agent = agent(model(), server.address, 2, 8).await;
    let still = agent.start(job(&prompt(7, 150), Mode::Sled)).unwrap();
    for i in 0..8 {
        assert_eq!(ask(&agent, &prompt(i, 60), Mode::Sled).await.ids(), expected(&prompt(i, 60)));
    }
    // What it has not read is still there, all of it.
    assert_eq!(read(still, |_, _| {}).await.ids(), expected(&prompt(7, 150)));
}

#[tokio::test]
async fn a_server_that_is_lost_and_comes_back_leaves_marked_tokens_between() {
    let server = slow().await;
    let proxy = Proxy::start(server.address, Duration::ZERO).await;
    // So slow that the server is back before the draft model has said all.
    let slow = Draft::with_passes_of(Duration::from_millis(4));
    let slow = Drafter::Model(SharedDrafter::start(slow).unwrap());
    let agent = agent(slow, proxy.address, 2, 4).await;
    let mut prompt = prompt(7, 150);
    // Nor does it end before.
    prompt.sampling.logit_bias = vec![(0, -100.0)];
    let events = agent.start(job(&prompt, Mode::Sled)).unwrap();
    let answer = read(events, |generated, count| {
        if count == 10 {
            proxy.refuse(true);
            proxy.cut();
        }
        if generated.provenance == Provenance::Provisional {
            proxy.refuse(false);
        }
    })
    .await;
    assert_lawful(&prompt, &answer);
    assert!(answer.provisional() > 0 && answer.tokens.last().unwrap().provenance != Provenance::Provisional);
    assert_eq!(answer.outcome().stats.provisional_tokens, answer.provisional() as u64);
    assert!(answer.notices.len() == 2 && answer.notices[0].contains("is lost"), "{:?}", answer.notices);
    let counters = agent.counters();
    assert_eq!(counters.reconnections.get(), 1);
    assert!(counters.bytes_sent.get() > 0 && counters.bytes_received.get() > 0);
}

#[tokio::test]
async fn without_a_server_it_answers_alone_and_is_connected_when_one_comes() {
    let folder = tempfile::tempdir().unwrap();
    let address = std::net::TcpListener::bind(ANY).unwrap().local_addr().unwrap();
    let options = options(model(), &[address], folder.path());
    assert!(Target::from_server(&options.servers, &options.vocabularies).await.is_err());
    assert!(Target::remembered(&options.servers, &options.vocabularies).is_none(), "it was never met");
    let agent = Agent::start(Target::from_drafter(drafter_card(), vocabulary::vocab(), CONTEXT), options);
    let prompt = prompt(7, 30);
    let answer = ask(&agent, &prompt, Mode::Sled).await;
    assert_eq!((answer.provisional(), answer.ids()), (answer.tokens.len(), Draft::new().alone(&prompt)));

    let server = serve_with_vocabulary(address, SyntheticModel::new(config(8))).await;
    let answer = tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            let answer = ask(&agent, &prompt, Mode::Sled).await;
            if answer.provisional() == 0 {
                break answer;
            }
        }
    });
    assert_eq!(answer.await.unwrap().ids(), expected(&prompt));

    // The next time it starts, it knows what the server serves, whether that answers or not.
    let servers = [address.to_string()];
    let remembered = tokio::time::timeout(Duration::from_secs(10), async {
        loop {
            if let Some(target) = Target::remembered(&servers, &vocabulary::kept_in(folder.path())) {
                break target;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let target = remembered.await.unwrap();
    drop(server);
    assert_eq!((target.name.as_str(), target.bounds.context, target.remote.is_none()), ("synthetic", CONTEXT, true));
}

#[tokio::test]
async fn an_agent_that_closes_ends_its_answers_first() {
    let server = slow().await;
    let agent = agent(model(), server.address, 1, 4).await;
    let short = agent.start(job(&prompt(7, 20), Mode::Sled)).unwrap();
    while agent.load() != (1, 0) {
        tokio::task::yield_now().await;
    }
    let (answer, ()) = tokio::join!(read(short, |_, _| {}), agent.close(Duration::from_secs(30)));
    assert_eq!((answer.ids(), &answer.outcome().reason), (expected(&prompt(7, 20)), &FinishReason::Length));
    assert_eq!(agent.start(job(&prompt(7, 20), Mode::Sled)).unwrap_err(), Refusal::Closing);
}

#[tokio::test]
async fn an_agent_that_closes_cuts_off_what_takes_too_long() {
    let server = slow().await;
    let agent = agent(Drafter::Nothing, server.address, 1, 4).await;
    let mut long = agent.start(job(&prompt(7, 150), Mode::Server)).unwrap();
    let mut waiting = agent.start(job(&prompt(7, 150), Mode::Server)).unwrap();
    assert!(matches!(long.recv().await, Some(Event::Started)));
    agent.close(Duration::ZERO).await;
    assert!(matches!(waiting.recv().await, Some(Event::Failed(_))));
    let mut last = None;
    while let Some(event) = long.recv().await {
        last = Some(event);
    }
    assert!(matches!(last, Some(Event::Failed(sentence)) if sentence.contains("shutting down")));
}

/// A port of an agent to be.
async fn port(limits: Limits) -> Http {
    let settings = sled_api::Settings { limits, ..sled_api::Settings::default() };
    Http::bind(([127, 0, 0, 1], 0).into(), settings).await.unwrap()
}

#[tokio::test]
async fn a_connection_to_an_agents_port_that_says_nothing_is_hung_up_on() {
    let http = port(Limits { opening: Duration::from_millis(100), ..Limits::default() }).await;
    for said in ["", "GET /health HTTP/1.1\r\nhost: x"] {
        let mut stream = TcpStream::connect(http.address()).await.unwrap();
        stream.write_all(said.as_bytes()).await.unwrap();
        assert_eq!(stream.read_to_end(&mut Vec::new()).await.unwrap_or(0), 0);
    }
}

#[tokio::test]
async fn an_agents_port_turns_away_who_has_all_connections_that_it_may_have() {
    let http = port(Limits { per_client: 2, ..Limits::default() }).await;
    let held = [TcpStream::connect(http.address()).await.unwrap(), TcpStream::connect(http.address()).await.unwrap()];
    let mut refused = String::new();
    let _reset = TcpStream::connect(http.address()).await.unwrap().read_to_string(&mut refused).await;
    assert!(refused.contains("too many connections are open"), "{refused}");
    drop(held);
}

#[tokio::test]
async fn what_is_remembered_is_checked_when_it_is_read() {
    let server = fast().await;
    let servers = [server.address.to_string(), "http://other:7600".to_owned()];
    let folder = tempfile::tempdir().unwrap();
    let vocabularies = vocabulary::kept_in(folder.path());
    let target = Target::from_server(&servers, &vocabularies).await.unwrap();
    assert_eq!(target.model_fingerprint, Some(MODEL));
    let list = folder.path().join("servers.json");
    let good = std::fs::read_to_string(&list).unwrap();
    assert_eq!(Target::remembered(&servers, &vocabularies).unwrap().model_fingerprint, Some(MODEL));
    for bad in ["../../stolen/../xx", "0123456789ABCDEF"] {
        std::fs::write(&list, good.replace(&MODEL.to_string(), bad)).unwrap();
        assert!(Target::remembered(&servers, &vocabularies).is_none(), "{bad}");
    }
    // What is wrong with one server is not held against another.
    let mut both: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&good).unwrap();
    both.insert("http://aaa:7600".to_owned(), serde_json::json!({"model_fingerprint": "../x"}));
    std::fs::write(&list, serde_json::to_string(&both).unwrap()).unwrap();
    assert!(Target::remembered(&servers, &vocabularies).is_some());
}
