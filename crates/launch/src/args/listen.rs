//! The flags of whatever has ports: `sled serve` and `sled device`.

use std::time::Duration;

use clap::Args;
use sled_api::listen::Limits;

/// Whom ports let in, and how they are closed.
#[derive(Clone, Debug, Args)]
pub struct ListenArgs {
    /// The most connections to each port at once; others are turned away
    #[arg(long, env = "SLED_MAX_CONNECTIONS", value_name = "N", default_value_t = Limits::default().connections, value_parser = at_least_one)]
    pub max_connections: usize,

    /// The most of them from one address, or from one /64 network of IPv6; raise it where clients share an address
    #[arg(long, env = "SLED_MAX_CONNECTIONS_PER_CLIENT", value_name = "N", default_value_t = Limits::default().per_client, value_parser = at_least_one)]
    pub max_connections_per_client: usize,

    /// How long answers under way may go on after SIGTERM, in seconds; a second signal ends at once
    #[arg(long, env = "SLED_GRACE", value_name = "SECONDS", default_value = "5", value_parser = grace)]
    pub grace: Duration,
}

impl ListenArgs {
    /// What ports allow.
    pub fn limits(&self) -> Limits {
        Limits { connections: self.max_connections, per_client: self.max_connections_per_client, ..Limits::default() }
    }
}

impl Default for ListenArgs {
    fn default() -> Self {
        let Limits { connections, per_client, .. } = Limits::default();
        Self { max_connections: connections, max_connections_per_client: per_client, grace: Duration::from_secs(5) }
    }
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err("use a number of at least 1".to_owned()),
    }
}

fn grace(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=3600.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("use a number of seconds from 0 to 3600".to_owned()),
    }
}
