//! The HTTP port: the API, decoded by the engine alone, the live figures, and the metrics.
//!
//! | file | what it does |
//! |---|---|
//! | `backend.rs` | answers the API's jobs: a thin client of the engine, in the same process |
//! | `figures.rs` | how the server is doing, once a second for whoever listens |
//! | `metrics.rs` | the same as counters, for Prometheus |

mod backend;
mod figures;
mod metrics;

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
pub use backend::EngineBackend;
pub(crate) use backend::Sessions;
pub(crate) use figures::{About, Figures};
pub(crate) use metrics::Metrics;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::codegen::Service;

use crate::Error;

/// An HTTP port, listened on before there is a model to serve: until there is, it says that one is being loaded.
pub struct Http {
    address: SocketAddr,
    ready: Arc<OnceLock<Router>>,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<std::io::Result<()>>,
}

impl Http {
    /// Listens on `address`, and answers from now on.
    ///
    /// # Errors
    /// If the address cannot be listened on.
    pub async fn bind(address: SocketAddr) -> Result<Self, Error> {
        let refused = |source| Error::Bind { address, flag: "--http-port", source };
        let listener = TcpListener::bind(address).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let ready = Arc::new(OnceLock::new());
        let router = Router::new().fallback(once_loaded).with_state(Arc::clone(&ready));
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = axum::serve(listener, router).with_graceful_shutdown(async {
            let _dropped = stopped.await;
        });
        Ok(Self { address, ready, stop, serving: tokio::spawn(serving.into_future()) })
    }

    /// The address that it listens on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers with `router` from now on.
    pub(crate) fn open(&self, router: Router) {
        let _opened_twice = self.ready.set(router);
    }

    /// Lets those who are being answered finish, and no others in.
    pub(crate) async fn close(self) {
        let _ended = self.stop.send(());
        let _joined = self.serving.await;
    }
}

async fn once_loaded(State(ready): State<Arc<OnceLock<Router>>>, request: Request) -> Response {
    match ready.get() {
        Some(router) => router.clone().call(request).await.into_response(),
        None => {
            let error = serde_json::json!({
                "message": "the model is being loaded; try again soon",
                "type": "unavailable_error",
                "param": null,
                "code": "loading",
            });
            let retry = [(header::RETRY_AFTER, "1")];
            (StatusCode::SERVICE_UNAVAILABLE, retry, axum::Json(serde_json::json!({ "error": error }))).into_response()
        }
    }
}

/// What the server tells of itself: `/events` and `/metrics`.
pub(crate) fn routes(figures: Figures, registry: Registry) -> Router {
    let registry = Arc::new(registry);
    let metrics = move || {
        let registry = Arc::clone(&registry);
        async move { metrics::text(&registry) }
    };
    Router::new()
        .route("/events", axum::routing::get(figures::events))
        .with_state(figures)
        .route("/metrics", axum::routing::get(metrics))
}
