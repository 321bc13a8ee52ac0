//! The gRPC service: one task a session, between the wire and the engine.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sled_api::backend::Client;
use sled_core::message::{DraftBlock, Request as CoreRequest};
use sled_model::workers::Caller;
use sled_wire::{
    Bounds, Description, FromDevice, Open, Opened, SessionList, SledServer, Totals, VocabularyFile, WireError, pb,
};
use tokio_stream::{Stream, StreamExt};
use tonic::{Code, Request, Response, Status, Streaming};

use crate::Identity;
use crate::engine::{self, Engine, FAREWELL, Party, Seat};
use crate::grammars::Grammars;
use crate::owners::SharePrefixes;
use crate::requests::Requests;
use crate::roster::Roster;
use crate::token_bucket::TokenBucket;
use crate::vocabulary::Vocabulary;

/// How long a device may take to say who it is.
const OPENING: Duration = Duration::from_secs(10);

/// A pass that takes longer may outlast a device's timeout, which is 300 ms at least.
const LONG_PASS: Duration = Duration::from_millis(200);

/// A pass that shows no sign of life for longer may have no end: devices are to look for another server.
const HOPELESS_PASS: Duration = Duration::from_secs(10);

type Outbound<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The service, as tonic runs it.
pub(crate) struct Service {
    engine: Engine,
    identity: Arc<Identity>,
    vocabulary_file: VocabularyFile,
    bounds: Bounds,
    roster: Roster,
    grammars: Grammars,
    vocabulary: Vocabulary,
}

impl Service {
    pub(crate) fn new(
        engine: Engine,
        roster: Roster,
        bounds: Bounds,
        identity: Arc<Identity>,
        grammars: Grammars,
    ) -> Self {
        let vocabulary = Vocabulary::new(identity.vocabulary.clone());
        let vocabulary_file = VocabularyFile::of(&identity.vocabulary);
        Self { engine, identity, vocabulary_file, bounds, roster, grammars, vocabulary }
    }

    pub(crate) fn into_grpc(self) -> SledServer<Self> {
        sled_wire::server(self)
    }

    /// Whether the device may join: the same token ids must mean the same on both sides.
    fn admit(&self, open: &Open) -> Result<(), Status> {
        let Identity { model, model_fingerprint, vocabulary_fingerprint, .. } = &*self.identity;
        if open.vocabulary_fingerprint != *vocabulary_fingerprint {
            return Err(Status::failed_precondition(format!(
                "the device's vocabulary {} is not the vocabulary {vocabulary_fingerprint} of {model}; use a draft model of \
                 the same family, or --draft ngram",
                open.vocabulary_fingerprint
            )));
        }
        match &open.model_fingerprint {
            Some(expected) if expected != model_fingerprint => Err(Status::failed_precondition(format!(
                "the device expects the target model {expected}, but this server has {model_fingerprint} ({model}); use a \
                 server with the same model file"
            ))),
            _ => Ok(()),
        }
    }
}

#[tonic::async_trait]
impl sled_wire::Sled for Service {
    type VocabularyStream = Outbound<pb::VocabularyChunk>;
    type SessionStream = Outbound<pb::ServerMessage>;

    async fn describe(&self, request: Request<pb::DescribeRequest>) -> Result<Response<pb::ServerDescription>, Status> {
        sled_wire::check_protocol(request.get_ref().protocol)?;
        Ok(Response::new(sled_wire::encode_description(Description {
            version: env!("CARGO_PKG_VERSION").into(),
            name: self.identity.name.as_str().into(),
            model: self.identity.model.as_str().into(),
            model_fingerprint: self.identity.model_fingerprint,
            vocabulary_fingerprint: self.identity.vocabulary_fingerprint,
            vocabulary_file: self.vocabulary_file,
            bounds: self.bounds,
        })))
    }

    async fn vocabulary(
        &self,
        request: Request<pb::VocabularyRequest>,
    ) -> Result<Response<Self::VocabularyStream>, Status> {
        Ok(Response::new(Box::pin(self.vocabulary.send(client(&request)?.address.ip())?)))
    }

    async fn sessions(&self, _request: Request<pb::SessionsRequest>) -> Result<Response<pb::SessionList>, Status> {
        let report = self.engine.report().await.await;
        let report = report.map_err(|_stopped| Status::unavailable(FAREWELL))?;
        let sessions = self.roster.describe(&report);
        let record = self.engine.record();
        let stats = &record.stats;
        Ok(Response::new(sled_wire::encode_sessions(SessionList {
            sessions,
            cells_used: record.cells.0,
            cells: record.cells.1,
            totals: Totals {
                steps: stats.steps,
                rows: stats.rows,
                commits: stats.commits,
                forward: stats.forward,
                overhead: stats.overhead,
                evictions: stats.evictions,
                batch_sizes: stats.batch_sizes.clone(),
            },
        })))
    }

