//! The routes, and what all of them have: a key where there is one, a name for each request.

use axum::extract::{Request, State};
use axum::http::{HeaderValue, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use utoipa::OpenApi;

use crate::call::{self, REQUEST_ID};
use crate::condition;
use crate::error::Error;
use crate::openai::{chat, completions, models, tokenize};
use crate::openapi::Document;
use crate::origin::{self, Guard};
use crate::state::Api;

/// All routes, and those of `beside`, which need no key. Of these, whatever works for those who ask needs the API key, if there is
/// one; how the server is doing is told to everybody, as vLLM does. Pages of other sites are refused at all of them.
pub fn router(api: &Api, beside: Router) -> Router {
    let open = Router::new()
        .route("/health", get(condition::health))
        .route("/metrics", get(condition::metrics))
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
    let settings = api.settings();
    let routes = routes.fallback(unknown).method_not_allowed_fallback(not_allowed);
    let mut routes = origin::open(routes, &settings.origins, &REQUEST_ID);
    if settings.api_key.is_none() {
        // Where there is a key, that tells who may ask.
        let guard = Guard::new(&settings.hosts, &settings.origins);
        routes = routes.layer(from_fn_with_state(guard, origin::check));
    }
    routes.layer(from_fn(call::name))
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

async fn document() -> Response {
    Json(Document::openapi()).into_response()
}
