//! Experiments that are lines over one number: the user's speed, mostly, over load, distance, loss or outages.

use std::path::Path;

use serde::{Deserialize, Serialize};
use sled_core::device::Ahead;
use sled_core::policy::Policy;
use sled_core::server::Batching;
use sled_sim::scenario::{self, Fallback, FaultKind, FaultPlan, Range, Scenario};

use super::setting::{BIG, JETSON, LAPTOP, OFFLOADED, Outcome, PI, Server, server_side, thin};
use crate::args::BeyondArgs;
use crate::virtual_time::{threads, with_bar};

/// The experiments, in the order of the page.
pub const NAMES: [&str; 12] = [
    "speed",
    "generating",
    "offloaded",
    "offloaded-generating",
    "rtt",
    "loss",
    "batching",
    "lengths",
    "mixed",
    "offline",
    "two-cores",
    "two-cores-q4",
];

/// The round trip where it is not the question, in milliseconds.
pub const RTT: f64 = 20.0;

/// The line that others are compared with.
pub const CENTRAL: &str = "central";

/// A target on a CPU, as F16 and quantised, and drafts that were recorded for it.
const TWO_CORES_F16: (&str, &str) = ("xeon-2core/qwen2.5-coder-1.5b-f16", "data/drafts-f16.json");
const TWO_CORES_Q4: (&str, &str) = ("xeon-2core/qwen2.5-coder-1.5b", "data/drafts.json");

/// Drafters that know which of their drafts are right.
pub const ORACLE: &str = "oracle";

/// One experiment.
#[derive(Debug, Serialize, Deserialize)]
pub struct Series {
    pub command: String,
    pub seeds: u32,
    /// What is on the x axis.
    pub x: String,
    pub points: Vec<Point>,
}

/// One point of one line.
#[derive(Debug, Serialize, Deserialize)]
pub struct Point {
    pub line: String,
    pub x: f64,
    pub outcome: Outcome,
}

impl Series {
    /// The lines, in the order in which they came.
    pub fn lines(&self) -> Vec<&str> {
        let mut lines: Vec<&str> = Vec::new();
        for point in &self.points {
            if !lines.contains(&point.line.as_str()) {
                lines.push(&point.line);
            }
        }
        lines
    }

    /// The numbers on the x axis, in the order in which they came.
    pub fn xs(&self) -> Vec<f64> {
        let mut xs: Vec<f64> = Vec::new();
        for point in &self.points {
            if !xs.contains(&point.x) {
                xs.push(point.x);
            }
        }
        xs
    }

    pub fn get(&self, line: &str, x: f64) -> Option<&Outcome> {
        self.points.iter().find(|point| point.line == line && point.x == x).map(|point| &point.outcome)
    }

    /// The user's speed over that of thin clients.
    pub fn gain(&self, line: &str, x: f64) -> Option<f64> {
        Some(self.get(line, x)?.speed.mean / self.get(CENTRAL, x)?.speed.mean)
    }
}

/// A point to simulate: its line, its x, the scenario, and the class that is looked at.
type Task = (String, f64, Scenario, Option<usize>);

/// Simulates an experiment.
pub fn run(name: &str, args: &BeyondArgs) -> anyhow::Result<Series> {
    let drafts = args.drafts.as_path();
    let (x, tasks) = match name {
        "speed" => ("devices", speed(drafts)),
        "generating" => ("devices", generating(speed(drafts))),
        "offloaded" => ("devices", offloaded(drafts)),
        "offloaded-generating" => ("devices", generating(offloaded(drafts))),
        "rtt" => ("round trip, ms", rtt(drafts)),
        "loss" => ("messages lost, %", loss(drafts)),
        "batching" => ("devices", batching(drafts)),
        "lengths" => ("devices", lengths(drafts)),
        "mixed" => ("devices", mixed(drafts)),
        "two-cores" => ("devices", two_cores(TWO_CORES_F16)),
        "two-cores-q4" => ("devices", two_cores(TWO_CORES_Q4)),
        _ => ("length of an outage, s", offline(drafts)),
    };
    let seeds: Vec<u64> = (0..u64::from(args.seeds)).collect();
    let share = 1.0 / tasks.len().max(1) as f64;
    let points = with_bar(name, |progress| {
        scenario::parallel(&tasks, threads(), |(line, x, scenario, class)| -> anyhow::Result<Point> {
            let summary = scenario::run_seeds(scenario, &seeds, 1, &|done| progress(done * share))?;
            Ok(Point { line: line.clone(), x: *x, outcome: Outcome::of(&summary, *class) })
        })
    });
    let points = points.into_iter().collect::<anyhow::Result<Vec<Point>>>()?;
    Ok(Series { command: format!("sled beyond {name}"), seeds: args.seeds, x: x.to_owned(), points })
}

