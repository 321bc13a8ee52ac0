//! `sled serve`.

use std::net::SocketAddr;

use anyhow::Context;
use sled_model::Model;
use sled_model::llama::{EngineOptions, LlamaEngine, LlamaModel, vocabulary_file};
use sled_server::{EngineStats, Identity, Server};

use crate::args::ServeArgs;
use crate::{device, models};

/// Rows that one forward pass may have.
const ROWS: u32 = 512;

/// Prompt rows that one forward pass may have: on a CPU every row costs time, on a GPU few cost as much as many.
const PREFILL_ROWS_CPU: usize = 64;
const PREFILL_ROWS_GPU: usize = 512;

/// Serves until interrupted.
pub async fn serve(args: ServeArgs) -> anyhow::Result<()> {
    let server = start(&args).await?;
    println!("listening on http://{}", server.address()?);
    let stats = server.run(interrupted()).await?;
    eprintln!("{}", summary(&stats));
    Ok(())
}

/// Loads the model and listens.
pub async fn start(args: &ServeArgs) -> anyhow::Result<Server> {
    let path = models::locate(&args.model)?;
    let model = LlamaModel::load(&path, &device::load_options(args.gpu_layers))?;
    let options = EngineOptions {
        context: args.ctx_size,
        sequences: args.parallel,
        rows: ROWS.min(args.ctx_size),
        threads: args.threads.unwrap_or_else(device::cores),
    };
    let engine = LlamaEngine::new(&model, &options)?;
    let vocab = model.vocab();
    let folder = tempfile::tempdir().context("cannot make a temporary folder; check that the disk is not full")?;
    let vocabulary = folder.path().join("vocabulary.gguf");
    vocabulary_file(&path, &vocabulary)?;
    let identity = Identity {
        model: model.description().to_string(),
        model_fingerprint: model.fingerprint().to_owned(),
        vocabulary_fingerprint: vocab.fingerprint().to_owned(),
        vocabulary: std::fs::read(&vocabulary).context("cannot read the vocabulary back; check the disk")?.into(),
        end_of_generation: vocab.eog_tokens().to_vec(),
    };
    let limits = engine.limits();
    eprintln!(
        "{}: {} tokens of cache for up to {} sessions, {} threads",
        identity.model, limits.cells, limits.sequences, options.threads
    );
    let prefill_rows =
        if args.gpu_layers.is_some_and(|layers| layers > 0) { PREFILL_ROWS_GPU } else { PREFILL_ROWS_CPU };
    Ok(Server::bind(SocketAddr::new(args.host, args.port), Box::new(engine), prefill_rows, identity).await?)
}

fn summary(stats: &EngineStats) -> String {
    let per_commit = |time: std::time::Duration| 1e3 * time.as_secs_f64() / (stats.commits.max(1) as f64);
    format!(
        "served {} commits in {} steps of {} rows: {:.2} ms a commit in the model, {:.3} ms beside it",
        stats.commits,
        stats.steps,
        stats.rows,
        per_commit(stats.forward),
        per_commit(stats.overhead)
    )
}

/// Resolves at the first SIGINT or SIGTERM.
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
