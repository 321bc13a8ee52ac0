//! The picture of a run: tokens a second over devices, and what each user sees.

use std::path::Path;

use plotters::prelude::*;

use sled_sim::figures::Figures;

/// Colours that people with colour blindness tell apart (Okabe & Ito, 2008).
const COLOURS: [RGBColor; 3] = [RGBColor(0, 114, 178), RGBColor(230, 159, 0), RGBColor(0, 158, 115)];

/// Draws two panels, with one line for each mode.
pub fn draw(path: &Path, points: &[Figures]) -> anyhow::Result<()> {
    let root = SVGBackend::new(path, (1000, 400)).into_drawing_area();
    root.fill(&WHITE)?;
    let panels = root.split_evenly((1, 2));
    let whole: fn(&Figures) -> f64 = |f| f.output_throughput;
    let each: fn(&Figures) -> f64 = |f| f.device_throughput_mean;
    for (panel, (title, value)) in panels.iter().zip([("all devices together", whole), ("each device", each)]) {
        let most = points.iter().map(|f| f.devices).max().unwrap_or(1) as f64;
        let top = 1.1 * points.iter().map(value).fold(0.1, f64::max);
        let mut chart = ChartBuilder::on(panel)
            .caption(format!("tokens/s, {title}"), ("sans-serif", 16))
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(44)
            .build_cartesian_2d((0.9..most * 1.1).log_scale(), 0.0..top)?;
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .x_desc("devices")
            .x_label_formatter(&|x| format!("{x:.0}"))
            .draw()?;
        let mut modes: Vec<&str> = points.iter().map(|f| f.mode.as_str()).collect();
        modes.dedup();
        for (mode, colour) in modes.into_iter().zip(COLOURS) {
            let line: Vec<(f64, f64)> =
                points.iter().filter(|f| f.mode == mode).map(|f| (f.devices as f64, value(f))).collect();
            chart
                .draw_series(LineSeries::new(line.clone(), colour.stroke_width(2)))?
                .label(mode)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
            chart.draw_series(line.into_iter().map(|point| Circle::new(point, 3, colour.filled())))?;
        }
        chart.configure_series_labels().background_style(WHITE.mix(0.8)).border_style(WHITE).draw()?;
    }
    Ok(root.present()?)
}
