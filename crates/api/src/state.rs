//! What the API serves, and in which phase of its life it is.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::registry::Registry;
use sled_core::Token;
use sled_core::sampler::{Grammar, GrammarText};
use sled_model::chat::Renderer;
use sled_model::prompt::ChatPrompts;
use sled_model::workers::Workers;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::backend::Backend;
use crate::body::Budget;
use crate::error::Error;
use crate::listen::Limits;
use crate::metrics::Metrics;
use crate::origin::Origin;
use crate::tools;

/// The most requests that are under way at once; each may hold a body and an answer in memory.
const OPEN_REQUESTS: usize = 256;

/// How the API is offered.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The key that requests must have; `None` lets everybody in.
    pub api_key: Option<String>,
    /// Other names for the model.
    pub aliases: Vec<String>,
    /// Pages of other sites that may ask.
    pub origins: Vec<Origin>,
    /// The names of this machine that it may be asked by, beside its addresses and `localhost`.
    pub hosts: Vec<String>,
    /// Whom the port lets in, and for how long.
    pub limits: Limits,
    /// What renders the model's chat template.
    pub renderer: Renderer,
}

/// The API: what its routes share. It can be listened to before there is a backend. Cloning shares it.
#[derive(Clone)]
pub struct Api {
    shared: Arc<Shared>,
}

struct Shared {
    settings: Settings,
    phase: RwLock<Phase>,
    registry: Mutex<Registry>,
    metrics: Arc<Metrics>,
    open: Arc<Semaphore>,
    budget: Budget,
}

enum Phase {
    Loading,
    Serving(Arc<Served>),
    Closing,
}