fn task(line: &str, x: usize, scenario: Scenario) -> Task {
    (line.to_owned(), x as f64, scenario, None)
}

fn with(server: Server, class: scenario::DeviceClass) -> Scenario {
    Scenario { devices: vec![class], ..server.scenario("") }
}

/// User speed over load for a big target: thin clients, three drafters, and a server that drafts itself.
fn speed(drafts: &Path) -> Vec<Task> {
    let mut tasks = Vec::new();
    for count in [1, 2, 4, 8, 16, 32, 64, 128, 256] {
        tasks.push(task(CENTRAL, count, with(BIG, thin(drafts, count, RTT, LAPTOP))));
        for drafter in [LAPTOP, JETSON, PI] {
            tasks.push(task(drafter.name, count, with(BIG, drafter.class(drafts, count, RTT))));
        }
        for k in [2, 4] {
            tasks.push(task(&format!("server-side, fixed:{k}"), count, server_side(BIG, drafts, count, k)));
        }
    }
    tasks
}

/// The same where reading prompts takes nothing to speak of.
fn generating(mut tasks: Vec<Task>) -> Vec<Task> {
    tasks.iter_mut().for_each(|(_, _, scenario, _)| scenario.load.prompt_tokens = Some(Range::One(1)));
    tasks
}

/// User speed over load for a slow target and the slowest drafter.
fn offloaded(drafts: &Path) -> Vec<Task> {
    let mut tasks = Vec::new();
    for count in [1, 2, 4, 8, 16, 32] {
        tasks.push(task(CENTRAL, count, with(OFFLOADED, thin(drafts, count, RTT, PI))));
        for drafter in [JETSON, PI] {
            tasks.push(task(drafter.name, count, with(OFFLOADED, drafter.class(drafts, count, RTT))));
        }
        let oracle = scenario::DeviceClass { knowledge: 1.0, ..PI.class(drafts, count, RTT) };
        tasks.push(task(ORACLE, count, with(OFFLOADED, oracle)));
    }
    tasks
}

/// User speed over distance, by what is done while a verdict is under way.
fn rtt(drafts: &Path) -> Vec<Task> {
    let mut tasks = Vec::new();
    for rtt in [0, 10, 20, 50, 100, 200, 400] {
        let distance = rtt as f64;
        for count in [1, 32] {
            let at = |line: &str| format!("{line}, {count}");
            tasks.push(task(&at(CENTRAL), rtt, with(BIG, thin(drafts, count, distance, LAPTOP))));
            let class = LAPTOP.class(drafts, count, distance);
            tasks.push(task(&at("pipelined"), rtt, with(BIG, class.clone())));
            let paper = Policy::Confidence { threshold: 0.5, k_max: 8 };
            for (line, ahead) in [("asynchronous", Ahead::Drafts), ("synchronous", Ahead::Nothing)] {
                let class = scenario::DeviceClass { ahead, policy: Some(paper), ..class.clone() };
                let mut scenario = with(BIG, class);
                scenario.server.assist = sled_core::server::Assist::Never;
                tasks.push(task(&at(line), rtt, scenario));
            }
        }
    }
    tasks
}

/// User speed over lost messages.
fn loss(drafts: &Path) -> Vec<Task> {
    let mut tasks = Vec::new();
    for per_mille in [0, 1, 5, 10, 20, 50] {
        let lossy = |mut class: scenario::DeviceClass| {
            class.link.loss = f64::from(per_mille) / 1e3;
            class
        };
        let x = f64::from(per_mille) / 10.0;
        let classes = [thin(drafts, 16, 50.0, LAPTOP), LAPTOP.class(drafts, 16, 50.0), PI.class(drafts, 16, 50.0)];
        for (line, class) in [CENTRAL, LAPTOP.name, PI.name].into_iter().zip(classes) {
            tasks.push((line.to_owned(), x, with(BIG, lossy(class)), None));
        }
    }
    tasks
}

