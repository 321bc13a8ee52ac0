//! `POST /v1/chat/completions`: what is answered, whole or in chunks.

use std::sync::Arc;

use serde::Serialize;
use utoipa::ToSchema;

use super::logprobs::ChatLogprobs;
use super::options::Options;
use super::summary::{RequestMetrics, SledChunk, SledSummary, SledToken, Usage};
use crate::error::Error;
use crate::generation::{End, Generation, Shown, Step};
use crate::state::{Served, random, unix_time};
use crate::stream::Chunks;
use crate::tools::{Part, Reader};

/// The answer to a chat.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ChatCompletion {
    /// Names the answer.
    id: String,
    /// `chat.completion`.
    object: &'static str,
    /// When, in seconds since 1970.
    created: u64,
    /// The model.
    model: String,
    /// What decided the answer beside the request.
    system_fingerprint: String,
    /// The answer.
    choices: Vec<ChatChoice>,
    /// How many tokens it took.
    usage: Usage,
    /// vLLM's figures of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    metrics: Option<RequestMetrics>,
    /// What SLED tells.
    sled: SledSummary,
}

/// An answer.
#[derive(Debug, Serialize, ToSchema)]
struct ChatChoice {
    /// Always 0.
    index: usize,
    /// The message.
    message: AnswerMessage,
    /// The log probabilities, if they were asked for.
    logprobs: Option<ChatLogprobs>,
    /// `stop`, `length` or `tool_calls`.
    finish_reason: &'static str,
}

/// The assistant's message.
#[derive(Debug, Serialize, ToSchema)]
struct AnswerMessage {
    /// `assistant`.
    role: &'static str,
    /// What is said; null if tools are called.
    content: Option<String>,
    /// Always null.
    refusal: Option<String>,
    /// What is called.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<AnswerCall>,
}

/// A call of a tool.
#[derive(Debug, Serialize, ToSchema)]
struct AnswerCall {
    /// Names the call.
    id: String,
    /// `function`.
    #[serde(rename = "type")]
    kind: &'static str,
    /// What is called.
    function: AnswerFunction,
}

/// What is called.
#[derive(Debug, Serialize, ToSchema)]
struct AnswerFunction {
    /// The function.
    name: String,
    /// Its arguments, in JSON.
    arguments: String,
}

/// A piece of the answer to a chat.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ChatChunk {
    /// Names the answer.
    id: String,
    /// `chat.completion.chunk`.
    object: &'static str,
    /// When, in seconds since 1970.
    created: u64,
    /// The model.
    model: String,
    /// What decided the answer beside the request.
    system_fingerprint: String,
    /// The piece; empty in the chunk of usage.
    choices: Vec<ChunkChoice>,
    /// How many tokens the answer took; in the last chunk, if it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
    /// vLLM's figures of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    metrics: Option<RequestMetrics>,
    /// What SLED tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    sled: Option<ChunkSled>,
}

/// What SLED tells of a piece, or at the end.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
enum ChunkSled {
    Chunk(SledChunk),
    Summary(SledSummary),
}

/// A piece of an answer.
#[derive(Debug, Serialize, ToSchema)]
struct ChunkChoice {
    /// Always 0.
    index: usize,
    /// The piece.
    delta: Delta,
    /// The log probabilities, if they were asked for.
    logprobs: Option<ChatLogprobs>,
    /// `stop`, `length` or `tool_calls`; null until the end.
    finish_reason: Option<&'static str>,
}

/// A piece of a message: what it has is appended.
#[derive(Debug, Default, Serialize, ToSchema)]
struct Delta {
    /// `assistant`, in the first piece.
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    /// Text; null in the first piece.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    content: Option<Option<String>>,
    /// Calls.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<CallDelta>,
}

/// A piece of a call.
#[derive(Debug, Serialize, ToSchema)]
struct CallDelta {
    /// Which call.
    index: usize,
    /// Names it, in its first piece.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    /// `function`, in its first piece.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    /// What is called.
    function: FunctionDelta,
}

