//! What the page says, as assertions on the data: they must hold with any seed.

use serde::Serialize;

use super::{CostPoint, Fig4, LoadPoint, Paper, Setting, Strategy, published};

/// A statement of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Conclusion {
    /// What it is about, as the page's sections are called.
    pub about: About,
    /// What is said.
    pub says: &'static str,
    /// Whether the data bear it out.
    pub holds: bool,
}

/// The sections of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum About {
    /// Confidence against acceptance.
    Fig3,
    /// Capacity by device.
    Table1,
    /// Tokens a second.
    Fig4,
    /// Draft length.
    Fig5,
    /// Cost.
    Fig6,
}

/// All statements, in the order of the page.
#[must_use]
pub fn conclusions(paper: &Paper) -> Vec<Conclusion> {
    let of = |about, statements: Vec<(&'static str, bool)>| {
        statements.into_iter().map(move |(says, holds)| Conclusion { about, says, holds })
    };
    of(About::Fig3, fig3(paper))
        .chain(of(About::Table1, table1(paper)))
        .chain(of(About::Fig4, fig4(&paper.fig4)))
        .chain(of(About::Fig5, fig5(paper)))
        .chain(of(About::Fig6, fig6(paper)))
        .collect()
}

fn fig3(paper: &Paper) -> Vec<(&'static str, bool)> {
    let ends = |of: &super::Reliability| Some((of.bins.first()?.acceptance, of.bins.last()?.acceptance));
    let rises = paper.fig3.iter().all(|of| of.bins.windows(2).all(|pair| pair[1].interval[1] > pair[0].interval[0]));
    let far = paper.fig3.iter().filter_map(ends).all(|(first, last)| first < 0.3 && last > 0.97);
    vec![("Acceptance rises with confidence, against both targets: the paper's Fig. 3 holds.", rises && far)]
}

fn table1(paper: &Paper) -> Vec<(&'static str, bool)> {
    let (slow, strong) = (&paper.table1.slow, &paper.table1.strong);
    let near = |value: f64, other: f64, by: f64| (value - other).abs() < by * other;
    let gains = slow.iter().all(|row| {
        (2.5..2.95).contains(&row.gain.mean)
            && near(row.sled.mean, row.sled_law, 0.06)
            && near(row.central.mean, row.central_law, 0.06)
    });
    let implied: Vec<f64> =
        published::TABLE_1.iter().zip(slow).map(|((_, _, central, _), row)| central * row.draft_rate).collect();
    let most = implied.iter().copied().fold(0.0, f64::max);
    let least = implied.iter().copied().fold(f64::INFINITY, f64::min);
    let of = |drafter: &'static str| strong.iter().filter(move |row| row.drafter == drafter);
    let fast = || of("orin-nano/1b-4bit");
    let over = |row: &super::AtRate| row.shipped.mean / row.central.mean.max(1.0);
    vec![
        (
            "A server that serves one request at a time carries as many times more devices as a round commits tokens, whatever the \
             device: the paper's gains in Table I are that number.",
            gains,
        ),
        ("The paper's absolute capacities do not belong to one server.", most > 10.0 * least),
        (
            "Against continuous batching of the same target, fixed lengths carry fewer devices at every rate, with every drafter.",
            strong.iter().all(|row| row.fixed.mean < row.central.mean),
        ),
        (
            "With a Pi 5 the defaults carry as many devices as continuous batching: its drafts are not worth waiting for, and the \
             server decodes.",
            of("pi-5/3b-4bit").all(|row| (0.97..1.03).contains(&over(row))),
        ),
        (
            "With a fast drafter they carry more where users want their tokens fast: at 20 tokens/s each, and twice as many at 30.",
            fast().filter(|row| row.rate == 20.0).all(|row| over(row) > 1.15)
                && fast().filter(|row| row.rate == 30.0).all(|row| over(row) > 1.8),
        ),
        (
            "At 10 tokens/s, where hundreds of devices saturate the server, they carry fewer: the mean device is as fast as with \
             continuous batching, the slowest are not.",
            fast().filter(|row| row.rate == 10.0).all(|row| {
                over(row) < 1.0 && row.shipped_mean.mean > 0.99 * row.rate && row.shipped_p5.mean < row.rate
            }),
        ),
    ]
}

fn fig4(fig4: &Fig4) -> Vec<(&'static str, bool)> {
    let gains = |batch: usize| fig4.batches.iter().filter(move |point| point.batch == batch).map(|p| p.gain.mean);
    let between =
        gains(8).all(|gain| gain > published::FIG_4_GAIN) && gains(16).all(|gain| gain < published::FIG_4_GAIN);
    let falls = gains(1).all(|gain| gain > 2.5) && gains(64).all(|gain| gain < 1.5);
    let of = |target: &'static str, drafter: &'static str| {
        fig4.loads.iter().filter(move |point| point.target.contains(target) && point.drafter.contains(drafter))
    };
    let over = |point: &LoadPoint| point.shipped.mean / point.central.mean;
    vec![
        (
            "With static batches that are always full SLED is x2.2 as fast between batches of 8 and 16, with both targets; the gain \
             falls with the batch, as rows begin to cost.",
            between && falls,
        ),
        (
            "With as many Pi 5 as there are thin clients, the paper's devices are several times slower than continuous batching: \
             they wait for their own drafts.",
            of("", "pi-5").all(|point| point.fixed.mean < 0.4 * point.central.mean),
        ),
        (
            "The defaults are nowhere slower than continuous batching.",
            fig4.loads.iter().all(|point| over(point) > 0.99),
        ),
        (
            "Drafts of a Jetson make the 70B faster for 8 to 128 devices, and the 11B less or not at all: its step is too short.",
            of("70b", "orin")
                .zip(of("11b", "orin"))
                .filter(|(p, _)| (8..=128).contains(&p.devices))
                .all(|(large, small)| over(large) > 1.05 && over(large) > over(small)),
        ),
    ]
}

