//! A server, as a device reaches it.

use std::time::Duration;

use sled_wire::{Description, PROTOCOL, SessionList, SledClient, pb};
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

use crate::error::brief;
use crate::{Error, race};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a server may take to say what it is, or what it is doing.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A server that vanished without closing its connection is noticed after this long, twice.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// A server that was reached and has said what it serves; clones share the connection to it.
#[derive(Clone, Debug)]
pub struct RemoteServer {
    pub(crate) client: SledClient<Channel>,
    address: String,
    description: Description,
}

impl RemoteServer {
    /// Connects to `http://HOST:PORT` (or `HOST:PORT`).
    ///
    /// # Errors
    /// If the address is none, nobody answers, or who answers is no server of this version.
    pub async fn connect(address: &str) -> Result<Self, Error> {
        let (url, endpoint) = endpoint(address)?;
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE);
        let channel =
            endpoint.connect().await.map_err(|error| Error::Unreachable { url: url.clone(), reason: brief(&error) })?;
        let mut client = sled_wire::client(channel);
        let describing = in_time(client.describe(pb::DescribeRequest { protocol: PROTOCOL }));
        let description = describing.await.map_err(|error| match error {
            Error::Broken(reason) => Error::Unreachable { url, reason },
            error => error,
        })?;
        let description = sled_wire::decode_description(description.into_inner())?;
        Ok(Self { client, address: address.to_owned(), description })
    }

    /// Connects to the first of `addresses` that answers; one that says nothing holds up the next for a second.
    ///
    /// # Errors
    /// If none does; the error of a single address is as [`RemoteServer::connect`] gives it.
    pub async fn connect_any(addresses: &[String]) -> Result<Self, Error> {
        // A typing error is not to be covered up by another server.
        addresses.iter().try_for_each(|address| endpoint(address).map(|_good| ()))?;
        let connect = |address: &String| {
            let address = address.clone();
            async move { Self::connect(&address).await }
        };
        let (_, remote) = race::first(addresses.iter().map(connect).collect()).await.map_err(Error::of_all)?;
        Ok(remote)
    }

    /// How long the server takes to answer a short question.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn round_trip(&self) -> Result<Duration, Error> {
        let asked = std::time::Instant::now();
        in_time(self.client.clone().describe(pb::DescribeRequest { protocol: PROTOCOL })).await?;
        Ok(asked.elapsed())
    }

    /// What the server's sessions are doing.
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn sessions(&self) -> Result<SessionList, Error> {
        let list = in_time(self.client.clone().sessions(pb::SessionsRequest {})).await?;
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

/// What an address stands for.
fn endpoint(address: &str) -> Result<(String, Endpoint), Error> {
    let url = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    let endpoint = Endpoint::from_shared(url.clone()).map_err(|_invalid| Error::Address(address.to_owned()))?;
    Ok((url, endpoint))
}

/// The answer to a short question.
async fn in_time<T>(asked: impl Future<Output = Result<Response<T>, Status>>) -> Result<Response<T>, Error> {
    let silent = |_elapsed| Error::Broken("it does not answer".into());
    Ok(tokio::time::timeout(ANSWER_TIMEOUT, asked).await.map_err(silent)??)
}
