//! The server: an async shell around the core's server side.
//!
//! `grpc` speaks the wire, one task a session; `http` answers those who have no device, and shows how the server is doing; `engine`
//! is the one thread that owns the model and the core's state machine;
//! `grammars` compiles what a request brings before the engine hears of it.

mod engine;
mod error;
mod grammars;
mod grpc;
mod health;
mod http;
mod owners;
mod requests;
mod roster;
mod token_bucket;
mod traffic;
mod vocabulary;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use engine::{Engine, Seating, Thread};
pub use engine::{EngineStats, Histogram};
pub use error::Error;
use grammars::Grammars;
pub use http::{Cells, Cost, EngineBackend, Frame, Http, Rates, ServerFacts, Session, Step, Totals};
use http::{Figures, Metrics};
pub use owners::{SharePrefixes, UnknownSharing};
use roster::Roster;
use sled_api::listen::{self, Port, Protocol};
use sled_core::Token;
use sled_core::message::MAX_BLOCK;
use sled_core::names::Fingerprint;
use sled_core::server::{Assist, Batching, ServerConfig};
use sled_model::grammar::Compiler;
use sled_model::vocabulary::Vocab;
use sled_model::workers::{Caller, Workers};
use sled_model::{Limits, Model};
use sled_wire::{Bounds, SledServer};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tonic::service::Routes;
use traffic::Traffic;

/// How long sessions, connections and the engine have to take their leave, each, when the server ends.
const FAREWELL: Duration = Duration::from_millis(300);

/// What a server serves.
#[derive(Clone, Debug)]
pub struct Identity {
    /// What requests call the target model.
    pub name: String,
    /// What the target model is, for people.
    pub model: String,
    /// Identifies the model file.
    pub model_fingerprint: Fingerprint,
    /// Identifies the vocabulary.
    pub vocabulary_fingerprint: Fingerprint,
    /// The vocabulary as a GGUF file without tensors, for devices that have no file with it.
    pub vocabulary: Bytes,
    /// The tokens that end a generation.
    pub end_of_generation: Vec<Token>,
}

/// What a pass takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass {
    /// How many rows it has, all of which choose a token.
    pub rows: usize,
    /// From its rows to their logits.
    pub time: Duration,
}

/// How a server uses its engine, and whom it lets in.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What passes of the engine take, as far as that is known; if there are none, it measures some before it serves.
    pub passes: Vec<Pass>,
    /// How requests become batches.
    pub batching: Batching,
    /// Who is given rows without having asked.
    pub assist: Assist,
    /// Tokens a second that each session is to get; as many as possible, if there is none.
    pub rate_goal: Option<f64>,
    /// The most sessions at once.
    pub sessions: usize,
    /// The most sessions of devices at one address, at once.
    pub sessions_per_client: usize,
    /// For how long a device's session may be idle before it is closed.
    pub idle_timeout: Duration,
    /// The most sessions whose text waits to be read, before no other is opened.
    pub queue: usize,
    /// The longest draft block that a device may send, at most [`MAX_BLOCK`].
    pub max_draft: usize,
    /// Which requests over HTTP find in the KV cache what others left there.
    pub share_prefixes: SharePrefixes,
    /// Whom the port for devices lets in, and for how long.
    pub limits: listen::Limits,
    /// How long answers under way may go on when the server is told to end.
    pub grace: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            passes: Vec::new(),
            batching: Batching::default(),
            assist: Assist::default(),
            rate_goal: None,
            sessions: 1024,
            sessions_per_client: 256,
            idle_timeout: Duration::from_secs(30 * 60),
            queue: 256,
            max_draft: MAX_BLOCK,
            share_prefixes: SharePrefixes::default(),
            limits: listen::Limits::default(),
            grace: Duration::from_secs(5),
        }
    }
}

/// What the HTTP port has to know of the model.
pub struct Front {
    /// Its vocabulary, with its chat template.
    pub vocab: Vocab,
    /// How many threads compute.
    pub threads: u32,
}

/// A server that listens and is not yet running.
pub struct Server {
    listener: TcpListener,
    engine: Engine,
    thread: Thread,
    identity: Arc<Identity>,
    settings: Settings,
    limits: Limits,
    roster: Roster,
    traffic: Traffic,
    compiler: Option<Arc<Compiler>>,
    http: Option<Http>,
}

impl Server {
    /// Listens on `address` and starts the engine.
    ///
    /// # Errors
    /// If the address cannot be listened on, or the thread not be started.
    pub async fn bind(
        address: SocketAddr,
        model: Box<dyn Model>,
        mut settings: Settings,
        identity: Identity,
    ) -> Result<Self, Error> {
        let listener =
            TcpListener::bind(address).await.map_err(|source| Error::Bind { address, flag: "--port", source })?;
        let limits = model.limits();
        let config = ServerConfig {
            sessions: settings.sessions,
            queue: settings.queue,
            batching: settings.batching,
            assist: settings.assist,
            rate_goal: settings.rate_goal,
            ..limits.server_config(identity.end_of_generation.clone())
        };
        let seating = Seating { most_per_client: settings.sessions_per_client, idle: settings.idle_timeout };
        let passes = std::mem::take(&mut settings.passes);
        let (engine, thread) = Engine::start(model, config, seating, passes).map_err(Error::Thread)?;
        Ok(Self {
            listener,
            engine,
            thread,
            identity: Arc::new(identity),
            settings,
            limits,
            roster: Roster::default(),
            traffic: Traffic::default(),
            compiler: None,
            http: None,
        })
    }

