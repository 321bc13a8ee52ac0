//! Several servers asked for the same, one after the other, without waiting for one that says nothing.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::Error;

/// What a server is ahead of the next in the list.
const HEAD_START: Duration = Duration::from_secs(1);

/// After so long nobody is waited for any more.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the first of `attempts` that succeeds brings, and which one that was. The next one begins when all before it have failed, or
/// have had a head start; what is under way when one succeeds is dropped.
///
/// # Errors
/// If none succeeds: why, for each in its order.
pub(crate) async fn first<T, A>(attempts: Vec<A>) -> Result<(usize, T), Vec<Error>>
where
    T: Send + 'static,
    A: Future<Output = Result<T, Error>> + Send + 'static,
{
    let end = Instant::now() + PATIENCE;
    let mut errors: Vec<Option<Error>> = attempts.iter().map(|_| None).collect();
    let mut waiting = attempts.into_iter().enumerate();
    let mut running = JoinSet::new();
    let mut start = |running: &mut JoinSet<_>| {
        if let Some((at, attempt)) = waiting.next() {
            running.spawn(async move { (at, attempt.await) });
        }
        Instant::now() + HEAD_START
    };
    let mut next = start(&mut running);
    while !running.is_empty() {
        let ended = tokio::select! {
            ended = timeout_at(end, running.join_next()) => ended,
            () = sleep_until(next) => {
                next = start(&mut running);
                continue;
            }
        };
        match ended {
            Ok(Some(Ok((at, Ok(done))))) => return Ok((at, done)),
            Ok(Some(Ok((at, Err(error))))) => {
                if let Some(slot) = errors.get_mut(at) {
                    *slot = Some(error);
                }
            }
            // An attempt that panicked has nothing to say.
            Ok(Some(Err(_)) | None) => {}
            Err(_elapsed) => break,
        }
        if running.is_empty() {
            next = start(&mut running);
        }
    }
    let silent = || Error::Broken("it does not answer in time".into());
    Err(errors.into_iter().map(|error| error.unwrap_or_else(silent)).collect())
}
