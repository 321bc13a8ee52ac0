//! Figures about requests, for Prometheus; named as vLLM names them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use sled_core::device::Acceptance;

/// Upper bounds in seconds: from the request to its first token, and in the queue.
const FIRST_TOKEN: [f64; 16] =
    [0.01, 0.02, 0.04, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 160.0];
/// From one token to the next; those of one verdict come together.
const BETWEEN_TOKENS: [f64; 15] =
    [0.001, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.5, 10.0];
/// From the request to its end.
const WHOLE: [f64; 14] = [0.1, 0.3, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 240.0, 480.0, 1920.0];

/// How requests ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    finished_reason: &'static str,
}

/// Where a draft stood among those of its verdict, from 0.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Place {
    position: usize,
}

/// The figures about requests.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    running: Gauge,
    waiting: Gauge,
    first_token: Histogram,
    between_tokens: Histogram,
    whole: Histogram,
    queue: Histogram,
    ended: Family<Ended, Counter>,
    prompt_tokens: Counter,
    generated_tokens: Counter,
    provisional_tokens: Counter,
    fallbacks: Counter,
    drafts: Counter,
    draft_tokens: Counter,
    accepted_tokens: Counter,
    accepted_at: Family<Place, Counter>,
}

impl Metrics {
    /// Figures, listed in `registry`.
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            running: Gauge::default(),
            waiting: Gauge::default(),
            first_token: Histogram::new(FIRST_TOKEN),
            between_tokens: Histogram::new(BETWEEN_TOKENS),
            whole: Histogram::new(WHOLE),
            queue: Histogram::new(FIRST_TOKEN),
            ended: Family::default(),
            prompt_tokens: Counter::default(),
            generated_tokens: Counter::default(),
            provisional_tokens: Counter::default(),
            fallbacks: Counter::default(),
            drafts: Counter::default(),
            draft_tokens: Counter::default(),
            accepted_tokens: Counter::default(),
            accepted_at: Family::default(),
        };
        let Self { first_token, between_tokens, whole, .. } = metrics.clone();
        registry.register("sled:time_to_first_token_seconds", "From a request to its first token", first_token);
        registry.register("sled:inter_token_latency_seconds", "From one token to the next", between_tokens);
        registry.register("sled:e2e_request_latency_seconds", "From a request to the end of its answer", whole);
        let Self { ended, prompt_tokens, .. } = metrics.clone();
        registry.register("sled:request_success", "Requests that were taken, by how they ended", ended);
        registry.register("sled:prompt_tokens", "Tokens of prompts", prompt_tokens);
        metrics
    }

    /// Lists what a backend that counts requests itself tells of all of them.
    pub(crate) fn register_requests(&self, registry: &mut Registry) {
        let Self { running, waiting, queue, generated_tokens, .. } = self.clone();
        registry.register("sled:num_requests_running", "HTTP requests that tokens are generated for", running);
        registry.register("sled:num_requests_waiting", "HTTP requests that wait for their turn", waiting);
        registry.register("sled:request_queue_time_seconds", "What requests wait for their turn", queue);
        registry.register("sled:generation_tokens", "Tokens of answers", generated_tokens);
    }

    /// Lists what only a backend that drafts has to tell.
    pub(crate) fn register_drafting(&self, registry: &mut Registry) {
        let Self { provisional_tokens, fallbacks, drafts, draft_tokens, accepted_tokens, accepted_at, .. } =
            self.clone();
        registry.register("sled:provisional_tokens", "Tokens that no target has seen", provisional_tokens);
        registry.register("sled:fallbacks", "Times that an answer went on without a server", fallbacks);
        registry.register("sled:spec_decode_num_drafts", "Verdicts on at least one draft token", drafts);
        registry.register("sled:spec_decode_num_draft_tokens", "Tokens proposed", draft_tokens);
        registry.register(
            "sled:spec_decode_num_accepted_tokens",
            "Proposed tokens that became committed",
            accepted_tokens,
        );
        registry.register(
            "sled:spec_decode_num_accepted_tokens_per_pos",
            "The same, by their place in a verdict",
            accepted_at,
        );
    }

    /// A request with this many tokens was taken.
    pub(crate) fn taken(self: &Arc<Self>, prompt_tokens: usize) -> Meter {
        self.prompt_tokens.inc_by(prompt_tokens as u64);
        self.waiting.inc();
        Meter { metrics: Arc::clone(self), began: Instant::now(), waiting: true, last: None, ended: None }
    }
}

/// Measures one request, from when it was taken until this is dropped.
#[derive(Debug)]
pub(crate) struct Meter {
    metrics: Arc<Metrics>,
    began: Instant,
    waiting: bool,
    last: Option<Instant>,
    ended: Option<&'static str>,
}

impl Meter {
    /// How long ago the request was taken.
    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// The request left the queue.
    pub(crate) fn started(&mut self) {
        if self.waiting {
            self.metrics.queue.observe(self.began.elapsed().as_secs_f64());
        }
        self.run();
    }

    fn run(&mut self) {
        if std::mem::take(&mut self.waiting) {
            self.metrics.waiting.dec();
            self.metrics.running.inc();
        }
    }

    /// A token came; `fallback` if it is the first after the server was lost.
    pub(crate) fn token(&mut self, provisional: bool, fallback: bool) {
        self.run();
        let now = Instant::now();
        match self.last.replace(now) {
            None => self.metrics.first_token.observe((now - self.began).as_secs_f64()),
            Some(last) => self.metrics.between_tokens.observe((now - last).as_secs_f64()),
        }
        self.metrics.generated_tokens.inc();
        self.metrics.provisional_tokens.inc_by(provisional.into());
        self.metrics.fallbacks.inc_by(fallback.into());
    }

    /// The request ended.
    pub(crate) fn ended(&mut self, reason: &'static str) {
        self.ended = Some(reason);
    }

    /// So many tokens were drafted for it, and this became of them.
    pub(crate) fn drafted(&self, drafted: u64, acceptance: &Acceptance) {
        self.metrics.drafts.inc_by(acceptance.drafts);
        self.metrics.draft_tokens.inc_by(drafted);
        self.metrics.accepted_tokens.inc_by(acceptance.accepted);
        for (position, &count) in acceptance.accepted_at.counts().iter().enumerate() {
            self.metrics.accepted_at.get_or_create(&Place { position }).inc_by(count);
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        let metrics = &self.metrics;
        if self.waiting {
            metrics.waiting.dec()
        } else {
            metrics.running.dec()
        };
        metrics.whole.observe(self.began.elapsed().as_secs_f64());
        metrics.ended.get_or_create(&Ended { finished_reason: self.ended.unwrap_or("abort") }).inc();
    }
}
