//! `POST /tokenize` and `POST /detokenize`, as llama-server and as vLLM have them.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use sled_core::Token;
use sled_core::text::TextStream;
use utoipa::ToSchema;

use super::chat::ChatRequest;
use super::members::Members;
use crate::call::{Call, prepare};
use crate::error::{Error, ErrorBody};
use crate::state::{Api, Served};

/// A text: llama-server calls it `content`, vLLM `prompt` or, of a chat, `messages`.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct TokenizeRequest {
    /// The model's name; may be left out.
    model: Option<String>,
    /// The text, for an answer as llama-server gives it.
    content: Option<String>,
    /// Whether the tokens that begin a text are added, with `content`. Not by default.
    add_special: Option<bool>,
    /// Whether names of control tokens in `content` become these. By default they do.
    parse_special: Option<bool>,
    /// Whether the text of each token is told, with `content`.
    with_pieces: Option<bool>,
    /// The text, for an answer as vLLM gives it.
    prompt: Option<String>,
    /// A chat, as `/v1/chat/completions` has it, for an answer as vLLM gives it.
    #[schema(value_type = Option<Vec<Object>>)]
    messages: Option<serde::de::IgnoredAny>,
    /// Whether the tokens that begin a text are added; by default to a `prompt` and not to `messages`.
    add_special_tokens: Option<bool>,
    /// Whether the text of each token is told, with `prompt` or `messages`.
    return_token_strs: Option<bool>,
    /// Whether the beginning of the assistant's answer is added to `messages`. By default it is.
    add_generation_prompt: Option<bool>,
}

/// The tokens of a text.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Tokenized {
    /// As llama-server answers.
    Content {
        /// The tokens.
        tokens: Vec<Token>,
    },
    /// As llama-server answers with pieces.
    Pieces {
        /// The tokens.
        tokens: Vec<TokenPiece>,
    },
    /// As vLLM answers.
    Prompt {
        /// How many there are.
        count: usize,
        /// The most that a text may have, answer included.
        max_model_len: usize,
        /// The tokens.
        tokens: Vec<Token>,
        /// Their texts, if they were asked for.
        token_strs: Option<Vec<String>>,
    },
}

/// A token with its text.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TokenPiece {
    /// The token.
    id: Token,
    /// Its text.
    piece: Piece,
}

/// The text of a token, or its bytes if it is none by itself.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Piece {
    Text(String),
    Bytes(Vec<u8>),
}

/// Tokens to become a text.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct DetokenizeRequest {
    /// The model's name; may be left out.
    model: Option<String>,
    /// The tokens.
    tokens: Vec<Token>,
}

/// The text of tokens, by both names.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Detokenized {
    /// The text, as llama-server calls it.
    content: String,
    /// The text, as vLLM calls it.
    prompt: String,
}

/// Whether all of `tokens`, of the field `param`, are in the vocabulary.
pub(crate) fn check(tokens: &[Token], served: &Served, param: &str) -> Result<(), Error> {
    let size = served.backend.vocab().size();
    match tokens.iter().find(|&&token| token as usize >= size) {
        None => Ok(()),
        Some(token) => {
            Err(Error::invalid(param, format!("there is no token {token}; the vocabulary has {size} of them")))
        }
    }
}

impl TokenizeRequest {
    fn answer(&self, chat: Option<&ChatRequest>, served: &Served) -> Result<Tokenized, Error> {
        let vocab = served.backend.vocab();
        if let Some(content) = &self.content {
            let (add, parse) = (self.add_special.unwrap_or(false), self.parse_special.unwrap_or(true));
            let tokens = served.tokenize(content, add, parse)?;
            if !self.with_pieces.unwrap_or(false) {
                return Ok(Tokenized::Content { tokens });
            }
            let pieces = tokens.into_iter().map(|id| {
                let piece = match String::from_utf8(vocab.piece(id, true)) {
                    Ok(text) => Piece::Text(text),
                    Err(error) => Piece::Bytes(error.into_bytes()),
                };
                TokenPiece { id, piece }
            });
            return Ok(Tokenized::Pieces { tokens: pieces.collect() });
        }
        let tokens = match (&self.prompt, chat) {
            (Some(prompt), _) => served.tokenize(prompt, self.add_special_tokens.unwrap_or(true), true)?,
            (None, Some(chat)) => {
                let add_special = self.add_special_tokens.unwrap_or(false);
                chat.prompt(served, self.add_generation_prompt.unwrap_or(true), add_special)?
            }
            (None, None) => {
                return Err(Error::invalid(
                    "prompt",
                    "there is nothing to tokenise; give `content`, `prompt` or `messages`",
                ));
            }
        };
        let spelt = |&token: &Token| String::from_utf8_lossy(&vocab.piece(token, true)).into_owned();
        let token_strs = self.return_token_strs.unwrap_or(false).then(|| tokens.iter().map(spelt).collect());
        Ok(Tokenized::Prompt { count: tokens.len(), max_model_len: served.backend.model().context, tokens, token_strs })
    }
}

impl DetokenizeRequest {
    fn answer(&self, served: &Served) -> Result<Detokenized, Error> {
        check(&self.tokens, served, "tokens")?;
        let mut text = TextStream::default();
        let vocab = served.backend.vocab();
        let mut content: String = self.tokens.iter().map(|&token| text.push(&vocab.piece(token, true))).collect();
        content.push_str(&text.finish());
        Ok(Detokenized { prompt: content.clone(), content })
    }
}

/// The tokens of a text.
#[utoipa::path(
    post, path = "/tokenize", tag = "Tokens", request_body = TokenizeRequest,
    responses((status = 200, body = Tokenized), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody))
)]
pub(crate) async fn tokenize(State(api): State<Api>, call: Call) -> Result<Response, Error> {
    let served = api.served()?;
    let Call { caller, mut body, place, .. } = call;
    let work = move || {
        let members = Members::of(&mut body)?;
        let request: TokenizeRequest = members.read()?;
        served.check_model(request.model.as_deref())?;
        let chat: Option<ChatRequest> = request.messages.map(|_there| members.read()).transpose()?;
        members.finish()?;
        body.weigh(chat.as_ref().map_or(0, ChatRequest::weight_of_arguments))?;
        request.answer(chat.as_ref(), &served)
    };
    let (answer, _place) = prepare(caller, place, work).await?;
    Ok(Json(answer).into_response())
}

/// The text of tokens.
#[utoipa::path(
    post, path = "/detokenize", tag = "Tokens", request_body = DetokenizeRequest,
    responses((status = 200, body = Detokenized), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody))
)]
pub(crate) async fn detokenize(State(api): State<Api>, call: Call) -> Result<Response, Error> {
    let served = api.served()?;
    let Call { caller, mut body, place, .. } = call;
    let work = move || {
        let members = Members::of(&mut body)?;
        let request: DetokenizeRequest = members.read()?;
        members.finish()?;
        served.check_model(request.model.as_deref())?;
        request.answer(&served)
    };
    let (answer, _place) = prepare(caller, place, work).await?;
    Ok(Json(answer).into_response())
}
