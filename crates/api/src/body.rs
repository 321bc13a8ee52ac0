//! The bodies of requests, and the memory that all of them together may take.
//!
//! What a body becomes takes many times the memory of its text: `{},` is three bytes, and an object in an array. So it is
//! weighed before it is read, and read only while it and all others fit a budget.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody};
use futures_util::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};

use crate::error::Error;

/// The most bytes that a body may have.
const LONGEST: usize = 4 << 20;
/// How long a body may take to come.
const TIME: Duration = Duration::from_secs(30);
/// What each request may take without being counted, in bytes: short ones are let in whatever else is under way.
const OWN: usize = 1 << 20;
/// What requests may take together beyond that, in bytes.
const TOGETHER: usize = 512 << 20;
/// What one request may take, in bytes.
const MOST: usize = 288 << 20;
/// What a byte of a body comes to until it is read.
const BYTE: usize = 4;

/// What all requests may take.
#[derive(Debug)]
pub(crate) struct Budget(Arc<Semaphore>);

impl Default for Budget {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(TOGETHER)))
    }
}

impl Budget {
    /// Receives a body, which has its share of the budget until it is dropped.
    ///
    /// # Errors
    /// If it is too long or does not come to its end in time, or if the budget has no room for it.
    pub(crate) async fn receive(&self, body: Body) -> Result<Received, Error> {
        let mut received = Received { bytes: Vec::new(), more: 0, budget: Arc::clone(&self.0), taken: None };
        let reading = tokio::time::timeout(TIME, received.read(body));
        reading.await.unwrap_or(Err(Error::Incomplete))?;
        Ok(received)
    }
}

/// A body, with its share of the budget.
#[derive(Debug)]
pub(crate) struct Received {
    bytes: Vec<u8>,
    /// What it becomes, beyond [`BYTE`] for each of its own.
    more: usize,
    budget: Arc<Semaphore>,
    taken: Option<OwnedSemaphorePermit>,
}

impl Received {
    async fn read(&mut self, body: Body) -> Result<(), Error> {
        let announced = body.size_hint().lower();
        if usize::try_from(announced).is_ok_and(|bytes| bytes > LONGEST) {
            return Err(Error::TooLarge(LONGEST));
        }
        let mut pieces = body.into_data_stream();
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|_broken| Error::Incomplete)?;
            if self.bytes.len() + piece.len() > LONGEST {
                return Err(Error::TooLarge(LONGEST));
            }
            self.take(BYTE * (self.bytes.len() + piece.len()))?;
            self.bytes.extend_from_slice(&piece);
        }
        Ok(())
    }

    /// Takes `more` bytes of the budget for what the body becomes.
    ///
    /// # Errors
    /// If that is more than one request may have, or than the others leave.
    pub(crate) fn weigh(&mut self, more: usize) -> Result<(), Error> {
        self.more = self.more.saturating_add(more);
        let weight = self.more.saturating_add(BYTE * self.bytes.len());
        if weight > MOST {
            return Err(Error::TooComplex);
        }
        self.take(weight)
    }

    /// Takes as much of the budget as is missing to `weight`.
    fn take(&mut self, weight: usize) -> Result<(), Error> {
        let held = OWN + self.taken.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let Some(missing) = weight.checked_sub(held).filter(|&missing| missing > 0) else { return Ok(()) };
        let busy = |_full: TryAcquireError| Error::Busy { after: Duration::from_secs(1) };
        let missing = u32::try_from(missing).map_err(|_| Error::TooComplex)?;
        let permit = Arc::clone(&self.budget).try_acquire_many_owned(missing).map_err(busy)?;
        match &mut self.taken {
            Some(taken) => taken.merge(permit),
            None => self.taken = Some(permit),
        }
        Ok(())
    }
}

impl Deref for Received {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    async fn received(budget: &Budget, bytes: usize) -> Result<Received, Error> {
        budget.receive(Body::from(vec![b'x'; bytes])).await
    }

    #[tokio::test]
    async fn short_bodies_are_let_in_whatever_else_is_held() {
        let budget = Budget::default();
        let mut large = Vec::new();
        let refused = loop {
            match received(&budget, LONGEST).await {
                Ok(body) => large.push(body),
                Err(error) => break error,
            }
        };
        assert!(matches!(refused, Error::Busy { .. }), "{refused}");
        assert_eq!(large.len(), TOGETHER / (BYTE * LONGEST - OWN));
        let mut short = received(&budget, 1000).await.unwrap();
        assert!(short.weigh(OWN / 2).is_ok());
        assert!(matches!(short.weigh(OWN * 20), Err(Error::Busy { .. })));
        drop(large);
        assert!(short.weigh(OWN).is_ok());
        assert_eq!(budget.0.available_permits(), TOGETHER - OWN * 20 - OWN / 2 - BYTE * 1000);
        drop(short);
        assert_eq!(budget.0.available_permits(), TOGETHER);
    }

    #[tokio::test]
    async fn one_body_has_a_bound_of_its_own() {
        let budget = Budget::default();
        assert!(matches!(received(&budget, LONGEST + 1).await, Err(Error::TooLarge(LONGEST))));
        let mut body = received(&budget, LONGEST).await.unwrap();
        assert!(body.weigh(MOST / 2).is_ok());
        assert!(matches!(body.weigh(MOST / 2), Err(Error::TooComplex)));
    }
}
