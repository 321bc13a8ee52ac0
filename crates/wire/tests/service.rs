//! The generated service, client against server, in one process and without a network.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use sled_core::device::Prompt;
use sled_core::message::{Reply, Request};
use sled_core::names::Fingerprint;
use sled_wire::*;
use tokio_stream::{Stream, StreamExt};
use tonic::{Code, Response, Status, Streaming};

const BOUNDS: Bounds = Bounds { vocabulary_size: 1 << 21, context: 1 << 20, max_draft: 64 };

type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Answers a prompt by asking for what follows it, and a draft block by giving up.
struct Stub;

fn vocabulary() -> Bytes {
    (0..=u8::MAX).cycle().take(600_000).collect()
}

#[tonic::async_trait]
impl Sled for Stub {
    type VocabularyStream = Replies<pb::VocabularyChunk>;
    type SessionStream = Replies<pb::ServerMessage>;

    async fn describe(
        &self,
        request: tonic::Request<pb::DescribeRequest>,
    ) -> Result<Response<pb::ServerDescription>, Status> {
        check_protocol(request.into_inner().protocol)?;
        Ok(Response::new(encode_description(Description {
            name: "synthetic".into(),
            version: "0.1.0".into(),
            model: "stub".into(),
            model_fingerprint: Fingerprint::new(1),
            vocabulary_fingerprint: Fingerprint::new(2),
            vocabulary_file: VocabularyFile::of(&vocabulary()),
            bounds: BOUNDS,
        })))
    }

    async fn vocabulary(
        &self,
        _: tonic::Request<pb::VocabularyRequest>,
    ) -> Result<Response<Self::VocabularyStream>, Status> {
        Ok(Response::new(Box::pin(tokio_stream::iter(vocabulary_chunks(vocabulary()).map(Ok)))))
    }

    async fn sessions(&self, _: tonic::Request<pb::SessionsRequest>) -> Result<Response<pb::SessionList>, Status> {
        Err(busy("the server is busy", Duration::from_millis(1500)))
    }

    async fn session(
        &self,
        requests: tonic::Request<Streaming<pb::DeviceMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let replies = requests.into_inner().map(|message| match decode_device(message?, &BOUNDS)? {
            FromDevice::Open(_) => Ok(encode_opened(Opened { context: BOUNDS.context, max_draft: BOUNDS.max_draft })),
            FromDevice::Request(Request::Context(update)) => {
                encode_reply(Reply::Resend { turn: update.turn, from: update.tokens.len() })
            }
            FromDevice::Request(Request::Draft(_) | Request::Stop(_)) => {
                encode_reply(Reply::Failed("no drafts, please".into()))
            }
        });
        Ok(Response::new(Box::pin(replies)))
    }
}

fn open() -> pb::DeviceMessage {
    encode_open(Open { device: "test".into(), vocabulary_fingerprint: Fingerprint::new(2), model_fingerprint: None })
}

fn prompt(tokens: Vec<u32>) -> pb::DeviceMessage {
    let prompt = Prompt { max_tokens: 131_072 - tokens.len(), tokens, ..Prompt::default() };
    encode_request(Request::Context(prompt.into_context(3)))
}

async fn converse(messages: Vec<pb::DeviceMessage>) -> Vec<Result<FromServer, Status>> {
    let replies = client(server(Stub)).session(tokio_stream::iter(messages)).await.unwrap().into_inner();
    replies.map(|reply| Ok(decode_server(reply?, &BOUNDS)?)).collect().await
}

#[tokio::test]
async fn describes_and_sends_its_vocabulary() {
    let mut client = client(server(Stub));
    let description = client.describe(pb::DescribeRequest { protocol: PROTOCOL }).await.unwrap().into_inner();
    let description = decode_description(description).unwrap();
    assert_eq!(description.bounds, BOUNDS);
    let refusal = client.describe(pb::DescribeRequest { protocol: 0 }).await.unwrap_err();
    assert_eq!(refusal.code(), Code::FailedPrecondition);

    let chunks: Vec<_> = client.vocabulary(pb::VocabularyRequest {}).await.unwrap().into_inner().collect().await;
    assert_eq!(chunks.len(), 3);
    let mut pieces = VocabularyPieces::of(description.vocabulary_file);
    chunks.into_iter().for_each(|chunk| pieces.take(&chunk.unwrap()).unwrap());
    assert_eq!(pieces.finish().unwrap(), vocabulary());
}

#[tokio::test]
async fn holds_a_session() {
    let draft = pb::device_message::Body::Draft(pb::DraftBlock::default());
    let replies = converse(vec![open(), prompt(vec![7; 131_072]), pb::DeviceMessage { body: Some(draft) }]).await;
    let [Ok(FromServer::Opened(opened)), Ok(FromServer::Reply(resend)), Err(status)] = &replies[..] else {
        panic!("{replies:?}");
    };
    assert_eq!(*opened, Opened { context: BOUNDS.context, max_draft: BOUNDS.max_draft });
    assert_eq!(*resend, Reply::Resend { turn: 3, from: 131_072 });
    assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "no drafts, please"));
}

#[tokio::test]
async fn refuses_what_is_out_of_bounds() {
    let replies = converse(vec![open(), prompt(vec![1 << 21])]).await;
    let [Ok(_), Err(status)] = &replies[..] else { panic!("{replies:?}") };
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().starts_with("token 2097152 is not in the vocabulary of 2097152 tokens"));
}

#[tokio::test]
async fn refuses_what_is_too_large() {
    let too_large = prompt(vec![(1 << 21) - 1; 400_000]);
    let replies = converse(vec![open(), too_large.clone()]).await;
    let Some(Err(status)) = replies.last() else { panic!("{replies:?}") };
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
    assert!(status.message().contains("encoded"), "the client sent it: {status:?}");

    // The server does not rely on its clients to keep to the limit.
    let mut careless = SledClient::new(server(Stub));
    let mut replies = careless.session(tokio_stream::iter([too_large])).await.unwrap().into_inner();
    let status = replies.next().await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
    assert!(status.message().contains("decoded"), "{status:?}");
}

#[tokio::test]
async fn a_busy_server_says_when_to_come_back() {
    let refusal = client(server(Stub)).sessions(pb::SessionsRequest {}).await.unwrap_err();
    assert_eq!(refusal.code(), Code::ResourceExhausted);
    assert_eq!(retry_after(&refusal), Some(Duration::from_millis(1500)));
    assert_eq!(retry_after(&Status::resource_exhausted("something else is")), None);
}