/// A piece of what is called.
#[derive(Debug, Serialize, ToSchema)]
struct FunctionDelta {
    /// The function, in the first piece.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// The next piece of the arguments.
    arguments: String,
}

/// Makes the answers to chats.
pub(crate) struct Maker {
    served: Arc<Served>,
    id: String,
    created: u64,
    logprobs: bool,
    provenance: bool,
    include_usage: bool,
    reader: Option<Reader>,
    /// Tokens of which nothing is told yet.
    pending: Vec<Shown>,
}

impl Maker {
    /// For a request of this name.
    pub(crate) fn new(served: &Arc<Served>, request_id: &str, options: &Options, logprobs: bool) -> Self {
        Self {
            served: Arc::clone(served),
            id: format!("chatcmpl-{request_id}"),
            created: unix_time(),
            logprobs,
            provenance: options.provenance(),
            include_usage: options.include_usage(),
            reader: None,
            pending: Vec::new(),
        }
    }

    /// Whether tool calls are looked for in the answer.
    pub(crate) fn look_for_calls(&mut self, tools: bool) {
        self.reader = tools.then(Reader::default);
    }

    fn read(&mut self, text: String) -> Vec<Part> {
        match &mut self.reader {
            Some(reader) => reader.push(&text),
            None => vec![Part::Content(text)],
        }
    }

    fn read_to_the_end(&mut self) -> Vec<Part> {
        self.reader.as_mut().map(Reader::finish).unwrap_or_default()
    }

    fn calls(&self) -> usize {
        self.reader.as_ref().map_or(0, Reader::calls)
    }

    fn reason(&self, end: &End) -> &'static str {
        match (end.cut, self.calls()) {
            (true, _) => "length",
            (false, 0) => "stop",
            (false, _) => "tool_calls",
        }
    }

    /// The whole answer.
    pub(crate) async fn whole(mut self, mut generation: Generation) -> Result<ChatCompletion, Error> {
        let mut parts = Vec::new();
        let mut logprobs = self.logprobs.then(|| ChatLogprobs::of(&self.served, &[]));
        let mut told: Vec<SledToken> = Vec::new();
        let end = loop {
            match generation.next().await? {
                Step::Text(tokens) => {
                    if let Some(logprobs) = &mut logprobs {
                        logprobs.extend(ChatLogprobs::of(&self.served, &tokens));
                    }
                    told.extend(tokens.iter().map(SledToken::from));
                    parts.extend(self.read(text(&tokens)));
                }
                Step::Notice(_) => {}
                Step::End(end) => break *end,
            }
        };
        parts.extend(self.read_to_the_end());
        let choice = ChatChoice { index: 0, message: message(parts), logprobs, finish_reason: self.reason(&end) };
        Ok(ChatCompletion {
            object: "chat.completion",
            created: self.created,
            model: self.served.backend.model().id.clone(),
            system_fingerprint: self.served.fingerprint.clone(),
            choices: vec![choice],
            usage: Usage::of(&end),
            metrics: RequestMetrics::of(&end),
            sled: SledSummary::of(&end).with(self.provenance.then_some(told)),
            id: self.id,
        })
    }

    fn chunk(&self, choices: Vec<ChunkChoice>) -> ChatChunk {
        ChatChunk {
            id: self.id.clone(),
            object: "chat.completion.chunk",
            created: self.created,
            model: self.served.backend.model().id.clone(),
            system_fingerprint: self.served.fingerprint.clone(),
            choices,
            usage: None,
            metrics: None,
            sled: None,
        }
    }

    /// A chunk with all the tokens of which nothing is told yet.
    fn piece(&mut self, delta: Delta) -> ChatChunk {
        let tokens = std::mem::take(&mut self.pending);
        let logprobs = self.logprobs.then(|| ChatLogprobs::of(&self.served, &tokens));
        let told = SledChunk { tokens: tokens.iter().map(SledToken::from).collect(), notice: None };
        let sled = self.provenance.then_some(ChunkSled::Chunk(told));
        ChatChunk { sled, ..self.chunk(vec![ChunkChoice { index: 0, delta, logprobs, finish_reason: None }]) }
    }

    fn pieces(&mut self, parts: Vec<Part>) -> Vec<ChatChunk> {
        // The reader is ahead of what is told by the calls in `parts`.
        let begun = parts.iter().filter(|part| matches!(part, Part::Call { .. })).count();
        let mut index = self.calls() - begun;
        let chunks = parts.into_iter().map(|part| {
            let delta = match part {
                Part::Content(text) => Delta { content: Some(Some(text)), ..Delta::default() },
                Part::Call { name } => {
                    index += 1;
                    let function = FunctionDelta { name: Some(name), arguments: String::new() };
                    let (id, kind) = (Some(call_id()), Some("function"));
                    Delta { tool_calls: vec![CallDelta { index: index - 1, id, kind, function }], ..Delta::default() }
                }
                Part::Arguments(arguments) => {
                    let function = FunctionDelta { name: None, arguments };
                    let index = index.saturating_sub(1);
                    Delta { tool_calls: vec![CallDelta { index, id: None, kind: None, function }], ..Delta::default() }
                }
            };
            self.piece(delta)
        });
        chunks.collect()
    }
}

