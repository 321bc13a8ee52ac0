//! The picture of a validation: measured dots on simulated lines.

use std::path::Path;

use plotters::prelude::*;

use super::{COMPARED, Point};

/// Colours that people with colour blindness tell apart (Okabe & Ito, 2008).
const COLOURS: [RGBColor; 4] =
    [RGBColor(0, 114, 178), RGBColor(230, 159, 0), RGBColor(0, 158, 115), RGBColor(204, 121, 167)];

/// Draws a panel for each of what is compared, with one line for each mode and policy.
pub fn draw(path: &Path, points: &[Point]) -> anyhow::Result<()> {
    let root = SVGBackend::new(path, (1200, 400)).into_drawing_area();
    root.fill(&WHITE)?;
    let series = |point: &Point| (point.mode.clone(), point.batching.clone());
    let mut all: Vec<_> = points.iter().map(series).collect();
    all.sort();
    all.dedup();
    for (at, (area, (what, _))) in root.split_evenly((1, COMPARED.len())).iter().zip(COMPARED).enumerate() {
        let most = points.iter().map(|point| point.devices).max().unwrap_or(1) as f64;
        let values = points.iter().filter_map(|point| point.compared.get(at));
        let top = values.flat_map(|c| [c.measured, c.simulated.map(|e| e.mean)]).flatten().fold(0.1, f64::max);
        let unit = if at == 0 { "tokens/s" } else { "ms" };
        let mut chart = ChartBuilder::on(area)
            .caption(format!("{what}, {unit}"), ("sans-serif", 16))
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(48)
            .build_cartesian_2d((0.9..most * 1.1).log_scale(), 0.0..1.3 * top)?;
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .x_desc("devices")
            .x_label_formatter(&|x| format!("{x:.0}"))
            .draw()?;
        for (one, colour) in all.iter().zip(COLOURS.into_iter().cycle()) {
            let members = || points.iter().filter(|point| series(point) == *one);
            let value = |point: &Point| point.compared.get(at).map(|c| (c.measured, c.simulated.map(|e| e.mean)));
            let line = members().filter_map(|point| Some((point.devices as f64, value(point)?.1?)));
            let label = format!("{}, {}", one.0, one.1);
            chart
                .draw_series(LineSeries::new(line, colour.stroke_width(2)))?
                .label(label)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
            let dots = members().filter_map(|point| Some((point.devices as f64, value(point)?.0?)));
            chart.draw_series(dots.map(|dot| Circle::new(dot, 4, colour.filled())))?;
        }
        if at == 0 {
            chart
                .configure_series_labels()
                .position(SeriesLabelPosition::UpperLeft)
                .background_style(WHITE.mix(0.8))
                .border_style(WHITE)
                .draw()?;
        }
    }
    Ok(root.present()?)
}
