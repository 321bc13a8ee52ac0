//! `sled device`: the agent that runs on a device and answers the apps on it.

use std::net::SocketAddr;
use std::time::Duration;

use sled_agent::{Agent, AgentOptions, Drafter, Error, Http, Target};
use sled_api::backend::DrafterCard;
use sled_core::device::Resilience;
use sled_core::names::for_terminal;
use sled_device::{SharedDrafter, Vocabularies};
use sled_llama::{CacheType, EngineOptions, LlamaEngine, LlamaModel};

use crate::args::AgentArgs;
use crate::show;
use sled_launch::device::{self, DRAFT_ROWS};
use sled_launch::serve::api_settings;
use sled_launch::threads::Work;
use sled_launch::{Usage, models, ports};

/// How many of the longest texts fit the draft model's cache at once; idle chats give way.
const DRAFT_TEXTS: usize = 2;

/// The longest text that a draft model is given room for before a server has said how long its sessions get, in tokens.
const UNTOLD_CONTEXT: usize = 8192;

/// How long to wait before a server is looked for again, when there is nothing to answer with.
const RETRY: Duration = Duration::from_secs(2);

/// Answers until interrupted.
pub async fn agent(args: AgentArgs) -> anyhow::Result<()> {
    ports::raise_open_files();
    let settings = api_settings(args.api_key.clone(), args.cors.clone(), &args.listen);
    let http = Http::bind(SocketAddr::new(args.host, args.port), settings).await?;
    let mut told = std::pin::pin!(ports::told_to_end());
    let (agent, introduction) = tokio::select! {
        agent = start(&args) => agent?,
        () = &mut told => return Ok(()),
    };
    http.open(&agent)?;
    show::announce(&format!("listening on http://{}; {introduction}", http.address()));
    told.await;
    http.close(&agent, args.listen.grace).await;
    Ok(())
}

/// Loads the drafter and finds out what is to be served; the agent, and what it says of itself.
async fn start(args: &AgentArgs) -> anyhow::Result<(Agent, String)> {
    let (name, servers) = (args.device.draft.as_str(), servers(args)?);
    let model = match name {
        "ngram" | "none" => None,
        name => {
            let name = name.to_owned();
            Some(tokio::task::spawn_blocking(move || device::load_draft_model(&name)).await??)
        }
    };
    anyhow::ensure!(
        model.is_some() || !servers.is_empty(),
        Usage("without a server there must be a model to answer with; name one with --draft".to_owned())
    );
    let vocabularies = device::vocabularies()?;
    let card = (name != "none").then(|| DrafterCard {
        name: models::api_name(name),
        description: model.as_ref().map_or_else(|| name.to_owned(), |model| model.description().to_string()),
    });
    let drafts = card.as_ref().map_or(name, |card| card.description.as_str());
    let target = target(&servers, &vocabularies, model.as_ref().zip(card.clone())).await?;
    let places = usize::try_from(args.parallel)?;
    let threads = args.device.threads.count(Work::Drafting);
    let drafter = match (&model, name) {
        (Some(model), _) => Drafter::Model(shared(model, &target, places, threads.threads)?),
        (None, "ngram") => Drafter::Ngram,
        (None, _) => Drafter::Nothing,
    };
    let verifier = match (&target.remote, servers.first()) {
        (Some(remote), _) => format!("verified by {} at {}", target.name, remote.address()),
        (None, Some(_)) => "no server answers yet; what it says is unverified until one does".to_owned(),
        (None, None) => "no server; what it says is unverified".to_owned(),
    };
    let on = if model.is_some() { format!(" on {threads}") } else { String::new() };
    let introduction = format!("drafts: {drafts}{on}; {verifier}");
    let options = AgentOptions {
        name: device::device_name(name),
        drafter_card: card,
        drafter,
        policy: args.device.policy,
        resilience: Resilience {
            servers: servers.len(),
            timeout: args.device.timeout,
            fallback: args.device.fallback,
            fallback_after: args.device.fallback_after,
            ..Resilience::default()
        },
        servers,
        vocabularies,
        places,
        queue: usize::try_from(args.max_queue)?,
    };
    Ok((Agent::start(target, options), introduction))
}

/// The servers that are to be used; none for `none`.
fn servers(args: &AgentArgs) -> anyhow::Result<Vec<String>> {
    let servers = &args.device.server;
    if servers == &["none"] {
        return Ok(Vec::new());
    }
    device::check_servers(servers)?;
    Ok(servers.clone())
}

/// What is served: as a server says, as is remembered of it, or what the draft model can do alone. Without any of them it waits
/// for a server.
async fn target(
    servers: &[String],
    vocabularies: &Vocabularies,
    drafter: Option<(&LlamaModel, DrafterCard)>,
) -> anyhow::Result<Target> {
    let model = drafter.as_ref().map(|(model, _)| *model);
    let mut told = false;
    loop {
        let found = if servers.is_empty() { None } else { Some(Target::from_server(servers, vocabularies).await) };
        let unreachable = match found {
            Some(Ok(target)) => return Ok(checked(target, model)?),
            Some(Err(error)) if error.is_passing() => Some(error),
            Some(Err(error)) => return Err(error.into()),
            None => None,
        };
        if let Some(target) = Target::remembered(servers, vocabularies) {
            return Ok(checked(target, model)?);
        }
        if let Some((model, card)) = drafter {
            let context = model.train_context().min(UNTOLD_CONTEXT);
            return Ok(Target::from_drafter(card, model.vocab(), context));
        }
        if let Some(error) = unreachable.filter(|_| !std::mem::replace(&mut told, true)) {
            eprintln!("{}; trying again until it answers", for_terminal(&error.to_string()));
        }
        tokio::time::sleep(RETRY).await;
    }
}

fn checked(target: Target, model: Option<&LlamaModel>) -> Result<Target, Error> {
    match model {
        Some(model) => target.check_vocabulary(&model.vocab()),
        None => Ok(target),
    }
}

/// The draft model, for all sessions of an agent with so many places.
fn shared(model: &LlamaModel, target: &Target, places: usize, threads: u32) -> anyhow::Result<SharedDrafter> {
    let context = target.bounds.context.min(model.train_context()) * DRAFT_TEXTS;
    let context = u32::try_from(context).unwrap_or(u32::MAX);
    let options = EngineOptions {
        context,
        sequences: u32::try_from(AgentOptions::sessions(places))?,
        rows: DRAFT_ROWS.min(context),
        threads,
        cache: CacheType::F16,
    };
    Ok(SharedDrafter::start(LlamaEngine::new(model, &options)?)?)
}
