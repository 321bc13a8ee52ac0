//! The API on a port of its own, listened on before there is anything to serve.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use crate::backend::Backend;
use crate::listen::{Port, Protocol};
use crate::{Api, Error, Settings, router};

/// An HTTP port with the API and some pages. Until it is opened, it says that a model is being loaded.
pub struct HttpPort {
    address: SocketAddr,
    api: Api,
    port: Port,
}

impl HttpPort {
    /// Listens on `address`, and answers from now on.
    ///
    /// # Errors
    /// If the address cannot be listened on.
    pub async fn bind(address: SocketAddr, settings: Settings, pages: Router) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let limits = settings.limits;
        let api = Api::new(settings);
        let port = Port::serve(listener, router(&api, pages), Protocol::Http1, limits, std::convert::identity);
        Ok(Self { address, api, port })
    }

    /// The address that it listens on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on `backend` answers, whose figures `register` adds to those of `/metrics`.
    ///
    /// # Errors
    /// If the vocabulary of the backend's model cannot tokenise, or its chat template is not valid.
    pub fn open(&self, backend: Arc<dyn Backend>, register: impl FnOnce(&mut Registry)) -> Result<(), Error> {
        self.api.serve(backend)?;
        self.api.register(register);
        Ok(())
    }

    /// From now on requests are refused; those under way go on.
    pub fn refuse(&self) {
        self.api.close();
    }

    /// Hangs up, and cuts off whoever is still being answered after `patience`.
    pub async fn close(self, patience: Duration) {
        self.port.close(patience).await;
    }
}
