//! The HTTP port of an agent.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sled_api::{HttpPort, Settings};

use crate::{Agent, Error};

/// How long connections that nobody uses any more have to end.
const FAREWELL: Duration = Duration::from_millis(300);

/// An HTTP port, listened on before there is an agent: until there is, it says that a model is being loaded.
pub struct Http(HttpPort);

impl Http {
    /// Listens on `address`, and answers from now on.
    ///
    /// # Errors
    /// If the address cannot be listened on.
    pub async fn bind(address: SocketAddr, settings: Settings) -> Result<Self, Error> {
        let port = HttpPort::bind(address, settings, sled_api::pages::chat()).await;
        port.map(Self).map_err(|source| Error::Bind { address, source })
    }

    /// The address that it listens on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.0.address()
    }

    /// From now on `agent` answers.
    ///
    /// # Errors
    /// If the chat template of its target is not valid.
    pub fn open(&self, agent: &Agent) -> Result<(), Error> {
        Ok(self.0.open(Arc::new(agent.clone()), |registry| agent.counters().register(registry))?)
    }

    /// Lets nobody in any more, and gives whoever is being answered `grace` until `agent` is closed.
    pub async fn close(self, agent: &Agent, grace: Duration) {
        self.0.refuse();
        agent.close(grace).await;
        self.0.close(FAREWELL).await;
    }
}
