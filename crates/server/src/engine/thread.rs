//! The engine's thread: whether it runs, and what becomes of it.

use std::any::Any;
use std::thread::JoinHandle;

use tokio::sync::watch;
use tokio::time::Instant;

/// A thread that is not waited for without end.
pub(crate) struct Thread {
    handle: JoinHandle<()>,
    running: watch::Receiver<()>,
}

impl Thread {
    pub(super) fn spawn(work: impl FnOnce() + Send + 'static) -> std::io::Result<Self> {
        let (sender, running) = watch::channel(());
        let work = move || {
            // Dropped last, whether the work ends or panics.
            let _running = sender;
            work();
        };
        let handle = std::thread::Builder::new().name("sled-engine".to_owned()).spawn(work)?;
        Ok(Self { handle, running })
    }

    /// Resolves when the thread has ended.
    pub(crate) async fn ended(&mut self) {
        while self.running.changed().await.is_ok() {}
    }

    /// What the thread died of, if it did; after `deadline` it is left alone, whatever it does.
    pub(crate) async fn join(mut self, deadline: Instant) -> Result<(), String> {
        if !self.handle.is_finished() && tokio::time::timeout_at(deadline, self.ended()).await.is_err() {
            tracing::warn!("the engine is still in a forward pass; the server ends without it");
            return Ok(());
        }
        self.handle.join().map_err(|panic| reason(&*panic))
    }
}

fn reason(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "it does not say why".to_owned())
}
