//! What can go wrong with a server.

use std::net::SocketAddr;

/// What can go wrong with a server; each message is one sentence for the user.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {}; stop what uses it, or choose another with {flag}", reason(.source))]
    Bind {
        /// The address that was asked for.
        address: SocketAddr,
        /// What chooses another.
        flag: &'static str,
        /// What the system says.
        source: std::io::Error,
    },
    /// The engine thread cannot be started.
    #[error("cannot start the engine thread: {0}; the system may be out of memory or threads")]
    Thread(#[source] std::io::Error),
    /// The engine thread ended, and nobody had told it to.
    #[error("the engine stopped by itself: {0}; start the server again, and report this if it happens again")]
    Engine(String),
    /// The model cannot be served over HTTP.
    #[error(transparent)]
    Api(#[from] sled_api::Error),
}

fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => "another program is using it".to_owned(),
        _ => error.to_string(),
    }
}
