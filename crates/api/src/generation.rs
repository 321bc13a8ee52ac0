//! A job that is under way: its events become text.

use std::sync::Arc;
use std::time::Duration;

use sled_core::device::{Acceptance, FinishReason, Provenance};
use sled_core::text::TextStream;
use tokio::sync::OwnedSemaphorePermit;

use crate::backend::{Event, Events, Generated, Job, Mode, Outcome};
use crate::error::Error;
use crate::metrics::Meter;
use crate::state::{Api, Served};

/// How long a backend is given to tell what a job took that a stop string ended.
const LAST_WORD: Duration = Duration::from_secs(1);

/// A token that was generated, with its part of the text.
#[derive(Debug)]
pub(crate) struct Shown {
    /// Its part of the text: the parts of all tokens together are the answer.
    pub(crate) text: String,
    /// Who proposed it.
    pub(crate) generated: Generated,
}

/// The next part of an answer.
#[derive(Debug)]
pub(crate) enum Step {
    /// Some text, with the tokens that it is from.
    Text(Vec<Shown>),
    /// A sentence for the user.
    Notice(String),
    /// The answer is complete.
    End(Box<End>),
}

/// How an answer ended and what it took.
#[derive(Debug)]
pub(crate) struct End {
    /// Whether the limit on tokens cut it off.
    pub(crate) cut: bool,
    /// How many tokens were generated, with one that ended the generation.
    pub(crate) tokens: usize,
    /// Which of the tokens that were shown no target has seen.
    pub(crate) provisional: Vec<usize>,
    /// What verdicts made of drafts, in these tokens.
    pub(crate) acceptance: Acceptance,
    /// How many tokens the prompt has.
    pub(crate) prompt_tokens: usize,
    /// Tokens a second, once the first was there.
    pub(crate) rate: Option<f64>,
    /// From the request to the first token.
    pub(crate) first: Option<Duration>,
    /// What the backend says of it; `None` if it had not the chance.
    pub(crate) outcome: Option<Outcome>,
    /// The seed that the tokens were chosen with.
    pub(crate) seed: u64,
    /// Who answered.
    pub(crate) mode: Mode,
}

/// A job that is under way. Dropping it cancels the job.
pub(crate) struct Generation {
    served: Arc<Served>,
    events: Events,
    meter: Meter,
    text: TextStream,
    /// Whether tool calls are looked for.
    tools: bool,
    /// Tokens whose text is not all out.
    pending: Vec<Shown>,
    shown: usize,
    first: Option<Duration>,
    last: Duration,
    lost: bool,
    ready: Option<Step>,
    end: Option<End>,
    request_id: String,
    _place: OwnedSemaphorePermit,
}

impl Generation {
    /// Hands `job` to the backend. The answer ends before the first of `stops`.
    ///
    /// # Errors
    /// If the backend does not take it.
    pub(crate) fn start(
        api: &Api,
        served: Arc<Served>,
        place: OwnedSemaphorePermit,
        job: Job,
        stops: Vec<String>,
        tools: bool,
    ) -> Result<Self, Error> {
        let end = End {
            cut: false,
            tokens: 0,
            provisional: Vec::new(),
            acceptance: Acceptance::default(),
            prompt_tokens: job.prompt.len(),
            rate: None,
            first: None,
            outcome: None,
            seed: job.sampling.seed,
            mode: job.mode,
        };
        let request_id = job.request_id.clone();
        let events = served.backend.start(job)?;
        Ok(Self {
            events,
            meter: api.metrics().taken(end.prompt_tokens),
            text: TextStream::new(stops),
            tools,
            pending: Vec::new(),
            shown: 0,
            first: None,
            last: Duration::ZERO,
            lost: false,
            ready: None,
            end: Some(end),
            request_id,
            served,
            _place: place,
        })
    }

