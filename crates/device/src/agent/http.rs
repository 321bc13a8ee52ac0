//! The HTTP port of an agent.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sled_api::listen::{Port, Protocol};
use sled_api::{Api, Settings};
use tokio::net::TcpListener;

use super::Agent;
use crate::Error;

/// How long connections that nobody uses any more have to end.
const FAREWELL: Duration = Duration::from_millis(300);

/// An HTTP port, listened on before there is an agent: until there is, it says that a model is being loaded.
pub struct Http {
    address: SocketAddr,
    api: Api,
    port: Port,
}

impl Http {
    /// Listens on `address`, and answers from now on.
    ///
    /// # Errors
    /// If the address cannot be listened on.
    pub async fn bind(address: SocketAddr, settings: Settings) -> Result<Self, Error> {
        let refused = |source| Error::Bind { address, source };
        let listener = TcpListener::bind(address).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let limits = settings.limits;
        let api = Api::new(settings);
        let router = sled_api::router(&api, sled_api::pages::chat());
        let port = Port::serve(listener, router, Protocol::Http1, limits, std::convert::identity);
        Ok(Self { address, api, port })
    }

    /// The address that it listens on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on `agent` answers.
    ///
    /// # Errors
    /// If the chat template of its target is not valid.
    pub fn open(&self, agent: &Agent) -> Result<(), Error> {
        self.api.serve(Arc::new(agent.clone()))?;
        self.api.register(|registry| agent.counters().register(registry));
        Ok(())
    }

    /// Lets nobody in any more, and gives whoever is being answered `grace` until `agent` is closed.
    pub async fn close(self, agent: &Agent, grace: Duration) {
        self.api.close();
        agent.close(grace).await;
        self.port.close(FAREWELL).await;
    }
}
