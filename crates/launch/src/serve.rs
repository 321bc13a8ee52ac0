//! A server as the command line describes it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use sled_llama::{EngineOptions, LlamaEngine, LlamaModel, vocabulary_file};
use sled_model::Model;
use sled_model::grammar::Compiler;
use sled_server::{Front, Http, Identity, Pass, Server, Settings};

use crate::args::{ListenArgs, ServeArgs};
use crate::passes::{self, Key, Known, Store};
use crate::threads::Work;
use crate::{device, models, templates};

/// Rows that one forward pass may have.
pub const ROWS: u32 = 512;

/// How the HTTP API is offered.
pub fn api_settings(
    api_key: Option<String>,
    origins: Vec<sled_api::Origin>,
    listen: &ListenArgs,
) -> sled_api::Settings {
    let name = device::hostname();
    let hosts = if name.is_empty() { Vec::new() } else { vec![format!("{name}.local"), name] };
    let renderer = templates::renderer();
    sled_api::Settings { api_key, origins, hosts, limits: listen.limits(), renderer, ..Default::default() }
}

/// Loads the model and listens; on the HTTP port already while it loads.
pub async fn start(args: &ServeArgs) -> anyhow::Result<Server> {
    let http = match args.http_port {
        Some(port) => {
            let settings = api_settings(args.api_key.clone(), args.cors.clone(), &args.listen);
            Some(Http::bind(SocketAddr::new(args.host, port), settings).await?)
        }
        None => None,
    };
    let shared = read_texts(&args.shared_prefix)?;
    let path = models::locate(&args.model)?;
    let model = LlamaModel::load(&path, &device::load_options(args.gpu_layers))?;
    let threads = args.threads.count(Work::Serving);
    let options = EngineOptions {
        context: args.ctx_size,
        sequences: args.parallel,
        rows: ROWS.min(args.ctx_size),
        threads: threads.threads,
        cache: args.cache_type,
    };
    let engine = LlamaEngine::new(&model, &options)?;
    let key = Key::new(&model, args.cache_type, threads.threads, args.gpu_layers, engine.limits().rows);
    let (engine, known) = tokio::task::spawn_blocking(move || learn(engine, &key)).await?;
    let vocab = model.vocab();
    let folder = tempfile::tempdir().context("cannot make a temporary folder; check that the disk is not full")?;
    let vocabulary = folder.path().join("vocabulary.gguf");
    vocabulary_file(&path, &vocabulary)?;
    let identity = Identity {
        name: models::api_name(&args.model),
        model: model.description().to_string(),
        model_fingerprint: model.fingerprint(),
        vocabulary_fingerprint: vocab.fingerprint(),
        vocabulary: std::fs::read(&vocabulary).context("cannot read the vocabulary back; check the disk")?.into(),
        end_of_generation: vocab.eog_tokens().to_vec(),
    };
    let limits = engine.limits();
    eprintln!(
        "{}: {} tokens of cache for {} sessions at once, {threads}; {known}",
        identity.model, limits.cells, limits.sequences
    );
    // As chats are read: names of control tokens stand for these.
    let shared: Result<_, _> = shared.iter().map(|text| vocab.tokenize(text, false, true)).collect();
    let mut server =
        Server::bind(SocketAddr::new(args.host, args.port), Box::new(engine), settings(args, known.passes)?, identity)
            .await?;
    server = server.with_grammars(Arc::new(Compiler::new(&vocab))).with_shared_prefixes(shared?);
    if let Some(http) = http {
        server.serve_http(http, Front { vocab, threads: options.threads })?;
    }
    Ok(server)
}

/// How the server uses its engine, whose passes take what `passes` says.
fn settings(args: &ServeArgs, passes: Vec<Pass>) -> anyhow::Result<Settings> {
    Ok(Settings {
        passes,
        batching: args.scheduling.batching,
        assist: args.scheduling.assist,
        rate_goal: args.scheduling.rate_goal,
        sessions: usize::try_from(args.max_sessions)?,
        sessions_per_client: usize::try_from(per_client(args))?,
        idle_timeout: Duration::from_secs(args.idle_timeout.into()),
        queue: usize::try_from(args.max_queue)?,
        max_draft: usize::try_from(args.max_draft)?,
        share_prefixes: args.share_prefixes,
        limits: args.listen.limits(),
        grace: args.listen.grace,
    })
}

/// Finds out what passes of `engine` take.
fn learn(mut engine: LlamaEngine, key: &Key) -> (LlamaEngine, Known) {
    let store = device::cache_folder().ok().map(|folder| Store::new(folder.join("passes")));
    let known = passes::learn(&mut engine, store.as_ref(), key);
    (engine, known)
}

/// No client takes all sessions, unless it is told to be let.
fn per_client(args: &ServeArgs) -> u32 {
    args.max_sessions_per_client.unwrap_or((args.max_sessions / 4).max(64))
}

/// The texts in `files`.
fn read_texts(files: &[PathBuf]) -> anyhow::Result<Vec<String>> {
    let read = |file: &PathBuf| {
        std::fs::read_to_string(file)
            .with_context(|| format!("cannot read the shared prefix {}; give a text file in UTF-8", file.display()))
    };
    files.iter().map(read).collect()
}
