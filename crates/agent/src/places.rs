//! How many requests are answered at once, and how many wait: first come, first served.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sled_api::backend::Refusal;
use tokio::sync::{Semaphore, SemaphorePermit, watch};

/// What an answer is taken to last before one was given.
const FIRST_ANSWER: f64 = 5.0;

/// How much the last answer counts for the next.
const GAIN: f64 = 0.2;

/// The longest that a request is told to stay away.
const LONGEST_WAIT: f64 = 60.0;

/// The places of an agent.
pub(super) struct Places {
    places: usize,
    most: usize,
    free: Semaphore,
    /// Requests that wait or are answered.
    present: watch::Sender<usize>,
    /// How long an answer takes, in seconds.
    answer: Mutex<f64>,
}

impl Places {
    pub(super) fn new(places: usize, queue: usize) -> Self {
        let places = places.max(1);
        Self {
            places,
            most: places + queue,
            free: Semaphore::new(places),
            present: watch::Sender::new(0),
            answer: Mutex::new(FIRST_ANSWER),
        }
    }

    /// Lets another request in.
    pub(super) fn queue(self: &Arc<Self>) -> Result<Ticket, Refusal> {
        if self.free.is_closed() {
            return Err(Refusal::Closing);
        }
        let entered = self.present.send_if_modified(|present| {
            let fits = *present < self.most;
            *present += usize::from(fits);
            fits
        });
        if entered { Ok(Ticket { places: Arc::clone(self) }) } else { Err(Refusal::Busy { after: self.wait() }) }
    }

    /// How long it is until a place is free for one more.
    fn wait(&self) -> Duration {
        let answer = *self.answer.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, waiting) = self.load();
        let turns = (waiting + 1) as f64 / self.places as f64;
        Duration::from_secs_f64((answer * turns).clamp(1.0, LONGEST_WAIT))
    }

    /// Requests that are answered, and that wait.
    pub(super) fn load(&self) -> (usize, usize) {
        let present = *self.present.borrow();
        let answered = self.places.saturating_sub(self.free.available_permits()).min(present);
        (answered, present - answered)
    }

    /// Lets nobody in any more.
    pub(super) fn close(&self) {
        self.free.close();
    }

    /// Resolves when nobody is there.
    pub(super) async fn empty(&self) {
        let mut present = self.present.subscribe();
        let _gone = present.wait_for(|present| *present == 0).await;
    }
}

/// A request that was let in; it leaves when this is dropped.
pub(super) struct Ticket {
    places: Arc<Places>,
}

impl Ticket {
    /// Waits for a place; `None` if the agent closes before there is one.
    pub(super) async fn place(&self) -> Option<Place<'_>> {
        let permit = self.places.free.acquire().await.ok()?;
        Some(Place { places: &self.places, since: Instant::now(), _permit: permit })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.places.present.send_modify(|present| *present -= 1);
    }
}

/// A place; it is free again when this is dropped.
pub(super) struct Place<'a> {
    places: &'a Places,
    since: Instant,
    _permit: SemaphorePermit<'a>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut answer = self.places.answer.lock().unwrap_or_else(PoisonError::into_inner);
        *answer += GAIN * (self.since.elapsed().as_secs_f64() - *answer);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test]
    async fn beyond_places_and_queue_a_request_is_told_when_to_come_back() {
        let places = Arc::new(Places::new(1, 1));
        let (first, second) = (places.queue().unwrap(), places.queue().unwrap());
        let place = first.place().await.unwrap();
        assert_eq!(places.load(), (1, 1));
        let refused = places.queue().err().unwrap();
        assert_eq!(refused, Refusal::Busy { after: Duration::from_secs(10) });
        assert!(tokio::time::timeout(Duration::from_millis(10), second.place()).await.is_err());
        drop(place);
        drop(first);
        second.place().await.unwrap();
        places.queue().unwrap();
        drop(second);
        places.empty().await;
        places.close();
        assert_eq!(places.queue().err(), Some(Refusal::Closing));
    }
}