/// How requests become batches: as in the paper, as shipped, and as shipped with drafters that know which drafts are right.
fn batching(drafts: &Path) -> Vec<Task> {
    let mut tasks = Vec::new();
    for count in [1, 4, 8, 16, 32, 64, 128] {
        tasks.push(task(CENTRAL, count, with(BIG, thin(drafts, count, RTT, LAPTOP))));
        let class = LAPTOP.class(drafts, count, RTT);
        tasks.push(task("continuous", count, with(BIG, class.clone())));
        let max_wait = std::time::Duration::from_millis(100);
        for batch_size in [8, 32] {
            let class = scenario::DeviceClass {
                policy: Some(Policy::Confidence { threshold: 0.5, k_max: 8 }),
                ahead: Ahead::Drafts,
                ..class.clone()
            };
            let mut scenario = with(BIG, class);
            scenario.server.batching = Batching::Static { batch_size, max_wait };
            scenario.server.assist = sled_core::server::Assist::Never;
            tasks.push(task(&format!("static:{batch_size}:100"), count, scenario));
        }
        let oracle = scenario::DeviceClass { knowledge: 1.0, ..class };
        tasks.push(task(ORACLE, count, with(BIG, oracle)));
    }
    tasks
}

/// `goodput` and every fixed length over load.
fn lengths(drafts: &Path) -> Vec<Task> {
    let mut tasks = Vec::new();
    for count in [1, 8, 32, 64, 128, 256] {
        tasks.push(task(CENTRAL, count, with(BIG, thin(drafts, count, RTT, LAPTOP))));
        let class = LAPTOP.class(drafts, count, RTT);
        tasks.push(task("goodput", count, with(BIG, class.clone())));
        for k in 1..=8 {
            let class = scenario::DeviceClass { policy: Some(Policy::Fixed { k }), ..class.clone() };
            tasks.push(task(&format!("fixed:{k}"), count, with(BIG, class)));
        }
    }
    tasks
}

/// Fleets of a quarter each of laptops, Jetsons, Pis and thin clients; what each of them gets, and thin clients among themselves.
fn mixed(drafts: &Path) -> Vec<Task> {
    let mut tasks = Vec::new();
    for count in [4, 16, 64, 128] {
        tasks.push(task(CENTRAL, count, with(BIG, thin(drafts, count, RTT, LAPTOP))));
        let quarter = count / 4;
        let mut classes: Vec<_> = [LAPTOP, JETSON, PI].map(|drafter| drafter.class(drafts, quarter, RTT)).into();
        classes.push(thin(drafts, quarter, RTT, PI));
        let names: Vec<String> = classes.iter().map(|class| class.name.clone()).collect();
        let scenario = Scenario { devices: classes, ..BIG.scenario("") };
        for (class, name) in names.into_iter().enumerate() {
            tasks.push((name, count as f64, scenario.clone(), Some(class)));
        }
    }
    tasks
}

/// A CPU's fleets: thin clients, and drafters of three speeds.
fn two_cores((profile, drafts): (&str, &str)) -> Vec<Task> {
    let scenario = |class: scenario::DeviceClass| Scenario {
        warmup_s: 60.0,
        window_s: 800.0,
        server: scenario::ServerClass { profile: Some(profile.to_owned()), ..scenario::ServerClass::default() },
        devices: vec![scenario::DeviceClass { recording: Some(drafts.into()), ..class }],
        ..Scenario::default()
    };
    let mut tasks = Vec::new();
    for count in [1, 2, 4, 8, 16, 32] {
        let class = scenario::DeviceClass { count, ..scenario::DeviceClass::default() };
        tasks.push(task(CENTRAL, count, scenario(scenario::DeviceClass { policy: None, ..class.clone() })));
        for rate in [50.0, 15.0, 5.0] {
            let class = scenario::DeviceClass { draft_ms: Some(1e3 / rate), ..class.clone() };
            tasks.push(task(&format!("{rate} drafts/s"), count, scenario(class)));
        }
    }
    tasks
}

/// Devices that are offline now and then, on average a minute after the last outage.
fn offline(drafts: &Path) -> Vec<Task> {
    let mut tasks = Vec::new();
    for lasts in [0, 2, 5, 10, 30] {
        let outages = |mut scenario: Scenario| {
            scenario.window_s = 600.0;
            if lasts > 0 {
                scenario.faults.push(FaultPlan {
                    kind: FaultKind::Offline,
                    at_s: None,
                    every_s: Some(60.0),
                    lasts_s: lasts as f64,
                    class: None,
                    share: 1.0,
                });
            }
            scenario
        };
        tasks.push(task(CENTRAL, lasts, outages(with(BIG, thin(drafts, 16, RTT, JETSON)))));
        for (line, fallback) in [("release", Fallback::Release), ("wait", Fallback::Wait)] {
            let class = scenario::DeviceClass { fallback, ..JETSON.class(drafts, 16, RTT) };
            tasks.push(task(line, lasts, outages(with(BIG, class))));
        }
    }
    tasks
}
