//! A backend that says what it is told to, behind the API on a real socket; and a client that sees every byte.

#![allow(dead_code, unreachable_pub, reason = "each test uses a part of it")]

pub mod client;
pub mod parrot;
pub mod vocabulary;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sled_api::backend::{
    Backend, DrafterCard, Event, Events, Generated, Job, Logprobs, Mode, ModelCard, Outcome, Refusal,
};
use sled_api::{Api, Settings, router};
use sled_core::Token;
use sled_core::device::{FinishReason, Provenance, Stats};
use sled_core::message::Load;
use sled_model::grammar::Compiler;
use sled_model::vocabulary::Vocab;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

/// How many tokens the fake's context has.
pub const CONTEXT: usize = 4096;
/// How many events wait for a reader.
pub const EVENTS: usize = 32;

/// Something that the fake does for a job.
#[derive(Clone, Debug)]
pub enum Do {
    /// Generates the tokens of this text.
    Say(String),
    /// Generates one token.
    Token(Token),
    /// Generates one token that no target has seen.
    Provisional(Token),
    /// Tells the user this.
    Notice(&'static str),
    /// Waits.
    Wait(Duration),
    /// Never ends.
    Hang,
    /// Fails with this sentence.
    Fail(&'static str),
    /// Ends without a word.
    Vanish,
}

pub fn say(text: &str) -> Vec<Do> {
    vec![Do::Say(text.to_owned())]
}

type Script = Box<dyn Fn(&Job) -> Result<Vec<Do>, Refusal> + Send + Sync>;

/// A backend that says what it is told to.
pub struct Fake {
    card: ModelCard,
    vocab: Vocab,
    script: Script,
    compiler: Arc<Compiler>,
    pub jobs: Mutex<Vec<Job>>,
    /// Jobs that are under way.
    pub running: Arc<AtomicUsize>,
    /// The most that were at once.
    pub peak: Arc<AtomicUsize>,
    /// Jobs that were cancelled.
    pub cancelled: Arc<AtomicUsize>,
}

impl Fake {
    pub fn new(script: impl Fn(&Job) -> Result<Vec<Do>, Refusal> + Send + Sync + 'static) -> Self {
        Self::with(vocabulary::vocabulary(true), script)
    }

    pub fn with(vocab: Vocab, script: impl Fn(&Job) -> Result<Vec<Do>, Refusal> + Send + Sync + 'static) -> Self {
        let card = ModelCard {
            id: "fake-1".to_owned(),
            description: "a fake (of 1 parameter)".to_owned(),
            context: CONTEXT,
            drafter: Some(DrafterCard { name: "parrot".to_owned(), description: "a parrot (1 kg)".to_owned() }),
            modes: vec![Mode::Sled, Mode::Server],
        };
        Self {
            card,
            compiler: Arc::new(Compiler::new(&vocab)),
            vocab,
            script: Box::new(script),
            jobs: Mutex::default(),
            running: Arc::default(),
            peak: Arc::default(),
            cancelled: Arc::default(),
        }
    }

    /// Always says `text`.
    pub fn saying(text: &str) -> Self {
        let text = text.to_owned();
        Self::new(move |_job| Ok(say(&text)))
    }

    pub fn last_job(&self) -> Job {
        self.jobs.lock().unwrap().last().unwrap().clone()
    }

    /// The prompt of the last job, as a text.
    pub fn last_prompt(&self) -> String {
        let bytes: Vec<u8> = self.last_job().prompt.iter().flat_map(|&token| self.vocab.piece(token, true)).collect();
        String::from_utf8(bytes).unwrap()
    }
}

impl Backend for Fake {
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
        self.jobs.lock().unwrap().push(job.clone());
        let todo = (self.script)(&job)?;
        let (sender, events) = mpsc::channel(EVENTS);
        let last = sender.clone().try_reserve_owned().unwrap();
        let running = Arc::clone(&self.running);
        self.peak.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        let cancelled = Arc::clone(&self.cancelled);
        let vocab = self.vocab.clone();
        tokio::spawn(async move {
            let mut worker = Worker { job, vocab, sender: sender.clone(), generated: Vec::new() };
            let reason = tokio::select! {
                reason = worker.run(todo) => reason,
                () = sender.closed() => {
                    cancelled.fetch_add(1, Ordering::SeqCst);
                    Some(FinishReason::Stop)
                }
            };
            if let Some(reason) = reason {
                last.send(Event::Done(worker.outcome(reason)));
            }
            running.fetch_sub(1, Ordering::SeqCst);
        });
        Ok(events)
    }
}

struct Worker {
    job: Job,
    vocab: Vocab,
    sender: mpsc::Sender<Event>,
    generated: Vec<Provenance>,
}

impl Worker {
    async fn run(&mut self, todo: Vec<Do>) -> Option<FinishReason> {
        let _gone = self.sender.send(Event::Started).await;
        for step in todo {
            let tokens = match step {
                Do::Say(text) => {
                    let tokens = self.vocab.tokenize(&text, false, true).unwrap();
                    tokens.into_iter().map(|token| (token, false)).collect()
                }
                Do::Token(token) => vec![(token, false)],
                Do::Provisional(token) => vec![(token, true)],
                Do::Notice(sentence) => {
                    let _gone = self.sender.send(Event::Notice(sentence.to_owned())).await;
                    continue;
                }
                Do::Wait(time) => {
                    tokio::time::sleep(time).await;
                    continue;
                }
                Do::Hang => std::future::pending().await,
                Do::Fail(sentence) => {
                    let _gone = self.sender.send(Event::Failed(sentence.to_owned())).await;
                    return None;
                }
                Do::Vanish => return None,
            };
            for (token, provisional) in tokens {
                if !self.generate(token, provisional).await {
                    return Some(FinishReason::Length);
                }
            }
        }
        if self.generate(vocabulary::IM_END, false).await {
            Some(FinishReason::Stop)
        } else {
            Some(FinishReason::Length)
        }
    }

