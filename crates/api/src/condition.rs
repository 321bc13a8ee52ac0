//! How the API is: whether it can answer, and its figures.

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::error::Error;
use crate::state::Api;

/// How the API is.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Health {
    /// `ok`.
    status: &'static str,
}

/// Whether requests can be answered: 503 while the model loads, and when it does not answer.
#[utoipa::path(
    get, path = "/health", tag = "State",
    responses((status = 200, body = Health), (status = 503, body = crate::error::ErrorBody))
)]
pub(crate) async fn health(State(api): State<Api>) -> Result<Json<Health>, Error> {
    api.served()?.backend.health().map_err(Error::Unwell)?;
    Ok(Json(Health { status: "ok" }))
}

/// Figures for Prometheus.
#[utoipa::path(
    get, path = "/metrics", tag = "State",
    responses((status = 200, body = String, content_type = "application/openmetrics-text"))
)]
pub(crate) async fn metrics(State(api): State<Api>) -> Result<Response, Error> {
    let text = api.exposition()?;
    Ok(([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response())
}
