//! docs/beyond.md, written from the results. Its text is `page.md.jinja`; what is put into that is here.

use serde::Serialize;

use super::Findings;
use super::capacity::Capacities;
use super::goals::{Goal, goals};
use super::map::{DEVICES, DRAFTS, Map, STEPS, TRIPS};
use super::series::{CENTRAL, NAMES, ORACLE, RTT, Series};
use super::setting::{BIG, BIG_DRAFTER, Drafter, JETSON, LAPTOP, NOISE, OFFLOADED, Outcome, PI, Server};
use crate::bench::ABOVE;
use crate::template;

/// The page.
pub fn render(findings: &Findings) -> anyhow::Result<String> {
    let page = Page {
        central: CENTRAL,
        rtt_ms: RTT,
        big: BIG,
        offloaded: OFFLOADED,
        big_drafter: BIG_DRAFTER,
        drafters: [LAPTOP, JETSON, PI],
        goals: goals(findings),
        tokens_per_round: &findings.map.tokens_per_round,
        break_even: break_even(&findings.map),
        shares: DEVICES.map(|devices| Shares::of(&findings.map, devices)),
        sections: NAMES.iter().zip(&findings.series).map(|(name, series)| Section::of(name, series)).collect(),
        capacity: Capacity::of(&findings.capacity),
    };
    template::render(include_str!("page.md.jinja"), page)
}

/// What the template knows.
#[derive(Serialize)]
struct Page<'a> {
    central: &'static str,
    rtt_ms: f64,
    big: Server,
    offloaded: Server,
    big_drafter: (f64, f64),
    drafters: [Drafter; 3],
    goals: Vec<Goal>,
    tokens_per_round: &'a [f64],
    break_even: Vec<BreakEven>,
    shares: [Shares; 4],
    sections: Vec<Section<'a>>,
    capacity: Capacity<'a>,
}

/// From which step on drafting pays.
#[derive(Serialize)]
struct BreakEven {
    draft_ms: f64,
    rtt_ms: f64,
    /// By the rule.
    step_ms: f64,
    /// The first that was simulated where it did.
    simulated_ms: Option<f64>,
}

fn break_even(map: &Map) -> Vec<BreakEven> {
    let cases = DRAFTS.into_iter().flat_map(|draft_ms| TRIPS.into_iter().map(move |rtt_ms| (draft_ms, rtt_ms)));
    let of = |(draft_ms, rtt_ms)| {
        let pays = |&step: &f64| map.get(step, draft_ms, rtt_ms, 1).is_some_and(|point| point.gain > 1.05);
        let simulated_ms = STEPS.into_iter().find(pays);
        BreakEven { draft_ms, rtt_ms, step_ms: map.break_even_ms(draft_ms, rtt_ms), simulated_ms }
    };
    cases.map(of).collect()
}

/// The shares of the map's cases with so many devices, by gain.
#[derive(Serialize)]
struct Shares {
    devices: usize,
    much: f64,
    some: f64,
    none: f64,
    loss: f64,
    best: f64,
}

impl Shares {
    fn of(map: &Map, devices: usize) -> Self {
        let of = || map.points.iter().filter(|point| point.devices == devices).map(|point| point.gain);
        let share =
            |is: &dyn Fn(f64) -> bool| of().filter(|&gain| is(gain)).count() as f64 / of().count().max(1) as f64;
        Self {
            devices,
            much: share(&|gain| gain >= 1.2),
            some: share(&|gain| (1.0 + NOISE..1.2).contains(&gain)),
            none: share(&|gain| (1.0 - NOISE..1.0 + NOISE).contains(&gain)),
            loss: share(&|gain| gain < 1.0 - NOISE),
            best: of().fold(0.0, f64::max),
        }
    }
}

/// An experiment.
#[derive(Serialize)]
struct Section<'a> {
    name: &'static str,
    title: &'static str,
    question: &'static str,
    x: &'a str,
    lines: Vec<&'a str>,
    rows: Vec<Row<'a>>,
    /// Whether gains are over `central`.
    has_central: bool,
    remark: Option<Remark>,
    seeds: u32,
    /// Half the width of the widest 95 % confidence interval, of its mean.
    widest: f64,
}

/// What the lines have at one x.
#[derive(Serialize)]
struct Row<'a> {
    x: f64,
    cells: Vec<Cell<'a>>,
}

#[derive(Serialize)]
struct Cell<'a> {
    outcome: Option<&'a Outcome>,
    gain: Option<f64>,
}

impl<'a> Section<'a> {
    fn of(name: &'static str, series: &'a Series) -> Self {
        let (title, question) = question(name);
        let lines = series.lines();
        let has_central = lines.contains(&CENTRAL);
        let cell = |line: &str, x: f64| {
            let gain = series.gain(line, x).filter(|_| line != CENTRAL);
            Cell { outcome: series.get(line, x), gain }
        };
        let row = |x| Row { x, cells: lines.iter().map(|line| cell(line, x)).collect() };
        let rows = series.xs().into_iter().map(row).collect();
        let widths =
            series.points.iter().filter_map(|point| Some(point.outcome.speed.ci95? / point.outcome.speed.mean));
        Self {
            name,
            title,
            question,
            x: &series.x,
            rows,
            has_central,
            remark: Remark::on(name, series),
            seeds: series.seeds,
            widest: widths.fold(0.0, f64::max),
            lines,
        }
    }
}

