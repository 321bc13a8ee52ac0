//! The agent that runs on a device: it answers many requests over HTTP, with one drafter and one way to the servers.
//!
//! | file | what it decides |
//! |---|---|
//! | `target.rs` | what is served: as a server says, as is remembered of it, or as the draft model makes do |
//! | `places.rs` | how many are answered at once, and who waits |
//! | `pool.rs` | which session a request goes on in |
//! | `job.rs` | one request, from its place to its last event |
//! | `http.rs` | the port that the API listens on |

mod error;
mod http;
mod job;
mod places;
mod pool;
mod target;

pub use error::Error;
pub use http::Http;
pub use target::Target;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use places::Places;
use pool::{Pool, Pooled};
use sled_api::backend::{Backend, DrafterCard, Events, Job, Mode, ModelCard, Refusal};
use sled_core::device::Resilience;
use sled_core::names::Fingerprint;
use sled_core::policy::Policy;
use sled_core::sampler::Sampler;
use sled_device::{Counters, Drafts, RemoteServer, Session, SessionOptions, SharedDrafter, Vocabularies};
use sled_model::grammar::Compiler;
use sled_model::ngram::NgramDrafter;
use sled_model::vocabulary::Vocab;
use sled_model::workers::{Caller, Workers};
use sled_wire::Bounds;
use tokio::sync::{mpsc, watch};

/// Events that may wait for a reader, before the answer waits for it too.
const EVENTS: usize = 256;

/// At least so many sessions are kept for the next turns of their chats, and at least as many as are answered at once.
const IDLE: usize = 4;

/// How long answers that are cut off when an agent closes have to say so.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How long to wait between attempts to reach a first server: at first, and at most.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LONGEST_RETRY: Duration = Duration::from_secs(5);

/// What drafts on a device.
pub enum Drafter {
    /// A model, for all sessions together.
    Model(SharedDrafter),
    /// Repeats of each session's own text.
    Ngram,
    /// Nothing: the server decodes.
    Nothing,
}

/// How an agent works.
pub struct AgentOptions {
    /// What the device calls itself, for the server's log.
    pub name: String,
    /// What requests and people call what drafts; `None` if nothing does.
    pub drafter_card: Option<DrafterCard>,
    /// What drafts.
    pub drafter: Drafter,
    /// How long drafts get.
    pub policy: Policy,
    /// The addresses of all servers, which serve the same model. With none the draft model alone answers.
    pub servers: Vec<String>,
    /// What is done when no server can be reached.
    pub resilience: Resilience,
    /// Where vocabularies are kept.
    pub vocabularies: Vocabularies,
    /// The most requests that are answered at once, at least one.
    pub places: usize,
    /// The most requests that wait for a place.
    pub queue: usize,
}

impl AgentOptions {
    /// The most sessions that an agent with so many places has open, answered and idle: its draft model needs as many sequences,
    /// lest they take turns.
    #[must_use]
    pub fn sessions(places: usize) -> usize {
        places + places.max(IDLE)
    }
}

/// The agent; clones are the same.
#[derive(Clone)]
pub struct Agent {
    inner: Arc<Inner>,
}

struct Inner {
    card: ModelCard,
    vocab: Vocab,
    compiler: Arc<Compiler>,
    options: AgentOptions,
    /// What sessions are bound to, and the model that they are for, as far as is known.
    terms: Mutex<Terms>,
    pool: Pool,
    places: Arc<Places>,
    counters: Counters,
    /// Set when answers are to be cut off.
    stop: watch::Sender<bool>,
}

/// What a session is opened on.
#[derive(Clone)]
struct Terms {
    bounds: Bounds,
    model_fingerprint: Option<Fingerprint>,
    /// A server that answered when it was last asked; while there is none, one is looked for.
    remote: Option<RemoteServer>,
}

