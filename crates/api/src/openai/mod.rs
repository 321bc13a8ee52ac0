//! What OpenAI's API asks and answers, and what others have added to it.

pub(crate) mod answer;
pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod logprobs;
mod members;
pub(crate) mod models;
pub(crate) mod options;
pub(crate) mod summary;
pub(crate) mod tokenize;
