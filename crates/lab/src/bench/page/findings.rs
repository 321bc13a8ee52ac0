//! The results that the page is written from. What there are no files of is left out of it.

use std::path::Path;

use anyhow::Context;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sled_sim::profile::Profiles;
use sled_sim::recording::Recording;

use super::rows::{Cell, Row, Verdicts};
use crate::args::Mode;
use crate::bench::ABOVE;
use crate::bench::serve::results::{Format, Pass, Results};

/// Tokens of a prompt that the one before had too: the chat template's system prompt.
const SHARED: usize = 24;

/// What was asked of the F16 target, by devices, before it was measured.
const GOALS: [(usize, f64); 6] = [(1, 2.0), (2, 1.5), (4, 1.4), (8, 1.1), (16, 1.0), (32, 1.0)];

/// Numbers of devices that the page tells the simulator's gains of.
const SIMULATED: [usize; 6] = [1, 2, 4, 8, 16, 32];

/// What the template knows.
#[derive(Serialize)]
pub struct Findings {
    pub formats: Option<Formats>,
    pub f16: Option<Measured>,
    pub q4: Option<Measured>,
    pub xeon: Elsewhere,
    pub capacity: Vec<Capacity>,
    pub above: f64,
    pub assist: Vec<Assist>,
    pub leave: Vec<Leave>,
    pub overhead: Overhead,
    pub small: Small,
    pub soak: Soak,
}

/// One run over several model files.
#[derive(Serialize)]
pub struct Formats {
    pub command: String,
    pub machine: String,
    pub peer: Option<String>,
    pub draft_rate: f64,
    /// Repetitions of each place.
    pub repetitions: usize,
    pub tables: Vec<Table>,
    pub verdicts: Verdicts,
}

/// A model file.
#[derive(Serialize)]
pub struct Table {
    pub name: String,
    pub rows: Vec<Row>,
    pub passes: Vec<Pass>,
}

/// One target that was measured in several runs.
#[derive(Serialize)]
pub struct Measured {
    #[serde(skip)]
    pub format: Format,
    /// The file name of its picture.
    #[serde(skip)]
    pub picture: &'static str,
    pub commands: Vec<String>,
    pub peer: Option<String>,
    pub rows: Vec<Row>,
    /// Rows and milliseconds of passes, by its profile.
    pub passes: Vec<(usize, f64)>,
    /// Time of the engine thread beside passes, of all windows: the least and the most share.
    pub overhead: [f64; 2],
    /// The largest share of tokens that were not as recorded.
    pub differing: f64,
    /// New tokens of a prompt, and tokens of an answer, on average.
    pub prompt_tokens: f64,
    pub answer_tokens: f64,
}

/// Another machine, of which there is a profile.
#[derive(Serialize)]
pub struct Elsewhere {
    pub passes: Vec<(usize, f64)>,
    /// Simulated gains over thin clients, prompts included.
    pub gains: Vec<f64>,
}

/// The most devices that each get a rate.
#[derive(Serialize)]
pub struct Capacity {
    pub command: String,
    pub name: String,
    pub devices: Vec<(f64, usize)>,
    pub repetitions: usize,
}

#[derive(Serialize)]
pub struct Assist {
    pub draft_rate: String,
    pub devices: usize,
    /// Whoever needs it never, as the server decides, and always.
    pub cells: Vec<Option<Cell>>,
}

#[derive(Serialize)]
pub struct Leave {
    pub name: &'static str,
    pub command: String,
    pub cell: Option<Cell>,
}

#[derive(Serialize, Deserialize)]
pub struct Overhead {
    scheduler: SchedulerAlone,
    server: ServerAlone,
}

#[derive(Serialize, Deserialize)]
struct SchedulerAlone {
    sessions: usize,
    verdicts_per_s: f64,
    bytes_per_idle_session: u64,
    bytes_of_its_tokens: u64,
}

#[derive(Serialize, Deserialize)]
struct ServerAlone {
    devices: usize,
    rounds_per_s: f64,
}

/// The engine thread beside the passes of a small model, as a share of them.
#[derive(Serialize)]
pub struct Small {
    command: String,
    central: Option<f64>,
    sled: Option<f64>,
}

/// What a long run of the soak test printed.
#[derive(Serialize, Deserialize)]
pub struct Soak {
    command: String,
    minutes: u64,
    answers: u64,
    sessions_died: u64,
    first_kib: u64,
    last_kib: u64,
    threads: u64,
    tasks: u64,
}