impl Agent {
    /// An agent that serves `target`. If no server has been met yet, it goes on looking for one.
    #[must_use]
    pub fn start(target: Target, options: AgentOptions) -> Self {
        let Target { name, description, vocab, bounds, model_fingerprint, remote } = target;
        let card = ModelCard {
            id: name,
            description,
            context: bounds.context,
            drafter: options.drafter_card.clone(),
            modes: modes(&options),
        };
        let meets = remote.is_none() && !options.servers.is_empty();
        let inner = Inner {
            card,
            compiler: Arc::new(Compiler::new(&vocab)),
            vocab,
            terms: Mutex::new(Terms { bounds, model_fingerprint, remote }),
            pool: Pool::new(options.places.max(IDLE)),
            places: Arc::new(Places::new(options.places, options.queue)),
            counters: Counters::default(),
            stop: watch::Sender::new(false),
            options,
        };
        let agent = Self { inner: Arc::new(inner) };
        let compiler = Arc::clone(&agent.inner.compiler);
        tokio::spawn(async move { Workers::shared().run(Caller::new("agent"), move || compiler.prepare()).await });
        if meets {
            tokio::spawn(Arc::clone(&agent.inner).meet());
        }
        agent
    }

    /// What its sessions have done.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.inner.counters
    }

    /// Requests that are being answered, and that wait.
    #[must_use]
    pub fn load(&self) -> (usize, usize) {
        self.inner.places.load()
    }

    /// Takes no more requests, gives those at hand `grace` to be answered, and cuts off the rest.
    pub async fn close(&self, grace: Duration) {
        self.inner.places.close();
        if tokio::time::timeout(grace, self.inner.places.empty()).await.is_err() {
            self.inner.stop.send_replace(true);
            let _still = tokio::time::timeout(LAST_WORDS, self.inner.places.empty()).await;
        }
        self.inner.pool.clear();
    }
}

impl Backend for Agent {
    fn model(&self) -> &ModelCard {
        &self.inner.card
    }

    fn vocab(&self) -> &Vocab {
        &self.inner.vocab
    }

    fn compiler(&self) -> &Arc<Compiler> {
        &self.inner.compiler
    }

    fn start(&self, job: Job) -> Result<Events, Refusal> {
        let inner = &self.inner;
        inner.check(&job)?;
        let ticket = inner.places.queue()?;
        let (sender, events) = mpsc::channel(EVENTS);
        // Room for the last event: what a job took is told also to whoever has closed the channel before its end.
        let last = sender.clone().try_reserve_owned().map_err(|_full| Refusal::Closing)?;
        tokio::spawn(job::run(Arc::clone(inner), job, ticket, sender, last));
        Ok(events)
    }
}

impl Inner {
    /// Whether `job` can be done at all.
    fn check(&self, job: &Job) -> Result<(), Refusal> {
        let bounds = self.terms().bounds;
        let refuse = |sentence: String| Err(Refusal::Invalid(sentence));
        if !self.card.modes.contains(&job.mode) {
            return refuse(match job.mode {
                Mode::Device => {
                    "there is no draft model on this device that could answer alone; use mode `sled`".to_owned()
                }
                Mode::Sled | Mode::Server => "this device has no server; use mode `device`".to_owned(),
            });
        }
        if job.prompt.is_empty() || job.max_tokens == 0 {
            return refuse(
                "there is nothing to do; send a prompt of at least one token, and ask for one at least".to_owned(),
            );
        }
        if job.prompt.len() >= bounds.context {
            return refuse(format!(
                "the prompt has {} tokens, but the context has {}; shorten it",
                job.prompt.len(),
                bounds.context
            ));
        }
        if let Some(token) = job.prompt.iter().find(|&&token| token as usize >= bounds.vocabulary_size) {
            return refuse(format!("token {token} is not in the vocabulary of {}", bounds.vocabulary_size));
        }
        match Sampler::new(job.sampling.clone(), bounds.vocabulary_size) {
            Ok(_) => Ok(()),
            Err(error) => refuse(error.to_string()),
        }
    }

