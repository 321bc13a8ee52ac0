//! Looks for a drafter, and at how fast it drafts here.

use std::path::Path;

use sled_core::sampler::{Sampler, SamplingParams};
use sled_llama::{CacheType, Footprint, LlamaModel, load_vocabulary};
use sled_model::drafter::Drafter as Drafts;
use sled_model::ngram::NgramDrafter;

use super::facts::{DraftModel, Drafter, Found};
use crate::args::DoctorArgs;
use sled_launch::measure;
use sled_launch::threads::Work;
use sled_launch::{device, models};

/// How many tokens are drafted to see how fast, after a text of so many.
pub const DRAFTS: usize = 32;
const TEXT: usize = 64;

/// Room for the text of the trial.
const ROOM: usize = 1024;

/// What `--draft` names; without it, the smallest downloaded model that speaks as the server does, if there is a server, else
/// n-grams.
pub fn choose(args: &DoctorArgs, server: Option<&Found>) -> String {
    let fits = |path: &Path| {
        let footprint = Footprint::read(path).ok()?;
        let Some(server) = server else { return Some(footprint.bytes) };
        // The target is no drafter for itself.
        let is_other = footprint.fingerprint.to_string() != server.model_fingerprint;
        let speaks = || {
            load_vocabulary(path).is_ok_and(|vocab| vocab.fingerprint().to_string() == server.vocabulary_fingerprint)
        };
        (is_other && speaks()).then_some(footprint.bytes)
    };
    args.draft.clone().unwrap_or_else(|| {
        let downloaded = models::downloaded().unwrap_or_default();
        let fitting = downloaded.into_iter().filter_map(|(name, path)| Some((fits(&path)?, name)));
        fitting.min().map_or_else(|| "ngram".to_owned(), |(_, name)| name)
    })
}

/// Loads the drafter and measures it; `context` is how many tokens a session may have.
pub fn measure(
    args: &DoctorArgs,
    name: &str,
    context: Option<usize>,
    done: impl FnMut(),
) -> (Drafter, Option<Box<dyn Drafts>>) {
    let mut drafter = Drafter { name: name.to_owned(), chosen_by_user: args.draft.is_some(), ..Drafter::default() };
    match name {
        "none" => (drafter, None),
        "ngram" => (drafter, Some(Box::new(NgramDrafter::default()))),
        name => match load(args, name, context, done) {
            Ok((model, drafts)) => {
                drafter.model = Some(model);
                (drafter, Some(drafts))
            }
            Err(error) => {
                drafter.error = Some(error.to_string());
                (drafter, None)
            }
        },
    }
}

fn load(
    args: &DoctorArgs,
    name: &str,
    context: Option<usize>,
    done: impl FnMut(),
) -> anyhow::Result<(DraftModel, Box<dyn Drafts>)> {
    let path = models::locate(name)?;
    let footprint = Footprint::read(&path)?;
    let model = LlamaModel::load(&path, &device::load_options(None))?;
    let threads = args.threads.count(Work::Drafting).threads;
    let mut drafter = device::model_drafter(&model, ROOM, threads)?;
    let sampler = Sampler::new(SamplingParams::default(), model.vocab().size())?;
    let rate = measure::drafts(&mut drafter, &sampler, TEXT, DRAFTS, done)?;
    let tokens = context.unwrap_or(usize::MAX).min(model.train_context()) as u64;
    let found = DraftModel {
        title: model.description().to_string(),
        vocabulary_fingerprint: model.vocab().fingerprint().to_string(),
        weights_bytes: footprint.bytes,
        cache_bytes: footprint.cache_bytes(tokens, CacheType::F16),
        tokens_per_s: Some(rate),
    };
    Ok((found, Box::new(drafter)))
}
