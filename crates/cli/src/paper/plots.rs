//! The plots, from the data alone.

use std::path::Path;

use plotters::prelude::{RGBColor, SeriesLabelPosition};
use sled_sim::paper::{Fig4, Fig5, Fig6, LoadPoint, Paper, Reliability, Setting, Strategy};
use sled_sim::scenario::Estimate;

use super::chart::{BLUE, GREEN, GREY, Line, ORANGE, Panel, Scale, VERMILION, draw};

/// Draws all of them.
pub fn plots(paper: &Paper, folder: &Path) -> anyhow::Result<()> {
    draw(&folder.join("fig3.svg"), vec![fig3(&paper.fig3)])?;
    draw(&folder.join("fig4.svg"), vec![batches(&paper.fig4, "11b"), batches(&paper.fig4, "70b")])?;
    draw(&folder.join("fig4-continuous.svg"), vec![loads(&paper.fig4, "11b"), loads(&paper.fig4, "70b")])?;
    draw(&folder.join("fig5.svg"), vec![speed(&paper.fig5), capacity(&paper.fig5), at_goal(&paper.fig5)])?;
    draw(&folder.join("fig6.svg"), vec![cost(&paper.fig6, Setting::Paper), cost(&paper.fig6, Setting::Strong)])
}

fn line(name: &str, colour: RGBColor, points: impl Iterator<Item = (f64, Estimate)>) -> Line {
    let points = points.map(|(x, y)| (x, y.mean, y.ci95.unwrap_or(0.0))).collect();
    Line { name: name.to_owned(), colour, law: false, points }
}

fn law(name: &str, colour: RGBColor, points: impl Iterator<Item = (f64, f64)>) -> Line {
    Line { name: name.to_owned(), colour, law: true, points: points.map(|(x, y)| (x, y, 0.0)).collect() }
}

fn fig3(recordings: &[Reliability]) -> Panel {
    let of = |(of, colour): (&Reliability, RGBColor)| {
        let interval = |bin: &sled_sim::paper::Bin| Some((bin.interval[1] - bin.interval[0]) / 2.0);
        let points = of.bins.iter().map(|bin| (bin.confidence, Estimate { mean: bin.acceptance, ci95: interval(bin) }));
        line(&format!("against {}", of.target.trim_end_matches(".gguf")), colour, points)
    };
    let mut lines: Vec<Line> = recordings.iter().zip([BLUE, ORANGE]).map(of).collect();
    lines.push(law("as confident as right", GREY, [(0.0, 0.0), (1.0, 1.0)].into_iter()));
    Panel {
        title: "Drafts of Qwen2.5-Coder 0.5B".to_owned(),
        x: ("confidence of the draft", Scale::Linear),
        y: ("share accepted", Scale::Linear),
        lines,
        legend: SeriesLabelPosition::LowerRight,
    }
}

fn batches(fig4: &Fig4, target: &str) -> Panel {
    let of = || fig4.batches.iter().filter(|point| point.target.contains(target));
    let x = |batch: usize| batch as f64;
    Panel {
        title: format!("{} target, static batches, Pi 5 with 3B", target.to_uppercase()),
        x: ("requests in a batch", Scale::Log),
        y: ("tokens/s of all devices", Scale::Linear),
        lines: vec![
            line("SLED, 4 drafts a round", BLUE, of().map(|point| (x(point.batch), point.sled))),
            line("centralised", ORANGE, of().map(|point| (x(point.batch), point.central))),
            law("2.2 x centralised", GREY, of().map(|point| (x(point.batch), 2.2 * point.central.mean))),
        ],
        legend: SeriesLabelPosition::UpperLeft,
    }
}

