//! Log probabilities, as chats and completions have them.

use std::collections::BTreeMap;

use serde::Serialize;
use sled_core::Token;
use utoipa::ToSchema;

use crate::generation::Shown;
use crate::state::Served;

/// The most alternatives to a token that may be asked for.
pub(crate) const MOST: u8 = 20;
/// What stands for a token that cannot come.
const NEVER: f32 = -9999.0;

fn finite(logprob: f32) -> f32 {
    if logprob.is_finite() { logprob } else { NEVER }
}

/// The log probabilities of a chat's answer.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ChatLogprobs {
    /// Those of its tokens.
    content: Vec<ChatLogprob>,
    /// Always null.
    refusal: Option<String>,
}

/// The log probability of a token.
#[derive(Debug, Serialize, ToSchema)]
struct ChatLogprob {
    /// The token.
    token: String,
    /// Its log probability; null if the target has not seen it.
    logprob: Option<f32>,
    /// Its bytes.
    bytes: Vec<u8>,
    /// The likeliest tokens in its place.
    top_logprobs: Vec<TopLogprob>,
}

/// A token that could have come.
#[derive(Debug, Serialize, ToSchema)]
struct TopLogprob {
    /// The token.
    token: String,
    /// Its log probability.
    logprob: f32,
    /// Its bytes.
    bytes: Vec<u8>,
}

impl ChatLogprobs {
    /// Those of `tokens`.
    pub(crate) fn of(served: &Served, tokens: &[Shown]) -> Self {
        let content = tokens.iter().map(|shown| {
            let bytes = served.backend.vocab().piece(shown.generated.token, true);
            let logprobs = shown.generated.logprobs.as_ref();
            let top = logprobs.iter().flat_map(|logprobs| &logprobs.top).map(|&(token, logprob)| {
                let bytes = served.backend.vocab().piece(token, true);
                TopLogprob { token: String::from_utf8_lossy(&bytes).into_owned(), logprob: finite(logprob), bytes }
            });
            ChatLogprob {
                token: String::from_utf8_lossy(&bytes).into_owned(),
                logprob: logprobs.map(|logprobs| finite(logprobs.chosen)),
                bytes,
                top_logprobs: top.collect(),
            }
        });
        Self { content: content.collect(), refusal: None }
    }

    /// Appends those of the tokens that follow.
    pub(crate) fn extend(&mut self, more: Self) {
        self.content.extend(more.content);
    }
}

/// The log probabilities of a completion.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct TextLogprobs {
    /// The tokens.
    tokens: Vec<String>,
    /// Their log probabilities; null where the target has not seen them.
    token_logprobs: Vec<Option<f32>>,
    /// The likeliest tokens in their places.
    top_logprobs: Vec<Option<BTreeMap<String, f32>>>,
    /// Where they begin, in characters from the beginning of the answer.
    text_offset: Vec<usize>,
}

impl TextLogprobs {
    /// Those of `tokens`, which begin `offset` characters after the beginning of the answer.
    pub(crate) fn of(served: &Served, tokens: &[Shown], mut offset: usize) -> Self {
        let spelt = |token: Token| String::from_utf8_lossy(&served.backend.vocab().piece(token, true)).into_owned();
        let mut all = Self::default();
        for shown in tokens {
            let token = spelt(shown.generated.token);
            let logprobs = shown.generated.logprobs.as_ref();
            let top = logprobs.map(|logprobs| {
                let top = logprobs.top.iter().map(|&(token, logprob)| (spelt(token), finite(logprob)));
                top.chain([(token.clone(), finite(logprobs.chosen))]).collect()
            });
            all.tokens.push(token);
            all.token_logprobs.push(logprobs.map(|logprobs| finite(logprobs.chosen)));
            all.top_logprobs.push(top);
            all.text_offset.push(offset);
            offset += shown.text.chars().count();
        }
        all
    }

    /// Appends those of the tokens that follow.
    pub(crate) fn extend(&mut self, more: Self) {
        self.tokens.extend(more.tokens);
        self.token_logprobs.extend(more.token_logprobs);
        self.top_logprobs.extend(more.top_logprobs);
        self.text_offset.extend(more.text_offset);
    }
}
