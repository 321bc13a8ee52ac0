//! The picture of a plan: devices over the rate that each gets.

use std::path::Path;

use plotters::prelude::*;
use sled_sim::plan::Plan;

/// Colours that people with colour blindness tell apart (Okabe & Ito, 2008).
const BLUE: RGBColor = RGBColor(0, 114, 178);
const ORANGE: RGBColor = RGBColor(230, 159, 0);

/// Draws capacity with the best policy and with thin clients, and the rate that was asked for.
pub fn draw(path: &Path, plan: &Plan, rate: f64) -> anyhow::Result<()> {
    let root = SVGBackend::new(path, (700, 420)).into_drawing_area();
    root.fill(&WHITE)?;
    let fastest = plan.curve.iter().map(|point| point.rate).fold(rate, f64::max);
    let top = plan.curve.iter().flat_map(|point| [point.devices, point.central]).max().unwrap_or(1).max(1) as f64;
    let mut chart = ChartBuilder::on(&root)
        .caption("devices that each get a rate", ("sans-serif", 16))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..1.05 * fastest, 0.0..1.1 * top)?;
    chart.configure_mesh().light_line_style(WHITE).x_desc("tokens/s that each gets").draw()?;
    let asked = [(rate, 0.0), (rate, 1.1 * top)];
    chart.draw_series(LineSeries::new(asked, BLACK.mix(0.4).stroke_width(1)))?;
    let best = format!("best policy: {}", plan.best.policy);
    let lines = [("thin clients".to_owned(), ORANGE), (best, BLUE)];
    for (at, (label, colour)) in lines.into_iter().enumerate() {
        let value = |point: &sled_sim::plan::Point| if at == 0 { point.central } else { point.devices } as f64;
        let line: Vec<(f64, f64)> = plan.curve.iter().map(|point| (point.rate, value(point))).collect();
        chart
            .draw_series(LineSeries::new(line.clone(), colour.stroke_width(2)))?
            .label(label)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
        chart.draw_series(line.into_iter().map(|point| Circle::new(point, 3, colour.filled())))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.8))
        .border_style(WHITE)
        .draw()?;
    Ok(root.present()?)
}
