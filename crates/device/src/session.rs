//! One session with a server: carries out what the core's device decides.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sled_core::Token;
use sled_core::device::{Action, Committed, Device, DeviceConfig, FinishReason, Prompt, Stats, Ticket};
use sled_core::policy::Policy;
use sled_core::sampler::Sampler;
use sled_model::drafter::Drafter;
use sled_wire::{Bounds, FromServer, Open, pb};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::drafting::{DraftThread, Drafting};
use crate::{Error, Link};

/// Messages that may wait for the network before the device waits too.
const REQUEST_QUEUE: usize = 16;

/// What a session is opened with.
pub struct SessionOptions {
    /// What the device calls itself, for the server's log.
    pub name: String,
    /// The fingerprint of the vocabulary that the drafter (or without one, the device) speaks.
    pub vocabulary_fingerprint: String,
    /// The tokens that end a generation.
    pub end_of_generation: Vec<Token>,
    /// Who drafts, and how much at a time; `None` leaves the decoding to the server.
    pub drafter: Option<(Box<dyn Drafter>, Policy)>,
}

/// A finished generation.
#[derive(Clone, Debug)]
pub struct Generation {
    /// The generated tokens.
    pub tokens: Vec<Token>,
    /// Why it ended.
    pub reason: FinishReason,
    /// What it took.
    pub stats: Stats,
    /// From the prompt to the end.
    pub elapsed: Duration,
}

/// An open session. The server frees it when this is dropped.
pub struct Session {
    device: Device,
    drafts: Option<DraftThread>,
    /// The draft that is being made; it may outlast the turn that asked for it.
    drafting: Option<(Ticket, Drafting)>,
    requests: mpsc::Sender<pb::DeviceMessage>,
    replies: Streaming<pb::ServerMessage>,
    bounds: Bounds,
    began: Instant,
}

impl Session {
    /// Opens a session over `link`.
    ///
    /// # Errors
    /// If the server refuses (another vocabulary, another model, busy), or the connection breaks.
    pub async fn open(link: &Link, options: SessionOptions) -> Result<Self, Error> {
        let description = link.description();
        let mut bounds = description.bounds;
        let (requests, outbox) = mpsc::channel(REQUEST_QUEUE);
        let open = Open {
            device: options.name,
            vocabulary_fingerprint: options.vocabulary_fingerprint,
            model_fingerprint: Some(description.model_fingerprint.clone()),
        };
        let broken = |_closed| Error::Broken("it was closed before the session was open".to_owned());
        requests.send(sled_wire::encode_open(open)).await.map_err(broken)?;
        let mut replies = link.client.clone().session(ReceiverStream::new(outbox)).await?.into_inner();
        let first =
            replies.message().await?.ok_or_else(|| broken(mpsc::error::SendError(pb::DeviceMessage::default())))?;
        if let FromServer::Opened(opened) = sled_wire::decode_server(first, &bounds)? {
            bounds.context = opened.context.min(bounds.context);
            bounds.max_draft = opened.max_draft.min(bounds.max_draft);
        }
        let (drafter, policy) = options.drafter.unzip();
        let config = DeviceConfig {
            policy,
            context: bounds.context,
            max_draft: bounds.max_draft,
            end_of_generation: Arc::from(options.end_of_generation),
        };
        Ok(Self {
            device: Device::new(config),
            drafts: drafter.map(DraftThread::start).transpose()?,
            drafting: None,
            requests,
            replies,
            bounds,
            began: Instant::now(),
        })
    }

    /// The tokens that the session consists of: prompts and answers so far.
    #[must_use]
    pub fn tokens(&self) -> &[Token] {
        self.device.committed()
    }

    /// The most tokens that the session may have.
    #[must_use]
    pub fn context(&self) -> usize {
        self.bounds.context
    }

    /// Generates the answer to `prompt`, the whole text so far. `on_token` sees every committed token, and ends the
    /// generation by `Break`.
    ///
    /// # Errors
    /// If the connection breaks, the server ends the session, or the drafter fails.
    pub async fn generate(
        &mut self,
        prompt: Prompt,
        mut on_token: impl FnMut(Committed) -> ControlFlow<()>,
    ) -> Result<Generation, Error> {
        let began = Instant::now();
        let prompt_len = prompt.tokens.len();
        let sampler = Arc::new(Sampler::new(prompt.sampling.clone(), self.bounds.vocabulary_size)?);
        self.device.prompt(self.began.elapsed(), prompt);
        loop {
            while let Some(action) = self.device.poll() {
                match action {
                    Action::Send(request) => {
                        if self.requests.send(sled_wire::encode_request(request)).await.is_err() {
                            return Err(self.why_it_ended().await);
                        }
                    }
                    Action::Draft(ticket) => {
                        let drafts = self.drafts.as_ref().ok_or(Error::DrafterGone)?;
                        self.drafting = Some((ticket, drafts.draft(self.device.context(), Arc::clone(&sampler))?));
                    }
                    Action::Commit(committed) => {
                        if on_token(committed).is_break() {
                            self.device.stop_at(committed.position + 1);
                        }
                    }
                    Action::Finish(FinishReason::Failed(reason)) => return Err(Error::Refused(reason)),
                    Action::Finish(reason) => {
                        return Ok(Generation {
                            tokens: self.device.committed().get(prompt_len..).unwrap_or_default().to_vec(),
                            reason,
                            stats: self.device.stats(),
                            elapsed: began.elapsed(),
                        });
                    }
                }
            }
            self.wait().await?;
        }
    }

    /// Waits for the next thing to happen, a reply or a draft, and lets the device know.
    async fn wait(&mut self) -> Result<(), Error> {
        let drafting = async {
            match &mut self.drafting {
                Some((ticket, drafting)) => (*ticket, drafting.await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            (ticket, draft) = drafting => {
                self.drafting = None;
                let draft = draft.map_err(|_gone| Error::DrafterGone)??;
                self.device.on_draft(ticket, draft);
            }
            message = self.replies.message() => {
                let message = message?.ok_or_else(|| Error::Broken("the server closed it".to_owned()))?;
                if let FromServer::Reply(reply) = sled_wire::decode_server(message, &self.bounds)? {
                    self.device.on_reply(self.began.elapsed(), reply);
                }
            }
        }
        Ok(())
    }

    /// The server's last word, after it stopped listening.
    async fn why_it_ended(&mut self) -> Error {
        loop {
            match self.replies.message().await {
                Ok(Some(_)) => {}
                Ok(None) => return Error::Broken("the server closed it".to_owned()),
                Err(status) => return status.into(),
            }
        }
    }
}
