//! The plots, from the data alone.

use std::path::Path;

use plotters::prelude::{RGBColor, SeriesLabelPosition};
use sled_sim::paper::{Fig4, Fig5, Fig6, LoadPoint, Paper, Reliability, Setting, Strategy, published};
use sled_sim::scenario::Estimate;

use super::chart::{BLUE, GREEN, GREY, Line, Look, ORANGE, Panel, Scale, VERMILION, draw};

/// Draws all of them.
pub fn plots(paper: &Paper, folder: &Path) -> anyhow::Result<()> {
    draw(&folder.join("fig3.svg"), vec![fig3(&paper.fig3)])?;
    draw(&folder.join("fig4.svg"), vec![batches(&paper.fig4, "11b"), batches(&paper.fig4, "70b"), gains(&paper.fig4)])?;
    draw(&folder.join("fig4-continuous.svg"), vec![loads(&paper.fig4, "11b"), loads(&paper.fig4, "70b")])?;
    draw(&folder.join("fig5.svg"), vec![speed(&paper.fig5), capacity(&paper.fig5), at_goal(&paper.fig5)])?;
    draw(&folder.join("fig6.svg"), vec![cost(&paper.fig6, Setting::Paper), cost(&paper.fig6, Setting::Strong)])
}

fn line(name: &str, colour: RGBColor, points: impl Iterator<Item = (f64, Estimate)>) -> Line {
    let points = points.map(|(x, y)| (x, y.mean, y.ci95.unwrap_or(0.0))).collect();
    Line { name: name.to_owned(), colour, look: Look::Joined, points }
}

fn law(name: &str, colour: RGBColor, points: impl Iterator<Item = (f64, f64)>) -> Line {
    Line { name: name.to_owned(), colour, look: Look::Dashed, points: points.map(|(x, y)| (x, y, 0.0)).collect() }
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
        headroom: 1.08,
        legend: SeriesLabelPosition::LowerRight,
    }
}

fn batches(fig4: &Fig4, target: &str) -> Panel {
    let of = || fig4.batches.iter().filter(|point| point.target.contains(target));
    let x = |batch: usize| batch as f64;
    Panel {
        title: format!("{} target, static batches, Pi 5 with 3B", target.to_uppercase()),
        x: ("requests in a batch", Scale::Twos),
        y: ("tokens/s of all devices", Scale::Twos),
        lines: vec![
            line("SLED, 4 drafts a round", BLUE, of().map(|point| (x(point.batch), point.sled))),
            line("centralised", ORANGE, of().map(|point| (x(point.batch), point.central))),
        ],
        headroom: 1.08,
        legend: SeriesLabelPosition::UpperLeft,
    }
}

fn gains(fig4: &Fig4) -> Panel {
    let of = |target: &'static str| fig4.batches.iter().filter(move |point| point.target.contains(target));
    let gain = |target| of(target).map(|point| (point.batch as f64, point.gain));
    let law_of = |target| of(target).map(|point| (point.batch as f64, point.gain_law));
    Panel {
        title: "SLED over centralised".to_owned(),
        x: ("requests in a batch", Scale::Twos),
        y: ("times", Scale::Linear),
        lines: vec![
            line("11B", GREEN, gain("11b")),
            line("70B", VERMILION, gain("70b")),
            law("law, 11B", GREEN, law_of("11b")),
            law("law, 70B", VERMILION, law_of("70b")),
            law("the paper: 2.2", GREY, of("70b").map(|point| (point.batch as f64, published::FIG_4_GAIN))),
        ],
        headroom: 1.08,
        legend: SeriesLabelPosition::LowerLeft,
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
        x: ("devices, all of them always busy", Scale::Twos),
        y: ("tokens/s of each device", Scale::Linear),
        lines: vec![
            Line {
                look: Look::Broad,
                ..line("centralised", ORANGE, of("pi-5").map(|point| per_device(point, point.central)))
            },
            line("SLED, Jetson with 1B", GREEN, of("orin").map(|point| per_device(point, point.shipped))),
            line("SLED, Pi 5 with 3B", BLUE, of("pi-5").map(|point| per_device(point, point.shipped))),
            line("4 drafts, Jetson with 1B", VERMILION, of("orin").map(|point| per_device(point, point.fixed))),
            line("4 drafts, Pi 5 with 3B", GREY, of("pi-5").map(|point| per_device(point, point.fixed))),
        ],
        headroom: 1.6,
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
        headroom: 1.08,
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
        headroom: 1.08,
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
        headroom: 1.45,
        legend: SeriesLabelPosition::UpperRight,
    }
}

fn cost(fig6: &Fig6, setting: Setting) -> Panel {
    let of = |strategy, colour, look| {
        let points = fig6.points.iter().filter(move |p| (p.setting, p.strategy, p.bits) == (setting, strategy, 4));
        let points = points.map(|p| (p.tokens_per_s.mean, Estimate { mean: p.usd_per_1k[0], ci95: None }));
        Line { look, ..line(&format!("{}, 4 bits", strategy.name()), colour, points) }
    };
    let with_16 =
        fig6.points.iter().filter(|p| (p.setting, p.bits, p.devices) == (setting, 4, published::FIG_6_DEVICES));
    let with_16 = with_16.map(|p| (p.tokens_per_s.mean, p.usd_per_1k[0], 0.0)).collect();
    let mut lines = vec![
        of(Strategy::AllServer, ORANGE, Look::Broad),
        of(Strategy::Sled, BLUE, Look::Joined),
        of(Strategy::AllEdge, GREEN, Look::Joined),
        Line { name: "with 16 devices".to_owned(), colour: GREY, look: Look::Circles, points: with_16 },
    ];
    if setting == Setting::Paper {
        let (rate, usd) = (published::FIG_6_TOKENS_PER_S, published::FIG_6_USD_PER_1K);
        let central = (rate / published::FIG_6_GAIN, usd / published::FIG_6_COST_SHARE, 0.0);
        let points = vec![(rate, usd, 0.0), central];
        let name = "the paper: SLED, all-server".to_owned();
        lines.push(Line { name, colour: VERMILION, look: Look::Crosses, points });
    }
    let server = if setting == Setting::Paper { "the paper's server" } else { "continuous batching" };
    Panel {
        title: format!("70B on {server}, 1 to 64 Pi 5 with 3B"),
        x: ("tokens/s of all devices", Scale::Tens),
        y: ("US dollars a thousand tokens", Scale::Tens),
        lines,
        headroom: 1.08,
        legend: SeriesLabelPosition::MiddleLeft,
    }
}
