//! Answers the API's jobs by the engine of this process: each job is a session without drafts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sled_api::backend::{Backend, Event, Events, Generated, Job, Mode, ModelCard, Outcome, Refusal};
use sled_core::Token;
use sled_core::device::{
    Action, Ahead, Device, DeviceConfig, Emitted, FinishReason, Prompt, Resilience, Terms, Tuning,
};
use sled_core::message::{Commit, Reply};
use sled_core::sampler::Sampler;
use sled_model::Limits;
use sled_model::grammar::Compiler;
use sled_model::vocabulary::Vocab;
use tokio::sync::{mpsc, oneshot};

use crate::Identity;
use crate::engine::{Engine, FAREWELL, Opened, Party, Place, Replies, Seat};
use crate::owners::SharePrefixes;
use crate::roster::Roster;

/// Events that may wait for whoever reads an answer. When more do, the engine's replies wait, as many as for a device.
const EVENT_QUEUE: usize = 64;

/// What sessions of the HTTP port are called.
const NAME: &str = "http";

/// The engine, behind the API.
pub struct EngineBackend {
    card: ModelCard,
    vocab: Vocab,
    compiler: Arc<Compiler>,
    sessions: Sessions,
}

/// What it takes to have a session.
#[derive(Clone)]
pub(crate) struct Sessions {
    pub(crate) engine: Engine,
    pub(crate) roster: Roster,
    pub(crate) limits: Limits,
    pub(crate) end_of_generation: Arc<[Token]>,
    pub(crate) share_prefixes: SharePrefixes,
}

impl EngineBackend {
    pub(crate) fn new(identity: &Identity, vocab: Vocab, compiler: Arc<Compiler>, sessions: Sessions) -> Self {
        let card = ModelCard {
            id: identity.name.clone(),
            description: identity.model.clone(),
            context: sessions.limits.context,
            drafter: None,
            modes: vec![Mode::Server],
        };
        Self { card, vocab, compiler, sessions }
    }

    /// Whether the job can be done by this server at all; one sentence if not.
    fn check(&self, job: &Job) -> Result<(), String> {
        let Limits { vocab_size, context, .. } = self.sessions.limits;
        if job.mode != Mode::Server {
            return Err(
                "this server decodes by itself and has no draft model; ask a device for the other modes".to_owned()
            );
        }
        let len = job.prompt.len();
        if len == 0 || job.max_tokens == 0 {
            return Err("there is nothing to generate; send at least one token, and ask for at least one".to_owned());
        }
        if len >= context {
            let most = context.saturating_sub(1);
            return Err(format!(
                "the prompt has {len} tokens, but the server takes at most {most}; shorten it, or start the server with a larger -c"
            ));
        }
        if let Some(token) =
            job.prompt.iter().find(|&&token| usize::try_from(token).is_ok_and(|token| token >= vocab_size))
        {
            return Err(format!("the prompt has token {token}, but the vocabulary has {vocab_size} tokens"));
        }
        Sampler::new(job.sampling.clone(), vocab_size).map(drop).map_err(|error| error.to_string())
    }
}

impl Backend for EngineBackend {
    fn model(&self) -> &ModelCard {
        &self.card
    }

    fn vocab(&self) -> &Vocab {
        &self.vocab
    }

    fn compiler(&self) -> &Arc<Compiler> {
        &self.compiler
    }

    fn start(&self, job: Job) -> Result<Events, Refusal> {
        self.check(&job).map_err(Refusal::Invalid)?;
        if self.sessions.engine.has_stopped() {
            return Err(Refusal::Closing);
        }
        let place = self.sessions.engine.reserve(Party::Http).map_err(|(_, after)| Refusal::Busy { after })?;
        let (events, answer) = mpsc::channel(EVENT_QUEUE);
        tokio::spawn(self.sessions.clone().serve(job, place, events));
        Ok(answer)
    }

    fn counts_requests(&self) -> bool {
        true
    }

