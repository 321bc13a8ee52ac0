//! One session: carries out what the core's device decides, over whichever server answers.

mod shell;

use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sled_core::Token;
use sled_core::device::{
    Ahead, Device, DeviceConfig, Emitted, Fallback, FinishReason, Prompt, Provenance, Resilience, Stats, Ticket, Tuning,
};
use sled_core::message::Load;
use sled_core::names::Fingerprint;
use sled_core::policy::Policy;
use sled_core::sampler::Sampler;
use sled_core::sequence::common_prefix;
use sled_model::grammar::Compiler;
use sled_model::workers::Caller;
use sled_wire::{Bounds, Description, Open};

use crate::connection::Connection;
use crate::drafting::{Drafting, Drafts};
use crate::remedy::Remedy;
use crate::{Counters, Error, RemoteServer, race};

/// What a session is opened with.
pub struct SessionOptions {
    /// What the device calls itself, for the server's log.
    pub name: String,
    /// The fingerprint of the vocabulary that the drafter (or without one, the device) speaks.
    pub vocabulary_fingerprint: Fingerprint,
    /// The tokens that end a generation.
    pub end_of_generation: Vec<Token>,
    /// Who drafts, and how much at a time; `None` leaves the decoding to the server.
    pub drafter: Option<(Drafts, Policy)>,
    /// Compiles the grammars of prompts, for the drafter; without it, a prompt with a grammar must have it compiled.
    pub grammars: Option<Arc<Compiler>>,
    /// What is done while a verdict is under way.
    pub ahead: Ahead,
    /// The addresses of all servers; if one is lost, the next is tried. They must serve the same model. A session that is not
    /// opened on a server and has none decodes with its drafter alone.
    pub servers: Vec<String>,
    /// What is done when no server can be reached; `servers` in it is set to their number, and `seed` to chance.
    pub resilience: Resilience,
    /// Takes what the user of [`Session::generate`] is to know, one sentence at a time.
    pub notify: Box<dyn FnMut(&str) + Send>,
    /// Where it is counted what the session does.
    pub counters: Counters,
}

impl SessionOptions {
    /// A thin client of the one server that it is opened with, which tells the user nothing.
    #[must_use]
    pub fn new(name: &str, vocabulary_fingerprint: Fingerprint, end_of_generation: &[Token]) -> Self {
        Self {
            name: name.to_owned(),
            vocabulary_fingerprint,
            end_of_generation: end_of_generation.to_vec(),
            drafter: None,
            grammars: None,
            ahead: Ahead::default(),
            servers: Vec::new(),
            resilience: Resilience::default(),
            notify: Box::new(|_| {}),
            counters: Counters::default(),
        }
    }

    fn to_open(&self, model_fingerprint: Option<Fingerprint>) -> Open {
        Open {
            device: self.name.as_str().into(),
            vocabulary_fingerprint: self.vocabulary_fingerprint,
            model_fingerprint,
        }
    }
}

/// What a generation brings forth.
#[derive(Clone, Debug)]
pub enum Progress {
    /// The next token.
    Token(Emitted),
    /// Something that the user is to know, in one sentence.
    Notice(String),
    /// The answer is complete.
    Done(FinishReason),
}

/// A finished generation.
#[derive(Clone, Debug)]
pub struct Generation {
    /// The generated tokens.
    pub tokens: Vec<Token>,
    /// How each of them came about.
    pub provenance: Vec<Provenance>,
    /// Why it ended.
    pub reason: FinishReason,
    /// What it took.
    pub stats: Stats,
    /// From the prompt to the end.
    pub elapsed: Duration,
}

type Connecting = Pin<Box<dyn Future<Output = Result<Connection, Error>> + Send>>;

/// An open session. The server frees it when this is dropped.
pub struct Session {
    device: Device,
    drafts: Option<Drafts>,
    grammars: Option<Arc<Compiler>>,
    /// The draft that is being made; it may outlast the turn that asked for it.
    drafting: Option<(Ticket, Drafting)>,
    connection: Option<Connection>,
    connecting: Option<(usize, Connecting)>,
    servers: Arc<[String]>,
    open: Open,
    fallback: Fallback,
    notify: Box<dyn FnMut(&str) + Send>,
    bounds: Bounds,
    began: Instant,
    /// Of the turn.
    sampler: Option<Arc<Sampler>>,
    /// The name of the turn's request, if it has one, and when it came.
    request: Option<(String, Instant)>,
    /// How long the last verdict took.
    round_trip: Option<Duration>,
    /// Whether it has been connected before.
    met: bool,
    counters: Counters,
}

