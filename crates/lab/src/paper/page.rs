//! The page: a function of the data, and of nothing else. Its text is `page.md.jinja`; what is put into that is here.

use serde::Serialize;
use sled_sim::economics::Prices;
use sled_sim::paper::{
    ACCEPTANCE, Capacities, Conclusion, CostPoint, Fig6, LENGTH, Paper, Reliability, Setting, Strategy, conclusions,
    published,
};
use sled_sim::theory::tokens_per_round;

use super::table2::{CLAIMS, Claim};
use crate::template;

/// The page as Markdown; plots are beside the data, in `../results/paper/`.
pub fn page(paper: &Paper) -> anyhow::Result<String> {
    let page = Page {
        paper,
        conclusions: conclusions(paper),
        length: LENGTH,
        acceptance: ACCEPTANCE,
        expected: tokens_per_round(ACCEPTANCE, LENGTH),
        prices: Prices::default(),
        published: Published::default(),
        fig3: paper.fig3.iter().map(shares).collect(),
        table1: published::TABLE_1.into_iter().zip(&paper.table1.slow).map(beside).collect(),
        fig6: fig6(&paper.fig6),
        claims: &CLAIMS,
    };
    template::render(include_str!("page.md.jinja"), page)
}

/// What the template knows.
#[derive(Serialize)]
struct Page<'a> {
    paper: &'a Paper,
    conclusions: Vec<Conclusion>,
    /// Drafts in a round under the paper's assumptions, how many of them are accepted, and the tokens that a round brings.
    length: u32,
    acceptance: f64,
    expected: f64,
    prices: Prices,
    published: Published,
    fig3: Vec<Shares>,
    table1: Vec<Capacity<'a>>,
    fig6: Costs,
    claims: &'a [Claim],
}

/// What the paper reports, but for Table I.
#[derive(Serialize)]
struct Published {
    fig4_gain: f64,
    fig6_tokens_per_s: f64,
    fig6_usd_per_1k: f64,
    fig6_gain_over_edge: f64,
    fig6_devices: usize,
}

impl Default for Published {
    fn default() -> Self {
        Self {
            fig4_gain: published::FIG_4_GAIN,
            fig6_tokens_per_s: published::FIG_6_TOKENS_PER_S,
            fig6_usd_per_1k: published::FIG_6_USD_PER_1K,
            fig6_gain_over_edge: published::FIG_6_GAIN_OVER_EDGE,
            fig6_devices: published::FIG_6_DEVICES,
        }
    }
}

/// Acceptance by confidence, of all drafts and of those in each range.
#[derive(Serialize)]
struct Shares {
    target: String,
    acceptance: f64,
    shares: [f64; 6],
}

fn shares(of: &Reliability) -> Shares {
    let share = |(from, to): (f64, f64)| {
        let bins = || of.bins.iter().filter(|bin| (from..to).contains(&(bin.from + 0.01)));
        let drafts: usize = bins().map(|bin| bin.drafts).sum();
        let right: f64 = bins().map(|bin| bin.acceptance * bin.drafts as f64).sum();
        right / drafts.max(1) as f64
    };
    let ranges = [(0.0, 0.2), (0.2, 0.4), (0.4, 0.6), (0.6, 0.8), (0.8, 0.9), (0.9, 1.0)];
    let target = of.target.trim_end_matches(".gguf").to_owned();
    Shares { target, acceptance: of.acceptance, shares: ranges.map(share) }
}

/// A row of Table I: the paper's values beside ours.
#[derive(Serialize)]
struct Capacity<'a> {
    machine: &'static str,
    sled: f64,
    central: f64,
    gain: f64,
    ours: &'a Capacities,
}

fn beside<'a>(((machine, sled, central, gain), ours): ((&'static str, f64, f64, f64), &'a Capacities)) -> Capacity<'a> {
    Capacity { machine, sled, central, gain, ours }
}

/// What the page says of Fig. 6.
#[derive(Serialize)]
struct Costs {
    beside: [Cost; 5],
    /// What all-edge costs, over the least cost of the front, with continuous batching.
    edge_share: f64,
}

/// One value: the paper's, ours under its assumptions, and ours against continuous batching.
#[derive(Serialize)]
struct Cost {
    what: &'static str,
    published: f64,
    slow: f64,
    strong: f64,
}

fn fig6(fig6: &Fig6) -> Costs {
    let find = |setting, strategy| {
        let is = |p: &&CostPoint| {
            (p.setting, p.strategy, p.bits, p.devices) == (setting, strategy, 4, published::FIG_6_DEVICES)
        };
        fig6.points.iter().find(is)
    };
    let tokens = |setting, strategy| find(setting, strategy).map_or(0.0, |point| point.tokens_per_s.mean);
    let cost = |setting, strategy| find(setting, strategy).map_or(0.0, |point| point.usd_per_1k[0]);
    let of_front = fig6.points.iter().filter(|point| point.setting == Setting::Strong && point.front);
    let least = of_front.map(|point| point.usd_per_1k[0]).fold(f64::INFINITY, f64::min);
    let (sled, server, edge) = (Strategy::Sled, Strategy::AllServer, Strategy::AllEdge);
    let beside = |what, published, of: &dyn Fn(Setting) -> f64| Cost {
        what,
        published,
        slow: of(Setting::Paper),
        strong: of(Setting::Strong),
    };
    Costs {
        beside: [
            beside("SLED, tokens/s", published::FIG_6_TOKENS_PER_S, &|s| tokens(s, sled)),
            beside("over centralised", published::FIG_6_GAIN, &|s| tokens(s, sled) / tokens(s, server)),
            beside("over all-edge", published::FIG_6_GAIN_OVER_EDGE, &|s| tokens(s, sled) / tokens(s, edge)),
            beside("SLED, $ a thousand tokens", published::FIG_6_USD_PER_1K, &|s| cost(s, sled)),
            beside("over centralised", published::FIG_6_COST_SHARE, &|s| cost(s, sled) / cost(s, server)),
        ],
        edge_share: cost(Setting::Strong, edge) / least,
    }
}
