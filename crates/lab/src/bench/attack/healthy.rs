//! Honest clients: what they are answered, and when.

use std::io::BufRead;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::{Value, json};
use sled_core::Token;
use sled_core::device::{Fallback, Prompt, Resilience};
use sled_device::{RemoteServer, Session, SessionOptions};
use sled_model::vocabulary::Vocab;

/// How long an answer may take, refusals and all, before it is none.
const PATIENCE: Duration = Duration::from_secs(120);

/// By how many logits a token of a quantised model may miss the target's choice, because the shape of a batch moves its logits.
pub const NEAR_TIE: f64 = 1.0;

/// What is asked, again and again.
#[derive(Clone)]
pub struct Questions {
    pub prompts: Arc<Vec<Vec<Token>>>,
    pub max_tokens: usize,
}

/// A token of an answer, and what could have come in its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    pub token: String,
    pub logprob: f64,
    pub others: Vec<(String, f64)>,
}

/// One answer.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub question: usize,
    pub steps: Vec<Step>,
    /// From the question to the first token, refusals included, in milliseconds.
    pub first_ms: f64,
    /// From each token to the next, in milliseconds.
    pub gaps_ms: Vec<f64>,
}

/// How an answer compares with another to the same question.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Likeness {
    Equal,
    /// The first token that differs was as likely but for this many logits, which the shape of a batch can explain.
    NearTie(f64),
    /// It is another answer.
    Different,
}

impl Answer {
    /// Compares it with what was answered without an attack.
    pub fn likeness(&self, expected: &Self) -> Likeness {
        let differs = self.steps.iter().zip(&expected.steps).find(|(step, expected)| step.token != expected.token);
        match differs {
            None if self.steps.len() == expected.steps.len() => Likeness::Equal,
            None => Likeness::Different,
            Some((step, expected)) => {
                let other = step.others.iter().find(|(token, _)| *token == expected.token);
                let gap = other.map(|(_, logprob)| step.logprob - logprob).filter(|&gap| gap <= NEAR_TIE);
                gap.map_or(Likeness::Different, Likeness::NearTie)
            }
        }
    }
}

/// Notes when tokens come.
struct Clock {
    asked: Instant,
    latest: Option<Instant>,
    answer: Answer,
}

impl Clock {
    fn start(question: usize) -> Self {
        Self { asked: Instant::now(), latest: None, answer: Answer { question, ..Answer::default() } }
    }

    fn on_token(&mut self, step: Step) {
        let now = Instant::now();
        let since = now - self.latest.replace(now).unwrap_or(self.asked);
        let ms = 1e3 * since.as_secs_f64();
        if self.answer.steps.is_empty() {
            self.answer.first_ms = ms;
        } else {
            self.answer.gaps_ms.push(ms);
        }
        self.answer.steps.push(step);
    }
}

/// A device without a drafter.
pub struct Device {
    session: Session,
    vocab: Vocab,
}

impl Device {
    pub async fn open(remote: &RemoteServer, vocab: &Vocab) -> anyhow::Result<Self> {
        let options = SessionOptions {
            resilience: Resilience { fallback: Fallback::Wait, timeout: PATIENCE, ..Resilience::default() },
            ..SessionOptions::new("healthy", vocab.fingerprint(), vocab.eog_tokens())
        };
        Ok(Self { session: Session::open(remote, options).await?, vocab: vocab.clone() })
    }

    /// Asks one question after the other until `until`, and at least so many.
    pub async fn ask(&mut self, questions: &Questions, least: usize, until: Instant) -> anyhow::Result<Vec<Answer>> {
        let mut answers = Vec::new();
        while answers.len() < least || Instant::now() < until {
            let question = answers.len() % questions.prompts.len();
            let answer = tokio::time::timeout(PATIENCE, self.answer(questions, question)).await;
            answers.push(answer.context("a device waits for its answer for two minutes")??);
        }
        Ok(answers)
    }

    async fn answer(&mut self, questions: &Questions, question: usize) -> anyhow::Result<Answer> {
        let tokens = questions.prompts[question].clone();
        let prompt = Prompt { tokens, max_tokens: questions.max_tokens, logprobs: Some(4), ..Prompt::default() };
        let spelt = |token| String::from_utf8_lossy(&self.vocab.piece(token, true)).into_owned();
        let mut clock = Clock::start(question);
        let on_token = |emitted: sled_core::device::Emitted| {
            let logprobs = emitted.logprobs;
            let logprob = logprobs.as_ref().map_or(0.0, |logprobs| logprobs.chosen.into());
            let top = logprobs.into_iter().flat_map(|logprobs| logprobs.top);
            let others = top.map(|(token, logprob)| (spelt(token), logprob.into())).collect();
            clock.on_token(Step { token: spelt(emitted.token), logprob, others });
            ControlFlow::Continue(())
        };
        self.session.generate(prompt, on_token).await?;
        Ok(clock.answer)
    }
}