impl Api {
    /// An API that answers that the model is loading, until [`Self::serve`].
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let mut registry = Registry::default();
        let metrics = Arc::new(Metrics::new(&mut registry));
        let shared = Shared {
            settings,
            phase: RwLock::new(Phase::Loading),
            registry: Mutex::new(registry),
            metrics,
            open: Arc::new(Semaphore::new(OPEN_REQUESTS)),
            budget: Budget::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// From now on requests go to `backend`.
    ///
    /// # Errors
    /// If the vocabulary of the model cannot tokenise.
    pub fn serve(&self, backend: Arc<dyn Backend>) -> Result<(), Error> {
        let served = Served::new(backend, &self.shared.settings)?;
        if !served.backend.counts_requests() {
            self.register(|registry| self.shared.metrics.register_requests(registry));
        }
        if served.backend.model().drafter.is_some() {
            self.register(|registry| self.shared.metrics.register_drafting(registry));
        }
        *self.shared.phase.write().unwrap_or_else(PoisonError::into_inner) = Phase::Serving(Arc::new(served));
        Ok(())
    }

    /// From now on requests are refused; those under way go on.
    pub fn close(&self) {
        *self.shared.phase.write().unwrap_or_else(PoisonError::into_inner) = Phase::Closing;
    }

    /// Adds figures to those of `/metrics`.
    pub fn register(&self, add: impl FnOnce(&mut Registry)) {
        add(&mut self.shared.registry.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// All figures, as OpenMetrics has them.
    pub(crate) fn exposition(&self) -> Result<String, Error> {
        let mut text = String::new();
        let registry = self.shared.registry.lock().unwrap_or_else(PoisonError::into_inner);
        prometheus_client::encoding::text::encode(&mut text, &registry)
            .map_err(|error| Error::Failed(format!("the metrics cannot be written ({error})")))?;
        Ok(text)
    }

    /// What is served.
    pub(crate) fn served(&self) -> Result<Arc<Served>, Error> {
        match &*self.shared.phase.read().unwrap_or_else(PoisonError::into_inner) {
            Phase::Loading => Err(Error::Loading),
            Phase::Serving(served) => Ok(Arc::clone(served)),
            Phase::Closing => Err(Error::Closing),
        }
    }

    /// How it is offered.
    pub(crate) fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    pub(crate) fn metrics(&self) -> &Arc<Metrics> {
        &self.shared.metrics
    }

    /// The memory that requests may take.
    pub(crate) fn budget(&self) -> &Budget {
        &self.shared.budget
    }

    /// A place among the requests that are under way.
    pub(crate) fn admit(&self) -> Result<OwnedSemaphorePermit, Error> {
        let place = Arc::clone(&self.shared.open).try_acquire_owned();
        place.map_err(|_full| Error::Busy { after: Duration::from_secs(1) })
    }

    /// Whether `key` opens the API. Takes equally long for all wrong keys of one length.
    pub(crate) fn admits(&self, key: Option<&[u8]>) -> bool {
        let Some(right) = self.shared.settings.api_key.as_ref().map(String::as_bytes) else { return true };
        let Some(key) = key.filter(|key| key.len() == right.len()) else { return false };
        let difference = key.iter().zip(right).fold(0, |difference, (a, b)| std::hint::black_box(difference | (a ^ b)));
        difference == 0
    }
}

/// A backend, with what follows from its vocabulary.
pub(crate) struct Served {
    pub(crate) backend: Arc<dyn Backend>,
    /// How chats become tokens: `None` if there is no chat template, an error if it cannot be used.
    pub(crate) prompts: Result<Option<ChatPrompts>, sled_model::Error>,
    /// Whether the template teaches to call tools in the way that [`tools`] reads.
    pub(crate) calls_tools: bool,
    /// Control tokens that mark tool calls: they are text where tools may be called.
    markers: Vec<Token>,
    aliases: Vec<String>,
    /// What `system_fingerprint` says.
    pub(crate) fingerprint: String,
    /// When serving began, in seconds since 1970.
    pub(crate) created: u64,
}

impl Served {
    fn new(backend: Arc<dyn Backend>, settings: &Settings) -> Result<Self, Error> {
        let vocab = backend.vocab();
        let (of, renderer) = (vocab.clone(), settings.renderer.clone());
        let prompts =
            Workers::shared().run_blocking(move || ChatPrompts::of(&of, &renderer)).and_then(|prompts| prompts);
        if let Err(error) = &prompts {
            tracing::warn!("chats are refused: {error}");
        }
        let calls_tools = prompts.is_ok() && vocab.chat_template().is_some_and(tools::teaches);
        let mut markers = Vec::new();
        for marker in [tools::OPEN, tools::CLOSE] {
            if let [token] = vocab.tokenize(marker, false, true)?[..]
                && vocab.piece(token, false).is_empty()
            {
                markers.push(token);
            }
        }
        let fingerprint = format!("sled-{}-{}", env!("CARGO_PKG_VERSION"), vocab.fingerprint());
        Ok(Self {
            prompts,
            calls_tools,
            markers,
            aliases: settings.aliases.clone(),
            fingerprint,
            created: unix_time(),
            backend,
        })
    }

    /// Compiles a grammar, which takes milliseconds; `param` is the field that it is from.
    pub(crate) fn compile(&self, text: GrammarText, param: &str) -> Result<Grammar, Error> {
        let compiled = self.backend.compiler().compile(&Grammar::new(text));
        compiled.map_err(|error| Error::invalid(param, error.to_string()))
    }

    /// How many bytes a text may have that can fit the context.
    pub(crate) fn longest_text(&self) -> usize {
        self.backend.model().context.saturating_mul(self.backend.vocab().longest_piece())
    }

    /// The tokens of a text of the request.
    pub(crate) fn tokenize(&self, text: &str, add_special: bool, parse_special: bool) -> Result<Vec<Token>, Error> {
        if text.len() > self.longest_text() {
            return Err(sled_model::Error::TextTooLong { bytes: text.len() }.into());
        }
        Ok(self.backend.vocab().tokenize(text, add_special, parse_special)?)
    }

    /// The bytes that a token stands for in an answer; with `tools`, the marks of tool calls are among them.
    pub(crate) fn piece(&self, token: Token, tools: bool) -> Vec<u8> {
        self.backend.vocab().piece(token, tools && self.markers.contains(&token))
    }

    /// Whether control tokens mark tool calls, and not text.
    pub(crate) fn marks_calls(&self) -> bool {
        self.markers.len() == 2
    }

    /// Whether a request for the model `asked` is for this one; one without a name is.
    pub(crate) fn check_model(&self, asked: Option<&str>) -> Result<(), Error> {
        let served = &self.backend.model().id;
        match asked {
            None | Some("") => Ok(()),
            Some(asked) if asked == served || self.aliases.iter().any(|alias| alias == asked) => Ok(()),
            Some(asked) => Err(Error::UnknownModel { asked: asked.to_owned(), served: served.clone() }),
        }
    }
}

/// Seconds since 1970.
pub(crate) fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A random number.
pub(crate) fn random() -> u64 {
    RandomState::new().hash_one(SystemTime::now())
}
