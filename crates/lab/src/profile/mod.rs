//! `sled profile`: measures this machine and a model on it, as a profile for the simulator.

mod table;

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use indicatif::ProgressBar;
use sled_core::sampler::{Sampler, SamplingParams};
use sled_llama::{CacheType, EngineOptions, LlamaEngine, LlamaModel};
use sled_sim::profile::{Drafter, Mark, Number, PassTime, Points, Profile, Target};

use crate::args::ProfileArgs;
use sled_launch::measure::Effort;
use sled_launch::progress::bar;
use sled_launch::threads::{Processor, Work};
use sled_launch::{Usage, device, measure, models};

/// By how many tokens a session is lengthened to see what tokens in the cache cost.
const LONGER: usize = 1024;

/// How many tokens are drafted.
const DRAFTS: usize = 64;

/// Measures, prints what passes cost, and writes the profile; one that is there already is added to.
pub fn profile(args: &ProfileArgs) -> anyhow::Result<()> {
    let mut rows: Vec<usize> = args.rows.iter().map(|&rows| rows as usize).collect();
    rows.sort_unstable();
    rows.dedup();
    if rows.len() < 2 {
        return Err(Usage("--rows needs two numbers at least, say --rows 1,2,4,8".to_owned()).into());
    }
    let cpu = measure::cpu_name();
    let there = args.out.as_deref().filter(|out| out.exists());
    let mut profile = there.map_or_else(|| Ok(empty(&cpu)), Profile::load)?;
    let threads = args.threads.count(Work::Serving).threads;
    let source = format!("`{}`, {}, {cpu}, {threads} threads", command(args), jiff::Zoned::now().date());
    let steps = rows.len() * (args.repeat as usize + 1);
    let bar = bar(steps + if args.draft.is_some() { DRAFTS } else { 0 }, "passes of the target".to_owned());
    let (name, target) = target(args, &rows, threads, &source, &bar)?;
    let mut lines = text(&target);
    profile.targets.insert(name, target);
    if let Some(draft) = &args.draft {
        bar.set_message("drafts");
        let (name, drafter) = drafter(args, draft, threads, &source, &bar)?;
        lines.push(format!("{}: {:.1} drafts a second", drafter.title, drafter.tokens_per_s.value));
        profile.drafters.insert(name, drafter);
    }
    bar.finish_and_clear();
    for line in lines {
        println!("{line}");
    }
    if let Some(out) = &args.out {
        std::fs::write(out, profile.to_toml())
            .with_context(|| format!("cannot write {}; check --out", out.display()))?;
        eprintln!("written to {}", out.display());
    }
    Ok(())
}

/// What was measured of a target, for people.
fn text(target: &Target) -> Vec<String> {
    let PassTime::Points(points) = &target.time else { return Vec::new() };
    let mut lines = vec![target.title.clone(), String::new()];
    lines.extend(table::lines(&points.value));
    lines.push(String::new());
    let value = |number: &Option<Number>| number.as_ref().map_or(0.0, |number| number.value);
    lines.push(format!("{:.1} ms more for each thousand tokens in the cache", value(&target.context_ms)));
    lines.push(format!("a row of a prompt adds {:.0} % of what another does", 100.0 * value(&target.prompt_row)));
    lines
}

fn target(
    args: &ProfileArgs,
    rows: &[usize],
    threads: u32,
    source: &str,
    bar: &ProgressBar,
) -> anyhow::Result<(String, Target)> {
    let (name, model) = load(&args.model, args.gpu_layers)?;
    let sequences = rows.iter().copied().max().unwrap_or(1);
    let context = args.ctx_size as usize;
    let cells = context + sequences + LONGER;
    let mut engine = LlamaEngine::new(&model, &options(cells, sequences, threads)?)?;
    let effort = Effort { context, repeat: args.repeat as usize, budget: Duration::MAX };
    let passes = measure::passes(&mut engine, rows, &effort, LONGER, || bar.inc(1))?;
    let measured = |value: f64, how: &str| Number { value, mark: Mark::Measured, source: format!("{source}; {how}") };
    let how = "medians, without what the tokens in the cache take";
    let points = Points::new(passes.points, Mark::Measured, format!("{source}; {how}"))
        .map_err(|reason| anyhow::anyhow!("the measured {reason}"))?;
    let target = Target {
        title: model.description().to_string(),
        time: PassTime::Points(points),
        context_ms: Some(measured(passes.context_ms, &format!("a session of {} tokens more", LONGER))),
        prompt_row: Some(measured(passes.prompt_row, "the most rows, as rows of a prompt")),
        weights_gib: Some(measured(
            measure::round(model.description().bytes as f64 / f64::from(1 << 30)),
            "size of the file",
        )),
        kv_kib: None,
    };
    Ok((name, target))
}

fn drafter(
    args: &ProfileArgs,
    draft: &str,
    threads: u32,
    source: &str,
    bar: &ProgressBar,
) -> anyhow::Result<(String, Drafter)> {
    let (name, model) = load(draft, args.gpu_layers)?;
    let context = args.ctx_size as usize;
    let mut drafter = device::model_drafter(&model, context + DRAFTS + 1, threads)?;
    let sampler = Sampler::new(SamplingParams::default(), model.vocab().size())?;
    let rate = measure::drafts(&mut drafter, &sampler, context, DRAFTS, || bar.inc(1))?;
    let source = format!("{source}; 1 / median time of {DRAFTS} drafts");
    let tokens_per_s = Number { value: measure::round(rate), mark: Mark::Measured, source };
    Ok((name, Drafter { title: model.description().to_string(), tokens_per_s }))
}

/// A model, and what it is called in a profile.
fn load(name: &str, gpu_layers: Option<u32>) -> anyhow::Result<(String, LlamaModel)> {
    let path = models::locate(name)?;
    let model = LlamaModel::load(&path, &device::load_options(gpu_layers))?;
    let key = Path::new(name).file_stem().filter(|_| name.ends_with(".gguf"));
    Ok((key.map_or_else(|| name.to_owned(), |stem| stem.to_string_lossy().into_owned()), model))
}

fn options(cells: usize, sequences: usize, threads: u32) -> anyhow::Result<EngineOptions> {
    Ok(EngineOptions {
        context: u32::try_from(cells.next_multiple_of(256))?,
        sequences: u32::try_from(sequences)?,
        rows: 256,
        threads,
        cache: CacheType::F16,
    })
}

fn empty(cpu: &str) -> Profile {
    Profile {
        title: format!("{cpu}, {} cores", Processor::read().cores),
        watts: None,
        price_usd: None,
        rent_usd_per_hour: None,
        memory_gib: None,
        drafters: Default::default(),
        targets: Default::default(),
    }
}

fn command(args: &ProfileArgs) -> String {
    // Where a file is on this machine tells nobody else anything.
    let short = |model: &str| match Path::new(model).file_name() {
        Some(file) if model.ends_with(".gguf") => file.to_string_lossy().into_owned(),
        _ => model.to_owned(),
    };
    let draft = args.draft.as_deref().map(|draft| format!(" --draft {}", short(draft))).unwrap_or_default();
    let rows: Vec<String> = args.rows.iter().map(u32::to_string).collect();
    let (model, rows) = (short(&args.model), rows.join(","));
    format!("sled profile -m {model}{draft} --rows {rows} -c {} --repeat {}", args.ctx_size, args.repeat)
}
