//! Agents with a synthetic draft model, and what becomes of their jobs.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use sled_agent::{Agent, AgentOptions, Drafter, Target};
use sled_api::backend::{Backend, DrafterCard, Event, Generated, Job, Mode, Outcome};
use sled_core::Token;
use sled_core::device::{Prompt, Provenance, Resilience};
use sled_core::policy::Policy;
use sled_core::sampler::{Context, Sampler};
use sled_core::step::{CacheOp, Row};
use sled_device::SharedDrafter;
use sled_model::synthetic::{SyntheticConfig, SyntheticModel};
use sled_model::{Limits, Model};

use crate::support::{Running, Slow, VOCAB, config, serve_with_vocabulary, vocabulary};

pub const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// A draft model that agrees with the target after three tokens of four, wherever they stand.
pub struct Draft {
    right: SyntheticModel,
    wrong: SyntheticModel,
    tokens: Vec<Token>,
    /// What a pass takes.
    time: Duration,
}

impl Draft {
    pub fn new() -> Self {
        Self::with_passes_of(Duration::ZERO)
    }

    pub fn with_passes_of(time: Duration) -> Self {
        let wrong = SyntheticModel::new(SyntheticConfig { seed: 12, ..config(4) });
        Self { right: SyntheticModel::new(config(4)), wrong, tokens: Vec::new(), time }
    }

    fn is_wrong_after(token: Token) -> bool {
        token.is_multiple_of(4)
    }

    /// What it says by itself.
    pub fn alone(&self, prompt: &Prompt) -> Vec<Token> {
        let sampler = Sampler::new(prompt.sampling.clone(), VOCAB).unwrap();
        let mut tokens = prompt.tokens.clone();
        while tokens.len() < prompt.tokens.len() + prompt.max_tokens && tokens.last() != Some(&0) {
            let model = if Self::is_wrong_after(*tokens.last().unwrap()) { &self.wrong } else { &self.right };
            let context = Context { tokens: &tokens, prompt_len: prompt.tokens.len() };
            tokens.push(sampler.choose(&model.logits_after(&tokens), context));
        }
        tokens.split_off(prompt.tokens.len())
    }
}

impl Model for Draft {
    fn limits(&self) -> Limits {
        self.right.limits()
    }

    fn apply(&mut self, op: CacheOp) -> Result<(), sled_model::Error> {
        self.wrong.apply(op)?;
        self.right.apply(op)
    }

    fn forward(&mut self, rows: &[Row]) -> Result<(), sled_model::Error> {
        self.tokens = rows.iter().map(|row| row.token).collect();
        std::thread::sleep(self.time);
        self.wrong.forward(rows)?;
        self.right.forward(rows)
    }

    fn logits(&self, row: usize) -> Result<&[f32], sled_model::Error> {
        if Self::is_wrong_after(self.tokens[row]) { self.wrong.logits(row) } else { self.right.logits(row) }
    }
}

pub fn model() -> Drafter {
    Drafter::Model(SharedDrafter::start(Draft::new()).unwrap())
}

pub fn drafter_card() -> DrafterCard {
    DrafterCard { name: "synthetic".to_owned(), description: "a synthetic drafter".to_owned() }
}

pub fn options(drafter: Drafter, servers: &[SocketAddr], folder: &Path) -> AgentOptions {
    AgentOptions {
        name: "test".to_owned(),
        drafter_card: Some(drafter_card()),
        drafter,
        policy: Policy::Goodput,
        servers: servers.iter().map(ToString::to_string).collect(),
        resilience: Resilience { timeout: Duration::from_millis(300), fallback_after: 2, ..Resilience::default() },
        vocabularies: vocabulary::kept_in(folder),
        places: 4,
        queue: 64,
    }
}

/// An agent of the server at `address`, with so many places and no queue beyond `queue`.
pub async fn agent(drafter: Drafter, address: SocketAddr, places: usize, queue: usize) -> Agent {
    let folder = tempfile::tempdir().unwrap();
    let options = AgentOptions { places, queue, ..options(drafter, &[address], folder.path()) };
    let target = Target::from_server(&options.servers, &options.vocabularies).await.unwrap();
    Agent::start(target, options)
}

pub fn job(prompt: &Prompt, mode: Mode) -> Job {
    Job {
        request_id: "test".to_owned(),
        prompt: prompt.tokens.clone(),
        max_tokens: prompt.max_tokens,
        sampling: prompt.sampling.clone(),
        logprobs: None,
        mode,
        client: None,
    }
}

/// What became of a job.
#[derive(Default)]
pub struct Answer {
    pub tokens: Vec<Generated>,
    pub notices: Vec<String>,
    pub outcome: Option<Outcome>,
}

impl Answer {
    pub fn ids(&self) -> Vec<Token> {
        self.tokens.iter().map(|generated| generated.token).collect()
    }

    pub fn provisional(&self) -> usize {
        self.tokens.iter().filter(|generated| generated.provenance == Provenance::Provisional).count()
    }

    pub fn outcome(&self) -> &Outcome {
        self.outcome.as_ref().unwrap()
    }
}

/// Reads a job to its end; `at` sees how many tokens there are.
pub async fn read(mut events: sled_api::backend::Events, mut at: impl FnMut(&Generated, usize)) -> Answer {
    let mut answer = Answer::default();
    let reading = async {
        while let Some(event) = events.recv().await {
            match event {
                Event::Token(generated) => {
                    answer.tokens.push(generated);
                    let count = answer.tokens.len();
                    at(&answer.tokens[count - 1], count);
                }
                Event::Started => {}
                Event::Notice(sentence) => answer.notices.push(sentence),
                Event::Done(outcome) => answer.outcome = Some(*outcome),
                Event::Failed(sentence) => panic!("{sentence}"),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), reading).await.expect("it ends");
    assert!(answer.outcome.is_some(), "it ends with its outcome");
    answer
}

pub async fn ask(agent: &Agent, prompt: &Prompt, mode: Mode) -> Answer {
    read(agent.start(job(prompt, mode)).unwrap(), |_, _| {}).await
}

pub async fn fast() -> Running {
    serve_with_vocabulary(ANY, SyntheticModel::new(config(8))).await
}

pub async fn slow() -> Running {
    serve_with_vocabulary(ANY, Slow::new()).await
}

/// Every token that is not provisional is what the target chooses after the text before it.
pub fn assert_lawful(prompt: &Prompt, answer: &Answer) {
    let sampler = Sampler::new(prompt.sampling.clone(), VOCAB).unwrap();
    let reference = SyntheticModel::new(config(1));
    let mut text = prompt.tokens.clone();
    for generated in &answer.tokens {
        let context = Context { tokens: &text, prompt_len: prompt.tokens.len() };
        assert_eq!(generated.position, text.len());
        if generated.provenance != Provenance::Provisional {
            assert_eq!(generated.token, sampler.choose(&reference.logits_after(&text), context));
        }
        text.push(generated.token);
    }
}