fn loads(fig4: &Fig4, target: &str) -> Panel {
    let of = |drafter: &'static str| {
        fig4.loads.iter().filter(move |point| point.target.contains(target) && point.drafter.starts_with(drafter))
    };
    let per_device = |point: &LoadPoint, y: Estimate| {
        let n = point.devices as f64;
        (n, Estimate { mean: y.mean / n, ci95: y.ci95.map(|width| width / n) })
    };
    Panel {
        title: format!("{} target, continuous batching", target.to_uppercase()),
        x: ("devices, all of them always busy", Scale::Log),
        y: ("tokens/s of each device", Scale::Linear),
        lines: vec![
            line("SLED, Jetson with 1B", GREEN, of("orin").map(|point| per_device(point, point.shipped))),
            line("SLED, Pi 5 with 3B", BLUE, of("pi-5").map(|point| per_device(point, point.shipped))),
            line("centralised", ORANGE, of("pi-5").map(|point| per_device(point, point.central))),
            line("4 drafts, Jetson with 1B", VERMILION, of("orin").map(|point| per_device(point, point.fixed))),
            line("4 drafts, Pi 5 with 3B", GREY, of("pi-5").map(|point| per_device(point, point.fixed))),
        ],
        legend: SeriesLabelPosition::UpperRight,
    }
}

fn speed(fig5: &Fig5) -> Panel {
    let x = |k: u32| f64::from(k);
    Panel {
        title: "One device, 1B on a Pi 5".to_owned(),
        x: ("drafts in a round", Scale::Linear),
        y: ("tokens/s", Scale::Linear),
        lines: vec![
            line("simulated", BLUE, fig5.lengths.iter().map(|point| (x(point.k), point.rate))),
            law("law", GREY, fig5.lengths.iter().map(|point| (x(point.k), point.rate_law))),
        ],
        legend: SeriesLabelPosition::LowerLeft,
    }
}

fn capacity(fig5: &Fig5) -> Panel {
    let x = |k: u32| f64::from(k);
    Panel {
        title: "The paper's server, each at its own speed".to_owned(),
        x: ("drafts in a round", Scale::Linear),
        y: ("devices", Scale::Linear),
        lines: vec![
            line("simulated", BLUE, fig5.lengths.iter().map(|point| (x(point.k), point.capacity))),
            law("law", GREY, fig5.lengths.iter().map(|point| (x(point.k), point.capacity_law))),
        ],
        legend: SeriesLabelPosition::UpperLeft,
    }
}

fn at_goal(fig5: &Fig5) -> Panel {
    let fixed = || fig5.at_goal.iter().filter_map(|point| Some((f64::from(point.k?), point)));
    let ends = || [1.0, fixed().map(|(k, _)| k).fold(1.0, f64::max)].into_iter();
    let across = |system: &str| {
        let of_system = fig5.at_goal.iter().filter(|point| point.system == system);
        of_system.flat_map(|point| ends().map(|k| (k, point.capacity))).collect::<Vec<_>>()
    };
    Panel {
        title: format!("A fast server, all at {} tokens/s", fig5.goal),
        x: ("drafts in a round", Scale::Linear),
        y: ("devices", Scale::Linear),
        lines: vec![
            line("centralised", ORANGE, across("central").into_iter()),
            line("SLED, goodput", GREEN, across("goodput").into_iter()),
            line("fixed length", BLUE, fixed().map(|(k, point)| (k, point.capacity))),
            law("law, all in every pass", GREY, fixed().filter_map(|(k, point)| Some((k, point.law?)))),
        ],
        legend: SeriesLabelPosition::UpperRight,
    }
}

fn cost(fig6: &Fig6, setting: Setting) -> Panel {
    let of = |strategy, bits: u32, colour| {
        let points = fig6.points.iter().filter(move |p| (p.setting, p.strategy, p.bits) == (setting, strategy, bits));
        let points = points.map(|p| (p.tokens_per_s.mean, Estimate { mean: p.usd_per_1k[0], ci95: None }));
        line(&format!("{}, {bits} bits", strategy.name()), colour, points)
    };
    let server = if setting == Setting::Paper { "the paper's server" } else { "continuous batching" };
    Panel {
        title: format!("70B on {server}, 1 to 64 Pi 5 with 3B"),
        x: ("tokens/s of all devices", Scale::Log),
        y: ("US dollars a thousand tokens", Scale::Log),
        lines: vec![
            of(Strategy::AllServer, 16, ORANGE),
            of(Strategy::AllServer, 4, VERMILION),
            of(Strategy::Sled, 16, BLUE),
            of(Strategy::Sled, 4, GREEN),
            of(Strategy::AllEdge, 4, GREY),
        ],
        legend: SeriesLabelPosition::LowerLeft,
    }
}
