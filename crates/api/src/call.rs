//! A request that was let in: its name, its place among those under way, its body, and the work on it.

use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;
use sled_model::workers::{Caller, Workers};
use tokio::sync::OwnedSemaphorePermit;

use crate::backend::Client;
use crate::body::Received;
use crate::error::Error;
use crate::state::{Api, random};

/// The most characters of a client's own name for a request.
const ID: usize = 64;

/// The header that a request's name is in.
pub(crate) static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

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

/// Middleware: the request has a name from here on, and its answer says which.
pub(crate) async fn name(mut request: Request, next: Next) -> Response {
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
