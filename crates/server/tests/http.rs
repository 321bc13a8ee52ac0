//! The HTTP port over real sockets, with the synthetic model: the law, cancellation, refusals, live figures, metrics.

#![allow(unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use sled_api::backend::Client;
use sled_api::backend::{Backend, Job, Mode, Refusal};
use sled_core::device::{FinishReason, Prompt};
use sled_core::policy::Policy;
use sled_core::server::Assist;
use sled_core::text::TextStream;
use sled_device::{Drafts, RemoteServer, Session, SessionOptions};
use sled_model::synthetic::{SyntheticDrafter, SyntheticModel};
use sled_server::{Http, Settings};
use support::{
    CONTEXT, answer, collect, config, expected, frames, get, job, local, open, samples, serve, slow, vocabulary,
};

fn synthetic(sequences: usize) -> SyntheticModel {
    SyntheticModel::new(config(sequences))
}

/// Waits until no session is open.
async fn until_nobody_is_there(http: std::net::SocketAddr) {
    let began = Instant::now();
    while samples(&get(http, "/metrics").await.1)["sled:num_requests_running"] > 0.0 {
        assert!(began.elapsed() < Duration::from_secs(10), "a session was left open");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_jobs_at_once_each_get_the_targets_own_output() {
    let server = serve(synthetic(16), Settings::default()).await;
    let backend = Arc::new(server.backend);
    let answers: Vec<_> = (0..200)
        .map(|i| {
            let backend = Arc::clone(&backend);
            tokio::spawn(async move {
                let job = job(i, 40);
                let (tokens, outcome) = answer(&backend, job.clone()).await;
                let expected = expected(&job);
                assert_eq!(tokens, expected, "job {i}");
                let ended = expected.last() == Some(&support::END);
                assert_eq!(outcome.reason, if ended { FinishReason::Stop } else { FinishReason::Length });
                assert!(outcome.load.is_some() && outcome.round_trip.is_none());
                tokens.len() as u64
            })
        })
        .collect();
    let mut tokens = 0;
    for answer in answers {
        tokens += answer.await.unwrap();
    }
    // The server commits nothing that nobody asked for.
    assert_eq!((server.stats)().totals.committed, tokens);
    server.stop.send(()).unwrap();
    assert_eq!(server.served.await.unwrap().unwrap().opened, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_api_answers_with_the_targets_own_text() {
    let server = serve(synthetic(4), Settings::default()).await;
    for i in 0..8 {
        let Job { prompt, sampling, max_tokens, .. } = job(i, 30);
        let body = serde_json::json!({
            "prompt": prompt, "max_tokens": max_tokens, "temperature": sampling.temperature, "seed": sampling.seed,
        });
        let url = format!("http://{}/v1/completions", server.http);
        let said: serde_json::Value = tokio::task::spawn_blocking(move || {
            let request = ureq::post(url).header("content-type", "application/json");
            let said = request.send(body.to_string()).unwrap().body_mut().read_to_string().unwrap();
            serde_json::from_str(&said).unwrap()
        })
        .await
        .unwrap();
        let vocab = vocabulary::vocabulary(false);
        let mut text = TextStream::new([]);
        let mut expected: String =
            expected(&job(i, 30)).iter().map(|&token| text.push(&vocab.piece(token, false))).collect();
        expected.push_str(&text.finish());
        assert_eq!(said["choices"][0]["text"], expected, "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_nobody_reads_any_more_frees_its_session() {
    let server = serve(slow(2, Duration::from_millis(5)), Settings { sessions: 2, ..Settings::default() }).await;
    for i in 0..6 {
        let mut dropped = server.backend.start(job(i, 200)).unwrap();
        if i % 2 == 0 {
            let _first = dropped.recv().await.unwrap();
        }
        drop(dropped);
        until_nobody_is_there(server.http).await;
    }
    // Whoever met a stop string closes the answer and is told what it took.
    let mut stopped = server.backend.start(job(0, 200)).unwrap();
    let _first = stopped.recv().await.unwrap();
    stopped.close();
    let (_, outcome) = collect(stopped).await;
    let outcome = outcome.unwrap();
    assert!(outcome.reason == FinishReason::Stop && outcome.stats.rounds < 100, "{outcome:?}");
    let (tokens, _) = answer(&server.backend, job(1, 20)).await;
    assert_eq!(tokens, expected(&job(1, 20)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_beyond_the_limits_is_refused_at_once_and_taken_later() {
    let server = serve(slow(2, Duration::from_millis(5)), Settings { sessions: 2, ..Settings::default() }).await;
    let held: Vec<_> = (0..2).map(|i| server.backend.start(job(i, 100)).unwrap()).collect();
    let refused = server.backend.start(job(2, 10)).unwrap_err();
    assert!(matches!(refused, Refusal::Busy { after } if after >= Duration::from_secs(1)), "{refused}");
    drop(held);
    until_nobody_is_there(server.http).await;
    assert_eq!(answer(&server.backend, job(2, 10)).await.0, expected(&job(2, 10)));
    assert_eq!((server.stats)().refused, 1);

    // What can never be done is said so.
    let impossible = [
        Job { prompt: vec![1; CONTEXT], ..job(0, 5) },
        Job { prompt: Vec::new(), ..job(0, 5) },
        Job { prompt: vec![100_000], ..job(0, 5) },
        Job { mode: Mode::Sled, ..job(0, 5) },
        Job { max_tokens: 0, ..job(0, 5) },
    ];
    for job in impossible {
        let refused = server.backend.start(job).unwrap_err();
        assert!(matches!(&refused, Refusal::Invalid(why) if why.contains("; ") || why.contains("but")), "{refused}");
    }
    server.stop.send(()).unwrap();
    server.served.await.unwrap().unwrap();
    assert_eq!(server.backend.start(job(0, 5)).unwrap_err(), Refusal::Closing);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_second_turn_of_a_chat_is_not_read_from_its_beginning() {
    let server = serve(synthetic(4), Settings::default()).await;
    let client = Some(Client { address: local(), connection: 1 });
    let mut text = Job { prompt: (0..120).collect(), client, ..job(0, 30) };
    let (said, outcome) = answer(&server.backend, text.clone()).await;
    assert_eq!(outcome.cached, 0);
    text.prompt.extend(&said);
    text.prompt.extend([7, 8, 9]);
    let before = (server.stats)().rows;
    let (again, outcome) = answer(&server.backend, text.clone()).await;
    let rows = (server.stats)().rows - before;
    assert_eq!(again, expected(&text));
    // All but the last token of the first turn, which was never a row.
    assert_eq!(outcome.cached, 120 + said.len() - 1);
    assert_eq!(rows, 1 + 3 + again.len() as u64 - 1, "of {} tokens", text.prompt.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn until_the_model_is_loaded_everything_says_so() {
    let http = Http::bind(local(), sled_api::Settings::default()).await.unwrap();
    let address = http.address();
    for path in ["/health", "/events", "/v1/models"] {
        let (status, body) = get(address, path).await;
        assert!(status == 503 && body.contains("load"), "{path}: {status} {body}");
    }
    let _server = open(http, synthetic(2), Settings::default()).await;
    assert_eq!(get(address, "/health").await, (200, r#"{"status":"ok"}"#.to_owned()));
    let (status, page) = get(address, "/").await;
    assert!(status == 200 && page.contains("<html"), "{page}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_add_up_to_what_the_engine_did() {
    let server = serve(synthetic(8), Settings::default()).await;
    let before = samples(&get(server.http, "/metrics").await.1);
    assert_eq!(before["sled:steps_total"], 0.0);
    for i in 0..10 {
        answer(&server.backend, job(i, 20)).await;
    }
    let stats = (server.stats)();
    let (status, page) = get(server.http, "/metrics").await;
    let samples = samples(&page);
    assert_eq!(status, 200);
    let same = [
        ("sled:steps_total", stats.steps),
        ("sled:rows_total", stats.rows),
        ("sled:commits_total", stats.commits),
        ("sled:generation_tokens_total", stats.totals.committed),
        ("sled:spec_decode_num_drafts_total", 0),
        ("sled:spec_decode_num_draft_tokens_total", 0),
        ("sled:spec_decode_num_accepted_tokens_total", 0),
        ("sled:sessions_opened_total", 10),
        ("sled:sessions_refused_total", 0),
        ("sled:verify_batch_size_count", stats.steps),
        ("sled:verify_batch_rows_count", stats.steps),
        ("sled:verify_batch_rows_sum", stats.rows),
        ("sled:step_time_seconds_count", stats.steps),
        ("sled:request_queue_time_seconds_count", 10),
        ("sled:num_requests_running", 0),
        ("sled:num_requests_waiting", 0),
        ("sled:sessions{state=\"idle\"}", 0),
        ("sled:evictions_total", stats.evictions),
    ];
    for (name, value) in same {
        assert_eq!(samples.get(name), Some(&(value as f64)), "{name} in\n{page}");
    }
    // A session whose request has not come yet is decoded unasked, and has not waited.
    let waits = samples["sled:queue_delay_seconds_count"];
    assert!(waits > 0.0 && waits <= stats.totals.committed as f64, "{waits}");
    assert!(page.contains("le=\"+Inf\"") && page.contains("le=\"0.0001\"") && page.contains("le=\"0.025\""), "{page}");
    assert!(samples["sled:kv_cache_usage_perc"] > 0.0 && samples["sled:kv_cache_usage_perc"] <= 1.0);
    let of_sizes: u64 = (1..).zip(&stats.batch_sizes).map(|(size, count)| size * count).sum();
    assert_eq!(samples["sled:verify_batch_size_sum"], of_sizes as f64);
    assert!(!page.contains("test-") && !page.contains("http\""), "a label names a device:\n{page}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drafts_of_devices_are_counted_by_position() {
    let settings = Settings { assist: Assist::Never, ..Settings::default() };
    let server = serve(slow(8, Duration::from_millis(1)), settings).await;
    let remote = RemoteServer::connect(&server.grpc.to_string()).await.unwrap();
    for i in 0..4 {
        let drafter = SyntheticDrafter::new(&synthetic(1), 0.7, i.into());
        let fingerprint = server.backend.vocab().fingerprint();
        let options = SessionOptions {
            drafter: Some((Drafts::own(Box::new(drafter)).unwrap(), Policy::Fixed { k: 4 })),
            ..SessionOptions::new("a device", fingerprint, &[support::END])
        };
        let Job { prompt: tokens, max_tokens, sampling, .. } = job(i, 60);
        let mut session = Session::open(&remote, options).await.unwrap();
        let prompt = Prompt { tokens, max_tokens, sampling, ..Prompt::default() };
        let generation = session.generate(prompt, |_| std::ops::ControlFlow::Continue(())).await.unwrap();
        assert_eq!(generation.tokens, expected(&job(i, 60)));
    }
    let stats = (server.stats)();
    let samples = samples(&get(server.http, "/metrics").await.1);
    let totals = &stats.totals;
    assert!(totals.accepted > 20 && totals.drafted > totals.accepted, "{totals:?}");
    assert!(totals.drafts >= totals.accepted_at.counts()[0] && totals.drafted <= 4 * totals.committed, "{totals:?}");
    assert_eq!(samples["sled:spec_decode_num_drafts_total"], totals.drafts as f64);
    assert_eq!(samples["sled:spec_decode_num_draft_tokens_total"], totals.drafted as f64);
    assert_eq!(samples["sled:spec_decode_num_accepted_tokens_total"], totals.accepted as f64);
    let position = |at: usize| format!("sled:spec_decode_num_accepted_tokens_per_pos_total{{position=\"{at}\"}}");
    let by_position: Vec<f64> = (0..64).map_while(|at| samples.get(&position(at)).copied()).collect();
    assert_eq!(by_position.iter().sum::<f64>(), totals.accepted as f64);
    assert!(by_position.len() >= 3 && by_position.is_sorted_by(|a, b| a >= b), "{by_position:?}");
    assert!(samples["sled:received_bytes_total"] > 500.0 && samples["sled:sent_bytes_total"] > 500.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_sessions_are_watched_by_five_and_nobody_notices() {
    let server = serve(slow(16, Duration::from_millis(2)), Settings::default()).await;
    let backend = Arc::new(server.backend);
    let watching: Vec<_> = (0..5).map(|_| tokio::spawn(frames(server.http, 3))).collect();
    // One that reads nothing at all holds up nobody.
    let mut deaf = tokio::net::TcpStream::connect(server.http).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut deaf, b"GET /events HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let working = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let answers: Vec<_> = (0..200)
        .map(|i| {
            let (backend, working) = (Arc::clone(&backend), Arc::clone(&working));
            tokio::spawn(async move {
                while working.load(std::sync::atomic::Ordering::Relaxed) {
                    let job = job(i, 60);
                    assert_eq!(answer(&backend, job.clone()).await.0, expected(&job), "job {i}");
                }
            })
        })
        .collect();
    let mut seen = Vec::new();
    for watcher in watching {
        seen.push(watcher.await.unwrap());
    }
    working.store(false, std::sync::atomic::Ordering::Relaxed);
    for answer in answers {
        answer.await.unwrap();
    }
    let last = seen[0].last().unwrap();
    assert!(last.sessions_total >= 150, "{}", last.sessions_total);
    assert_eq!(last.sessions.len(), last.sessions_total);
    assert!(last.sessions.is_sorted_by(|a, b| a.tokens_per_s >= b.tokens_per_s));
    assert!(last.rates.tokens_per_s > 0.0 && last.step.points.len() == 32 && last.step.queue_ms_mean > 0.0);
    assert!(last.cells.used > 0 && last.cells.total == 16 * CONTEXT && last.cost.fixed_ms > 0.5);
    let in_passes: u64 = last.batch_sizes.iter().sum();
    assert_eq!(in_passes, last.totals.steps);
    // What is counted is the same for everybody: frames are made once, and of two the later has at least as much.
    for frames in &seen {
        assert!(frames.is_sorted_by(|a, b| a.time_s < b.time_s && a.totals.tokens <= b.totals.tokens));
        let same = seen[0].iter().find(|frame| frame.time_s == frames[1].time_s);
        assert!(same.is_none_or(|same| *same == frames[1]));
    }
    let stats = (server.stats)();
    eprintln!(
        "{} sessions; {:.3} ms a pass beside the model",
        last.sessions_total,
        1e3 * stats.overhead.as_secs_f64() / stats.steps as f64
    );
}
