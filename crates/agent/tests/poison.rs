//! A draft model that fails for one of those that it drafts for, under agents over real sockets.

#![allow(unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod agents;
#[path = "../../device/tests/support/mod.rs"]
mod support;

use std::time::Duration;

use agents::*;
use sled_agent::Drafter;
use sled_api::backend::{Backend, Event, Events, Mode};
use sled_core::Token;
use sled_core::device::Prompt;
use sled_core::step::{CacheOp, Row};
use sled_device::SharedDrafter;
use sled_model::{Error, Limits, Model};
use support::prompt;

/// Passes with this token fail.
const POISON: Token = 62;

struct Poisoned(Draft);

impl Model for Poisoned {
    fn limits(&self) -> Limits {
        self.0.limits()
    }

    fn apply(&mut self, op: CacheOp) -> Result<(), Error> {
        self.0.apply(op)
    }

    fn forward(&mut self, rows: &[Row]) -> Result<(), Error> {
        if rows.iter().any(|row| row.token == POISON) {
            return Err(Error::Pass("a test".to_owned()));
        }
        self.0.forward(rows)
    }

    fn logits(&self, row: usize) -> Result<&[f32], Error> {
        self.0.logits(row)
    }
}

/// How a request ended that is to fail.
async fn failure(mut events: Events) -> String {
    while let Some(event) = events.recv().await {
        match event {
            Event::Failed(sentence) => return sentence,
            Event::Done(outcome) => panic!("it was answered: {outcome:?}"),
            _ => {}
        }
    }
    panic!("it has no end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_poisoned_request_fails_alone() {
    let server = fast().await;
    let draft = Draft::new();
    let drafter = Drafter::Model(SharedDrafter::start(Poisoned(Draft::new())).unwrap());
    let agent = agent(drafter, server.address, 4, 64).await;
    let is_clean = |prompt: &Prompt| !prompt.tokens.contains(&POISON) && !draft.alone(prompt).contains(&POISON);
    let clean: Vec<_> = (0..).map(|i| prompt(i, 40)).filter(is_clean).take(3).collect();
    for _ in 0..4 {
        let mut poisoned = prompt(3, 40);
        poisoned.tokens.push(POISON);
        let poisoned = agent.start(job(&poisoned, Mode::Device)).unwrap();
        let healthy: Vec<_> = clean
            .iter()
            .map(|prompt| {
                let (agent, prompt) = (agent.clone(), prompt.clone());
                tokio::spawn(async move { ask(&agent, &prompt, Mode::Device).await.ids() })
            })
            .collect();
        let sentence = tokio::time::timeout(Duration::from_secs(60), failure(poisoned)).await.expect("it ends");
        assert_eq!(sentence.lines().count(), 1, "{sentence}");
        for (healthy, prompt) in healthy.into_iter().zip(&clean) {
            assert_eq!(healthy.await.unwrap(), draft.alone(prompt));
        }
    }
    assert_eq!(agent.load(), (0, 0));
}