    async fn session(
        &self,
        request: Request<Streaming<pb::DeviceMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let client: Option<Client> = request.extensions().get().copied();
        // A device's sessions share its connection, and what is read for them.
        let owner = SharePrefixes::Connection.owner(client);
        let caller = Caller::new(client.map(|client| client.address.ip()));
        let party = Party::at(client.map(|client| client.address));
        let mut inbound = request.into_inner();
        let first = tokio::time::timeout(OPENING, inbound.message()).await.map_err(|_elapsed| {
            Status::deadline_exceeded("the device did not open its session in time; try again")
        })??;
        let first = first.ok_or_else(|| Status::cancelled("the device hung up before it opened a session"))?;
        let FromDevice::Open(open) = sled_wire::decode_device(first, &self.bounds)? else {
            return Err(Status::failed_precondition(
                "the first message of a session must open it; run the same version of sled on device and server",
            ));
        };
        self.admit(&open)?;
        let opened =
            self.engine.open(self.engine.place(party), owner).await.ok_or_else(|| Status::unavailable(FAREWELL))?;
        let engine::Opened { seat, replies } =
            opened.map_err(|(full, after)| sled_wire::busy(&full.to_string(), after))?;
        let id = seat.id();
        tracing::info!(session = id.0, device = &*open.device, "session opened");
        let requests = Arc::new(Requests::new(id, &open.device, &self.identity.end_of_generation));
        self.roster.enter(id, open.device);

        // What ends a session is said by the engine, or from here before the engine is told to close it.
        let (refusals, mut refused) = tokio::sync::mpsc::channel(1);
        let listener = Listener {
            engine: self.engine.clone(),
            seat,
            bounds: self.bounds,
            grammars: self.grammars.clone(),
            requests: Arc::clone(&requests),
            caller,
        };
        let roster = self.roster.clone();
        tokio::spawn(async move {
            if let Some(refusal) = listener.listen(&mut inbound).await {
                let _gone = refusals.send(Err(refusal)).await;
            }
            drop(listener);
            roster.leave(id);
            tracing::info!(session = id.0, "session closed");
        });

        let opened = Opened { context: self.bounds.context, max_draft: self.bounds.max_draft };
        let last_word = std::iter::once_with(move || {
            refused.try_recv().unwrap_or_else(|_none| Err(Status::cancelled("the device hung up")))
        });
        let encode = move |reply| {
            requests.on_reply(&reply);
            sled_wire::encode_reply(reply)
        };
        let replies = replies.into_stream().map(encode).chain(tokio_stream::iter(last_word));
        let outbound = tokio_stream::once(Ok(sled_wire::encode_opened(opened))).chain(replies);
        Ok(Response::new(Box::pin(outbound)))
    }
}

/// What hears a session's device.
struct Listener {
    engine: Engine,
    seat: Seat,
    bounds: Bounds,
    grammars: Grammars,
    requests: Arc<Requests>,
    caller: Caller,
}

impl Listener {
    /// Passes on what the device says, until it hangs up or the engine lets go of the session; returns why the session ends, if
    /// the device has said what cannot be.
    async fn listen(&self, inbound: &mut Streaming<pb::DeviceMessage>) -> Option<Status> {
        let mut bucket = TokenBucket::new(Instant::now());
        loop {
            let heard = async {
                let message = inbound.message().await?;
                if let Some(message) = &message {
                    bucket.admit(sled_wire::wire_bytes(message)).await;
                }
                Ok::<_, Status>(message)
            };
            let message = tokio::select! {
                () = self.seat.ended() => return None,
                heard = heard => match heard {
                    Ok(message) => message?,
                    Err(status) => return self.why_unheard(status),
                },
            };
            if let Err(refusal) = self.take(message).await {
                return Some(refusal);
            }
        }
    }

    async fn take(&self, message: pb::DeviceMessage) -> Result<(), Status> {
        let id = self.seat.id().0;
        match sled_wire::decode_device(message, &self.bounds) {
            Ok(FromDevice::Request(request)) => {
                let request = self.grammars.prepare(self.caller, announce(id, request)).await?;
                self.requests.on_request(&request);
                self.answer_in_pass(&request);
                self.seat.request(request).await;
                Ok(())
            }
            Ok(FromDevice::Open(_)) => {
                Err(Status::failed_precondition("the session is open already; open another stream"))
            }
            Err(error) => Err(refuse(id, error)),
        }
    }

    /// Answers a block that comes in the middle of a long pass, so that nobody's timeout takes the server for lost: the engine
    /// answers only between passes.
    fn answer_in_pass(&self, request: &CoreRequest) {
        let CoreRequest::Draft(DraftBlock { turn, .. }) = *request else { return };
        let alive = {
            let record = self.engine.record();
            record.is_in_pass_for(LONG_PASS) && record.silence().is_some_and(|silence| silence < HOPELESS_PASS)
        };
        if alive {
            self.seat.say_pending(turn);
        }
    }

    /// Why a message could not be read, where the device is still there to be told.
    fn why_unheard(&self, status: Status) -> Option<Status> {
        let session = self.seat.id().0;
        match status.code() {
            Code::OutOfRange => {
                tracing::warn!(session, %status, "a device sent too large a message; its session is closed");
                let most = sled_wire::MAX_MESSAGE_BYTES >> 10;
                Some(Status::out_of_range(format!(
                    "a message of the device has more than {most} KiB, which is the most that the server takes; shorten the prompt"
                )))
            }
            _ if std::error::Error::source(&status).is_some() => None,
            _ => Some(status),
        }
    }
}

/// Who asks, as the port says.
fn client<T>(request: &Request<T>) -> Result<Client, Status> {
    let client = request.extensions().get::<Client>().copied();
    client.ok_or_else(|| Status::internal("the port does not say who asks"))
}

/// Tells the log of a prompt that has a name.
fn announce(session: u64, request: CoreRequest) -> CoreRequest {
    if let CoreRequest::Context(update) = &request
        && let Some(name) = &update.request_id
    {
        tracing::info!(session, request = name, prompt = update.prompt_len, "prompt arrived");
    }
    request
}

fn refuse(session: u64, error: WireError) -> Status {
    tracing::warn!(session, %error, "a device sent what cannot be; its session is closed");
    error.into()
}