    fn health(&self) -> Result<(), String> {
        self.sessions.engine.health().map_err(|ailment| ailment.to_string())
    }
}

impl Sessions {
    /// Opens a session, answers, and closes it; earlier, if nobody reads the answer any more.
    async fn serve(self, job: Job, place: Place, events: mpsc::Sender<Event>) {
        // The last event has its place, however slowly the others are read and whether or not more are wanted.
        let Ok(last) = events.clone().reserve_owned().await else { return };
        let owner = self.share_prefixes.owner(job.client);
        let opened = tokio::select! {
            () = events.closed() => return,
            opened = self.engine.open(place, owner) => opened,
        };
        let Opened { seat, mut replies } = match opened {
            Some(Ok(opened)) => opened,
            Some(Err((full, _))) => return finish(last, Event::Failed(format!("{full}; try again later"))),
            None => return finish(last, Event::Failed(FAREWELL.to_owned())),
        };
        let id = seat.id();
        tracing::info!(session = id.0, request = job.request_id, "session opened over HTTP");
        self.roster.enter(id, NAME.into());
        let end = self.answer(&seat, job, &mut replies, &events).await;
        drop(seat);
        self.roster.leave(id);
        tracing::info!(session = id.0, "session closed");
        finish(last, end);
    }

    /// Passes the tokens of the answer on, and returns how it ended.
    async fn answer(&self, seat: &Seat, job: Job, replies: &mut Replies, events: &mpsc::Sender<Event>) -> Event {
        let began = Instant::now();
        let mut device = Device::new(DeviceConfig {
            policy: None,
            ahead: Ahead::Nothing,
            context: self.limits.context,
            max_draft: 0,
            end_of_generation: Arc::clone(&self.end_of_generation),
            resilience: Resilience::default(),
            tuning: Tuning::DEFAULT,
        });
        device.on_connected(Duration::ZERO, 0, Terms { context: self.limits.context, max_draft: 0 });
        let Job { request_id, prompt: tokens, max_tokens, sampling, logprobs, .. } = job;
        let prompt = Prompt { tokens, max_tokens, sampling, logprobs, request_id: Some(request_id) };
        device.prompt(began.elapsed(), prompt);
        let mut load = None;
        let mut reused: Option<oneshot::Receiver<usize>> = None;
        let reason = 'answer: loop {
            while let Some(action) = device.poll() {
                match action {
                    Action::Send(request) => seat.request(request).await,
                    Action::Emit(Emitted { position, token, provenance, opens_verdict, logprobs }) => {
                        let token = Generated { token, position, provenance, opens_verdict, logprobs };
                        if events.send(Event::Token(token)).await.is_err() {
                            break 'answer FinishReason::Stop;
                        }
                    }
                    Action::Finish(FinishReason::Failed(reason)) => return Event::Failed(reason),
                    Action::Finish(reason) => break 'answer reason,
                    // It has no drafter, and its connection is a queue that stands until the session ends.
                    Action::Draft(_) | Action::Connect(_) | Action::Disconnect | Action::Notify(_) => {}
                }
            }
            let reply = tokio::select! {
                () = events.closed() => break FinishReason::Stop,
                reply = replies.next() => reply,
            };
            match reply {
                Some(Reply::Closing(reason)) => return Event::Failed(reason),
                Some(reply) => {
                    if let Reply::Commit(Commit { load: told, .. }) = reply {
                        load = Some(told);
                        if reused.is_none() {
                            reused = Some(seat.reused());
                        }
                    }
                    device.on_reply(began.elapsed(), reply);
                }
                None => {
                    return Event::Failed("the server's engine has let go of the request; send it again".to_owned());
                }
            }
        };
        let cached = match reused {
            Some(reused) => reused.await.unwrap_or(0),
            None => 0,
        };
        Event::Done(Box::new(Outcome { reason, stats: device.stats(), cached, round_trip: None, load }))
    }
}

fn finish(last: mpsc::OwnedPermit<Event>, event: Event) {
    let _sender = last.send(event);
}