/// Asks over HTTP one question after the other until `until`, and at least so many, over a new connection each time. Returns the
/// answers, and how often it was told to come back.
pub fn ask_over_http(
    http: SocketAddr,
    questions: &Questions,
    least: usize,
    until: Instant,
) -> anyhow::Result<(Vec<Answer>, usize)> {
    let (mut answers, mut refusals) = (Vec::new(), 0);
    while answers.len() < least || Instant::now() < until {
        let question = answers.len() % questions.prompts.len();
        let mut clock = Clock::start(question);
        while !answer_over_http(http, questions, &mut clock)? {
            refusals += 1;
            anyhow::ensure!(clock.asked.elapsed() < PATIENCE, "a client over HTTP is refused for two minutes");
        }
        answers.push(clock.answer);
    }
    Ok((answers, refusals))
}

/// One attempt; false if it was told to come back, after the time that it was told.
fn answer_over_http(http: SocketAddr, questions: &Questions, clock: &mut Clock) -> anyhow::Result<bool> {
    let agent = ureq::Agent::new_with_config(
        ureq::Agent::config_builder().timeout_global(Some(PATIENCE)).http_status_as_error(false).build(),
    );
    let request = json!({
        "prompt": questions.prompts[clock.answer.question],
        "max_tokens": questions.max_tokens,
        "temperature": 0,
        "logprobs": 4,
        "stream": true,
    });
    let response = agent
        .post(format!("http://{http}/v1/completions"))
        .header("content-type", "application/json")
        .send(request.to_string())
        .context("a client over HTTP is not answered")?;
    if matches!(response.status().as_u16(), 429 | 503) {
        let after = response.headers().get("retry-after").and_then(|after| after.to_str().ok()?.parse().ok());
        std::thread::sleep(Duration::from_secs(after.unwrap_or(1)));
        return Ok(false);
    }
    anyhow::ensure!(response.status() == 200, "a client over HTTP is answered with status {}", response.status());
    for line in std::io::BufReader::new(response.into_body().into_reader()).lines() {
        let line = line.context("an answer over HTTP is cut off")?;
        let Some(data) = line.strip_prefix("data: ").filter(|data| *data != "[DONE]") else { continue };
        let chunk: Value = serde_json::from_str(data).context("the server streams no JSON")?;
        anyhow::ensure!(chunk["error"].is_null(), "an answer over HTTP fails: {}", chunk["error"]["message"]);
        for step in steps(&chunk["choices"][0]["logprobs"]) {
            clock.on_token(step);
        }
    }
    Ok(true)
}

/// The tokens of a piece of a completion.
fn steps(logprobs: &Value) -> Vec<Step> {
    let list = |name: &str| logprobs[name].as_array().cloned().unwrap_or_default();
    let of = list("tokens").into_iter().zip(list("token_logprobs")).zip(list("top_logprobs"));
    of.map(|((token, logprob), top)| Step {
        token: token.as_str().unwrap_or_default().to_owned(),
        logprob: logprob.as_f64().unwrap_or(0.0),
        others: top
            .as_object()
            .into_iter()
            .flatten()
            .map(|(token, logprob)| (token.clone(), logprob.as_f64().unwrap_or(f64::NEG_INFINITY)))
            .collect(),
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(tokens: &[(&str, f64)], others: &[(&str, f64)]) -> Answer {
        let others: Vec<_> = others.iter().map(|&(token, logprob)| (token.to_owned(), logprob)).collect();
        let step = |&(token, logprob): &(&str, f64)| Step { token: token.to_owned(), logprob, others: others.clone() };
        Answer { steps: tokens.iter().map(step).collect(), ..Answer::default() }
    }

    #[test]
    fn an_answer_that_differs_at_a_near_tie_is_told_from_another_answer() {
        let expected = answer(&[("a", -0.1), ("b", -0.5)], &[]);
        assert_eq!(expected.likeness(&expected), Likeness::Equal);
        let others = [("b", -0.75), ("c", -0.5)];
        assert_eq!(
            answer(&[("a", -0.1), ("c", -0.5), ("d", 0.0)], &others).likeness(&expected),
            Likeness::NearTie(0.25)
        );
        assert_eq!(answer(&[("a", -0.1), ("x", 0.5)], &others).likeness(&expected), Likeness::Different);
        assert_eq!(answer(&[("a", -0.1)], &others).likeness(&expected), Likeness::Different);
    }
}
