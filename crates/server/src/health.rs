//! Whether the server can be expected to answer, as gRPC's health service tells it.

use std::time::Duration;

use tonic::server::NamedService;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};

use crate::engine::Engine;

/// How often the engine is looked at.
const PERIOD: Duration = Duration::from_secs(1);

/// The health service, for the whole server and for the service `S`; it follows the engine, until that has stopped.
pub(crate) fn service<S: NamedService + 'static>(engine: Engine) -> HealthServer<impl Health> {
    let (reporter, service) = tonic_health::server::health_reporter();
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(PERIOD);
        loop {
            tick.tick().await;
            let healthy = engine.health().is_ok();
            let status = if healthy { ServingStatus::Serving } else { ServingStatus::NotServing };
            for name in ["", S::NAME] {
                reporter.set_service_status(name, status).await;
            }
            if engine.has_stopped() {
                return;
            }
        }
    });
    service
}