fn fig5(paper: &Paper) -> Vec<(&'static str, bool)> {
    let lengths = &paper.fig5.lengths;
    let slower = lengths.windows(2).skip(1).all(|pair| pair[1].rate.mean < 1.02 * pair[0].rate.mean);
    let more = lengths.windows(2).all(|pair| pair[1].capacity.mean > pair[0].capacity.mean);
    let at = |system: &str| paper.fig5.at_goal.iter().find(|point| point.system == system).map(|p| p.capacity.mean);
    let (central, goodput) = (at("central").unwrap_or(0.0), at("goodput").unwrap_or(0.0));
    let fixed = || paper.fig5.at_goal.iter().filter(|point| point.k.is_some());
    let shorter = fixed().filter(|p| p.k.is_some_and(|k| k <= 2)).all(|p| p.capacity.mean > 0.3 * central);
    let longer = fixed().filter(|p| p.k.is_some_and(|k| k >= 6)).all(|p| p.capacity.mean == 0.0);
    vec![
        (
            "Longer drafts make a device slower and the server carry more of them, as in the paper's Fig. 5, where each length is \
             held to its own speed.",
            slower && more,
        ),
        ("Held to one rate, longer drafts carry fewer devices, and soon none.", shorter && longer),
        (
            "At that rate every fixed length carries fewer devices than continuous batching; the defaults come close to it, and stay \
             below.",
            fixed().all(|point| point.capacity.mean < central) && (0.85..1.0).contains(&(goodput / central)),
        ),
    ]
}

fn fig6(paper: &Paper) -> Vec<(&'static str, bool)> {
    let points = &paper.fig6.points;
    let find = |setting, strategy, bits, devices| {
        let is = |p: &&CostPoint| (p.setting, p.strategy, p.bits, p.devices) == (setting, strategy, bits, devices);
        points.iter().find(is)
    };
    let beside = |setting, other| {
        let sled = points.iter().filter(move |p| p.setting == setting && p.strategy == Strategy::Sled);
        sled.filter_map(move |sled| Some((sled, find(setting, other, sled.bits, sled.devices)?))).collect::<Vec<_>>()
    };
    let ratio = |(sled, other): &(&CostPoint, &CostPoint)| sled.tokens_per_s.mean / other.tokens_per_s.mean;
    let cost = |(sled, other): &(&CostPoint, &CostPoint)| sled.usd_per_1k[0] / other.usd_per_1k[0];
    let slow = beside(Setting::Paper, Strategy::AllServer);
    let many = || slow.iter().filter(|(sled, _)| sled.devices >= 16);
    let few = || slow.iter().filter(|(sled, _)| sled.devices == 1);
    let fronts = |setting, strategy, on: fn(&CostPoint) -> bool| {
        points.iter().filter(|p| p.setting == setting && on(p)).all(|p| p.strategy == strategy)
    };
    let hour = published::FIG_6_USD_PER_1K * published::FIG_6_TOKENS_PER_S * 3.6;
    vec![
        (
            "On the paper's server SLED is slower and dearer than centralised serving with one device, and faster and cheaper with 16 \
             and more, about threefold.",
            few().all(|pair| ratio(pair) < 1.0 && cost(pair) > 1.0)
                && many().all(|pair| ratio(pair) > 2.5 && cost(pair) < 0.4),
        ),
        (
            "All-edge stays ahead of it in tokens and far cheaper: four drafts a round can at best make 1.25 tokens of each.",
            beside(Setting::Paper, Strategy::AllEdge).iter().all(|pair| ratio(pair) < 1.0 && cost(pair) > 10.0),
        ),
        (
            "Against continuous batching, Pi 5 that draft change neither tokens nor cost by more than 3 %.",
            beside(Setting::Strong, Strategy::AllServer)
                .iter()
                .all(|pair| (0.97..1.03).contains(&ratio(pair)) && (0.97..1.03).contains(&cost(pair))),
        ),
        (
            "Among those that make the target's tokens the front is SLED on the paper's server, and all-server with continuous \
             batching; with all-edge on the plane, all-edge has the paper's front to itself.",
            fronts(Setting::Paper, Strategy::Sled, |p| p.front)
                && points.iter().any(|p| p.front && (p.setting, p.strategy) == (Setting::Strong, Strategy::AllServer))
                && fronts(Setting::Paper, Strategy::AllEdge, |p| p.front_of_all),
        ),
        (
            "The paper's costs take a server far dearer than four A100 can be rented for.",
            hour > 3.0 * paper.fig6.rents[0],
        ),
    ]
}
