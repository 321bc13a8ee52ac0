//! One session: carries out what the core's device decides, over whichever server answers.

use std::future::Future;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sled_core::Token;
use sled_core::device::{
    Action, Ahead, Device, DeviceConfig, Emitted, Fallback, FinishReason, Notice, Prompt, Provenance, Resilience,
    Stats, Ticket,
};
use sled_core::policy::Policy;
use sled_core::sampler::{Sampler, SamplingParams};
use sled_model::drafter::Drafter;
use sled_model::grammar::Compiler;
use sled_wire::{Bounds, Open};

use crate::connection::{Connection, Incoming};
use crate::drafting::{DraftThread, Drafting};
use crate::{Error, Link};

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
    /// Compiles the grammars of prompts, for the drafter; without it, a prompt with a grammar must have it compiled.
    pub grammars: Option<Arc<Compiler>>,
    /// What is done while a verdict is under way.
    pub ahead: Ahead,
    /// The addresses of all servers; if one is lost, the next is tried. They must serve the same model.
    pub servers: Vec<String>,
    /// What is done when no server can be reached; `servers` in it is set to their number.
    pub resilience: Resilience,
    /// Takes what the user is to know, one sentence at a time.
    pub notify: Box<dyn FnMut(&str) + Send>,
}

impl SessionOptions {
    /// A thin client of the one server that it is opened with, which tells the user nothing.
    #[must_use]
    pub fn new(name: &str, vocabulary_fingerprint: &str, end_of_generation: &[Token]) -> Self {
        Self {
            name: name.to_owned(),
            vocabulary_fingerprint: vocabulary_fingerprint.to_owned(),
            end_of_generation: end_of_generation.to_vec(),
            drafter: None,
            grammars: None,
            ahead: Ahead::default(),
            servers: Vec::new(),
            resilience: Resilience::default(),
            notify: Box::new(|_| {}),
        }
    }
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
    drafts: Option<DraftThread>,
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
}