impl Findings {
    pub fn load(root: &Path) -> anyhow::Result<Self> {
        let results = root.join("results");
        let profiles = Profiles::load(&root.join("profiles"))?;
        let passes = |name: &str, rows: &[usize]| -> anyhow::Result<Vec<(usize, f64)>> {
            let (_, target) = profiles.target(name)?;
            Ok(rows.iter().map(|&rows| (rows, 1e3 * target.pass(rows, 0).as_secs_f64())).collect())
        };
        let mut f16 = measured(root, &["serve", "serve-16", "serve-32"], "serve.svg", "validate")?;
        if let Some(f16) = &mut f16 {
            f16.passes = passes("epyc-2core/qwen2.5-coder-1.5b-f16", &[1, 2, 4, 8, 16, 32])?;
            for row in &mut f16.rows {
                row.goal = GOALS.iter().find(|(devices, _)| *devices == row.devices).map(|(_, goal)| *goal);
            }
        }
        let mut q4 = measured(root, &["serve-q4", "serve-q4-16", "serve-q4-32"], "serve-q4.svg", "validate-q4")?;
        if let Some(q4) = &mut q4 {
            q4.passes = passes("epyc-2core/qwen2.5-coder-1.5b", &[1, 2, 4, 8, 16, 32])?;
        }
        let xeon = passes("xeon-2core/qwen2.5-coder-1.5b-f16", &[1, 2, 4, 8])?;
        Ok(Self {
            formats: load(&results.join("formats.json"))?.map(Formats::new),
            f16,
            q4,
            xeon: Elsewhere { passes: xeon, gains: gains(&results)? },
            capacity: capacities(&results)?,
            above: ABOVE,
            assist: assist(&results)?,
            leave: [("continuous", "leave-continuous"), ("static", "leave-static")]
                .into_iter()
                .map(|(name, file)| leave(&results, name, file))
                .collect::<anyhow::Result<_>>()?,
            overhead: read(&results.join("overhead.json"))?,
            small: small(&results)?,
            soak: read(&results.join("soak.json"))?,
        })
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}; check --root", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is of another version; measure again", path.display()))
}

/// A file of results, if it is there.
fn load(path: &Path) -> anyhow::Result<Option<Results>> {
    path.exists().then(|| Results::load(path)).transpose()
}

impl Formats {
    pub fn new(run: Results) -> Self {
        let table =
            |format: &Format| Table { name: name(format), rows: Row::all(format), passes: format.passes.clone() };
        let tables: Vec<Table> = run.formats.iter().map(table).collect();
        let rows = tables.iter().flat_map(|table| &table.rows);
        Self {
            repetitions: rows.map(|row| row.repetitions.len()).min().unwrap_or(0),
            verdicts: Verdicts::of(tables.iter().map(|table| (table.name.as_str(), table.rows.as_slice()))),
            command: run.command,
            machine: run.machine,
            peer: run.peer,
            draft_rate: run.draft_rate,
            tables,
        }
    }
}

/// What a model file is called.
fn name(format: &Format) -> String {
    Path::new(&format.target).file_stem().map_or(format.target.clone(), |name| name.to_string_lossy().into())
}

/// One target from several files, of which the first must be there.
fn measured(root: &Path, files: &[&str], picture: &'static str, validated: &str) -> anyhow::Result<Option<Measured>> {
    let results = root.join("results");
    let mut all: Option<(Format, Vec<String>, Option<String>)> = None;
    for file in files {
        let Some(run) = load(&results.join(file).with_extension("json"))? else { continue };
        let Some(format) = run.formats.into_iter().next() else { continue };
        match &mut all {
            None => all = Some((format, vec![run.command], run.peer)),
            Some((whole, commands, _)) => {
                whole.points.extend(format.points);
                whole.same_work.extend(format.same_work);
                commands.push(run.command);
            }
        }
    }
    let Some((format, commands, peer)) = all else { return Ok(None) };
    let simulated: Validated = read(&results.join(validated).with_extension("json"))?;
    let mut rows = Row::all(&format);
    rows.iter_mut().for_each(|row| row.simulated = simulated.gain(row.devices));
    let of_sled = || format.points.iter().map(|p| &p.figures).filter(|f| f.mode != Mode::LlamaServer.name());
    let overhead = of_sled().map(|figures| figures.server_overhead);
    let recording = Recording::load(&root.join(&format.recording))?;
    let mean = |of: &dyn Fn(&sled_sim::recording::Output) -> usize| {
        recording.outputs.iter().map(of).sum::<usize>() as f64 / recording.outputs.len().max(1) as f64
    };
    Ok(Some(Measured {
        overhead: [overhead.clone().fold(f64::INFINITY, f64::min), overhead.fold(0.0, f64::max)],
        differing: of_sled().map(|figures| figures.differing_share).fold(0.0, f64::max),
        prompt_tokens: mean(&|output| output.prompt_len.saturating_sub(SHARED)),
        answer_tokens: mean(&|output| output.tokens.len()),
        passes: Vec::new(),
        format,
        picture,
        commands,
        peer,
        rows,
    }))
}