    /// Answers the API's jobs with this server's engine.
    #[must_use]
    pub fn backend(&self, vocab: Vocab) -> EngineBackend {
        let sessions = http::Sessions {
            engine: self.engine.clone(),
            roster: self.roster.clone(),
            limits: self.limits,
            end_of_generation: self.identity.end_of_generation.clone().into(),
            share_prefixes: self.settings.share_prefixes,
        };
        let compiler = self.compiler.clone().unwrap_or_else(|| Arc::new(Compiler::new(&vocab)));
        EngineBackend::new(&self.identity, vocab, compiler, sessions)
    }

    /// Serves `http` too, from now on.
    ///
    /// # Errors
    /// If the vocabulary cannot be used to tokenise.
    pub fn serve_http(&mut self, http: Http, front: Front) -> Result<(), Error> {
        let facts = ServerFacts {
            model: self.identity.model.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            context: self.limits.context,
            sequences: self.limits.sequences,
            threads: front.threads,
            batching: self.settings.batching.to_string(),
            assist: self.settings.assist.to_string(),
            rate_goal: self.settings.rate_goal,
        };
        let figures = Figures::start(facts, self.engine.clone(), self.roster.clone(), self.traffic.clone());
        let metrics = Metrics::new(self.engine.clone(), self.traffic.clone());
        http.open(self.backend(front.vocab), figures, metrics)?;
        self.http = Some(http);
        Ok(())
    }

    /// Takes requests with grammars, which `compiler` compiles for the target's vocabulary. Without it they fail.
    #[must_use]
    pub fn with_grammars(mut self, compiler: Arc<Compiler>) -> Self {
        self.compiler = Some(compiler);
        self
    }

    /// Lets everybody share what the KV cache holds of the prefixes of `texts`; else sessions share with their own kind only.
    #[must_use]
    pub fn with_shared_prefixes(self, texts: Vec<Vec<Token>>) -> Self {
        texts.into_iter().for_each(|text| self.engine.share(text));
        self
    }

    /// The address that it listens on, with the port that the system chose if 0 was asked for.
    ///
    /// # Errors
    /// If the system does not say.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The address of the HTTP port, if there is one.
    #[must_use]
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http.as_ref().map(Http::address)
    }

    /// Tells what the engine has done, at any time.
    pub fn stats(&self) -> impl Fn() -> EngineStats + Send + use<> {
        let engine = self.engine.clone();
        move || engine.stats()
    }

    /// Serves until `shutdown` resolves; then lets nobody else in, waits for answers under way as long as the settings say, and
    /// returns what was done. It does not wait for an engine that is in the middle of a long pass.
    ///
    /// # Errors
    /// If the engine has ended by itself.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) -> Result<EngineStats, Error> {
        let Self { listener, engine, mut thread, identity, settings, limits, roster, traffic, compiler, http } = self;
        let bounds =
            Bounds { vocabulary_size: limits.vocab_size, context: limits.context, max_draft: settings.max_draft };
        if let Some(compiler) = compiler.clone() {
            let engine = engine.clone();
            tokio::spawn(async move {
                // It answers once it has measured itself, which is not to be disturbed.
                let _stopped = engine.report().await.await;
                Workers::shared().run(Caller::new("server"), move || compiler.prepare()).await
            });
        }
        let service = grpc::Service::new(engine.clone(), roster, bounds, identity, Grammars::new(compiler));
        let health = health::service::<SledServer<grpc::Service>>(engine.clone());
        let routes = Routes::new(service.into_grpc()).add_service(health).into_axum_router();
        let count = move |stream| traffic.count(stream);
        let port = Port::serve(listener, routes, Protocol::Http2, settings.limits, count);

        let ended_by_itself = tokio::select! {
            () = shutdown => false,
            () = thread.ended() => true,
        };
        if !ended_by_itself {
            if let Some(http) = &http {
                http.refuse();
            }
            engine.drain();
            let _cut_off = tokio::time::timeout(settings.grace, thread.ended()).await;
            engine.shutdown();
        }
        // However it ends, whoever has a session is told before the connections are closed.
        let close_http = async {
            if let Some(http) = http {
                http.close(FAREWELL).await;
            }
        };
        tokio::join!(port.close(FAREWELL), close_http);
        let ended = thread.join(Instant::now() + FAREWELL).await;
        if ended_by_itself {
            return Err(Error::Engine(ended.err().unwrap_or_else(|| "it does not say why".to_owned())));
        }
        ended.map_err(Error::Engine)?;
        Ok(engine.stats())
    }
}
