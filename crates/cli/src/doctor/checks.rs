//! From facts to what is well and what is not: one line for each, and what to do.

use indicatif::HumanBytes;
use serde::Serialize;

use super::facts::{Drafter, Facts, Found, Machine, Server, Target};
use super::{choice, expect};

/// A check and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Check {
    pub name: &'static str,
    pub mark: Mark,
    pub fact: String,
    /// What to do about it.
    pub advice: Option<String>,
}

/// How it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mark {
    Ok,
    /// It works, and could be better.
    Warning,
    /// It does not work, or is much too slow.
    Problem,
}

pub const NATIVE: &str = "make build NATIVE=1";

/// Instruction sets that matter for the engine's speed, as llama.cpp names them.
const MATTER: [&str; 10] =
    ["AVX2", "FMA", "F16C", "AVX512", "AVX512_VNNI", "AVX512_BF16", "NEON", "DOTPROD", "MATMUL_INT8", "SVE"];

/// Without these, where the processor has them, the engine is several times slower.
const NEEDED: [&str; 2] = ["AVX2", "DOTPROD"];

/// Less free space than this is little: a small model has about as much.
const LITTLE_DISK: u64 = 2 << 30;

/// Round trips above this can be felt, in milliseconds.
const LONG_TRIP_MS: f64 = 150.0;

/// Where less comes through in a second, the vocabulary takes its time, in megabits.
const SLOW_MBIT: f64 = 2.0;

/// Fewer tokens than this for each session are few.
const FEW_TOKENS: u32 = 512;

/// All checks.
pub fn of(facts: &Facts) -> Vec<Check> {
    let mut checks =
        vec![processor(&facts.machine), cores(&facts.machine), threads(&facts.machine), gpu(&facts.machine)];
    checks.push(memory(facts));
    checks.push(disk(&facts.machine));
    if let Some(target) = &facts.target {
        checks.extend(model(target));
        checks.extend(choice::of(facts));
        return checks;
    }
    let found = facts.server.as_ref().and_then(|server| server.found.as_ref());
    checks.extend(facts.drafter.as_ref().map(|it| drafter(it, found)));
    match &facts.server {
        None => checks.push(ok("server", "none is asked for: the draft model decodes alone".to_owned())),
        Some(found) => checks.extend(server(found, facts)),
    }
    checks
}

pub fn ok(name: &'static str, fact: String) -> Check {
    Check { name, mark: Mark::Ok, fact, advice: None }
}

pub fn warning(name: &'static str, fact: String, advice: &str) -> Check {
    Check { name, mark: Mark::Warning, fact, advice: Some(advice.to_owned()) }
}

fn problem(name: &'static str, fact: String, advice: &str) -> Check {
    Check { name, mark: Mark::Problem, fact, advice: Some(advice.to_owned()) }
}

fn processor(machine: &Machine) -> Check {
    let used: Vec<&str> = machine.features.iter().map(String::as_str).filter(|name| MATTER.contains(name)).collect();
    let used = if used.is_empty() { "no vector instructions".to_owned() } else { used.join(", ") };
    let fact = format!("{}; the engine uses {used}", machine.cpu);
    if machine.unused_features.is_empty() {
        return ok("processor", fact);
    }
    let fact = format!("{fact}, and not {}", machine.unused_features.join(", "));
    if machine.unused_features.iter().any(|name| NEEDED.contains(&name.as_str())) {
        return problem("processor", fact, &format!("run {NATIVE}: it will be several times faster"));
    }
    warning("processor", fact, &format!("to use these too, run {NATIVE}; prompts and batches may take less time"))
}

fn cores(machine: &Machine) -> Check {
    let fact = format!("{}", machine.cores);
    match machine.load {
        Some(load) if load > f64::from(machine.cores) / 2.0 => warning(
            "cores",
            format!("{fact}, and a load of {load:.1} in the last minute: what is measured here is measured beside it"),
            "look with `top` what else computes, or leave it cores with -t",
        ),
        Some(load) => ok("cores", format!("{fact}, with a load of {load:.1} in the last minute")),
        None => ok("cores", fact),
    }
}

fn threads(machine: &Machine) -> Check {
    let why = if machine.threads_why.is_empty() { "as asked for" } else { &machine.threads_why };
    ok("threads", format!("{}: {why}", machine.threads))
}

