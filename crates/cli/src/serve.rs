//! `sled serve`.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use sled_model::Model;
use sled_model::grammar::Compiler;
use sled_model::llama::{EngineOptions, LlamaEngine, LlamaModel, vocabulary_file};
use sled_server::{EngineStats, Front, Http, Identity, Server, Settings};

use crate::args::ServeArgs;
use crate::show::announce;
use crate::{device, models};

/// Rows that one forward pass may have.
pub const ROWS: u32 = 512;

/// Serves until interrupted.
pub async fn serve(args: ServeArgs) -> anyhow::Result<()> {
    let server = start(&args).await?;
    announce(&format!("listening on http://{}", server.address()?));
    if let Some(address) = server.http_address() {
        announce(&format!("API and dashboard on http://{address}"));
    }
    let stats = server.run(interrupted()).await?;
    eprintln!("{}", summary(&stats));
    Ok(())
}

/// How the HTTP API is offered.
pub fn api_settings(api_key: Option<String>, origins: Vec<sled_api::Origin>) -> sled_api::Settings {
    let name = device::hostname();
    let hosts = if name.is_empty() { Vec::new() } else { vec![format!("{name}.local"), name] };
    sled_api::Settings { api_key, origins, hosts, ..Default::default() }
}

/// Loads the model and listens; on the HTTP port already while it loads.
pub async fn start(args: &ServeArgs) -> anyhow::Result<Server> {
    let http = match args.http_port {
        Some(port) => {
            let settings = api_settings(args.api_key.clone(), args.cors.clone());
            Some(Http::bind(SocketAddr::new(args.host, port), settings).await?)
        }
        None => None,
    };
    let path = models::locate(&args.model)?;
    let model = LlamaModel::load(&path, &device::load_options(args.gpu_layers))?;
    let options = EngineOptions {
        context: args.ctx_size,
        sequences: args.parallel,
        rows: ROWS.min(args.ctx_size),
        threads: args.threads.unwrap_or_else(device::cores),
        cache: args.cache_type,
    };
    let engine = LlamaEngine::new(&model, &options)?;
    let vocab = model.vocab();
    let folder = tempfile::tempdir().context("cannot make a temporary folder; check that the disk is not full")?;
    let vocabulary = folder.path().join("vocabulary.gguf");
    vocabulary_file(&path, &vocabulary)?;
    let identity = Identity {
        name: models::api_name(&args.model),
        model: model.description().to_string(),
        model_fingerprint: model.fingerprint().to_owned(),
        vocabulary_fingerprint: vocab.fingerprint().to_owned(),
        vocabulary: std::fs::read(&vocabulary).context("cannot read the vocabulary back; check the disk")?.into(),
        end_of_generation: vocab.eog_tokens().to_vec(),
    };
    let limits = engine.limits();
    eprintln!(
        "{}: {} tokens of cache for {} sessions at once, {} threads",
        identity.model, limits.cells, limits.sequences, options.threads
    );
    let settings = Settings {
        batching: args.scheduling.batching,
        assist: args.scheduling.assist,
        rate_goal: args.scheduling.rate_goal,
        sessions: usize::try_from(args.max_sessions)?,
        queue: usize::try_from(args.max_queue)?,
        max_draft: usize::try_from(args.max_draft)?,
    };
    let mut server = Server::bind(SocketAddr::new(args.host, args.port), Box::new(engine), settings, identity).await?;
    server = server.with_grammars(Arc::new(Compiler::new(&vocab)));
    if let Some(http) = http {
        server.serve_http(http, Front { vocab, threads: options.threads })?;
    }
    Ok(server)
}

fn summary(stats: &EngineStats) -> String {
    let per_commit = |time: std::time::Duration| 1e3 * time.as_secs_f64() / (stats.commits.max(1) as f64);
    format!(
        "served {} commits in {} steps of {} rows: {:.2} ms a commit in the model, {:.3} ms beside it; {} evictions",
        stats.commits,
        stats.steps,
        stats.rows,
        per_commit(stats.forward),
        per_commit(stats.overhead),
        stats.evictions
    )
}

/// Resolves at the first SIGINT or SIGTERM.
pub async fn interrupted() {
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