/// What `sled bench validate` wrote, as far as it is needed.
#[derive(Deserialize)]
struct Validated {
    points: Vec<ValidatedPoint>,
}

#[derive(Deserialize)]
struct ValidatedPoint {
    mode: String,
    batching: String,
    devices: usize,
    compared: Vec<Compared>,
}

#[derive(Deserialize)]
struct Compared {
    what: String,
    simulated: Option<Simulated>,
}

#[derive(Deserialize)]
struct Simulated {
    mean: f64,
}

impl Validated {
    /// The simulated tokens a second of devices that draft over those of thin clients.
    fn gain(&self, devices: usize) -> Option<f64> {
        let speed = |mode: Mode| {
            let is = |point: &&ValidatedPoint| {
                point.mode == mode.name() && point.batching == "continuous" && point.devices == devices
            };
            let compared = &self.points.iter().find(is)?.compared;
            Some(compared.iter().find(|compared| compared.what == "WSTGR")?.simulated.as_ref()?.mean)
        };
        Some(speed(Mode::Sled)? / speed(Mode::Central)?)
    }
}

/// What the simulator says of another machine.
fn gains(results: &Path) -> anyhow::Result<Vec<f64>> {
    let series: crate::beyond::Series = read(&results.join("beyond/two-cores.json"))?;
    Ok(SIMULATED.iter().filter_map(|&devices| series.gain("50 drafts/s", devices as f64)).collect())
}

#[derive(Deserialize)]
struct CapacityFile {
    command: String,
    draft_rate: f64,
    capacities: Vec<CapacityPoint>,
}

#[derive(Deserialize)]
struct CapacityPoint {
    mode: String,
    rate: f64,
    devices: usize,
    trials: Vec<serde_json::Value>,
}

fn capacities(results: &Path) -> anyhow::Result<Vec<Capacity>> {
    let of = |file: &str| -> anyhow::Result<Capacity> {
        let CapacityFile { command, draft_rate, capacities } = read(&results.join(file).with_extension("json"))?;
        let central = capacities.iter().all(|capacity| capacity.mode == Mode::Central.name());
        let of_devices = |devices: usize| move |trial: &&serde_json::Value| trial["devices"] == devices;
        let repetitions =
            capacities.iter().map(|capacity| capacity.trials.iter().filter(of_devices(capacity.devices)).count());
        Ok(Capacity {
            repetitions: repetitions.max().unwrap_or(0),
            command,
            name: if central { "`central`".to_owned() } else { format!("{draft_rate} tokens/s") },
            devices: capacities.iter().map(|capacity| (capacity.rate, capacity.devices)).collect(),
        })
    };
    ["capacity-central", "capacity-5", "capacity-15", "capacity-50"].into_iter().map(of).collect()
}

fn assist(results: &Path) -> anyhow::Result<Vec<Assist>> {
    let mut rows = Vec::new();
    for draft_rate in ["5", "50"] {
        let file = |assist: &str| Results::load(&results.join(format!("assist-{assist}-{draft_rate}.json")));
        let runs = [file("never")?, file("auto")?, file("always")?];
        let first = |run: &Results| run.formats.first().map(Format::devices).unwrap_or_default();
        for devices in runs.first().map(first).unwrap_or_default() {
            let cell = |run: &Results| Cell::of(run.formats.first()?, Mode::Sled, devices);
            rows.push(Assist { draft_rate: draft_rate.to_owned(), devices, cells: runs.iter().map(cell).collect() });
        }
    }
    Ok(rows)
}

fn leave(results: &Path, name: &'static str, file: &str) -> anyhow::Result<Leave> {
    let run = Results::load(&results.join(file).with_extension("json"))?;
    let format = run.formats.first();
    let devices = format.and_then(|format| format.devices().first().copied()).unwrap_or_default();
    Ok(Leave { name, cell: format.and_then(|format| Cell::of(format, Mode::Sled, devices)), command: run.command })
}

fn small(results: &Path) -> anyhow::Result<Small> {
    let run = Results::load(&results.join("serve-smollm2.json"))?;
    let share = |mode| {
        let format = run.formats.first()?;
        Some(format.figure(mode, *format.devices().first()?, |figures| figures.server_overhead)?.median)
    };
    Ok(Small { central: share(Mode::Central), sled: share(Mode::Sled), command: run.command })
}
