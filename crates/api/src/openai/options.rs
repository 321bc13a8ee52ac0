//! What chats and completions may both ask for.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};
use sled_core::Token;
use sled_core::sampler::{GrammarText, Sampler, SamplingParams};
use utoipa::ToSchema;

use super::members::Members;
use crate::backend::{Job, Mode};
use crate::error::Error;
use crate::state::{Served, random};

/// The most stop strings, and the most bytes that one may have.
const STOPS: (usize, usize) = (16, 1024);

/// What chats and completions may both ask for.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct Options {
    /// The model's name, as `/v1/models` tells it; may be left out.
    pub(crate) model: Option<String>,
    /// The most tokens to generate, at least 1. Where the context has room for fewer, the answer ends there.
    #[schema(minimum = 1)]
    pub(crate) max_tokens: Option<u32>,
    /// The newer name of `max_tokens`.
    #[schema(minimum = 1)]
    pub(crate) max_completion_tokens: Option<u32>,
    /// 0 always takes the likeliest token; 1 is the default.
    #[schema(minimum = 0, maximum = 100)]
    temperature: Option<f32>,
    /// Leaves the likeliest tokens that have this probability together.
    #[schema(minimum = 0, maximum = 1)]
    top_p: Option<f32>,
    /// Leaves so many of the likeliest tokens; 0 or -1 leaves all. An extension.
    top_k: Option<i32>,
    /// Leaves tokens at least this much as probable as the likeliest. An extension.
    #[schema(minimum = 0, maximum = 1)]
    min_p: Option<f32>,
    /// Divides the logits of all tokens that the text has; 1 is off. An extension.
    #[schema(minimum = 0.01, maximum = 100)]
    repetition_penalty: Option<f32>,
    /// Subtracted from the logits of tokens that the answer has.
    #[schema(minimum = -100, maximum = 100)]
    presence_penalty: Option<f32>,
    /// Subtracted from the logits of tokens for each time that the answer has them.
    #[schema(minimum = -100, maximum = 100)]
    frequency_penalty: Option<f32>,
    /// Added to the logits of tokens, by their ids; from -100 to 100.
    logit_bias: Option<BTreeMap<String, f32>>,
    /// Which of the possible answers is chosen. The same request with the same seed has the same answer. Without one, or
    /// with -1, a random one is taken; the answer tells it.
    seed: Option<i64>,
    /// The answer ends before the first of these.
    stop: Option<Stop>,
    /// Only 1 answer can be had.
    #[schema(minimum = 1, maximum = 1)]
    n: Option<u32>,
    /// Whether the answer comes in pieces, as server-sent events.
    pub(crate) stream: Option<bool>,
    /// What a stream tells besides.
    stream_options: Option<StreamOptions>,
    /// What the answer must look like.
    pub(crate) response_format: Option<ResponseFormat>,
    /// What is SLED's own.
    sled: Option<SledOptions>,
}

/// Strings that end an answer.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a string or an array of strings")]
enum Stop {
    One(String),
    Several(Vec<String>),
}

/// What a stream tells besides.
#[derive(Debug, Default, Deserialize, ToSchema)]
struct StreamOptions {
    /// Whether a last chunk tells how many tokens there were.
    include_usage: Option<bool>,
}

/// What the answer must look like.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct ResponseFormat {
    /// `text`, `json_object` or `json_schema`.
    #[serde(rename = "type")]
    kind: String,
    /// The schema, for `json_schema`.
    json_schema: Option<NamedSchema>,
    /// The schema without a name, as llama-server takes it with `json_object`. An extension.
    #[schema(value_type = Option<Object>)]
    schema: Option<Map<String, Value>>,
}

/// A JSON schema with a name.
#[derive(Debug, Deserialize, ToSchema)]
struct NamedSchema {
    /// The schema.
    #[schema(value_type = Object)]
    schema: Option<Map<String, Value>>,
}

impl ResponseFormat {
    /// The schema, wherever it is.
    fn schema(&self) -> Result<Option<&Map<String, Value>>, Error> {
        let named = self.json_schema.as_ref().and_then(|named| named.schema.as_ref());
        if named.is_some() && self.schema.is_some() {
            return Err(Error::invalid("response_format.schema", "there are two schemas; give one of them"));
        }
        Ok(named.or(self.schema.as_ref()))
    }

    fn grammar(&self) -> Result<Option<GrammarText>, Error> {
        let schema = self.schema()?;
        match (self.kind.as_str(), schema) {
            ("text", None) => Ok(None),
            ("text", Some(_)) => Err(Error::invalid(
                "response_format.type",
                "a text follows no schema; use json_schema, or leave the schema out",
            )),
            ("json_object", None) => Ok(Some(GrammarText::JsonObject)),
            ("json_object" | "json_schema", Some(schema)) => {
                Ok(Some(GrammarText::JsonSchema(Value::Object(schema.clone()).to_string())))
            }
            ("json_schema", None) => {
                Err(Error::invalid("response_format.json_schema.schema", "the response format needs a JSON schema"))
            }
            (kind, _) => Err(Error::invalid(
                "response_format.type",
                format!("the response format `{kind}` is unknown; use text, json_object or json_schema"),
            )),
        }
    }
}

/// What other servers take to constrain an answer, and what this one does instead.
const CONSTRAINTS: [(&[&str], &str); 4] = [
    (
        &[
            "guided_json",
            "guided_regex",
            "guided_choice",
            "guided_grammar",
            "structured_outputs",
            "structural_tag",
            "json_schema",
            "grammar",
            "regex",
            "ebnf",
        ],
        "say in `response_format` what the answer must look like",
    ),
    (&["functions", "function_call"], "use `tools` and `tool_choice`"),
    (&["stop_token_ids", "bad_words", "allowed_token_ids"], "use `stop` or `logit_bias`"),
    (&["min_tokens", "ignore_eos", "logits_processors", "use_beam_search"], "leave it out"),
];

