//! `POST /v1/chat/completions`: what is asked.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sled_core::Token;
use sled_model::chat::Extras;
use utoipa::ToSchema;

use super::answer::{ChatCompletion, Maker};
use super::logprobs;
use super::members::{Members, weight_of};
use super::options::{Options, refuse_constraints};
use crate::backend::Job;
use crate::body::Received;
use crate::call::{Call, prepare};
use crate::error::{Error, ErrorBody};
use crate::generation::Generation;
use crate::grammar::{self, Callable, Choice};
use crate::state::{Api, Served};
use crate::stream::stream;

/// A chat to be continued.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct ChatRequest {
    /// What was said so far.
    messages: Vec<Message>,
    /// What the model may call.
    tools: Option<Vec<Tool>>,
    /// Whether it may, must, or must not; or what it must call.
    tool_choice: Option<ToolChoice>,
    /// Whether it may call several at once. By default it may.
    parallel_tool_calls: Option<bool>,
    /// Whether log probabilities are wanted.
    logprobs: Option<bool>,
    /// Of how many alternatives to each token; at most 20.
    #[schema(maximum = 20)]
    top_logprobs: Option<u8>,
    /// Variables of the model's chat template, such as `enable_thinking`. An extension.
    #[schema(value_type = Option<Object>)]
    chat_template_kwargs: Option<Map<String, Value>>,
}

/// A message.
#[derive(Debug, Deserialize, ToSchema)]
struct Message {
    /// `system` (or `developer`), `user`, `assistant` or `tool`.
    role: String,
    /// What is said.
    content: Option<Content>,
    /// Who says it.
    name: Option<String>,
    /// What the assistant called.
    tool_calls: Option<Vec<MadeCall>>,
    /// Which call a tool answers.
    tool_call_id: Option<String>,
}

/// A text, whole or in parts.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a string or an array of text parts")]
enum Content {
    Text(String),
    Parts(Vec<ContentPart>),
}

/// A part of a text.
#[derive(Debug, Deserialize, ToSchema)]
struct ContentPart {
    /// Only `text` is supported.
    #[serde(rename = "type")]
    kind: String,
    /// The text.
    text: Option<String>,
}

/// A call that the assistant made.
#[derive(Debug, Deserialize, ToSchema)]
struct MadeCall {
    /// Names the call.
    id: Option<String>,
    /// What was called.
    function: MadeFunctionCall,
}

/// What was called.
#[derive(Debug, Deserialize, ToSchema)]
struct MadeFunctionCall {
    /// The function.
    name: String,
    /// Its arguments, in JSON; nothing is an empty object.
    arguments: Option<String>,
}

/// Something that the model may call.
#[derive(Debug, Deserialize, ToSchema)]
struct Tool {
    /// Only `function` is supported.
    #[serde(rename = "type")]
    kind: String,
    /// The function.
    function: Option<Function>,
}

/// A function that the model may call.
#[derive(Debug, Deserialize, ToSchema)]
struct Function {
    /// Its name.
    name: String,
    /// What it does.
    description: Option<String>,
    /// The JSON schema of its arguments.
    #[schema(value_type = Option<Object>)]
    parameters: Option<Map<String, Value>>,
}

/// Whether tools are called.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected none, auto, required or a function")]
enum ToolChoice {
    /// `none`, `auto` or `required`.
    Word(String),
    /// This one must be.
    Named { function: NamedFunction },
}

/// The name of a function.
#[derive(Debug, Deserialize, ToSchema)]
struct NamedFunction {
    /// The name.
    name: String,
}

impl Message {
    /// The message as chat templates know them.
    fn for_template(&self, index: usize) -> Result<Value, Error> {
        let role = match self.role.as_str() {
            "developer" => "system",
            role @ ("system" | "user" | "assistant" | "tool") => role,
            role => {
                let field = format!("messages[{index}].role");
                return Err(Error::invalid(
                    &field,
                    format!("the role `{role}` is unknown; use system, user, assistant or tool"),
                ));
            }
        };
        let content = self.content.as_ref().map(|content| content.text(index)).transpose()?;
        let mut message = Map::new();
        message.insert("role".to_owned(), role.into());
        message.insert("content".to_owned(), content.unwrap_or_default().into());
        if let Some(calls) = self.tool_calls.as_ref().filter(|calls| !calls.is_empty()) {
            message.insert("tool_calls".to_owned(), calls.iter().map(MadeCall::for_template).collect());
        }
        if let Some(id) = &self.tool_call_id {
            message.insert("tool_call_id".to_owned(), id.as_str().into());
        }
        if let Some(name) = &self.name {
            message.insert("name".to_owned(), name.as_str().into());
        }
        Ok(message.into())
    }
}

