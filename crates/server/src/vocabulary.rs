//! The target's vocabulary, for devices that have no file with it: how many are sent it at once, and how long that may take.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sled_api::listen::Gate;
use sled_wire::pb;
use tokio::time::Instant;
use tokio_stream::Stream;
use tonic::Status;

/// The most devices that are sent the vocabulary at once, and the most of them at one address. Each holds a few pieces of it.
const AT_ONCE: usize = 64;
const OF_ONE_CLIENT: usize = 16;

/// How long a device may take to read it.
const TIME: Duration = Duration::from_secs(600);

/// When to try again whoever finds all places taken.
const LATER: Duration = Duration::from_secs(2);

/// The file, and the places of those who read it.
#[derive(Clone)]
pub(crate) struct Vocabulary {
    file: Bytes,
    gate: Arc<Gate>,
}

impl Vocabulary {
    pub(crate) fn new(file: Bytes) -> Self {
        Self { file, gate: Arc::new(Gate::new(AT_ONCE, OF_ONE_CLIENT)) }
    }

    /// The file in pieces, for `client`.
    ///
    /// # Errors
    /// If too many are being sent it.
    pub(crate) fn send(
        &self,
        client: IpAddr,
    ) -> Result<impl Stream<Item = Result<pb::VocabularyChunk, Status>> + use<>, Status> {
        let full = || sled_wire::busy("too many devices are being sent the vocabulary", LATER);
        let pass = self.gate.enter(client).ok_or_else(full)?;
        let until = Instant::now() + TIME;
        let pieces = sled_wire::vocabulary_chunks(self.file.clone()).map(move |piece| {
            let _holds_the_place = &pass;
            if Instant::now() < until {
                Ok(piece)
            } else {
                Err(Status::deadline_exceeded(
                    "the device read the vocabulary too slowly; try again on a faster network",
                ))
            }
        });
        Ok(tokio_stream::iter(pieces))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tokio_stream::StreamExt;

    use super::*;

    #[tokio::test]
    async fn one_client_is_sent_so_many_at_once_and_others_are_sent_theirs_beside() {
        let vocabulary = Vocabulary::new(vec![7; 1 << 20].into());
        let [one, other]: [IpAddr; 2] = [[10, 0, 0, 1].into(), [10, 0, 0, 2].into()];
        let held: Vec<_> = (0..OF_ONE_CLIENT).map(|_| vocabulary.send(one).unwrap()).collect();
        let refused = vocabulary.send(one).err().unwrap();
        assert_eq!(refused.message(), "too many devices are being sent the vocabulary");
        assert!(sled_wire::retry_after(&refused).is_some());
        let sent: Vec<_> = vocabulary.send(other).unwrap().map(|piece| piece.unwrap().data).collect().await;
        assert_eq!(sent.concat(), vec![7; 1 << 20]);
        drop(held);
        assert!(vocabulary.send(one).is_ok());
    }
}