/// Refuses what would constrain the answer and is not obeyed here.
pub(crate) fn refuse_constraints(members: &Members<'_>) -> Result<(), Error> {
    CONSTRAINTS.iter().try_for_each(|(names, instead)| members.refuse(names, instead))
}

/// What is SLED's own.
#[derive(Debug, Default, Deserialize, ToSchema)]
struct SledOptions {
    /// Who answers: `sled`, `device` or `server`.
    mode: Option<String>,
    /// Whether the answer tells how each of its tokens came about.
    provenance: Option<bool>,
}

impl Options {
    /// Whether a stream ends with a chunk of usage.
    pub(crate) fn include_usage(&self) -> bool {
        self.stream_options.as_ref().and_then(|options| options.include_usage).unwrap_or(false)
    }

    /// Whether the answer tells how its tokens came about.
    pub(crate) fn provenance(&self) -> bool {
        self.sled.as_ref().and_then(|sled| sled.provenance).unwrap_or(false)
    }

    /// The strings that end the answer.
    pub(crate) fn stops(&self) -> Result<Vec<String>, Error> {
        let stops = match &self.stop {
            None => Vec::new(),
            Some(Stop::One(stop)) => vec![stop.clone()],
            Some(Stop::Several(stops)) => stops.clone(),
        };
        let (most, longest) = STOPS;
        if stops.len() > most || stops.iter().any(|stop| stop.len() > longest) {
            return Err(Error::invalid("stop", format!("at most {most} stop strings of {longest} bytes can be given")));
        }
        Ok(stops)
    }

    /// What the answer must look like.
    pub(crate) fn grammar(&self) -> Result<Option<GrammarText>, Error> {
        Ok(self.response_format.as_ref().map(ResponseFormat::grammar).transpose()?.flatten())
    }

    fn sampling(&self, vocab_size: usize) -> Result<SamplingParams, Error> {
        let defaults = SamplingParams::default();
        let params = SamplingParams {
            temperature: self.temperature.unwrap_or(1.0),
            top_k: self.top_k.and_then(|top_k| u32::try_from(top_k).ok()).unwrap_or(0),
            top_p: self.top_p.unwrap_or(defaults.top_p),
            min_p: self.min_p.unwrap_or(defaults.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(defaults.repetition_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(defaults.presence_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(defaults.frequency_penalty),
            logit_bias: self.biases()?,
            grammar: None,
            // A random seed is small enough for any client to read it exactly.
            seed: self.seed.filter(|&seed| seed != -1).map_or_else(|| random() >> 32, i64::cast_unsigned),
        };
        Ok(Sampler::new(params, vocab_size)?.params().clone())
    }

    fn biases(&self) -> Result<Vec<(Token, f32)>, Error> {
        let biases = self.logit_bias.iter().flatten();
        biases
            .map(|(token, &bias)| match token.parse() {
                Ok(token) => Ok((token, bias)),
                Err(_) => Err(Error::invalid("logit_bias", format!("`{token}` is no token; name tokens by their ids"))),
            })
            .collect()
    }

    fn mode(&self, served: &Served) -> Result<Mode, Error> {
        let modes = &served.backend.model().modes;
        let Some(asked) = self.sled.as_ref().and_then(|sled| sled.mode.as_deref()) else {
            return Ok(modes.first().copied().unwrap_or_default());
        };
        modes.iter().copied().find(|&mode| mode_name(mode) == asked).ok_or_else(|| {
            let names: Vec<&str> = modes.iter().copied().map(mode_name).collect();
            Error::invalid("sled.mode", format!("the mode `{asked}` is not offered here; use {}", names.join(" or ")))
        })
    }

    /// The job that continues `prompt`, with so many tokens if nothing else is asked for.
    pub(crate) fn job(
        &self,
        served: &Served,
        request_id: &str,
        prompt: Vec<Token>,
        max_tokens: Option<usize>,
    ) -> Result<Job, Error> {
        if self.n.is_some_and(|n| n != 1) {
            return Err(Error::invalid("n", "only one answer can be had for a request; send it again for another"));
        }
        let mut sampling = self.sampling(served.backend.vocab().size())?;
        let compile = |text| served.compile(text, "response_format");
        sampling.grammar = self.grammar()?.map(compile).transpose()?;
        let context = served.backend.model().context;
        if prompt.is_empty() {
            return Err(Error::invalid("prompt", "the prompt is empty; give at least one token"));
        }
        let room = context.saturating_sub(prompt.len());
        if room == 0 {
            let message = format!(
                "the prompt has {} tokens and the context {context}, answer included; shorten the prompt",
                prompt.len()
            );
            return Err(Error::Invalid { message, param: None, code: Some("context_length_exceeded") });
        }
        let asked = match (self.max_completion_tokens, self.max_tokens) {
            (Some(0), _) => {
                return Err(Error::invalid("max_completion_tokens", "at least one token must be asked for"));
            }
            (None, Some(0)) => return Err(Error::invalid("max_tokens", "at least one token must be asked for")),
            (Some(asked), _) | (None, Some(asked)) => Some(usize::try_from(asked).unwrap_or(usize::MAX)),
            (None, None) => max_tokens,
        };
        Ok(Job {
            request_id: request_id.to_owned(),
            prompt,
            max_tokens: asked.map_or(room, |asked| asked.min(room)),
            sampling,
            logprobs: None,
            mode: self.mode(served)?,
            client: None,
        })
    }
}

/// A mode as requests spell it.
pub(crate) fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Sled => "sled",
        Mode::Device => "device",
        Mode::Server => "server",
    }
}
