//! The routes, and what is done with every request: its name, its key, its body.

use axum::extract::{FromRequest, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Serialize;
use sled_model::workers::{Caller, Workers};
use tokio::sync::OwnedSemaphorePermit;
use utoipa::{OpenApi, ToSchema};

use crate::backend::Client;
use crate::body::Received;
use crate::error::Error;
use crate::openai::{chat, completions, models, tokenize};
use crate::openapi::Document;
use crate::origin;
use crate::state::{Api, random};

/// The most characters of a client's own name for a request.
const ID: usize = 64;

pub(crate) static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// All routes, and those of `beside`, which need no key. Of these, whatever works for those who ask needs the API key, if there is
/// one; how the server is doing is told to everybody, as vLLM does. Pages of other sites are refused at all of them.
pub fn router(api: &Api, beside: Router) -> Router {
    let open = Router::new()
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .route("/openapi.json", get(document))
        .with_state(api.clone());
    let keyed = Router::new()
        .route("/v1/chat/completions", post(chat::create))
        .route("/v1/completions", post(completions::create))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*model}", get(models::get))
        .route("/tokenize", post(tokenize::tokenize))
        .route("/detokenize", post(tokenize::detokenize))
        .route_layer(from_fn_with_state(api.clone(), check_key))
        .with_state(api.clone());
    finished(api, open.merge(keyed).merge(beside))
}

/// What all routes have: it is checked which page asks, what is not there is said in JSON, and every answer names its request.
fn finished(api: &Api, routes: Router) -> Router {
    let routes = routes.fallback(unknown).method_not_allowed_fallback(not_allowed);
    origin::open(routes, &api.settings().origins)
        .layer(from_fn_with_state(api.clone(), origin::check))
        .layer(from_fn(name))
}

/// A request that was let in, with a place among those under way.
pub(crate) struct Call {
    pub(crate) id: String,
    pub(crate) client: Option<Client>,
    /// Whose turn it is to be prepared.
    pub(crate) caller: Caller,
    pub(crate) body: Received,
    pub(crate) place: OwnedSemaphorePermit,
}

impl FromRequest<Api> for Call {
    type Rejection = Error;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Error> {
        if !is_json(request.headers()) {
            return Err(Error::NotJson);
        }
        let place = api.admit()?;
        let id = request.extensions().get::<RequestId>().map(|id| id.0.clone()).unwrap_or_default();
        let client: Option<Client> = request.extensions().get().copied();
        let caller = Caller::new(client.map(|client| client.address.ip()));
        let body = api.budget().receive(request.into_body()).await?;
        Ok(Self { id, client, caller, body, place })
    }
}

/// Whether the body is said to be JSON. Browsers ask first before they send that to another site.
fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default();
    kind.trim().eq_ignore_ascii_case("application/json")
}

/// What names a request: the client's `x-request-id`, or a random number.
#[derive(Clone)]
struct RequestId(String);

async fn name(mut request: Request, next: Next) -> Response {
    let usable = |id: &&str| {
        (1..=ID).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    let given = request.headers().get(&REQUEST_ID).and_then(|id| id.to_str().ok()).filter(usable);
    let id = given.map_or_else(|| format!("{:016x}", random()), str::to_owned);
    request.extensions_mut().insert(RequestId(id.clone()));
    let mut response = next.run(request).await;
    if let Ok(id) = HeaderValue::try_from(id) {
        response.headers_mut().insert(REQUEST_ID.clone(), id);
    }
    response
}

async fn check_key(State(api): State<Api>, request: Request, next: Next) -> Result<Response, Error> {
    let given = request.headers().get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
    let key = given.and_then(|given| given.strip_prefix(b"Bearer ").or_else(|| given.strip_prefix(b"bearer ")));
    if api.admits(key) { Ok(next.run(request).await) } else { Err(Error::Key) }
}

async fn unknown(request: Request) -> Error {
    Error::UnknownPath(request.uri().path().to_owned())
}

async fn not_allowed(request: Request) -> Error {
    Error::Method { method: request.method().to_string(), path: request.uri().path().to_owned() }
}

/// Prepares a request where it holds nobody up. Its place among those under way is taken until the work ends, also if whoever
/// sent it has hung up.
pub(crate) async fn prepare<T: Send + 'static>(
    caller: Caller,
    place: OwnedSemaphorePermit,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<(T, OwnedSemaphorePermit), Error> {
    let prepared = Workers::shared().run(caller, move || (work(), place)).await;
    let (done, place) = prepared?;
    Ok((done?, place))
}

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

async fn document() -> Response {
    Json(Document::openapi()).into_response()
}