impl Content {
    fn text(&self, index: usize) -> Result<String, Error> {
        let parts = match self {
            Self::Text(text) => return Ok(text.clone()),
            Self::Parts(parts) => parts,
        };
        let texts: Result<Vec<&str>, Error> = parts
            .iter()
            .map(|part| match (part.kind.as_str(), &part.text) {
                ("text", Some(text)) => Ok(text.as_str()),
                ("text", None) => {
                    Err(Error::invalid(&format!("messages[{index}].content"), "a part of type text needs a text"))
                }
                (kind, _) => Err(Error::invalid(
                    &format!("messages[{index}].content"),
                    format!("parts of type {kind} are not supported; send text"),
                )),
            })
            .collect();
        Ok(texts?.join("\n"))
    }
}

impl MadeCall {
    /// Templates want the arguments as an object.
    fn for_template(&self) -> Value {
        let MadeFunctionCall { name, arguments } = &self.function;
        let arguments = match arguments.as_deref().map(str::trim) {
            None | Some("" | "null") => json!({}),
            Some(text) => serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned())),
        };
        json!({ "id": self.id, "type": "function", "function": { "name": name, "arguments": arguments } })
    }
}

impl Tool {
    fn function(&self, index: usize) -> Result<&Function, Error> {
        let field = format!("tools[{index}]");
        match (self.kind.as_str(), &self.function) {
            ("function", Some(function)) if function.name.is_empty() => {
                Err(Error::invalid(&format!("{field}.function.name"), "a function needs a name"))
            }
            ("function", Some(function)) => Ok(function),
            ("function", None) => Err(Error::invalid(&format!("{field}.function"), "the function is missing")),
            (kind, _) => Err(Error::invalid(
                &format!("{field}.type"),
                format!("tools of type {kind} are not supported; describe a function"),
            )),
        }
    }
}

impl Function {
    fn for_template(&self) -> Value {
        let mut function = Map::new();
        function.insert("name".to_owned(), self.name.as_str().into());
        if let Some(description) = &self.description {
            function.insert("description".to_owned(), description.as_str().into());
        }
        if let Some(parameters) = &self.parameters {
            function.insert("parameters".to_owned(), parameters.clone().into());
        }
        json!({ "type": "function", "function": function })
    }

    fn callable(&self) -> Callable {
        let parameters = self.parameters.clone().map_or_else(|| json!({ "type": "object" }), Value::Object);
        Callable { name: self.name.clone(), parameters }
    }
}

impl ChatRequest {
    /// What the arguments of the calls that were made will come to in memory: they are JSON in JSON.
    pub(crate) fn weight_of_arguments(&self) -> usize {
        let calls = self.messages.iter().flat_map(|message| message.tool_calls.iter().flatten());
        calls.filter_map(|call| call.function.arguments.as_deref()).map(weight_of).sum()
    }

    /// The prompt, up to where the assistant's answer begins.
    pub(crate) fn prompt(
        &self,
        served: &Served,
        add_generation_prompt: bool,
        add_special: bool,
    ) -> Result<Vec<Token>, Error> {
        let prompts = served
            .prompts
            .as_ref()
            .map_err(|error| Error::invalid("messages", format!("{error}; use /v1/completions with a prompt")))?;
        let prompts = prompts.as_ref().ok_or_else(|| {
            Error::invalid("messages", "the model has no chat template; use /v1/completions with a prompt")
        })?;
        if self.messages.is_empty() {
            return Err(Error::invalid("messages", "there are no messages; give at least one"));
        }
        let messages: Result<Vec<Value>, Error> =
            self.messages.iter().enumerate().map(|(index, message)| message.for_template(index)).collect();
        let tools = self.functions()?.into_iter().map(Function::for_template).collect();
        let extras = Extras { tools, variables: self.chat_template_kwargs.clone().unwrap_or_default() };
        let longest = served.longest_text();
        let tokens = prompts.tokens(messages?, extras, add_generation_prompt, add_special, longest);
        tokens.map_err(|error| match error {
            sled_model::Error::ChatTemplate(_) => Error::invalid("messages", error.to_string()),
            error => error.into(),
        })
    }

    /// The functions that may be called.
    fn functions(&self) -> Result<Vec<&Function>, Error> {
        if matches!(&self.tool_choice, Some(ToolChoice::Word(word)) if word == "none") {
            return Ok(Vec::new());
        }
        self.tools.iter().flatten().enumerate().map(|(index, tool)| tool.function(index)).collect()
    }

