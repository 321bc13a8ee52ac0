//! What came of it: ratios over the control, a table, a picture.

use std::fmt::Write;
use std::path::Path;

use plotters::prelude::*;
use serde::{Deserialize, Serialize};

use super::victim::Peak;
use crate::spread::{Spread, quantile, sorted};

/// Everything that is written to the results.
#[derive(Serialize, Deserialize)]
pub struct Results {
    pub command: String,
    pub model: String,
    pub window_s: f64,
    pub repeat: u32,
    pub seed: u64,
    pub attacks: Vec<Outcome>,
}

/// What one kind of attack did.
#[derive(Serialize, Deserialize)]
pub struct Outcome {
    pub attack: String,
    pub what: String,
    pub device: Ratios,
    pub http: Ratios,
    /// Answers under attack.
    pub answers: usize,
    /// How many of them went on otherwise from a token that was as likely but for what the shape of a batch explains.
    pub near_ties: usize,
    /// How often honest clients over HTTP were told to come back.
    pub refusals: usize,
    pub peak: Peak,
    /// Memory of the server once it was at rest again.
    pub memory_after_mib: u64,
    /// How many cores the attackers took, and the honest clients with them: all share one machine.
    pub attackers_cores: f64,
}

/// What one honest client saw in a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// The median time to the first token.
    pub first_ms: f64,
    /// The median time from one token to the next.
    pub gap_ms: f64,
    /// The same of the slowest hundredth.
    pub gap_p99_ms: f64,
}

impl Seen {
    pub fn new(first_ms: Vec<f64>, gaps_ms: Vec<f64>) -> Self {
        let (first, gaps) = (sorted(first_ms), sorted(gaps_ms));
        Self { first_ms: quantile(&first, 0.5), gap_ms: quantile(&gaps, 0.5), gap_p99_ms: quantile(&gaps, 0.99) }
    }
}

/// The windows of a client under attack over those of the control before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ratios {
    pub first: Spread,
    pub gap: Spread,
    pub gap_p99: Spread,
    /// The windows themselves: the control, and the attack.
    pub windows: Vec<(Seen, Seen)>,
}

impl Ratios {
    pub fn new(windows: Vec<(Seen, Seen)>) -> Self {
        let spread = |of: fn(&Seen) -> f64| {
            Spread::new(
                windows.iter().map(|(control, attack)| of(attack) / of(control).max(f64::MIN_POSITIVE)).collect(),
            )
        };
        Self {
            first: spread(|seen| seen.first_ms),
            gap: spread(|seen| seen.gap_ms),
            gap_p99: spread(|seen| seen.gap_p99_ms),
            windows,
        }
    }
}

/// The table of the documentation.
pub fn table(results: &Results) -> String {
    let mut table = String::from(
        "| attack | device: first token | token to token | p99 | HTTP: first token | token to token | p99 | answers, near-ties | MiB, after | threads | descriptors |\n\
         |---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for outcome in &results.attacks {
        let Outcome { device, http, peak, .. } = outcome;
        let _infallible = write!(table, "| {} |", outcome.attack);
        for Spread { median, least, most } in
            [device.first, device.gap, device.gap_p99, http.first, http.gap, http.gap_p99]
        {
            let _infallible = write!(table, " {median:.2} ({least:.2}–{most:.2}) |");
        }
        let _infallible = writeln!(
            table,
            " {}, {} | {}, {} | {} | {} |",
            outcome.answers,
            outcome.near_ties,
            peak.memory_mib,
            outcome.memory_after_mib,
            peak.threads,
            peak.descriptors
        );
    }
    table
}

/// Draws the ratios, each with its least and most.
pub fn draw(path: &Path, results: &Results) -> anyhow::Result<()> {
    type Of = fn(&Outcome) -> Spread;
    const SERIES: [(&str, RGBColor, Of); 4] = [
        ("device, first token", RGBColor(84, 174, 255), |outcome| outcome.device.first),
        ("device, token to token, p99", RGBColor(9, 105, 218), |outcome| outcome.device.gap_p99),
        ("HTTP, first token", RGBColor(255, 180, 140), |outcome| outcome.http.first),
        ("HTTP, token to token, p99", RGBColor(207, 34, 46), |outcome| outcome.http.gap_p99),
    ];
    let root = SVGBackend::new(path, (1100, 420)).into_drawing_area();
    root.fill(&WHITE)?;
    let most = results.attacks.iter().flat_map(|outcome| SERIES.map(|(.., of)| of(outcome).most)).fold(4.0, f64::max);
    let count = results.attacks.len();
    let mut chart = ChartBuilder::on(&root)
        .caption("time over that without an attack: median, least and most", ("sans-serif", 15))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(44)
        .build_cartesian_2d(0.0..count as f64, (0.25..2.0 * most).log_scale())?;
    chart.configure_mesh().disable_x_mesh().x_labels(0).light_line_style(WHITE).draw()?;
    for (s, (name, colour, of)) in SERIES.into_iter().enumerate() {
        let x = |i: usize| i as f64 + 0.2 + 0.2 * s as f64;
        let spreads = results.attacks.iter().map(of).enumerate();
        chart.draw_series(spreads.clone().map(|(i, spread)| {
            PathElement::new([(x(i), spread.least.max(0.25)), (x(i), spread.most.max(0.25))], colour.stroke_width(2))
        }))?;
        chart
            .draw_series(spreads.map(|(i, spread)| Circle::new((x(i), spread.median.max(0.25)), 4, colour.filled())))?
            .label(name)
            .legend(move |(x, y)| Circle::new((x + 8, y), 4, colour.filled()));
    }
    chart.draw_series(
        results
            .attacks
            .iter()
            .enumerate()
            .map(|(i, outcome)| Text::new(outcome.attack.clone(), (i as f64 + 0.05, 0.29), ("sans-serif", 11))),
    )?;
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.85))
        .border_style(RGBColor(208, 215, 222))
        .label_font(("sans-serif", 12))
        .draw()?;
    Ok(root.present()?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn ratios_are_of_each_attack_over_the_control_before_it() {
        let seen = |ms: f64| Seen { first_ms: ms, gap_ms: 10.0 * ms, gap_p99_ms: 100.0 * ms };
        let ratios = Ratios::new([(1.0, 2.0), (10.0, 10.0), (4.0, 2.0)].map(|(a, b)| (seen(a), seen(b))).into());
        assert_eq!(ratios.first, Spread { median: 1.0, least: 0.5, most: 2.0 });
        assert_eq!([ratios.gap, ratios.gap_p99], [ratios.first; 2]);
        let seen = Seen::new(vec![3.0, 1.0, 2.0], (1..=200).map(f64::from).collect());
        assert_eq!(seen, Seen { first_ms: 2.0, gap_ms: 101.0, gap_p99_ms: 199.0 });
    }

    #[test]
    fn the_page_says_what_was_measured_under_attack() {
        let root = Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("../..");
        let results = std::fs::read_to_string(root.join("results/attack.json")).unwrap();
        let page = std::fs::read_to_string(root.join("docs/operations.md")).unwrap();
        let table = table(&serde_json::from_str(&results).unwrap());
        assert!(page.contains(&table), "docs/operations.md has not the table of results/attack.json:\n{table}");
    }
}
