//! `POST /v1/completions`: a text is continued.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use sled_core::Token;
use utoipa::ToSchema;

use super::logprobs::{self, TextLogprobs};
use super::members::Members;
use super::options::{Options, refuse_constraints};
use super::summary::{RequestMetrics, SledChunk, SledSummary, Usage};
use crate::backend::Job;
use crate::body::Received;
use crate::call::{Call, prepare};
use crate::error::{Error, ErrorBody};
use crate::generation::{End, Generation, Shown, Step};
use crate::state::{Api, Served, unix_time};
use crate::stream::{Chunks, stream};

/// How many tokens there are if nothing else is asked for, as with OpenAI.
const MAX_TOKENS: usize = 16;

/// A text to be continued.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct CompletionRequest {
    /// The text, or its tokens.
    prompt: Prompt,
    /// Whether log probabilities are wanted, and of how many alternatives; at most 20.
    #[schema(maximum = 20)]
    logprobs: Option<u8>,
    /// Not supported.
    echo: Option<bool>,
    /// Not supported.
    suffix: Option<String>,
    /// Not supported beyond 1.
    best_of: Option<u32>,
}

/// A text, or its tokens; in a list, exactly one of them.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a string or an array of tokens")]
enum Prompt {
    Text(String),
    Texts(Vec<String>),
    Tokens(Vec<Token>),
    TokenLists(Vec<Vec<Token>>),
}

/// The body of a request for a completion.
#[derive(Debug, ToSchema)]
pub(crate) struct CompletionBody {
    #[serde(flatten)]
    request: CompletionRequest,
    #[serde(flatten)]
    options: Options,
}

impl CompletionBody {
    fn read(body: &mut Received) -> Result<Self, Error> {
        let members = Members::of(body)?;
        refuse_constraints(&members)?;
        let read = Self { request: members.read()?, options: members.read()? };
        members.finish()?;
        Ok(read)
    }

    fn job(&self, served: &Served, request_id: &str) -> Result<Job, Error> {
        let CompletionRequest { logprobs, echo, suffix, best_of, .. } = &self.request;
        if *echo == Some(true) {
            return Err(Error::invalid("echo", "echo is not supported; put the prompt before the answer yourself"));
        }
        if suffix.as_ref().is_some_and(|suffix| !suffix.is_empty()) {
            return Err(Error::invalid("suffix", "suffix is not supported; leave it out"));
        }
        if best_of.is_some_and(|best_of| best_of > 1) {
            return Err(Error::invalid("best_of", "best_of is not supported beyond 1; leave it out"));
        }
        if logprobs.is_some_and(|logprobs| logprobs > logprobs::MOST) {
            return Err(Error::invalid("logprobs", format!("logprobs is at most {}", logprobs::MOST)));
        }
        let prompt = self.request.prompt.tokens(served)?;
        Ok(Job { logprobs: *logprobs, ..self.options.job(served, request_id, prompt, Some(MAX_TOKENS))? })
    }
}

impl Prompt {
    fn tokens(&self, served: &Served) -> Result<Vec<Token>, Error> {
        let tokens = match self {
            Self::Text(text) => return served.tokenize(text, true, true),
            Self::Tokens(tokens) => tokens,
            Self::Texts(texts) => match texts.as_slice() {
                [text] => return served.tokenize(text, true, true),
                _ => return Err(several(texts.len())),
            },
            Self::TokenLists(lists) => match lists.as_slice() {
                [tokens] => tokens,
                _ => return Err(several(lists.len())),
            },
        };
        super::tokenize::check(tokens, served, "prompt")?;
        Ok(tokens.clone())
    }
}

fn several(prompts: usize) -> Error {
    Error::invalid("prompt", format!("there are {prompts} prompts; send a request with each of them"))
}

/// A completion, or a piece of one.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Completion {
    /// Names the answer.
    id: String,
    /// `text_completion`.
    object: &'static str,
    /// When, in seconds since 1970.
    created: u64,
    /// The model.
    model: String,
    /// What decided the answer beside the request.
    system_fingerprint: String,
    /// The answer; empty in a chunk of usage.
    choices: Vec<TextChoice>,
    /// How many tokens it took.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
    /// vLLM's figures of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    metrics: Option<RequestMetrics>,
    /// What SLED tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    sled: Option<TextSled>,
}

/// What SLED tells of a piece, or at the end.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
enum TextSled {
    Chunk(SledChunk),
    Summary(SledSummary),
}

/// An answer.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TextChoice {
    /// Always 0.
    index: usize,
    /// The text.
    text: String,
    /// The log probabilities, if they were asked for.
    logprobs: Option<TextLogprobs>,
    /// `stop` or `length`; null until the end.
    finish_reason: Option<&'static str>,
}

/// Makes completions.
struct Maker {
    served: Arc<Served>,
    id: String,
    created: u64,
    logprobs: bool,
    provenance: bool,
    include_usage: bool,
    /// How many characters there were.
    offset: usize,
}

