//! What `run`, `chat`, `demo` and `bench` need to be a device: a vocabulary, a drafter, a session.

use std::path::PathBuf;

use anyhow::Context;
use sled_core::Token;
use sled_core::device::Resilience;
use sled_core::policy::Policy;
use sled_device::{Drafts, RemoteServer, Session, SessionOptions, Vocabularies};
use sled_llama::{CacheType, EngineOptions, LlamaEngine, LlamaModel, LoadOptions, load_vocabulary};
use sled_model::chat::{Extras, Message};
use sled_model::drafter::ModelDrafter;
use sled_model::ngram::NgramDrafter;
use sled_model::prompt::ChatPrompts;
use sled_model::vocabulary::Vocab;
use sled_model::workers::Workers;

use crate::args::DeviceArgs;
use crate::threads::Work;
use crate::{Usage, models, templates};

/// Rows that one pass of a draft model may have.
pub const DRAFT_ROWS: u32 = 256;

/// How models are loaded.
pub fn load_options(gpu_layers: Option<u32>) -> LoadOptions {
    LoadOptions { gpu_layers }
}

/// Loads the model that `--draft` names.
pub fn load_draft_model(name: &str) -> anyhow::Result<LlamaModel> {
    Ok(LlamaModel::load(&models::locate(name)?, &load_options(None))?)
}

/// A drafter that runs `model` with room for `context` tokens.
pub fn model_drafter(model: &LlamaModel, context: usize, threads: u32) -> anyhow::Result<ModelDrafter<LlamaEngine>> {
    let context = u32::try_from(context.min(model.train_context())).unwrap_or(u32::MAX);
    let options =
        EngineOptions { context, sequences: 1, rows: DRAFT_ROWS.min(context), threads, cache: CacheType::F16 };
    Ok(ModelDrafter::new(LlamaEngine::new(model, &options)?))
}

/// An open session, and the vocabulary that its tokens are from.
pub struct Connected {
    /// The session.
    pub session: Session,
    /// The target's vocabulary.
    pub vocab: Vocab,
}

/// Connects to the server and opens a session with the drafter that was asked for.
pub async fn connect(args: &DeviceArgs) -> anyhow::Result<Connected> {
    check_servers(&args.server)?;
    let remote = RemoteServer::connect_any(&args.server).await?;
    let vocab = vocabularies()?.obtain(&remote).await?;
    let mut vocabulary_fingerprint = vocab.fingerprint();
    let drafter: Option<(Drafts, Policy)> = match args.draft.as_str() {
        "none" => None,
        "ngram" => Some((Drafts::own(Box::new(NgramDrafter::default()))?, args.policy)),
        name => {
            let model = load_draft_model(name)?;
            vocabulary_fingerprint = model.vocab().fingerprint();
            let context = remote.description().bounds.context;
            let drafter = model_drafter(&model, context, args.threads.count(Work::Drafting).threads)?;
            Some((Drafts::own(Box::new(drafter))?, args.policy))
        }
    };
    let name = device_name(&args.draft);
    let options = SessionOptions {
        drafter,
        servers: args.server.clone(),
        resilience: Resilience {
            servers: args.server.len(),
            timeout: args.timeout,
            fallback: args.fallback,
            fallback_after: args.fallback_after,
            ..Resilience::default()
        },
        notify: Box::new(|sentence| eprintln!("{sentence}")),
        ..SessionOptions::new(&name, vocabulary_fingerprint, vocab.eog_tokens())
    };
    Ok(Connected { session: Session::open(&remote, options).await?, vocab })
}

/// Whether all of `servers` are servers.
pub fn check_servers(servers: &[String]) -> anyhow::Result<()> {
    if servers.iter().any(|server| server == "none") {
        return Err(
            Usage("--server none cannot be given beside another server; leave one of them out".to_owned()).into()
        );
    }
    Ok(())
}

/// What a device calls itself that drafts with `draft`.
pub fn device_name(draft: &str) -> String {
    format!("{} ({draft})", hostname())
}

/// The tokens of a conversation that the model is to continue.
pub fn chat_tokens(vocab: &Vocab, messages: &[Message]) -> anyhow::Result<Vec<Token>> {
    let vocab = vocab.clone();
    let messages = messages.iter().map(serde_json::to_value).collect::<Result<_, _>>()?;
    let tokens = Workers::shared().run_blocking(move || {
        let Some(prompts) = ChatPrompts::of(&vocab, &templates::renderer())? else { return Ok(None) };
        prompts.tokens(messages, Extras::default(), true, false, Vocab::LONGEST_TEXT).map(Some)
    })??;
    let none = "the target model has no chat template; use `sled run --raw` with a text to continue";
    Ok(tokens.ok_or_else(|| Usage(none.to_owned()))?)
}

/// The tokens of a prompt, which must leave room for an answer in a session of `context` tokens.
pub fn prompt_tokens(vocab: &Vocab, prompt: &str, raw: bool, context: usize) -> anyhow::Result<Vec<Token>> {
    let tokens = if raw {
        let (vocab, prompt) = (vocab.clone(), prompt.to_owned());
        Workers::shared().run_blocking(move || vocab.tokenize(&prompt, true, false))??
    } else {
        chat_tokens(vocab, &[Message { role: "user".to_owned(), content: prompt.to_owned() }])?
    };
    check_room(tokens.len(), context)?;
    Ok(tokens)
}

/// Whether a prompt leaves room for an answer.
pub fn check_room(prompt_len: usize, context: usize) -> anyhow::Result<()> {
    anyhow::ensure!(
        prompt_len < context,
        "the prompt has {prompt_len} tokens, but the context has {context}; shorten it, or start the server with a larger -c"
    );
    Ok(())
}

/// The vocabularies that were sent by servers.
pub fn vocabularies() -> anyhow::Result<Vocabularies> {
    Ok(Vocabularies::new(cache_folder()?.join("vocabularies"), |path| Ok(load_vocabulary(path)?)))
}

/// Where SLED keeps what it can do without.
pub fn cache_folder() -> anyhow::Result<PathBuf> {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home);
    Ok(cache.context("there is no folder for caches; set HOME or XDG_CACHE_HOME")?.join("sled"))
}

/// What this machine is called.
pub fn hostname() -> String {
    std::fs::read_to_string("/etc/hostname").map_or_else(|_| "device".to_owned(), |name| name.trim().to_owned())
}