impl Chunks for Maker {
    type Chunk = ChatChunk;

    fn first(&mut self) -> Option<ChatChunk> {
        let delta = Delta { role: Some("assistant"), content: Some(None), ..Delta::default() };
        Some(self.chunk(vec![ChunkChoice { index: 0, delta, logprobs: None, finish_reason: None }]))
    }

    fn text(&mut self, tokens: Vec<Shown>) -> Vec<ChatChunk> {
        let parts = self.read(text(&tokens));
        self.pending.extend(tokens);
        self.pieces(parts)
    }

    fn notice(&mut self, sentence: String) -> Option<ChatChunk> {
        let choice = ChunkChoice { index: 0, delta: Delta::default(), logprobs: None, finish_reason: None };
        let told = ChunkSled::Chunk(SledChunk { tokens: Vec::new(), notice: Some(sentence) });
        self.provenance.then(|| ChatChunk { sled: Some(told), ..self.chunk(vec![choice]) })
    }

    fn end(&mut self, end: &End) -> Vec<ChatChunk> {
        let parts = self.read_to_the_end();
        let mut chunks = self.pieces(parts);
        if !self.pending.is_empty() && (self.logprobs || self.provenance) {
            chunks.push(self.piece(Delta::default()));
        }
        let finish_reason = Some(self.reason(end));
        let choice = ChunkChoice { index: 0, delta: Delta::default(), logprobs: None, finish_reason };
        let sled = Some(ChunkSled::Summary(SledSummary::of(end)));
        chunks.push(ChatChunk { sled, ..self.chunk(vec![choice]) });
        if self.include_usage {
            let (usage, metrics) = (Some(Usage::of(end)), RequestMetrics::of(end));
            chunks.push(ChatChunk { usage, metrics, ..self.chunk(Vec::new()) });
        }
        chunks
    }
}

fn text(tokens: &[Shown]) -> String {
    tokens.iter().map(|shown| shown.text.as_str()).collect()
}

/// The message that has all of `parts`.
fn message(parts: Vec<Part>) -> AnswerMessage {
    let mut content = String::new();
    let mut tool_calls: Vec<AnswerCall> = Vec::new();
    for part in parts {
        match part {
            Part::Content(text) => content.push_str(&text),
            Part::Call { name } => {
                let function = AnswerFunction { name, arguments: String::new() };
                tool_calls.push(AnswerCall { id: call_id(), kind: "function", function });
            }
            Part::Arguments(piece) => {
                if let Some(call) = tool_calls.last_mut() {
                    call.function.arguments.push_str(&piece);
                }
            }
        }
    }
    let content = (!content.is_empty() || tool_calls.is_empty()).then_some(content);
    AnswerMessage { role: "assistant", content, refusal: None, tool_calls }
}

fn call_id() -> String {
    format!("call_{:016x}", random())
}
