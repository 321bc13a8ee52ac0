//! What a device saw of a real server, and when it is to stop.

use std::borrow::Borrow;
use std::ops::Range;
use std::time::Duration;

use sled_sim::figures::Log;
use tokio::sync::watch;

/// What one device saw.
#[derive(Default)]
pub struct Seen {
    pub log: Log,
    /// When each prompt came, and when its first token.
    waits: Vec<(Duration, Option<Duration>)>,
}

impl Seen {
    /// A prompt came.
    pub fn asked(&mut self, arrived: Duration) {
        self.waits.push((arrived, None));
    }

    /// A token came. Says whether it is the first that the device ever had.
    pub fn token(&mut self, now: Duration) -> bool {
        if let Some((_, first)) = self.waits.last_mut() {
            first.get_or_insert(now);
        }
        self.log.tokens.push(now);
        self.log.tokens.len() == 1
    }

    /// When it waited for first tokens.
    pub fn waits(&self) -> impl Iterator<Item = Range<Duration>> {
        self.waits.iter().map(|&(arrived, first)| arrived..first.unwrap_or(Duration::MAX))
    }
}

impl Borrow<Log> for Seen {
    fn borrow(&self) -> &Log {
        &self.log
    }
}

/// Tells devices to hang up.
#[derive(Clone)]
pub struct Stop(watch::Receiver<bool>);

impl Stop {
    /// One that comes when the sender says so, or is gone.
    pub fn new() -> (watch::Sender<bool>, Self) {
        let (sender, receiver) = watch::channel(false);
        (sender, Self(receiver))
    }

    pub async fn wait(&mut self) {
        let _sender_is_gone = self.0.wait_for(|stop| *stop).await;
    }

    pub fn is_now(&self) -> bool {
        *self.0.borrow()
    }
}