impl Session {
    /// Opens a session on `remote`.
    ///
    /// # Errors
    /// If the server refuses (another vocabulary, another model) or the connection breaks, and no other server is better. That
    /// all are busy is no error: the session is opened when there is something to generate.
    pub async fn open(remote: &RemoteServer, options: SessionOptions) -> Result<Self, Error> {
        let mut options = options;
        if !options.servers.iter().any(|server| server == remote.address()) {
            options.servers.insert(0, remote.address().to_owned());
        }
        let Description { bounds, model_fingerprint, .. } = *remote.description();
        let open = options.to_open(Some(model_fingerprint));
        let connection = open_any(remote, &options.servers, &open, &options.counters).await?;
        let bounds = connection.as_ref().map_or(bounds, |(_, connection)| connection.bounds);
        let mut session = Self::unconnected(bounds, Some(model_fingerprint), options);
        if let Some((server, connection)) = connection {
            session.connected(server, connection);
        }
        Ok(session)
    }

    /// A session that connects to its servers when there is something to generate. Token ids are below, and texts not longer
    /// than, what `bounds` say; `model_fingerprint` names the only model that it may be connected to.
    #[must_use]
    pub fn unconnected(bounds: Bounds, model_fingerprint: Option<Fingerprint>, options: SessionOptions) -> Self {
        let open = options.to_open(model_fingerprint);
        let (drafts, policy) = options.drafter.unzip();
        let device = Device::new(DeviceConfig {
            policy,
            ahead: options.ahead,
            context: bounds.context,
            max_draft: bounds.max_draft,
            end_of_generation: Arc::from(options.end_of_generation),
            resilience: Resilience { servers: options.servers.len(), seed: chance(), ..options.resilience },
            tuning: Tuning::DEFAULT,
        });
        Self {
            device,
            drafts,
            grammars: options.grammars,
            drafting: None,
            connection: None,
            connecting: None,
            servers: options.servers.into(),
            open,
            fallback: options.resilience.fallback,
            notify: options.notify,
            bounds,
            began: Instant::now(),
            sampler: None,
            request: None,
            round_trip: None,
            met: false,
            counters: options.counters,
        }
    }

    /// No server answers, as somebody else found out: where the fallback is to show drafts, it does so at once.
    pub fn presume_lost(&mut self) {
        self.device.presume_lost();
    }

    /// The tokens that the session consists of: prompts and answers so far.
    #[must_use]
    pub fn tokens(&self) -> &[Token] {
        self.device.settled()
    }

    /// The most tokens that the session may have.
    #[must_use]
    pub fn context(&self) -> usize {
        self.bounds.context
    }

    /// How many of its tokens are the prompt of the last turn.
    #[must_use]
    pub fn prompt_len(&self) -> usize {
        self.device.prompt_len()
    }

    /// How many of `tokens` the session knows from its last turn: they are in the caches, of its drafter and of the server.
    #[must_use]
    pub fn known(&self, tokens: &[Token]) -> usize {
        common_prefix(self.tokens(), tokens)
    }

