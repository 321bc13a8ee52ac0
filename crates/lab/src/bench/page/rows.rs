//! A row for each number of devices, and what is judged of all of them.

use serde::Serialize;
use sled_sim::bound::Bound;
use sled_sim::figures::Figures;

use crate::args::Mode;
use crate::bench::serve::results::Format;
use crate::spread::Spread;

/// The share of the bound that is the goal.
const OF_BOUND: f64 = 0.9;

/// What one number of devices came to: medians of all repetitions.
#[derive(Serialize)]
pub struct Row {
    pub devices: usize,
    pub central: Option<Cell>,
    pub sled: Option<Cell>,
    pub peer: Option<Cell>,
    /// Over thin clients.
    pub over_central: Option<Spread>,
    pub generating: Option<Spread>,
    /// Over the llama-server.
    pub over_peer: Option<Spread>,
    pub central_over_peer: Option<Spread>,
    /// Thin clients over thin clients.
    pub control: Option<Spread>,
    pub control_generating: Option<Spread>,
    /// Each repetition's ratio over thin clients, in order.
    pub repetitions: Vec<f64>,
    /// The ratio of plain windows.
    pub by_windows: Option<f64>,
    pub bound: Option<Bound>,
    /// The gain while generating, as a share of the bound.
    pub of_bound: Option<f64>,
    /// What the simulator says of the ratio of plain windows.
    pub simulated: Option<f64>,
    pub goal: Option<f64>,
}

/// A mode.
#[derive(Serialize)]
pub struct Cell {
    /// Tokens a second over the same work, or in the window where nothing was compared.
    pub tokens_per_s: f64,
    pub p5: Option<f64>,
    pub ttft_ms: Option<f64>,
    pub tpot_ms: Option<f64>,
    pub chunk_p99_ms: Option<f64>,
    pub rows_per_token: Option<f64>,
    pub step_ms: Option<f64>,
    pub cpu_s_per_token: Option<f64>,
    /// Tokens a second of all devices in the halves of the window.
    pub halves: [Option<f64>; 2],
}

impl Cell {
    pub fn of(format: &Format, mode: Mode, devices: usize) -> Option<Self> {
        let median = |of: fn(&Figures) -> f64| Some(format.figure(mode, devices, of)?.median);
        let window = median(|figures| figures.output_throughput)?;
        Some(Self {
            tokens_per_s: format.speed(mode, devices).map_or(window, |speed| speed.median),
            p5: median(|figures| figures.device_throughput_p5),
            ttft_ms: median(|figures| figures.median_ttft_ms),
            tpot_ms: median(|figures| figures.median_tpot_ms),
            chunk_p99_ms: median(|figures| figures.p99_chunk_ms),
            rows_per_token: median(|figures| figures.rows_per_token),
            step_ms: median(|figures| figures.mean_step_ms),
            cpu_s_per_token: median(|figures| figures.server_cpu_s_per_token),
            halves: [
                median(|figures| figures.output_throughput_halves[0]),
                median(|figures| figures.output_throughput_halves[1]),
            ],
        })
    }
}

impl Row {
    pub fn of(format: &Format, devices: usize) -> Self {
        let (sled, central, peer, control) = (Mode::Sled, Mode::Central, Mode::LlamaServer, Mode::Control);
        let ratio = |mode, other| format.ratio(mode, other, devices);
        let generating = format.ratio_generating(sled, central, devices);
        let bound = format.bound(devices).copied();
        let window = |mode| Some(format.figure(mode, devices, |figures| figures.output_throughput)?.median);
        Self {
            devices,
            central: Cell::of(format, central, devices),
            sled: Cell::of(format, sled, devices),
            peer: Cell::of(format, peer, devices),
            over_central: ratio(sled, central),
            generating,
            over_peer: ratio(sled, peer),
            central_over_peer: ratio(central, peer),
            control: ratio(control, central),
            control_generating: format.ratio_generating(control, central, devices),
            repetitions: format.ratios(sled, central, devices),
            by_windows: window(sled).zip(window(central)).map(|(sled, central)| sled / central),
            of_bound: generating.zip(bound).map(|(ratio, bound)| ratio.median / bound.over_central),
            bound,
            simulated: None,
            goal: None,
        }
    }

    pub fn all(format: &Format) -> Vec<Self> {
        format.devices().into_iter().map(|devices| Self::of(format, devices)).collect()
    }
}

/// What is asked of a run over all numbers of devices and model files.
#[derive(Debug, PartialEq, Serialize)]
pub struct Verdicts {
    /// How many places there are: numbers of devices times files.
    pub places: usize,
    /// The ratio of thin clients over thin clients, over all places and repetitions.
    pub noise: Option<Spread>,
    /// Where devices that draft are slower than thin clients by more than those differ from themselves.
    pub below_central: Vec<String>,
    /// Where less than the goal's share of the bound is reached, and how much.
    pub below_bound: Vec<String>,
    /// Where thin clients are slower than a llama-server's by more than they differ from themselves.
    pub below_peer: Vec<String>,
    /// Where the slowest device has less than among thin clients though all together have more, or waits longer between chunks.
    pub tail: Vec<String>,
}

