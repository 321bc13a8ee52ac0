//! What OpenAI's API asks and answers, and what others have added to it.

pub(crate) mod answer;
pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod logprobs;
pub(crate) mod models;
pub(crate) mod options;
pub(crate) mod summary;
pub(crate) mod tokenize;

use axum::body::Bytes;
use serde::de::DeserializeOwned;

use crate::error::Error;

/// Reads a request; what it does not know of it is ignored.
pub(crate) fn parse<T: DeserializeOwned>(body: &Bytes) -> Result<T, Error> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let parsed = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        match error.into_inner() {
            inner if inner.is_data() => {
                let param = (path != ".").then_some(path);
                let place = param.as_ref().map_or(String::new(), |param| format!("{param}: "));
                Error::Invalid { message: format!("{place}{inner}"), param, code: Some("invalid_value") }
            }
            inner => invalid(&inner),
        }
    })?;
    json.end().map_err(|error| invalid(&error))?;
    Ok(parsed)
}

fn invalid(error: &serde_json::Error) -> Error {
    Error::Invalid { message: format!("the body is not JSON: {error}"), param: None, code: Some("invalid_json") }
}
