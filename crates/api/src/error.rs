//! What can go wrong with a request, and how a client is told.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use sled_core::sampler::SamplingError;
use utoipa::ToSchema;

use crate::backend::Refusal;

/// What can go wrong with a request; each message is one sentence for the user.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request asks for what cannot be done.
    #[error("{message}")]
    Invalid {
        /// What is wrong and what to do.
        message: String,
        /// The field that is wrong.
        param: Option<String>,
        /// What programs know the error by.
        code: Option<&'static str>,
    },
    /// The API key is missing or wrong.
    #[error("the API key is missing or wrong; send it as `Authorization: Bearer KEY`")]
    Key,
    /// The request names another host than this machine.
    #[error(
        "the name `{0}` is not known to be this machine's, and a web page may be behind it; ask by an address or by localhost, or \
         start the program with --api-key, or with --cors and the origin of the page"
    )]
    ForeignHost(String),
    /// The request is from a page of another site.
    #[error("pages from `{0}` may not ask here; start the program with --cors and the page's origin to let them")]
    ForeignOrigin(String),
    /// The body is not said to be JSON.
    #[error("the body must be JSON, with the header `Content-Type: application/json`")]
    NotJson,
    /// The request is for another model.
    #[error("the model `{asked}` is not served here; ask for `{served}`")]
    UnknownModel {
        /// The model that was asked for.
        asked: String,
        /// The model that is served.
        served: String,
    },
    /// There is nothing at this path.
    #[error("there is nothing at {0}; /openapi.json lists what there is")]
    UnknownPath(String),
    /// The path is not for this method.
    #[error("{path} cannot be asked by {method}; /openapi.json lists how")]
    Method {
        /// The method.
        method: String,
        /// The path.
        path: String,
    },
    /// The body is larger than is read.
    #[error("the request has more than {0} bytes; shorten it")]
    TooLarge(usize),
    /// The body is short, but has more in it than is read.
    #[error("the request has too many values in it; send a shorter list, or fewer messages and tools")]
    TooComplex,
    /// The body did not come in time, or broke off.
    #[error("the request did not come to its end; send it again")]
    Incomplete,
    /// There are too many requests.
    #[error("too many requests are under way; try again in {} s", .after.as_secs().max(1))]
    Busy {
        /// When to try again.
        after: Duration,
    },
    /// The model is not loaded yet.
    #[error("the model is loading; try again in a moment")]
    Loading,
    /// Nothing is taken any more.
    #[error("this server is shutting down; send the request to another")]
    Closing,
    /// What generates cannot be expected to answer.
    #[error("{0}")]
    Unwell(String),
    /// The generation failed.
    #[error("{0}")]
    Failed(String),
    /// The vocabulary or the chat template of the model cannot be used.
    #[error(transparent)]
    Model(sled_model::Error),
}

/// The body of an error, as OpenAI has it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ErrorBody {
    error: ErrorDetail,
}

/// What is wrong.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ErrorDetail {
    /// One sentence.
    message: String,
    /// The kind of error: `invalid_request_error`, `rate_limit_error` or `server_error`.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The field that is wrong.
    param: Option<String>,
    /// What programs know the error by.
    code: Option<&'static str>,
}

impl Error {
    /// The field `param` is wrong.
    pub(crate) fn invalid(param: &str, message: impl Into<String>) -> Self {
        Self::Invalid { message: message.into(), param: Some(param.to_owned()), code: Some("invalid_value") }
    }

    /// The status that the client is answered with.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Invalid { .. } => StatusCode::BAD_REQUEST,
            Self::Key => StatusCode::UNAUTHORIZED,
            Self::ForeignHost(_) | Self::ForeignOrigin(_) => StatusCode::FORBIDDEN,
            Self::NotJson => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::UnknownModel { .. } | Self::UnknownPath(_) => StatusCode::NOT_FOUND,
            Self::Method { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooLarge(_) | Self::TooComplex => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Incomplete => StatusCode::REQUEST_TIMEOUT,
            Self::Busy { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Loading | Self::Closing | Self::Unwell(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Failed(_) | Self::Model(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// When to try again.
    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy { after } => Some(*after),
            Self::Loading => Some(Duration::from_secs(1)),
            _ => None,
        }
    }

    /// What the client is told.
    pub(crate) fn body(&self) -> ErrorBody {
        let kind = match self.status() {
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        let (param, code) = match self {
            Self::Invalid { param, code, .. } => (param.clone(), *code),
            Self::Key => (None, Some("invalid_api_key")),
            Self::ForeignHost(_) => (None, Some("foreign_host")),
            Self::ForeignOrigin(_) => (None, Some("foreign_origin")),
            Self::NotJson => (None, Some("unsupported_media_type")),
            Self::UnknownModel { .. } => (Some("model".to_owned()), Some("model_not_found")),
            Self::UnknownPath(_) => (None, Some("not_found")),
            Self::Method { .. } => (None, Some("method_not_allowed")),
            Self::TooLarge(_) | Self::TooComplex => (None, Some("request_too_large")),
            Self::Incomplete => (None, Some("request_incomplete")),
            Self::Busy { .. } => (None, Some("rate_limit_exceeded")),
            Self::Loading => (None, Some("model_loading")),
            Self::Closing => (None, Some("shutting_down")),
            Self::Unwell(_) => (None, Some("not_responding")),
            Self::Failed(_) => (None, Some("generation_failed")),
            Self::Model(_) => (None, Some("model_error")),
        };
        ErrorBody { error: ErrorDetail { message: self.to_string(), kind, param, code } }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let mut response = (self.status(), Json(self.body())).into_response();
        if let Some(after) = self.retry_after() {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
        }
        response
    }
}

impl From<sled_model::Error> for Error {
    fn from(error: sled_model::Error) -> Self {
        match error {
            sled_model::Error::WorkersBusy => Self::Busy { after: Duration::from_secs(1) },
            sled_model::Error::TextTooLong { .. } => {
                Self::Invalid { message: error.to_string(), param: None, code: Some("context_length_exceeded") }
            }
            sled_model::Error::RunTooLong { .. } | sled_model::Error::WorkTooLong | sled_model::Error::WorkFailed => {
                Self::Invalid { message: error.to_string(), param: None, code: Some("invalid_value") }
            }
            other => Self::Model(other),
        }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Busy { after } => Self::Busy { after },
            Refusal::Invalid(message) => Self::Invalid { message, param: None, code: Some("invalid_value") },
            Refusal::Closing => Self::Closing,
        }
    }
}

impl From<SamplingError> for Error {
    fn from(error: SamplingError) -> Self {
        let param = match &error {
            SamplingError::OutOfRange { name, .. } => name,
            _ => "logit_bias",
        };
        Self::invalid(param, error.to_string())
    }
}
