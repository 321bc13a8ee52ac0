//! The way to a server.

use std::time::Duration;

use sled_wire::{Description, PROTOCOL, SessionList, SledClient, pb};
use tonic::transport::{Channel, Endpoint};

use crate::Error;
use crate::error::brief;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a server may take to say what it is.
const DESCRIBE_TIMEOUT: Duration = Duration::from_secs(10);

/// A server that vanished without closing its connection is noticed after this long, twice.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// A connection to a server that has said what it serves.
#[derive(Clone, Debug)]
pub struct Link {
    pub(crate) client: SledClient<Channel>,
    address: String,
    description: Description,
}

impl Link {
    /// Connects to `http://HOST:PORT` (or `HOST:PORT`).
    ///
    /// # Errors
    /// If the address is none, nobody answers, or who answers is no server of this version.
    pub async fn connect(address: &str) -> Result<Self, Error> {
        let url = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
        let endpoint = Endpoint::from_shared(url.clone()).map_err(|_invalid| Error::Address(address.to_owned()))?;
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE);
        let channel =
            endpoint.connect().await.map_err(|error| Error::Unreachable { url: url.clone(), reason: brief(&error) })?;
        let mut client = sled_wire::client(channel);
        let describing = client.describe(pb::DescribeRequest { protocol: PROTOCOL });
        let unreachable = |reason| Error::Unreachable { url, reason };
        let description = match tokio::time::timeout(DESCRIBE_TIMEOUT, describing).await {
            Err(_elapsed) => return Err(unreachable("it does not answer".to_owned())),
            Ok(answer) => answer.map_err(|status| match Error::from(status) {
                Error::Broken(reason) => unreachable(reason),
                error => error,
            })?,
        };
        let description = sled_wire::decode_description(description.into_inner())?;
        Ok(Self { client, address: address.to_owned(), description })
    }

    /// Connects to the first of `addresses` that answers.
    ///
    /// # Errors
    /// If none does; the error of a single address is as [`Link::connect`] gives it.
    pub async fn connect_any(addresses: &[String]) -> Result<Self, Error> {
        let mut errors = Vec::new();
        for address in addresses {
            match Self::connect(address).await {
                Ok(link) => return Ok(link),
                // A typing error is not to be covered up by another server.
                Err(error @ Error::Address(_)) => return Err(error),
                Err(error) => errors.push(error),
            }
        }
        match errors.len() {
            1 => Err(errors.remove(0)),
            _ => Err(Error::NoServer(errors.iter().map(Error::in_brief).collect::<Vec<_>>().join("; "))),
        }
    }

    /// How long the server takes to answer a short question.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn round_trip(&self) -> Result<Duration, Error> {
        let asked = std::time::Instant::now();
        self.client.clone().describe(pb::DescribeRequest { protocol: PROTOCOL }).await?;
        Ok(asked.elapsed())
    }

    /// What the server's sessions are doing.
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn sessions(&self) -> Result<SessionList, Error> {
        let list = self.client.clone().sessions(pb::SessionsRequest {}).await?;
        Ok(sled_wire::decode_sessions(list.into_inner())?)
    }

    /// The address, as it was given.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What the server serves.
    #[must_use]
    pub fn description(&self) -> &Description {
        &self.description
    }
}
