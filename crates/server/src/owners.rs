//! Whose sessions share what the KV cache holds.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::str::FromStr;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use sled_api::backend::Client;
use sled_core::server::Owner;

/// Requests over HTTP that find in the KV cache what earlier ones left there. Sessions of devices share within their connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SharePrefixes {
    /// Those of one connection.
    #[default]
    Connection,
    /// Those from one address.
    Address,
}

/// A policy that does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is unknown; use connection or address")]
pub struct UnknownSharing(String);

impl FromStr for SharePrefixes {
    type Err = UnknownSharing;

    fn from_str(text: &str) -> Result<Self, UnknownSharing> {
        match text {
            "connection" => Ok(Self::Connection),
            "address" => Ok(Self::Address),
            _ => Err(UnknownSharing(text.to_owned())),
        }
    }
}

impl fmt::Display for SharePrefixes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connection => "connection",
            Self::Address => "address",
        })
    }
}

/// Marks the owners that are addresses, and those that are nobody known, among those that are connections.
const ADDRESS: u64 = 1 << 63;
const NOBODY: u64 = 1 << 62;

impl SharePrefixes {
    /// Whose the requests of `client` are. Somebody who is not known shares with nobody.
    pub(crate) fn owner(self, client: Option<Client>) -> Owner {
        // Nobody can choose an address that has the number of another's.
        static KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Owner(match (client, self) {
            (None, _) => NOBODY | NEXT.fetch_add(1, Ordering::Relaxed),
            (Some(client), Self::Connection) => client.connection,
            (Some(client), Self::Address) => ADDRESS | KEYS.hash_one(client.address.ip().to_canonical()),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn an_owner_is_a_connection_or_an_address() {
        let client = |address: &str, connection| Some(Client { address: address.parse().unwrap(), connection });
        let [first, second] = [client("10.0.0.1:1000", 1), client("[::ffff:10.0.0.1]:2000", 2)];
        let other = client("10.0.0.2:1000", 3);
        let connection = |client| SharePrefixes::Connection.owner(client);
        assert_eq!((connection(first), connection(second), connection(other)), (Owner(1), Owner(2), Owner(3)));
        let address = |client| SharePrefixes::Address.owner(client);
        assert_eq!(address(first), address(second));
        assert_ne!(address(first), address(other));
        assert_ne!(address(None), address(None));
        for sharing in [SharePrefixes::Connection, SharePrefixes::Address] {
            assert_eq!(sharing.to_string().parse(), Ok(sharing));
        }
        assert_eq!(
            "all".parse::<SharePrefixes>().unwrap_err().to_string(),
            "`all` is unknown; use connection or address"
        );
    }
}