impl Session {
    /// Opens a session over `link`.
    ///
    /// # Errors
    /// If the server refuses (another vocabulary, another model) or the connection breaks, and no other server is better. That
    /// all are busy is no error: the session is opened when there is something to generate.
    pub async fn open(link: &Link, options: SessionOptions) -> Result<Self, Error> {
        let open = Open {
            device: options.name,
            vocabulary_fingerprint: options.vocabulary_fingerprint,
            model_fingerprint: Some(link.description().model_fingerprint.clone()),
        };
        let mut servers = options.servers;
        if !servers.iter().any(|server| server == link.address()) {
            servers.insert(0, link.address().to_owned());
        }
        let connection = open_any(link, &servers, &open).await?;
        let bounds = connection.as_ref().map_or(link.description().bounds, |(_, connection)| connection.bounds);
        let (drafter, policy) = options.drafter.unzip();
        let mut device = Device::new(DeviceConfig {
            policy,
            ahead: options.ahead,
            context: bounds.context,
            max_draft: bounds.max_draft,
            end_of_generation: Arc::from(options.end_of_generation),
            resilience: Resilience { servers: servers.len(), ..options.resilience },
        });
        let connection = connection.map(|(server, connection)| {
            device.on_connected(Duration::ZERO, server);
            connection
        });
        Ok(Self {
            device,
            drafts: drafter.map(DraftThread::start).transpose()?,
            grammars: options.grammars,
            drafting: None,
            connection,
            connecting: None,
            servers: servers.into(),
            open,
            fallback: options.resilience.fallback,
            notify: options.notify,
            bounds,
            began: Instant::now(),
        })
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
        let mut sampling = prompt.sampling.clone();
        if self.drafts.is_none() {
            // Nothing is chosen here, so that no grammar need be compiled.
            sampling.grammar = None;
        }
        let sampler = Arc::new(sampler(sampling, self.bounds.vocabulary_size, self.grammars.clone()).await?);
        let request = prompt.request_id.clone();
        if let Some(request) = &request {
            tracing::info!(request, prompt = prompt_len, max_tokens = prompt.max_tokens, "prompt");
        }
        self.device.prompt(self.began.elapsed(), prompt);
        loop {
            while let Some(action) = self.device.poll() {
                match action {
                    Action::Connect(server) => self.connecting = Some((server, self.connect(server))),
                    Action::Disconnect => {
                        self.connection = None;
                        self.connecting = None;
                    }
                    Action::Send(request) => {
                        if let Some(connection) = &self.connection {
                            connection.send(request);
                        }
                    }
                    Action::Draft(ticket) => {
                        let drafts = self.drafts.as_ref().ok_or(Error::DrafterGone)?;
                        self.drafting = Some((ticket, drafts.draft(self.device.context(), Arc::clone(&sampler))?));
                    }
                    Action::Emit(emitted) => {
                        provenance.push(emitted.provenance);
                        let end = emitted.position + 1;
                        if on_token(emitted).is_break() {
                            self.device.stop_at(end);
                        }
                    }
                    Action::Notify(notice) => self.tell(&notice),
                    Action::Finish(FinishReason::Failed(reason)) => return Err(Error::Refused(reason)),
                    Action::Finish(reason) => {
                        tell_trace(&self.device.stats(), provenance.len());
                        if let Some(request) = &request {
                            log_answer(request, provenance.len(), &self.device.stats(), began.elapsed());
                        }
                        return Ok(Generation {
                            tokens: self.device.settled().get(prompt_len..).unwrap_or_default().to_vec(),
                            provenance,
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

    /// Waits for the next thing to happen and lets the device know.
    async fn wait(&mut self) -> Result<(), Error> {
        let drafting = async {
            match &mut self.drafting {
                Some((ticket, drafting)) => (*ticket, drafting.await),
                None => std::future::pending().await,
            }
        };
        let incoming = async {
            match &mut self.connection {
                Some(connection) => connection.receive().await,
                None => std::future::pending().await,
            }
        };
        let connected = async {
            match &mut self.connecting {
                Some((server, connecting)) => (*server, connecting.await),
                None => std::future::pending().await,
            }
        };
        let timer = async {
            match self.device.deadline() {
                Some(deadline) => tokio::time::sleep_until((self.began + deadline).into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            (ticket, draft) = drafting => {
                self.drafting = None;
                let draft = draft.map_err(|_gone| Error::DrafterGone)??;
                self.device.on_draft(self.began.elapsed(), ticket, draft);
            }
            incoming = incoming => match incoming? {
                Incoming::Reply(reply) => self.device.on_reply(self.began.elapsed(), reply),
                Incoming::Ended(reason) => {
                    self.connection = None;
                    self.device.on_disconnected(self.began.elapsed(), reason);
                }
            },
            (server, connection) = connected => {
                self.connecting = None;
                self.on_connection(server, connection);
            }
            () = timer => self.device.on_timer(self.began.elapsed()),
        }
        Ok(())
    }

    fn connect(&self, server: usize) -> Connecting {
        let (servers, open) = (Arc::clone(&self.servers), self.open.clone());
        Box::pin(async move {
            let address = servers.get(server).map(String::as_str).unwrap_or_default();
            Connection::open(&Link::connect(address).await?, open).await
        })
    }

    fn on_connection(&mut self, server: usize, connection: Result<Connection, Error>) {
        let now = self.began.elapsed();
        match connection {
            Ok(connection) if connection.bounds.context < self.bounds.context => {
                self.device.on_disconnected(now, "its sessions are shorter than this one may get".to_owned());
            }
            Ok(connection) => {
                self.connection = Some(connection);
                self.device.on_connected(now, server);
            }
            Err(Error::Busy { reason, after }) => self.device.on_busy(now, reason, after),
            Err(error) => self.device.on_disconnected(now, error.in_brief()),
        }
    }

    fn tell(&mut self, notice: &Notice) {
        let message = match notice {
            Notice::Lost(reason) => {
                let then = match self.fallback {
                    Fallback::Release => "trying again; until then the answer goes on with unverified drafts",
                    Fallback::Wait | Fallback::Error => "trying again",
                };
                format!("the server is lost ({reason}); {then}")
            }
            Notice::Busy(reason) => format!("{reason}; trying again"),
            Notice::Back { server } => {
                let address = self.servers.get(*server).map(String::as_str).unwrap_or_default();
                format!("the server at {address} answers; drafts are verified again")
            }
        };
        (self.notify)(&message);
    }
}

/// Says in the request's span what it took.
fn tell_trace(stats: &Stats, tokens: usize) {
    let span = tracing::Span::current();
    span.record("tokens", tokens).record("rounds", stats.rounds);
    span.record("drafts", stats.draft_tokens).record("accepted", stats.accepted_tokens);
    tracing::debug!("request answered");
}

/// What the drafter chooses by.
async fn sampler(
    mut params: SamplingParams,
    vocab_size: usize,
    compiler: Option<Arc<Compiler>>,
) -> Result<Sampler, Error> {
    if let (Some(grammar), Some(compiler)) = (params.grammar.clone(), compiler) {
        let compiling = tokio::task::spawn_blocking(move || compiler.compile(&grammar));
        params.grammar = Some(compiling.await.map_err(|_panicked| Error::DrafterGone)??);
    }
    Ok(Sampler::new(params, vocab_size)?)
}

/// Tells the log of an answer whose request has a name.
fn log_answer(request: &str, tokens: usize, stats: &Stats, took: Duration) {
    let Stats { rounds, draft_tokens, accepted_tokens, provisional_tokens, .. } = *stats;
    let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    tracing::info!(request, tokens, rounds, draft_tokens, accepted_tokens, provisional_tokens, ms, "answer complete");
}

/// Opens a session over `link`, or else on the first other server that takes it; `None` if all are busy. The error is that of
/// `link`.
async fn open_any(link: &Link, servers: &[String], open: &Open) -> Result<Option<(usize, Connection)>, Error> {
    let refusal = match Connection::open(link, open.clone()).await {
        Ok(connection) => {
            let server = servers.iter().position(|server| server == link.address());
            return Ok(Some((server.unwrap_or_default(), connection)));
        }
        Err(refusal) => refusal,
    };
    for (server, address) in servers.iter().enumerate().filter(|(_, address)| *address != link.address()) {
        if let Ok(link) = Link::connect(address).await
            && let Ok(connection) = Connection::open(&link, open.clone()).await
        {
            return Ok(Some((server, connection)));
        }
    }
    if matches!(refusal, Error::Busy { .. }) { Ok(None) } else { Err(refusal) }
}
