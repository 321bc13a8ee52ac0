//! The servers, drafters and fleets that are asked about.

use std::path::Path;

use serde::{Deserialize, Serialize};
use sled_core::policy::Policy;
use sled_sim::scenario::{Cost, DeviceClass, Estimate, LinkClass, Range, Scenario, ServerClass, Summary};

/// A run lasts so many passes of one row, and before it is measured so many.
const PASSES: f64 = 4000.0;
const WARMUP: f64 = 400.0;

/// The most rows in a pass of a big server: as much text as others' servers read at once.
const ROWS: usize = 2048;

/// Where the costs are from, for the page: 70B on four A100, FP16 (`profiles/a100x4.toml`).
pub const BIG: Server = Server { fixed_ms: 29.0, row_ms: 0.17, context_ms: 0.075, power_w: 2000.0, idle_w: 400.0 };

/// A target that is read from slow memory for every pass, as an offloaded one is: a stated case, of nobody's machine.
pub const OFFLOADED: Server = Server { fixed_ms: 300.0, row_ms: 2.0, context_ms: 0.0, power_w: 300.0, idle_w: 60.0 };

/// A draft model of the 1B class on one of the four A100: 1.2 ms to read its weights, the rest launching (assumed).
pub const BIG_DRAFTER: (f64, f64) = (2.0, 0.01);

/// Differences below this are noise: the widths of the confidence intervals.
pub const NOISE: f64 = 0.02;

/// What a server takes and draws.
#[derive(Clone, Copy, Serialize)]
pub struct Server {
    pub fixed_ms: f64,
    pub row_ms: f64,
    pub context_ms: f64,
    pub power_w: f64,
    pub idle_w: f64,
}

/// A drafter.
#[derive(Clone, Copy, Serialize)]
pub struct Drafter {
    pub name: &'static str,
    pub draft_ms: f64,
    pub power_w: f64,
    pub idle_w: f64,
}

/// A laptop with a small GPU drafts 200 tokens/s (assumed).
pub const LAPTOP: Drafter = Drafter { name: "laptop, 5 ms", draft_ms: 5.0, power_w: 45.0, idle_w: 10.0 };
/// `profiles/orin-nano.toml`, 1B in 4 bits.
pub const JETSON: Drafter = Drafter { name: "Jetson, 18.5 ms", draft_ms: 18.5, power_w: 15.0, idle_w: 5.0 };
/// `profiles/pi-5.toml`, 1B in 4 bits.
pub const PI: Drafter = Drafter { name: "Pi 5, 74 ms", draft_ms: 74.0, power_w: 8.0, idle_w: 3.0 };

impl Server {
    /// A run of this server, long enough for its passes, without devices.
    pub fn scenario(self, name: &str) -> Scenario {
        let pass = (self.fixed_ms + self.row_ms) / 1e3;
        Scenario {
            name: name.to_owned(),
            warmup_s: WARMUP * pass,
            window_s: PASSES * pass,
            server: ServerClass {
                cost: Some(Cost { context_ms: self.context_ms, ..Cost::line(self.fixed_ms, self.row_ms) }),
                power_w: Some(self.power_w),
                idle_w: self.idle_w,
                rows: ROWS,
                ..ServerClass::default()
            },
            ..Scenario::default()
        }
    }

    /// The same, where answers are so long that what reading prompts takes does not matter.
    pub fn generating(self, name: &str) -> Scenario {
        let mut scenario = self.scenario(name);
        scenario.load.prompt_tokens = Some(Range::One(1));
        scenario
    }
}

impl Drafter {
    /// So many of them, with recorded drafts, at this distance.
    pub fn class(self, drafts: &Path, count: usize, rtt_ms: f64) -> DeviceClass {
        DeviceClass {
            name: self.name.to_owned(),
            count,
            draft_ms: Some(self.draft_ms),
            recording: Some(drafts.to_owned()),
            link: LinkClass { rtt_ms, ..LinkClass::default() },
            power_w: Some(self.power_w),
            idle_w: self.idle_w,
            ..DeviceClass::default()
        }
    }
}

/// Thin clients at this distance, which draw what the `idle` machine does.
pub fn thin(drafts: &Path, count: usize, rtt_ms: f64, idle: Drafter) -> DeviceClass {
    DeviceClass {
        name: "thin".to_owned(),
        policy: None,
        power_w: Some(idle.idle_w),
        ..idle.class(drafts, count, rtt_ms)
    }
}

/// A server that drafts itself, and its clients: blocks come and go within the machine, so that the distance does not matter.
pub fn server_side(server: Server, drafts: &Path, count: usize, k: usize) -> Scenario {
    let class = DeviceClass {
        name: "server".to_owned(),
        policy: Some(Policy::Fixed { k }),
        draft_ms: None,
        power_w: Some(PI.idle_w),
        ..PI.class(drafts, count, 0.0)
    };
    let mut scenario = Scenario { devices: vec![class], ..server.scenario("server-side") };
    scenario.server.drafter = Some(Cost::line(BIG_DRAFTER.0, BIG_DRAFTER.1));
    scenario
}

/// What is kept of the runs of one point: means over seeds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// Committed tokens a second of a device.
    pub speed: Estimate,
    /// What 95 % of the devices exceed.
    pub p5: f64,
    /// Of all devices together.
    pub throughput: f64,
    pub rows_per_token: f64,
    pub tokens_per_round: f64,
    pub utilisation: f64,
    /// Tokens shown without a verdict, of all.
    pub provisional_share: f64,
    /// Joules a committed token, of server and devices.
    pub server_j: f64,
    pub devices_j: f64,
}

impl Outcome {
    /// From the runs; of the class of this index, or of all devices.
    pub fn of(summary: &Summary, class: Option<usize>) -> Self {
        let at = class.map(|class| format!("classes.{class}.")).unwrap_or_default();
        let get = |path: String| summary.get(&path).unwrap_or(Estimate { mean: 0.0, ci95: None });
        let of_class = |path: &str| get(format!("{at}{path}"));
        Self {
            speed: of_class("figures.device_throughput_mean"),
            p5: of_class("figures.device_throughput_p5").mean,
            throughput: of_class("figures.output_throughput").mean,
            rows_per_token: of_class("figures.rows_per_token").mean,
            tokens_per_round: of_class("tokens_per_round").mean,
            provisional_share: of_class("provisional_share").mean,
            utilisation: get("server.utilisation".to_owned()).mean,
            server_j: get("energy.server".to_owned()).mean,
            devices_j: get("energy.devices".to_owned()).mean,
        }
    }
}
