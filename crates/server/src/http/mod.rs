//! The HTTP port: the API, decoded by the engine alone, the live figures, and the metrics.
//!
//! | file | what it does |
//! |---|---|
//! | `backend.rs` | answers the API's jobs: a thin client of the engine, in the same process |
//! | `figures.rs`, `frame.rs` | how the server is doing, once a second for whoever listens |
//! | `metrics.rs` | the same as counters, for Prometheus |

mod backend;
mod figures;
mod frame;
mod metrics;

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
pub use backend::EngineBackend;
pub(crate) use backend::Sessions;
pub(crate) use figures::Figures;
pub use frame::{Cells, Cost, Frame, Rates, ServerFacts, Session, Step, Totals};
pub(crate) use metrics::Metrics;
use sled_api::{HttpPort, Settings};

use crate::Error;

/// An HTTP port, listened on before there is a model to serve: until there is, it says that one is being loaded.
pub struct Http {
    figures: Arc<OnceLock<Figures>>,
    port: HttpPort,
}

impl Http {
    /// Listens on `address`, and answers from now on.
    ///
    /// # Errors
    /// If the address cannot be listened on.
    pub async fn bind(address: SocketAddr, settings: Settings) -> Result<Self, Error> {
        let figures = Arc::new(OnceLock::new());
        let watched = Router::new().route("/events", get(events)).with_state(Arc::clone(&figures));
        let port = HttpPort::bind(address, settings, sled_api::pages::dashboard().merge(watched)).await;
        match port {
            Ok(port) => Ok(Self { figures, port }),
            Err(source) => Err(Error::Bind { address, flag: "--http-port", source }),
        }
    }

    /// The address that it listens on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// From now on there is something to serve.
    pub(crate) fn open(&self, backend: EngineBackend, figures: Figures, metrics: Metrics) -> Result<(), Error> {
        self.port.open(Arc::new(backend), |registry| registry.register_collector(Box::new(metrics)))?;
        let _opened_twice = self.figures.set(figures);
        Ok(())
    }

    /// From now on requests are refused; those under way go on.
    pub(crate) fn refuse(&self) {
        self.port.refuse();
    }

    /// Hangs up, and cuts off whoever is still being answered after `patience`.
    pub(crate) async fn close(self, patience: Duration) {
        self.port.close(patience).await;
    }
}

/// `GET /events`.
async fn events(State(figures): State<Arc<OnceLock<Figures>>>) -> Response {
    match figures.get() {
        Some(figures) => figures.stream().into_response(),
        None => {
            let soon = "the model is being loaded; try again soon";
            (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "1")], soon).into_response()
        }
    }
}
