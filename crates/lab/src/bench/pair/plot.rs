//! The picture beside the numbers: what a round is made of, and where a step's time goes.

use std::path::Path;

use anyhow::Context;
use plotters::coord::Shift;
use plotters::prelude::*;

use super::{OverheadResult, PairResult};

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const DARK: RGBColor = RGBColor(9, 105, 218);
const LIGHT: RGBColor = RGBColor(154, 202, 255);

/// Draws the results to an SVG file.
pub fn draw(path: &Path, pair: &[PairResult], overhead: &[OverheadResult]) -> anyhow::Result<()> {
    let rounds: Vec<_> = pair.iter().map(|r| (r.policy.clone(), [r.drafted_per_round, r.tokens_per_round])).collect();
    let steps: Vec<_> = overhead
        .iter()
        .map(|r| {
            (
                format!("{} session{}", r.sessions, if r.sessions == 1 { "" } else { "s" }),
                [r.forward_ms_per_step, r.overhead_ms_per_step],
            )
        })
        .collect();
    let root = SVGBackend::new(path, (820, 340)).into_drawing_area();
    let drawn = root.fill(&WHITE).map_err(anyhow::Error::from).and_then(|()| {
        let (left, right) = root.split_horizontally(410);
        bars(&left, "tokens a round: drafted, committed", &rounds)?;
        bars(&right, "server ms a step: forward pass, all else", &steps)?;
        Ok(root.present()?)
    });
    drawn.with_context(|| format!("cannot draw {}; check --out", path.display()))
}

/// Pairs of bars with their values on top.
fn bars(area: &Area<'_>, title: &str, groups: &[(String, [f64; 2])]) -> anyhow::Result<()> {
    let largest = groups.iter().flat_map(|(_, values)| values).copied().fold(f64::MIN_POSITIVE, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 15))
        .margin(12)
        .x_label_area_size(24)
        .y_label_area_size(44)
        .build_cartesian_2d(0.0..groups.len() as f64, -0.08 * largest..1.12 * largest)?;
    chart.configure_mesh().disable_x_mesh().x_labels(0).y_labels(6).light_line_style(WHITE).draw()?;
    for (group, (name, values)) in groups.iter().enumerate() {
        for (i, (&value, colour)) in values.iter().zip([LIGHT, DARK]).enumerate() {
            let x = group as f64 + 0.15 + 0.35 * i as f64;
            chart.draw_series([Rectangle::new([(x, 0.0), (x + 0.33, value)], colour.filled())])?;
            let label = if value < 1.0 { format!("{value:.3}") } else { format!("{value:.2}") };
            chart.draw_series([Text::new(label, (x + 0.05, value + 0.07 * largest), ("sans-serif", 13))])?;
        }
        chart.draw_series([Text::new(name.clone(), (group as f64 + 0.15, -0.02 * largest), ("sans-serif", 13))])?;
    }
    Ok(())
}
