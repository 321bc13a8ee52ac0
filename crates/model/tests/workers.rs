//! The threads for strangers' work: bounds, turns, deadlines, and work that panics or goes deep.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::mpsc::channel;
use std::time::Duration;

use sled_model::Error;
use sled_model::workers::{Caller, Workers, WorkersConfig};

const LONG: Duration = Duration::from_secs(3600);

fn workers(threads: usize, queue: usize, patience: Duration) -> Workers {
    Workers::new(WorkersConfig { threads, queue, patience })
}

fn deep(levels: usize) -> usize {
    let room = std::hint::black_box([levels; 100]);
    if levels == 0 { room[0] } else { 1 + std::hint::black_box(deep(room[7] - 1)) }
}

#[tokio::test]
async fn work_may_go_deep_and_may_panic() {
    let workers = workers(1, 8, LONG);
    assert_eq!(workers.run(Caller::new(1), || deep(200_000)).await.unwrap(), 200_000);
    let panicked = workers.run(Caller::new(1), || -> usize { panic!("no harm is meant") }).await;
    assert!(matches!(panicked, Err(Error::WorkFailed)), "{panicked:?}");
    assert_eq!(workers.run(Caller::new(1), || 7).await.unwrap(), 7);
    let name = workers.run(Caller::new(1), || std::thread::current().name().map(str::to_owned)).await.unwrap();
    assert_eq!(name.as_deref(), Some("sled-worker-1"));
}

#[tokio::test]
async fn the_queue_is_bounded_and_who_is_beyond_it_is_told() {
    let workers = workers(1, 2, LONG);
    let (begun, begins) = channel();
    let (go, gone) = channel::<()>();
    let first = workers.clone();
    let held = tokio::spawn(async move {
        let work = move || {
            begun.send(()).unwrap();
            gone.recv().is_ok()
        };
        first.run(Caller::new(1), work).await
    });
    while begins.try_recv().is_err() {
        tokio::task::yield_now().await;
    }
    let mut waiting: Vec<_> = (0..2).map(|i| Box::pin(workers.run(Caller::new(i), move || i))).collect();
    for waiting in &mut waiting {
        assert!(futures_are_pending(waiting).await);
    }
    assert!(matches!(workers.run(Caller::new(9), || ()).await, Err(Error::WorkersBusy)));
    go.send(()).unwrap();
    assert!(held.await.unwrap().unwrap());
    for (i, waiting) in waiting.into_iter().enumerate() {
        assert_eq!(waiting.await.unwrap(), i);
    }
}

/// Asks once.
async fn futures_are_pending<F: Future + Unpin>(future: &mut F) -> bool {
    tokio::select! {
        biased;
        _ = future => false,
        () = std::future::ready(()) => true,
    }
}

#[tokio::test]
async fn callers_take_turns_however_much_each_sends() {
    let workers = workers(1, 64, LONG);
    let (go, gone) = channel::<()>();
    let (done, order) = channel();
    let mut waiting = vec![];
    let held = done.clone();
    waiting.push(tokio::spawn({
        let workers = workers.clone();
        async move {
            workers
                .run(Caller::new("first"), move || {
                    held.send("begun").unwrap();
                    gone.recv().unwrap();
                })
                .await
        }
    }));
    while order.try_recv().is_err() {
        tokio::task::yield_now().await;
    }
    for name in ["a", "a", "a", "b"] {
        let (workers, done) = (workers.clone(), done.clone());
        waiting
            .push(tokio::spawn(async move { workers.run(Caller::new(name), move || done.send(name).unwrap()).await }));
        tokio::task::yield_now().await;
    }
    go.send(()).unwrap();
    for waiting in waiting {
        waiting.await.unwrap().unwrap();
    }
    assert_eq!(order.try_iter().collect::<Vec<_>>(), ["a", "b", "a", "a"]);
}

#[tokio::test]
async fn a_thread_is_taken_until_the_work_ends_and_work_of_those_who_left_is_not_begun() {
    let workers = workers(1, 8, Duration::from_millis(20));
    let (go, gone) = channel::<()>();
    let late = workers.run(Caller::new(1), move || gone.recv().is_ok()).await;
    assert!(matches!(late, Err(Error::WorkTooLong)), "{late:?}");
    let (done, begun) = channel();
    let never = workers.run(Caller::new(2), move || done.send(()).unwrap()).await;
    assert!(matches!(never, Err(Error::WorkTooLong)), "{never:?}");
    go.send(()).unwrap();
    while workers.run(Caller::new(3), || ()).await.is_err() {}
    assert!(begun.try_recv().is_err(), "whoever sent it has left");
}