    /// The next part of the answer; [`Step::End`] is the last.
    ///
    /// # Errors
    /// If the generation fails.
    pub(crate) async fn next(&mut self) -> Result<Step, Error> {
        loop {
            if let Some(step) = self.ready.take() {
                return Ok(step);
            }
            if self.text.stopped() {
                let outcome = self.last_word().await;
                return self.finish(false, outcome);
            }
            match self.events.recv().await {
                Some(Event::Started) => self.meter.started(),
                Some(Event::Token(generated)) => self.token(generated),
                Some(Event::Notice(sentence)) => return Ok(Step::Notice(sentence)),
                Some(Event::Done(outcome)) => {
                    let rest = self.text.finish();
                    if let Some(shown) = self.pending.last_mut() {
                        shown.text.push_str(&rest);
                    }
                    let cut = match &outcome.reason {
                        FinishReason::Stop => false,
                        FinishReason::Length => true,
                        FinishReason::Failed(why) => return Err(self.fail(why.clone())),
                    };
                    let end = self.finish(cut, Some(*outcome))?;
                    if self.pending.is_empty() {
                        return Ok(end);
                    }
                    self.ready = Some(end);
                    return Ok(Step::Text(std::mem::take(&mut self.pending)));
                }
                Some(Event::Failed(why)) => return Err(self.fail(why)),
                None => return Err(self.fail("the generation broke off; send the request again".to_owned())),
            }
        }
    }

    fn token(&mut self, generated: Generated) {
        let Some(end) = &mut self.end else { return };
        let provisional = generated.provenance == Provenance::Provisional;
        self.meter.token(provisional, provisional && !self.lost);
        self.lost = provisional;
        self.last = self.meter.elapsed();
        self.first.get_or_insert(self.last);
        end.tokens += 1;
        end.acceptance.count(generated.provenance, generated.opens_verdict);
        if self.served.backend.vocab().is_eog(generated.token) {
            return;
        }
        if provisional {
            end.provisional.push(self.shown);
        }
        self.shown += 1;
        let text = self.text.push(&self.served.piece(generated.token, self.tools));
        self.pending.push(Shown { text, generated });
        if self.text.stopped() {
            // Tokens that only the stop string is from are no part of the answer.
            while self.pending.pop_if(|shown| shown.text.is_empty()).is_some() {
                self.shown -= 1;
            }
            end.provisional.retain(|&index| index < self.shown);
        }
        if (self.text.stopped() || !self.text.holds()) && self.pending.iter().any(|shown| !shown.text.is_empty()) {
            self.ready = Some(Step::Text(std::mem::take(&mut self.pending)));
        }
    }

    /// Cancels the job and waits for what it took.
    async fn last_word(&mut self) -> Option<Outcome> {
        self.events.close();
        let outcome = async {
            while let Some(event) = self.events.recv().await {
                if let Event::Done(outcome) = event {
                    return Some(*outcome);
                }
            }
            None
        };
        tokio::time::timeout(LAST_WORD, outcome).await.ok().flatten()
    }

    fn finish(&mut self, cut: bool, outcome: Option<Outcome>) -> Result<Step, Error> {
        let Some(mut end) = self.end.take() else {
            return Err(self.fail("the answer had ended already".to_owned()));
        };
        end.cut = cut;
        end.first = self.first;
        end.rate = self.first.and_then(|first| rate(end.tokens, first, self.last));
        self.meter.ended(if cut { "length" } else { "stop" });
        if let Some(outcome) = &outcome {
            self.meter.drafted(outcome.stats.draft_tokens, &end.acceptance);
        }
        tracing::info!(
            request_id = self.request_id,
            prompt = end.prompt_tokens,
            tokens = end.tokens,
            cut,
            seconds = self.meter.elapsed().as_secs_f64(),
            "answered"
        );
        end.outcome = outcome;
        Ok(Step::End(Box::new(end)))
    }

    fn fail(&mut self, why: String) -> Error {
        self.meter.ended("error");
        tracing::warn!(request_id = self.request_id, why, "not answered");
        Error::Failed(why)
    }
}

/// Tokens a second: those after the first, or all of them where they came at once.
#[allow(clippy::cast_precision_loss)]
fn rate(tokens: usize, first: Duration, last: Duration) -> Option<f64> {
    let (tokens, time) = if last > first { (tokens - 1, last - first) } else { (tokens, last) };
    let rate = tokens as f64 / time.as_secs_f64();
    rate.is_finite().then_some(rate)
}