    fn terms(&self) -> Terms {
        self.terms.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The session that a job is done in: one that knows much of its text, or a new one.
    async fn session(self: &Arc<Self>, job: &Job) -> Result<Pooled, sled_device::Error> {
        if let Some(pooled) = self.pool.take(job.mode, &job.prompt) {
            return Ok(pooled);
        }
        let era = self.pool.era();
        Ok(Pooled { session: self.open(job.mode).await?, mode: job.mode, era })
    }

    async fn open(self: &Arc<Self>, mode: Mode) -> Result<Session, sled_device::Error> {
        let Terms { bounds, model_fingerprint, remote } = self.terms();
        if mode == Mode::Device {
            return Ok(Session::unconnected(bounds, None, self.session_options(mode)?));
        }
        if let Some(remote) = remote {
            match Session::open(&remote, self.session_options(mode)?).await {
                Ok(session) => {
                    if !session.is_connected() {
                        // The server has no place for it, and it may be that those who hold one wait here for nothing.
                        self.pool.close_oldest();
                    }
                    return Ok(session);
                }
                Err(error) if error.is_passing() => self.lost(),
                Err(error) => return Err(error),
            }
        }
        let mut session = Session::unconnected(bounds, model_fingerprint, self.session_options(mode)?);
        session.presume_lost();
        Ok(session)
    }

    /// No server answers: until one does, nobody waits to find that out again.
    fn lost(self: &Arc<Self>) {
        let remote = self.terms.lock().unwrap_or_else(PoisonError::into_inner).remote.take();
        if remote.is_some() {
            tokio::spawn(Arc::clone(self).meet());
        }
    }

    fn session_options(&self, mode: Mode) -> Result<SessionOptions, sled_device::Error> {
        let options = &self.options;
        let drafts = match (&options.drafter, mode) {
            (_, Mode::Server) | (Drafter::Nothing, _) => None,
            (Drafter::Model(model), _) => Some(model.drafts()),
            (Drafter::Ngram, _) => Some(Drafts::own(Box::new(NgramDrafter::default()))?),
        };
        Ok(SessionOptions {
            drafter: drafts.map(|drafts| (drafts, options.policy)),
            servers: if mode == Mode::Device { Vec::new() } else { options.servers.clone() },
            resilience: options.resilience,
            counters: self.counters.clone(),
            ..SessionOptions::new(&options.name, self.vocab.fingerprint(), self.vocab.eog_tokens())
        })
    }

    /// Looks for a server until there is one.
    async fn meet(self: Arc<Self>) {
        let mut pause = FIRST_RETRY;
        loop {
            let found = Target::from_server(&self.options.servers, &self.options.vocabularies).await;
            match found.and_then(|target| target.check_vocabulary(&self.vocab)) {
                Ok(Target { name, bounds, model_fingerprint, remote, .. }) => {
                    tracing::info!(model = name, "a server answers");
                    *self.terms.lock().unwrap_or_else(PoisonError::into_inner) =
                        Terms { bounds, model_fingerprint, remote };
                    // Sessions from before may be on other terms, and have nothing on the server that is worth keeping.
                    self.pool.clear();
                    return;
                }
                Err(error) => tracing::debug!("no server yet: {error}"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_RETRY);
        }
    }
}

/// What a device can do; the first is what it does unless told otherwise.
fn modes(options: &AgentOptions) -> Vec<Mode> {
    let alone = matches!(options.drafter, Drafter::Model(_)).then_some(Mode::Device);
    match (options.servers.is_empty(), &options.drafter) {
        (true, _) => alone.into_iter().collect(),
        (false, Drafter::Nothing) => vec![Mode::Server],
        (false, _) => [Mode::Sled, Mode::Server].into_iter().chain(alone).collect(),
    }
}
