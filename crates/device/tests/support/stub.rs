//! A server that says what it is told to say, over a real socket.

use std::net::SocketAddr;
use std::pin::Pin;

use sled_wire::{Bounds, pb};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use super::vocabulary;

type Outbound<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What becomes of sessions.
#[derive(Clone)]
pub enum Stub {
    /// They are refused.
    Refuses(Status),
    /// They are never opened.
    Silent,
    /// They are opened, and after the first text they end so.
    Ends(Status),
    /// They are opened, and after the first text this is said without end.
    Repeats(pb::ServerMessage),
}

impl Stub {
    /// Listens; the address.
    pub async fn serve(self) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        tokio::spawn(
            tonic::transport::Server::builder().add_service(sled_wire::server(self)).serve_with_incoming(incoming),
        );
        address
    }
}

/// An address where connections are taken and nothing is said.
pub fn black_hole() -> (std::net::TcpListener, SocketAddr) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

#[tonic::async_trait]
impl sled_wire::Sled for Stub {
    type VocabularyStream = Outbound<pb::VocabularyChunk>;
    type SessionStream = Outbound<pb::ServerMessage>;

    async fn describe(&self, _: Request<pb::DescribeRequest>) -> Result<Response<pb::ServerDescription>, Status> {
        Ok(Response::new(sled_wire::encode_description(sled_wire::Description {
            version: "0".into(),
            name: "synthetic".into(),
            model: "a synthetic model (of nothing)".into(),
            model_fingerprint: super::MODEL,
            vocabulary_fingerprint: vocabulary::vocab().fingerprint(),
            vocabulary_file: sled_wire::VocabularyFile::of(&vocabulary::file()),
            bounds: Bounds { vocabulary_size: super::VOCAB, context: super::CONTEXT, max_draft: 64 },
        })))
    }

    async fn vocabulary(&self, _: Request<pb::VocabularyRequest>) -> Result<Response<Self::VocabularyStream>, Status> {
        let chunks = sled_wire::vocabulary_chunks(vocabulary::file().into());
        Ok(Response::new(Box::pin(tokio_stream::iter(chunks.map(Ok)))))
    }

    async fn sessions(&self, _: Request<pb::SessionsRequest>) -> Result<Response<pb::SessionList>, Status> {
        std::future::pending().await
    }

    async fn session(
        &self,
        requests: Request<Streaming<pb::DeviceMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let opened = sled_wire::encode_opened(sled_wire::Opened { context: super::CONTEXT, max_draft: 64 });
        // The opening, and the first text.
        let heard = requests.into_inner().skip(1).take(1).filter_map(|_text| None);
        let opened = tokio_stream::once(Ok(opened)).chain(heard);
        match self.clone() {
            Self::Refuses(status) => Err(status),
            Self::Silent => std::future::pending().await,
            Self::Ends(status) => Ok(Response::new(Box::pin(opened.chain(tokio_stream::once(Err(status)))))),
            Self::Repeats(message) => {
                let without_end = tokio_stream::iter(std::iter::repeat_with(move || Ok(message.clone())));
                Ok(Response::new(Box::pin(opened.chain(without_end))))
            }
        }
    }
}