fn gpu(machine: &Machine) -> Check {
    let backends: Vec<&str> = machine.backends.iter().map(String::as_str).filter(|name| *name != "CPU").collect();
    let names: Vec<String> = machine
        .gpus
        .iter()
        .map(|gpu| format!("{}, {} of {} free", gpu.name, HumanBytes(gpu.memory_free), HumanBytes(gpu.memory)))
        .collect();
    match (backends.as_slice(), names.as_slice()) {
        ([], _) if machine.has_nvidia => warning(
            "GPU",
            "there is an NVIDIA driver, and this build computes on the CPU alone".to_owned(),
            "build with cargo build --release --workspace --locked --features sled-cli/cuda",
        ),
        ([], _) => ok("GPU", "none in this build: it computes on the CPU".to_owned()),
        (backends, []) => warning(
            "GPU",
            format!("this build has {}, which finds no GPU", backends.join(", ")),
            "check the driver; until then it computes on the CPU",
        ),
        (_, names) => ok("GPU", names.join("; ")),
    }
}

/// What the models are to take, against what is free; weights on a GPU are not counted.
fn memory(facts: &Facts) -> Check {
    const NAME: &str = "memory";
    let needed = match (&facts.target, facts.drafter.as_ref().and_then(|drafter| drafter.model.as_ref())) {
        (Some(target), _) if target.weights_bytes > 0 => Some((target.weights_bytes, target.cache_bytes)),
        (_, Some(model)) => Some((model.weights_bytes, model.cache_bytes)),
        _ => None,
    };
    let Some(available) = facts.machine.memory_available else {
        return ok(NAME, "this system does not say how much is available".to_owned());
    };
    let Some((weights, cache)) = needed else {
        return ok(NAME, format!("{} available", HumanBytes(available)));
    };
    let fact = format!(
        "{} available, of which weights take about {} and the KV cache {}",
        HumanBytes(available),
        HumanBytes(weights),
        HumanBytes(cache)
    );
    let advice = if facts.target.is_some() {
        "choose a smaller quantisation, or a smaller cache with -c; --cache-type q8_0 halves it"
    } else {
        "choose a smaller draft model or quantisation; --draft ngram needs none"
    };
    match weights.saturating_add(cache) {
        needed if !facts.machine.gpus.is_empty() && needed > available => {
            ok(NAME, format!("{fact}, partly on the GPU"))
        }
        needed if needed > available => problem(NAME, fact, advice),
        needed if needed > available / 10 * 9 => warning(NAME, fact, advice),
        _ => ok(NAME, fact),
    }
}

fn disk(machine: &Machine) -> Check {
    let folder = &machine.model_folder;
    match machine.disk_free {
        Some(free) if free < LITTLE_DISK => warning(
            "disk",
            format!("{} free for models in {folder}", HumanBytes(free)),
            "free some, or keep models elsewhere with HF_HOME",
        ),
        Some(free) => ok("disk", format!("{} free for models in {folder}", HumanBytes(free))),
        None => ok("disk", format!("models are kept in {folder}")),
    }
}

fn model(target: &Target) -> Vec<Check> {
    if let Some(error) = &target.error {
        return vec![problem(
            "model",
            error.clone(),
            "see `sled list` for models by name, and get one with `sled pull`",
        )];
    }
    let mut checks = vec![ok("model", target.title.clone())];
    let each = target.ctx_size / target.parallel.max(1);
    let fact = format!("{} tokens for {} sessions at once: {each} for each", target.ctx_size, target.parallel);
    checks.push(match each {
        each if each < FEW_TOKENS => {
            warning("cache", fact, "longer texts take turns in the cache; give more with -c, or let fewer in with -np")
        }
        _ => ok("cache", fact),
    });
    for passes in &target.passes {
        let points: Vec<String> = passes.points.iter().map(|[rows, ms]| format!("{ms:.0} ms for {rows}")).collect();
        let threads = passes.threads;
        checks.push(ok("passes", format!("{} rows, on {threads} threads", points.join(", "))));
    }
    checks
}

