//! The HTTP port of an agent.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sled_api::{Api, Settings};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::Agent;
use crate::Error;

/// How long connections that nobody uses any more have to end.
const FAREWELL: Duration = Duration::from_secs(1);

/// An HTTP port, listened on before there is an agent: until there is, it says that a model is being loaded.
pub struct Http {
    address: SocketAddr,
    api: Api,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<std::io::Result<()>>,
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
        let api = Api::new(settings);
        let (stop, stopped) = oneshot::channel::<()>();
        let serving =
            axum::serve(listener, sled_api::router(&api, sled_api::pages::chat())).with_graceful_shutdown(async {
                let _dropped = stopped.await;
            });
        Ok(Self { address, api, stop, serving: tokio::spawn(serving.into_future()) })
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
        let _ended = self.stop.send(());
        let _cut_off = tokio::time::timeout(FAREWELL, self.serving).await;
    }
}
