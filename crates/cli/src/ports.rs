//! What `serve` and `device` have in common as processes: open files, and signals.

/// Raises the limit of open files as far as the system allows: each connection is one.
pub fn raise_open_files() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, getrlimit, setrlimit};
        let mut limit = getrlimit(Resource::Nofile);
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::debug!(%error, "the limit of open files stays as it is");
        }
    }
}

/// Resolves at the first SIGINT or SIGTERM. At the second the process ends, whatever it is doing.
pub async fn told_to_end() {
    let (tell, told) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        interrupted().await;
        let _gone = tell.send(());
        interrupted().await;
        sled_model::llama::leave(0);
    });
    let _told = told.await;
}

async fn interrupted() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminated) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminated.recv() => {}
            }
            return;
        }
    }
    let _interrupted = tokio::signal::ctrl_c().await;
}