impl Verdicts {
    pub fn of<'a>(formats: impl Iterator<Item = (&'a str, &'a [Row])>) -> Self {
        let mut it = Self {
            places: 0,
            noise: None,
            below_central: Vec::new(),
            below_bound: Vec::new(),
            below_peer: Vec::new(),
            tail: Vec::new(),
        };
        let mut noise = Vec::new();
        for (name, row) in formats.flat_map(|(name, rows)| rows.iter().map(move |row| (name, row))) {
            it.places += 1;
            let place = format!("{name} at {}", row.devices);
            noise.extend(row.control.into_iter().flat_map(|control| [control.least, control.median, control.most]));
            let of_control = |control: Option<Spread>| control.map_or(1.0, |control| control.least.min(1.0));
            let (ratio, control) = match row.generating {
                Some(generating) => (Some(generating), row.control_generating),
                None => (row.over_central, row.control),
            };
            if let Some(ratio) = ratio.filter(|ratio| ratio.median < of_control(control)) {
                it.below_central.push(format!("{place} ({:.2})", ratio.median));
            }
            if let Some(share) = row.of_bound.filter(|share| *share < OF_BOUND) {
                it.below_bound.push(format!("{place} ({:.0} %)", 100.0 * share));
            }
            if let Some(ratio) = row.central_over_peer.filter(|ratio| ratio.median < of_control(row.control)) {
                it.below_peer.push(format!("{place} ({:.2})", ratio.median));
            }
            it.tail.extend(tail(row).map(|what| format!("{place} ({what})")));
        }
        it.noise = Spread::of(noise.into_iter());
        it
    }
}

/// What is worse for the slowest than among thin clients, where the mean gains.
fn tail(row: &Row) -> Option<String> {
    let (sled, central) = (row.sled.as_ref()?, row.central.as_ref()?);
    row.over_central.filter(|ratio| ratio.median > 1.0)?;
    let slow = sled.p5.zip(central.p5).filter(|(sled, central)| sled < central);
    let long = sled.chunk_p99_ms.zip(central.chunk_p99_ms).filter(|(sled, central)| sled > central);
    let slow = slow.map(|(sled, central)| format!("p5 {:.2} of {:.2} tokens/s", sled, central));
    let long = long.map(|(sled, central)| format!("p99 {sled:.0} instead of {central:.0} ms"));
    let all: Vec<String> = slow.into_iter().chain(long).collect();
    (!all.is_empty()).then(|| all.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(devices: usize, generating: f64, control: (f64, f64), bound: f64, central_over_peer: f64) -> Row {
        let spread = |median: f64| Spread { median, least: median - 0.02, most: median + 0.02 };
        let control = Some(Spread { median: 1.0, least: control.0, most: control.1 });
        Row {
            devices,
            central: None,
            sled: None,
            peer: None,
            over_central: Some(spread(generating)),
            generating: Some(spread(generating)),
            over_peer: None,
            central_over_peer: Some(spread(central_over_peer)),
            control,
            control_generating: control,
            repetitions: Vec::new(),
            by_windows: None,
            bound: None,
            of_bound: Some(generating / bound),
            simulated: None,
            goal: None,
        }
    }

    #[test]
    fn a_loss_counts_where_it_is_more_than_thin_clients_differ_from_themselves() {
        let rows = [
            // Within noise, and 96 % of the bound.
            row(1, 0.96, (0.95, 1.04), 1.0, 1.01),
            // Below noise, 79 % of the bound, and thin clients behind the peer.
            row(2, 0.95, (0.97, 1.02), 1.2, 0.9),
        ];
        let verdicts = Verdicts::of([("a", rows.as_slice())].into_iter());
        assert_eq!((verdicts.places, verdicts.below_central), (2, vec!["a at 2 (0.95)".to_owned()]));
        assert_eq!(verdicts.below_bound, ["a at 2 (79 %)"]);
        assert_eq!(verdicts.below_peer, ["a at 2 (0.90)"]);
        assert_eq!(verdicts.noise.map(|noise| (noise.least, noise.most)), Some((0.95, 1.04)));
    }

    #[test]
    fn the_tail_is_told_where_the_mean_gains() {
        let cell = |p5, chunk_p99_ms| Cell {
            tokens_per_s: 1.0,
            p5: Some(p5),
            ttft_ms: None,
            tpot_ms: None,
            chunk_p99_ms: Some(chunk_p99_ms),
            rows_per_token: None,
            step_ms: None,
            cpu_s_per_token: None,
            halves: [None; 2],
        };
        let of = |ratio, p5, p99| {
            let (central, sled) = (Some(cell(5.0, 400.0)), Some(cell(p5, p99)));
            tail(&Row { central, sled, ..row(1, ratio, (1.0, 1.0), 1.0, 1.0) })
        };
        assert_eq!(of(1.2, 4.5, 500.0).as_deref(), Some("p5 4.50 of 5.00 tokens/s, p99 500 instead of 400 ms"));
        assert_eq!(of(1.2, 5.5, 500.0).as_deref(), Some("p99 500 instead of 400 ms"));
        assert_eq!((of(1.2, 5.5, 300.0), of(0.9, 4.5, 500.0)), (None, None));
    }
}
