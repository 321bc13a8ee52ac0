//! The server: an async shell around the core's server side.
//!
//! `grpc` speaks the wire, one task a session; `engine` is the one thread that owns the model and the core's state machine;
//! `grammars` compiles what a request brings before the engine hears of it.

mod engine;
mod error;
mod grammars;
mod grpc;
mod requests;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use engine::Engine;
pub use engine::EngineStats;
pub use error::Error;
use grammars::Grammars;
use sled_core::Token;
use sled_core::policy::Policy;
use sled_core::server::{Assist, Batching, ServerConfig};
use sled_model::Model;
use sled_model::grammar::Compiler;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;

/// How long sessions have to take their leave when the server shuts down.
const FAREWELL: Duration = Duration::from_secs(5);

/// A device that vanished without closing its connection is noticed after this long, twice.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// What a server serves.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The name of the target model, for people.
    pub model: String,
    /// Identifies the model file (16 hex digits).
    pub model_fingerprint: String,
    /// Identifies the vocabulary (16 hex digits).
    pub vocabulary_fingerprint: String,
    /// The vocabulary as a GGUF file without tensors, for devices that have no file with it.
    pub vocabulary: Bytes,
    /// The tokens that end a generation.
    pub end_of_generation: Vec<Token>,
}

/// How a server uses its engine, and whom it lets in.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How requests become batches.
    pub batching: Batching,
    /// Who is given rows without having asked.
    pub assist: Assist,
    /// Tokens a second that each session is to get; as many as possible, if there is none.
    pub rate_goal: Option<f64>,
    /// The most sessions at once.
    pub sessions: usize,
    /// The most sessions whose text waits to be read, before no other is opened.
    pub queue: usize,
    /// The longest draft block that a device may send, at most [`Policy::MAX_LENGTH`].
    pub max_draft: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            batching: Batching::default(),
            assist: Assist::default(),
            rate_goal: None,
            sessions: 1024,
            queue: 256,
            max_draft: Policy::MAX_LENGTH,
        }
    }
}

/// A server that listens and is not yet running.
pub struct Server {
    listener: TcpListener,
    engine: Engine,
    thread: std::thread::JoinHandle<()>,
    service: grpc::Service,
}

impl Server {
    /// Listens on `address` and starts the engine, which measures itself before it serves.
    ///
    /// # Errors
    /// If the address cannot be listened on, or the thread not be started.
    pub async fn bind(
        address: SocketAddr,
        model: Box<dyn Model>,
        settings: Settings,
        identity: Identity,
    ) -> Result<Self, Error> {
        let listener = TcpListener::bind(address).await.map_err(|source| Error::Bind { address, source })?;
        let limits = model.limits();
        let config = ServerConfig {
            vocab_size: limits.vocab_size,
            cells: limits.cells,
            sequences: limits.sequences,
            rows: limits.rows,
            context: limits.context,
            end_of_generation: identity.end_of_generation.clone(),
            sessions: settings.sessions,
            queue: settings.queue,
            batching: settings.batching,
            assist: settings.assist,
            rate_goal: settings.rate_goal,
        };
        let (engine, thread) = Engine::start(model, config).map_err(Error::Thread)?;
        let service = grpc::Service::new(engine.clone(), limits, settings.max_draft, Arc::new(identity));
        Ok(Self { listener, engine, thread, service })
    }

    /// Takes requests with grammars, which `compiler` compiles for the target's vocabulary. Without it they fail.
    #[must_use]
    pub fn with_grammars(mut self, compiler: Arc<Compiler>) -> Self {
        self.service.grammars = Grammars::new(Some(compiler));
        self
    }

    /// The address that it listens on, with the port that the system chose if 0 was asked for.
    ///
    /// # Errors
    /// If the system does not say.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Tells what the engine has done, at any time.
    pub fn stats(&self) -> impl Fn() -> EngineStats + Send + use<> {
        let engine = self.engine.clone();
        move || engine.stats()
    }

    /// Serves until `shutdown` resolves, then lets every session know, and returns what was done.
    ///
    /// # Errors
    /// If the gRPC server fails.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) -> Result<EngineStats, Error> {
        let Self { listener, engine, thread, service } = self;
        let incoming = TcpListenerStream::new(listener);
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let serving = tonic::transport::Server::builder()
            .tcp_nodelay(true)
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE))
            .add_service(service.into_grpc())
            .serve_with_incoming_shutdown(incoming, async {
                let _dropped = stopped.await;
            });
        tokio::pin!(serving);
        tokio::select! {
            ended = &mut serving => ended?,
            () = shutdown => {
                engine.shutdown().await;
                let _ended = stop.send(());
                // Whoever does not hang up in time is cut off when the transport is dropped.
                if let Ok(ended) = tokio::time::timeout(FAREWELL, &mut serving).await {
                    ended?;
                }
            }
        }
        let stats = engine.stats();
        drop(engine);
        let _joined = tokio::task::spawn_blocking(move || thread.join()).await;
        Ok(stats)
    }
}