fn drafter(drafter: &Drafter, server: Option<&Found>) -> Check {
    const NAME: &str = "drafter";
    let name = &drafter.name;
    let advice = "name another with --draft; ngram needs no model";
    if let Some(error) = &drafter.error {
        return problem(NAME, error.clone(), advice);
    }
    match (&drafter.model, drafter.name.as_str()) {
        (Some(model), _) => {
            let rate = model.tokens_per_s.map(|rate| format!(", {rate:.1} tokens/s")).unwrap_or_default();
            let chosen = match server {
                _ if drafter.chosen_by_user => "",
                Some(_) => ", the smallest downloaded model with the server's vocabulary",
                None => ", the smallest downloaded model",
            };
            ok(NAME, format!("{name}{chosen}: {}{rate}", model.title))
        }
        (None, "none") => ok(NAME, "none: the server decodes".to_owned()),
        (None, _) if drafter.chosen_by_user => ok(NAME, "n-grams: repeats of the text, without a model".to_owned()),
        (None, _) => warning(
            NAME,
            format!("n-grams: no model is downloaded{}", server.map_or("", |_| " that has the server's vocabulary")),
            "get a small model of the target's family with `sled pull`, and name it with --draft",
        ),
    }
}

fn server(server: &Server, facts: &Facts) -> Vec<Check> {
    let Some(found) = &server.found else {
        let reason = server.error.clone().unwrap_or_default();
        return vec![problem(
            "server",
            reason,
            "on another machine it is to be started with --host 0.0.0.0, and a firewall must let its port through",
        )];
    };
    let fact =
        format!("{}: sled {} with {}, {} tokens of context", server.address, found.version, found.model, found.context);
    let mut checks = vec![if found.version == env!("CARGO_PKG_VERSION") {
        ok("server", fact)
    } else {
        warning(
            "server",
            format!("{fact}; this is {}", env!("CARGO_PKG_VERSION")),
            "run the same version on both sides",
        )
    }];
    checks.push(link(found));
    checks.extend(vocabulary(found, facts.drafter.as_ref()));
    checks.push(load(found));
    if let Some(trial) = &facts.trial {
        checks.push(match &trial.error {
            Some(error) => problem("answer", error.clone(), "look at the log of the server"),
            None => {
                let plain = trial.plain_tokens_per_s.unwrap_or_default();
                let accepted = expect::acceptance(trial).map_or_else(
                    || "; nothing was drafted".to_owned(),
                    |_| format!("; {} of {} drafts accepted", trial.accepted, trial.drafted),
                );
                ok("answer", format!("{plain:.1} tokens/s without drafts{accepted}"))
            }
        });
    }
    checks
}

fn link(found: &Found) -> Check {
    let Found { round_trip_ms, download_mbit_per_s, .. } = found;
    let fact = format!("a round trip of {round_trip_ms:.1} ms, {download_mbit_per_s:.0} Mbit/s down");
    if *round_trip_ms > LONG_TRIP_MS {
        return warning("link", fact, "a server nearer by answers sooner; drafts hide a part of the way");
    }
    if *download_mbit_per_s < SLOW_MBIT {
        return warning("link", fact, "enough for tokens; the vocabulary takes its time, once");
    }
    ok("link", fact)
}

fn vocabulary(found: &Found, drafter: Option<&Drafter>) -> Option<Check> {
    let drafter = drafter?;
    let model = drafter.model.as_ref()?;
    let (ours, theirs) = (&model.vocabulary_fingerprint, &found.vocabulary_fingerprint);
    Some(if ours == theirs {
        ok("vocabulary", format!("{ours}, on both sides"))
    } else {
        problem(
            "vocabulary",
            format!("{} has {ours} and the server {theirs}", drafter.name),
            "use a draft model of the target's family, or --draft ngram",
        )
    })
}

fn load(found: &Found) -> Check {
    let Found { sessions, busy_sessions, cells_used, cells, .. } = found;
    let steps = found.step_ms.zip(found.rows_per_step);
    let steps =
        steps.map(|(ms, rows)| format!("; a pass took {ms:.0} ms for {rows:.1} rows so far")).unwrap_or_default();
    let fact = format!(
        "{sessions} sessions, {busy_sessions} of them at work; {cells_used} of {cells} tokens of its cache in use{steps}"
    );
    if *cells > 0 && *cells_used * 10 > *cells * 9 && *busy_sessions > 0 {
        return warning("load", fact, "sessions may have to take turns; start the server with a larger -c");
    }
    ok("load", fact)
}