    /// Which functions may be called, and whether one must be; `None` if there are none.
    fn choice(&self, served: &Served) -> Result<Option<(Vec<Callable>, Choice)>, Error> {
        let mut functions = self.functions()?;
        let choice = match &self.tool_choice {
            None => Choice::Auto,
            Some(ToolChoice::Word(word)) => match word.as_str() {
                "none" | "auto" => Choice::Auto,
                "required" => Choice::Required,
                _ => {
                    let message =
                        format!("the tool choice `{word}` is unknown; use none, auto, required or a function");
                    return Err(Error::invalid("tool_choice", message));
                }
            },
            Some(ToolChoice::Named { function: NamedFunction { name } }) => {
                functions.retain(|function| function.name == *name);
                if functions.is_empty() {
                    return Err(Error::invalid("tool_choice", format!("there is no tool called `{name}`")));
                }
                Choice::Required
            }
        };
        if functions.is_empty() {
            return match choice {
                Choice::Auto => Ok(None),
                Choice::Required => Err(Error::invalid("tools", "a tool must be called, but there are none")),
            };
        }
        if !served.calls_tools {
            return Err(Error::invalid(
                "tools",
                "the model's chat template does not teach tool calls that can be read here; leave the tools out",
            ));
        }
        Ok(Some((functions.into_iter().map(Function::callable).collect(), choice)))
    }
}

/// The body of a request for a chat's next message.
#[derive(Debug, ToSchema)]
pub(crate) struct ChatBody {
    #[serde(flatten)]
    request: ChatRequest,
    #[serde(flatten)]
    options: Options,
}

impl ChatBody {
    fn read(body: &mut Received) -> Result<Self, Error> {
        let members = Members::of(body)?;
        refuse_constraints(&members)?;
        let read = Self { request: members.read()?, options: members.read()? };
        members.finish()?;
        body.weigh(read.request.weight_of_arguments())?;
        Ok(read)
    }

    /// The job, and whether its answer may call tools.
    fn job(&self, served: &Served, request_id: &str) -> Result<(Job, bool), Error> {
        let (logprobs, top) = (self.request.logprobs.unwrap_or(false), self.request.top_logprobs.unwrap_or(0));
        if top > 0 && !logprobs {
            return Err(Error::invalid("top_logprobs", "top_logprobs needs logprobs to be true"));
        }
        if top > logprobs::MOST {
            return Err(Error::invalid("top_logprobs", format!("top_logprobs is at most {}", logprobs::MOST)));
        }
        let choice = self.request.choice(served)?;
        let prompt = self.request.prompt(served, true, false)?;
        let mut job = self.options.job(served, request_id, prompt, None)?;
        job.logprobs = logprobs.then_some(top);
        if let Some((tools, choice)) = &choice {
            let parallel = self.request.parallel_tool_calls.unwrap_or(true);
            let content = self.options.grammar()?;
            let calls = grammar::of_calls(tools, *choice, parallel, served.marks_calls(), content.as_ref());
            job.sampling.grammar = Some(served.compile(calls, "tools")?);
        }
        Ok((job, choice.is_some()))
    }
}

/// Continues a chat. With `stream`, the answer is a stream of server-sent events, the last of which is `[DONE]`.
#[utoipa::path(
    post, path = "/v1/chat/completions", tag = "OpenAI", request_body = ChatBody,
    responses(
        (status = 200, body = ChatCompletion, description = "The answer; or, streamed, chunks with `delta` for `message`"),
        (status = "4XX", body = ErrorBody, description = "The request cannot be answered"),
        (status = "5XX", body = ErrorBody, description = "The server cannot answer"),
    )
)]
pub(crate) async fn create(State(api): State<Api>, call: Call) -> Result<Response, Error> {
    let served = api.served()?;
    let Call { id, client, caller, body: mut received, place } = call;
    let preparing = Arc::clone(&served);
    let work = move || {
        let body = ChatBody::read(&mut received)?;
        preparing.check_model(body.options.model.as_deref())?;
        let (job, tools) = body.job(&preparing, &id)?;
        let mut maker = Maker::new(&preparing, &id, &body.options, body.request.logprobs.unwrap_or(false));
        maker.look_for_calls(tools);
        Ok((job, tools, body.options.stops()?, body.options.stream.unwrap_or(false), maker))
    };
    let ((mut job, tools, stops, streamed, maker), place) = prepare(caller, place, work).await?;
    job.client = client;
    let generation = Generation::start(&api, served, place, job, stops, tools)?;
    if streamed { Ok(stream(generation, maker)) } else { Ok(Json(maker.whole(generation).await?).into_response()) }
}