    /// Whether a server has it in hand.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    /// What the turn has taken so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.device.stats()
    }

    /// How long the server took for the last verdict on a block; `None` before the first.
    #[must_use]
    pub fn round_trip(&self) -> Option<Duration> {
        self.round_trip
    }

    /// How busy the server last said it is.
    #[must_use]
    pub fn load(&self) -> Option<Load> {
        self.device.load()
    }

    /// Generates the answer to `prompt`, the whole text so far. `on_token` sees every token, and ends the generation by
    /// `Break`.
    ///
    /// # Errors
    /// If the server ends the session, the drafter fails, or no server is left and the fallback is to fail.
    #[tracing::instrument(
        name = "request", level = "info", skip_all,
        fields(prompt_tokens = prompt.tokens.len(), tokens, rounds, drafts, accepted)
    )]
    pub async fn generate(
        &mut self,
        prompt: Prompt,
        mut on_token: impl FnMut(Emitted) -> ControlFlow<()>,
    ) -> Result<Generation, Error> {
        let began = Instant::now();
        let prompt_len = prompt.tokens.len();
        let mut provenance = Vec::new();
        self.begin(prompt).await?;
        loop {
            match self.next().await? {
                Progress::Token(emitted) => {
                    provenance.push(emitted.provenance);
                    let end = emitted.position + 1;
                    if on_token(emitted).is_break() {
                        self.device.stop_at(end);
                    }
                }
                Progress::Notice(sentence) => (self.notify)(&sentence),
                Progress::Done(reason) => {
                    return Ok(Generation {
                        tokens: self.tokens().get(prompt_len..).unwrap_or_default().to_vec(),
                        provenance,
                        reason,
                        stats: self.device.stats(),
                        elapsed: began.elapsed(),
                    });
                }
            }
        }
    }

    /// Begins the answer to `prompt`, the whole text so far, which [`Self::next`] brings forth.
    ///
    /// # Errors
    /// If a sampling parameter is out of range, or a grammar cannot be compiled.
    pub async fn begin(&mut self, prompt: Prompt) -> Result<(), Error> {
        let mut sampling = prompt.sampling.clone();
        if self.drafts.is_none() {
            // Nothing is chosen here, so that no grammar need be compiled.
            sampling.grammar = None;
        }
        if let Some(compiler) = &self.grammars {
            sampling = compiler.compile_sampling(Caller::new("sessions"), sampling).await?;
        }
        self.sampler = Some(Arc::new(Sampler::new(sampling, self.bounds.vocabulary_size)?));
        self.request = prompt.request_id.clone().map(|request| (request, Instant::now()));
        if let Some((request, _)) = &self.request {
            tracing::info!(request, prompt = prompt.tokens.len(), max_tokens = prompt.max_tokens, "prompt");
        }
        if let Some(reason) = self.connection.as_mut().and_then(Connection::ended) {
            // A server closes a session that is idle for long. It is opened again for this prompt.
            tracing::debug!(%reason, "the session was closed while it was idle");
            self.connection = None;
            self.device.on_disconnected(self.began.elapsed(), reason.to_string());
        }
        self.device.prompt(self.began.elapsed(), prompt);
        Ok(())
    }

    /// What the answer that was begun brings forth next, until it is done. Nothing is lost if this is dropped while it waits.
    ///
    /// # Errors
    /// If the server ends the session, the drafter fails, or no server is left and the fallback is to fail; the session is of
    /// no use any more.
    pub async fn next(&mut self) -> Result<Progress, Error> {
        loop {
            while let Some(action) = self.device.poll() {
                if let Some(progress) = self.carry_out(action)? {
                    return Ok(progress);
                }
            }
            self.wait().await?;
        }
    }

    /// Ends the answer where it is. What device and server are doing for it is stopped; what they know of the text stays.
    ///
    /// # Errors
    /// If the session was of no use any more.
    pub fn cancel(&mut self) -> Result<(), Error> {
        self.device.stop_at(self.tokens().len());
        if let Some((ticket, _unwanted)) = self.drafting.take() {
            self.device.on_draft(self.began.elapsed(), ticket, None);
        }
        while let Some(action) = self.device.poll() {
            self.carry_out(action)?;
        }
        Ok(())
    }
}

/// A number that no other session has, on whatever machine: devices that lose their server together are not to come back together.
fn chance() -> u64 {
    // Its keys are the operating system's randomness.
    RandomState::new().hash_one(())
}

/// Opens a session on `remote`, or else on the first other server that takes it; `None` if none does and some are busy. Of several
/// errors it is one that may pass.
async fn open_any(
    remote: &RemoteServer,
    servers: &[String],
    open: &Open,
    counters: &Counters,
) -> Result<Option<(usize, Connection)>, Error> {
    let at_hand = servers.iter().position(|server| server == remote.address()).unwrap_or_default();
    let others = (0..servers.len()).filter(|&server| server != at_hand);
    let order: Vec<usize> = std::iter::once(at_hand).chain(others).collect();
    let attempt = |&server: &usize| {
        let (open, counters) = (open.clone(), counters.clone());
        let known = (server == at_hand).then(|| remote.clone());
        let address = servers.get(server).cloned().unwrap_or_default();
        async move {
            let remote = match known {
                Some(remote) => remote,
                None => RemoteServer::connect(&address).await?,
            };
            Connection::open(&remote, open, &counters).await
        }
    };
    match race::first(order.iter().map(attempt).collect()).await {
        Ok((at, connection)) => Ok(order.get(at).map(|&server| (server, connection))),
        Err(errors) => {
            // A server that is busy is worth waiting for; else one that may come back.
            let find = |wanted: fn(&Remedy) -> bool| errors.iter().position(|error| wanted(&error.remedy()));
            if find(|remedy| matches!(remedy, Remedy::Later(_))).is_some() {
                return Ok(None);
            }
            let told = find(|remedy| *remedy == Remedy::Reconnect).unwrap_or_default();
            Err(errors.into_iter().nth(told).unwrap_or(Error::Interrupted))
        }
    }
}