impl Maker {
    /// For a request of this name.
    fn new(served: &Arc<Served>, request_id: &str, body: &CompletionBody) -> Self {
        Self {
            served: Arc::clone(served),
            id: format!("cmpl-{request_id}"),
            created: unix_time(),
            logprobs: body.request.logprobs.is_some(),
            provenance: body.options.provenance(),
            include_usage: body.options.include_usage(),
            offset: 0,
        }
    }

    fn completion(&self, choices: Vec<TextChoice>) -> Completion {
        Completion {
            id: self.id.clone(),
            object: "text_completion",
            created: self.created,
            model: self.served.backend.model().id.clone(),
            system_fingerprint: self.served.fingerprint.clone(),
            choices,
            usage: None,
            metrics: None,
            sled: None,
        }
    }

    fn logprobs(&mut self, tokens: &[Shown]) -> Option<TextLogprobs> {
        let logprobs = self.logprobs.then(|| TextLogprobs::of(&self.served, tokens, self.offset));
        self.offset += tokens.iter().map(|shown| shown.text.chars().count()).sum::<usize>();
        logprobs
    }

    async fn whole(mut self, mut generation: Generation) -> Result<Completion, Error> {
        let mut text = String::new();
        let mut logprobs = self.logprobs.then(TextLogprobs::default);
        let mut told = Vec::new();
        loop {
            match generation.next().await? {
                Step::Text(tokens) => {
                    text.extend(tokens.iter().map(|shown| shown.text.as_str()));
                    if let (Some(all), Some(more)) = (&mut logprobs, self.logprobs(&tokens)) {
                        all.extend(more);
                    }
                    told.extend(tokens.iter().map(Into::into));
                }
                Step::Notice(_) => {}
                Step::End(end) => {
                    let choice = TextChoice { index: 0, text, logprobs, finish_reason: Some(reason(&end)) };
                    let sled = SledSummary::of(&end).with(self.provenance.then_some(told));
                    return Ok(Completion {
                        usage: Some(Usage::of(&end)),
                        metrics: RequestMetrics::of(&end),
                        sled: Some(TextSled::Summary(sled)),
                        ..self.completion(vec![choice])
                    });
                }
            }
        }
    }
}

impl Chunks for Maker {
    type Chunk = Completion;

    fn first(&mut self) -> Option<Completion> {
        None
    }

    fn text(&mut self, tokens: Vec<Shown>) -> Vec<Completion> {
        let text = tokens.iter().map(|shown| shown.text.as_str()).collect();
        let choice = TextChoice { index: 0, text, logprobs: self.logprobs(&tokens), finish_reason: None };
        let told = SledChunk { tokens: tokens.iter().map(Into::into).collect(), notice: None };
        let sled = self.provenance.then_some(TextSled::Chunk(told));
        vec![Completion { sled, ..self.completion(vec![choice]) }]
    }

    fn notice(&mut self, sentence: String) -> Option<Completion> {
        let choice = TextChoice { index: 0, text: String::new(), logprobs: None, finish_reason: None };
        let told = TextSled::Chunk(SledChunk { tokens: Vec::new(), notice: Some(sentence) });
        self.provenance.then(|| Completion { sled: Some(told), ..self.completion(vec![choice]) })
    }

    fn end(&mut self, end: &End) -> Vec<Completion> {
        let choice = TextChoice { index: 0, text: String::new(), logprobs: None, finish_reason: Some(reason(end)) };
        let sled = Some(TextSled::Summary(SledSummary::of(end)));
        let last = Completion { sled, ..self.completion(vec![choice]) };
        if !self.include_usage {
            return vec![last];
        }
        let usage =
            Completion { usage: Some(Usage::of(end)), metrics: RequestMetrics::of(end), ..self.completion(Vec::new()) };
        vec![last, usage]
    }
}

fn reason(end: &End) -> &'static str {
    if end.cut { "length" } else { "stop" }
}

/// Continues a text. With `stream`, the answer is a stream of server-sent events, the last of which is `[DONE]`.
#[utoipa::path(
    post, path = "/v1/completions", tag = "OpenAI", request_body = CompletionBody,
    responses(
        (status = 200, body = Completion, description = "The completion, or a stream of its pieces"),
        (status = "4XX", body = ErrorBody, description = "The request cannot be answered"),
        (status = "5XX", body = ErrorBody, description = "The server cannot answer"),
    )
)]
pub(crate) async fn create(State(api): State<Api>, call: Call) -> Result<Response, Error> {
    let served = api.served()?;
    let Call { id, client, caller, body: mut received, place } = call;
    let preparing = Arc::clone(&served);
    let work = move || {
        let body = CompletionBody::read(&mut received)?;
        preparing.check_model(body.options.model.as_deref())?;
        let job = body.job(&preparing, &id)?;
        let streamed = body.options.stream.unwrap_or(false);
        Ok((job, body.options.stops()?, streamed, Maker::new(&preparing, &id, &body)))
    };
    let ((mut job, stops, streamed, maker), place) = prepare(caller, place, work).await?;
    job.client = client;
    let generation = Generation::start(&api, served, place, job, stops, false)?;
    if streamed { Ok(stream(generation, maker)) } else { Ok(Json(maker.whole(generation).await?).into_response()) }
}