    /// False if there are as many tokens as may be.
    async fn generate(&mut self, token: Token, provisional: bool) -> bool {
        if self.generated.len() == self.job.max_tokens {
            return false;
        }
        let cycle = [Provenance::Accepted, Provenance::Corrected, Provenance::Bonus];
        let provenance = if provisional { Provenance::Provisional } else { cycle[self.generated.len() % cycle.len()] };
        let logprobs = self.job.logprobs.filter(|_| !provisional).map(|top| Logprobs {
            chosen: -0.5,
            top: (0..u32::from(top)).map(|i| ((token + i) % 256, -0.5 - i as f32)).collect(),
        });
        let position = self.job.prompt.len() + self.generated.len();
        let opens_verdict = !provisional && self.generated.last() != Some(&Provenance::Accepted);
        self.generated.push(provenance);
        let event = Event::Token(Generated { token, position, provenance, opens_verdict, logprobs });
        self.sender.send(event).await.is_ok()
    }

    fn outcome(&self, reason: FinishReason) -> Box<Outcome> {
        let count = |wanted| self.generated.iter().filter(|&&provenance| provenance == wanted).count() as u64;
        let accepted = count(Provenance::Accepted);
        let mut stats = Stats {
            rounds: count(Provenance::Corrected) + count(Provenance::Bonus),
            draft_tokens: accepted + count(Provenance::Corrected),
            accepted_tokens: accepted,
            provisional_tokens: count(Provenance::Provisional),
            ..Stats::default()
        };
        let decides = |provenance: &Provenance| *provenance != Provenance::Accepted;
        for verdict in self.generated.split_inclusive(decides).filter(|verdict| verdict[0] != Provenance::Bonus) {
            stats.drafts += 1;
            stats.accepted_at.add(verdict.iter().filter(|&provenance| !decides(provenance)).count());
        }
        let load = Load { step: Duration::from_millis(20), sharing: 2, price: 250, ..Load::default() };
        Box::new(Outcome { reason, stats, cached: 3, round_trip: Some(Duration::from_millis(40)), load: Some(load) })
    }
}

/// The API on a port of the system's choice.
pub async fn listen(api: &Api) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let routes = router(api, axum::Router::new());
    tokio::spawn(async move { axum::serve(listener, routes).await });
    address
}

/// The API over `fake`.
pub async fn serve(fake: Fake) -> (SocketAddr, Arc<Fake>) {
    let api = Api::new(Settings::default());
    let fake = Arc::new(fake);
    api.serve(Arc::clone(&fake) as Arc<dyn Backend>).unwrap();
    (listen(&api).await, fake)
}