/// What else is said of an experiment.
#[derive(Serialize)]
#[serde(tag = "about", rename_all = "kebab-case")]
enum Remark {
    /// The share of tokens shown as provisional, by x.
    Offline { shares: Vec<(f64, f64)> },
    /// Where `goodput` is worst against the best fixed length.
    Lengths { share: f64, x: f64 },
    /// The least that anybody has of what it would have among thin clients.
    Mixed { least: f64 },
    /// The least gain of few devices that know which drafts are right.
    OffloadedGenerating { least: f64 },
}

impl Remark {
    fn on(name: &str, series: &Series) -> Option<Self> {
        let xs = series.xs().into_iter();
        let least = |gains: &mut dyn Iterator<Item = f64>| gains.fold(f64::INFINITY, f64::min);
        match name {
            "offline" => {
                let share = |x| series.get("release", x).map_or(0.0, |outcome| outcome.provisional_share);
                Some(Self::Offline { shares: xs.map(|x| (x, share(x))).collect() })
            }
            "lengths" => {
                let speed = |line: &str, x| series.get(line, x).map(|outcome| outcome.speed.mean);
                let best = |x| (1..=8).filter_map(|k| speed(&format!("fixed:{k}"), x)).fold(0.0, f64::max);
                let behind = xs.filter_map(|x| Some((speed("goodput", x)? / best(x), x)));
                let (share, x) = behind.min_by(|a, b| a.0.total_cmp(&b.0))?;
                Some(Self::Lengths { share, x })
            }
            "mixed" => {
                let mut gains =
                    xs.flat_map(|x| [PI.name, "thin"].into_iter().filter_map(move |line| series.gain(line, x)));
                Some(Self::Mixed { least: least(&mut gains) })
            }
            "offloaded-generating" => {
                let mut gains = xs.filter(|&x| x <= 8.0).filter_map(|x| series.gain(ORACLE, x));
                Some(Self::OffloadedGenerating { least: least(&mut gains) })
            }
            _ => None,
        }
    }
}

/// The most devices that each get a rate.
#[derive(Serialize)]
struct Capacity<'a> {
    /// The share of them that must get it, and what the server is told, over the rate.
    share: f64,
    above: f64,
    lines: Vec<&'a str>,
    rows: Vec<RateRow>,
}

#[derive(Serialize)]
struct RateRow {
    rate: f64,
    cells: Vec<RateCell>,
}

#[derive(Serialize)]
struct RateCell {
    devices: Option<usize>,
    /// Over `central`.
    ratio: Option<f64>,
}

impl<'a> Capacity<'a> {
    fn of(capacities: &'a Capacities) -> Self {
        let lines = capacities.lines();
        let devices = |line: &str, rate| capacities.get(line, rate).map(|point| point.devices);
        let cell = |line: &str, rate| {
            let central = devices(CENTRAL, rate).filter(|&central| line != CENTRAL && central > 0);
            let ratio = devices(line, rate).zip(central).map(|(sled, central)| sled as f64 / central as f64);
            RateCell { devices: devices(line, rate), ratio }
        };
        let row = |rate| RateRow { rate, cells: lines.iter().map(|line| cell(line, rate)).collect() };
        Self { share: capacities.share, above: ABOVE, rows: Capacities::rates().into_iter().map(row).collect(), lines }
    }
}

/// What each experiment asks, and how it is set up.
fn question(name: &str) -> (&'static str, &'static str) {
    match name {
        "speed" => ("A big target", "The 70B under growing load. Tokens/s of a device:"),
        "generating" => (
            "A big target, while generating",
            "The same with answers so long that reading prompts does not matter (prompts of one token; above a prompt has 64 tokens \
             and an answer 75 on average). Tokens/s of a device:",
        ),
        "offloaded" => ("A slow target", "The offloaded server, where a step takes 0.3 s. Tokens/s of a device:"),
        "offloaded-generating" => {
            ("A slow target, while generating", "The same without prompts. Tokens/s of a device:")
        }
        "rtt" => (
            "Distance",
            "The 70B with laptops, 1 and 32 of them (the number after each line's name): as shipped (pipelined, `goodput`), and the \
             paper's `confidence:0.5:8` without assist, asynchronous and synchronous. Tokens/s of a device:",
        ),
        "loss" => (
            "Lost messages",
            "16 devices, 50 ms away, on the 70B; each message is lost with this probability, and timers find out (as over datagrams: \
             TCP would repeat them sooner). Tokens/s of a device:",
        ),
        "batching" => (
            "Batches",
            "Laptops on the 70B: the paper's static batches of 8 and of 32 (100 ms at most, padded, asynchronous \
             `confidence:0.5:8`, no assist), the default, and the default with drafters that know which of their drafts are right \
             (`oracle`). Tokens/s of a device:",
        ),
        "lengths" => (
            "Draft lengths over load",
            "Laptops on the 70B: `goodput` beside every fixed length, all with assist and trimming. Tokens/s of a device:",
        ),
        "mixed" => (
            "Mixed fleets",
            "A quarter each of laptops, Jetsons, Pis and thin clients share the 70B; `central` is what as many thin clients get. \
             Tokens/s of a device of each class:",
        ),
        "two-cores" => (
            "Two cores",
            "A CPU instead of GPUs: 1.5B as F16 on two cores, from `profiles/xeon-2core.toml` (measured), with drafts recorded for it \
             (`data/drafts-f16.json`), no network between, 800 s each. Tokens/s of a device:",
        ),
        "two-cores-q4" => (
            "Two cores, quantised",
            "The same with 1.5B as Q4_K_M, where each further row takes about a third of what the first takes (`data/drafts.json`):",
        ),
        _ => (
            "Outages",
            "16 Jetsons on the 70B, each offline at random, a minute after the last outage on average. With `release` (the default) \
             drafts are shown as provisional meanwhile. Committed tokens/s of a device:",
        ),
    }
}
