//! Fig. 6: what a thousand tokens cost, against how many there are a second.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sled_core::server::Assist;

use super::lab::{LENGTH, Lab, line};
use super::table1::slow_server;
use crate::Error;
use crate::economics::{Prices, Tenure, pareto_front, usd_per_1k_tokens};
use crate::scenario::{DeviceClass, Estimate, ServerClass};
use crate::theory::Pass;

/// Bits of the weights of target and drafter.
const BITS: [u32; 3] = [16, 8, 4];

/// What a pass of 8 and 4 bits takes of one of 16, as in the profiles.
const SCALES: [f64; 3] = [1.0, 0.55, 0.35];

/// Numbers of devices.
const DEVICES: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];

/// The largest static batch, and the longest that a request waits for it.
const BATCH: usize = 16;
const MAX_WAIT: Duration = Duration::from_millis(100);

/// The cheapest that a GPU is offered for, in US dollars an hour, and how many there are.
const CHEAP_GPU: f64 = 0.80;
const GPUS: f64 = 4.0;

/// Virtual seconds before and in the measurement, of the slow server and of the fast one.
const SLOW_TIMES: (f64, f64) = (50.0, 300.0);
const FAST_TIMES: (f64, f64) = (10.0, 20.0);

/// Fig. 6.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fig6 {
    /// What an hour of the server costs, in US dollars: by the profile, and at the cheapest.
    pub rents: [f64; 2],
    /// What an hour of a device costs, in US dollars.
    pub device_usd_per_hour: f64,
    /// The points.
    pub points: Vec<CostPoint>,
}

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Setting {
    /// The paper's: slow; one request at a time for thin clients, static batches for SLED.
    Paper,
    /// Continuous batching at published speed; SLED with the product's defaults and recorded drafts.
    Strong,
}

/// Who makes the tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// The server, for thin clients.
    AllServer,
    /// Each device by itself, with the draft model: not the target's tokens.
    AllEdge,
    /// The devices draft, the server verifies.
    Sled,
}

impl Strategy {
    /// As the paper calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AllServer => "all-server",
            Self::AllEdge => "all-edge",
            Self::Sled => "SLED",
        }
    }
}

/// One configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CostPoint {
    /// Which server.
    pub setting: Setting,
    /// Who makes the tokens.
    pub strategy: Strategy,
    /// Bits of the weights.
    pub bits: u32,
    /// How many devices there are, all of them always busy.
    pub devices: usize,
    /// Tokens a second of all devices together.
    pub tokens_per_s: Estimate,
    /// US dollars for a thousand tokens, at each of the rents.
    pub usd_per_1k: [f64; 2],
    /// Whether no other point of its setting that makes the target's tokens is cheaper and as fast, at the rent of the profile.
    pub front: bool,
}

pub(super) fn costs(lab: &Lab<'_>) -> Result<Fig6, Error> {
    let machine = lab.profiles.machine("a100x4")?;
    let rent = machine.rent_usd_per_hour.as_ref().map_or(0.0, |number| number.value);
    let rents = [rent, GPUS * CHEAP_GPU];
    let pi = lab.profiles.machine("pi-5")?;
    let value = |number: &Option<crate::profile::Number>| number.as_ref().map_or(0.0, |number| number.value);
    let bought = Tenure::Bought { usd: value(&pi.price_usd), watts: value(&pi.watts) };
    let device_usd_per_hour = bought.usd_per_hour(&Prices::default());
    let mut points = Vec::new();
    for setting in [Setting::Paper, Setting::Strong] {
        let mut of_setting = simulated(lab, setting, rents, device_usd_per_hour)?;
        let plane: Vec<(f64, f64)> = of_setting.iter().map(|p| (p.usd_per_1k[0], p.tokens_per_s.mean)).collect();
        for (point, front) in of_setting.iter_mut().zip(pareto_front(&plane)) {
            point.front = front;
        }
        for bits in BITS {
            let rate = lab.draft_rate(&drafter(bits))?;
            let edge = |devices: usize| {
                let tokens_per_s = Estimate::of(&[rate * devices as f64]);
                let usd = usd_per_1k_tokens(devices as f64 * device_usd_per_hour, tokens_per_s.mean);
                let (strategy, usd_per_1k) = (Strategy::AllEdge, [usd; 2]);
                CostPoint { setting, strategy, bits, devices, tokens_per_s, usd_per_1k, front: false }
            };
            of_setting.extend(DEVICES.map(edge));
        }
        points.extend(of_setting);
    }
    Ok(Fig6 { rents, device_usd_per_hour, points })
}

fn drafter(bits: u32) -> String {
    format!("pi-5/3b-{bits}bit")
}

fn simulated(
    lab: &Lab<'_>,
    setting: Setting,
    rents: [f64; 2],
    device_usd_per_hour: f64,
) -> Result<Vec<CostPoint>, Error> {
    let slow = slow_server(lab)?;
    let mut scenarios = Vec::new();
    let mut places = Vec::new();
    for (bits, scale) in BITS.into_iter().zip(SCALES) {
        for devices in DEVICES {
            for strategy in [Strategy::AllServer, Strategy::Sled] {
                let pass = Pass { fixed: slow.fixed * scale, ..slow };
                let (server, class, times) = system(lab, setting, strategy, bits, devices, pass);
                scenarios.push(lab.scenario(server, class, devices, times));
                places.push((strategy, bits, devices));
            }
        }
    }
    let what = if setting == Setting::Paper { "Fig. 6" } else { "Fig. 6, continuous batching" };
    let runs = lab.run(what, &scenarios)?;
    let point = |((strategy, bits, devices), runs): ((Strategy, u32, usize), super::lab::Runs)| {
        let tokens_per_s = runs.throughput();
        // Thin clients are there anyway, and idle; devices that draft are paid for.
        let drafting = if strategy == Strategy::Sled { devices as f64 * device_usd_per_hour } else { 0.0 };
        let usd_per_1k = rents.map(|rent| usd_per_1k_tokens(rent + drafting, tokens_per_s.mean));
        CostPoint { setting, strategy, bits, devices, tokens_per_s, usd_per_1k, front: false }
    };
    Ok(places.into_iter().zip(runs).map(point).collect())
}

fn system(
    lab: &Lab<'_>,
    setting: Setting,
    strategy: Strategy,
    bits: u32,
    devices: usize,
    pass: Pass,
) -> (ServerClass, DeviceClass, (f64, f64)) {
    let slow = |server| ServerClass { cost: Some(line(pass)), ..server };
    let fast = |assist| Lab::continuous(&format!("a100x4/70b-{bits}bit"), assist);
    match (setting, strategy) {
        (Setting::Paper, Strategy::Sled) => {
            let server = slow(Lab::static_server(devices.min(BATCH), MAX_WAIT));
            (server, lab.fixed(&drafter(bits), LENGTH), SLOW_TIMES)
        }
        (Setting::Paper, _) => (slow(Lab::static_server(1, Duration::ZERO)), Lab::thin(), SLOW_TIMES),
        (Setting::Strong, Strategy::Sled) => (fast(Assist::Auto), lab.shipped(&drafter(bits)), FAST_TIMES),
        (Setting::Strong, _) => (fast(Assist::Never), lab.thin_recorded(), FAST_TIMES),
    }
}
