//! The picture of a simulation: what a device of each class gets, and how long a token takes.

use std::path::Path;

use plotters::prelude::*;
use sled_sim::scenario::{Estimate, Summary};

/// Colours that people with colour blindness tell apart (Okabe & Ito, 2008).
const BLUE: RGBColor = RGBColor(0, 114, 178);
const ORANGE: RGBColor = RGBColor(230, 159, 0);

/// Draws two panels, with bars for each class.
pub fn draw(path: &Path, summary: &Summary) -> anyhow::Result<()> {
    let classes = &summary.scenario.devices;
    let root = SVGBackend::new(path, (1000, 400)).into_drawing_area();
    root.fill(&WHITE)?;
    let panels = [
        ("tokens/s of a device", [("mean", "device_throughput_mean"), ("95 % exceed", "device_throughput_p5")]),
        ("ms a token of an answer", [("median", "median_tpot_ms"), ("99th percentile", "p99_tpot_ms")]),
    ];
    for (area, (title, bars)) in root.split_evenly((1, 2)).iter().zip(panels) {
        let get = |class: usize, key: &str| summary.get(&format!("classes.{class}.figures.{key}"));
        let tops = (0..classes.len()).flat_map(|class| bars.map(|(_, key)| get(class, key).map_or(0.0, upper)));
        let top = 1.3 * tops.fold(0.1, f64::max);
        let mut chart = ChartBuilder::on(area)
            .caption(title, ("sans-serif", 16))
            .margin(12)
            .x_label_area_size(30)
            .y_label_area_size(48)
            .build_cartesian_2d(0.0..classes.len() as f64, 0.0..top)?;
        chart.configure_mesh().disable_x_mesh().light_line_style(WHITE).x_labels(0).draw()?;
        for (place, ((label, key), colour)) in bars.into_iter().zip([BLUE, ORANGE]).enumerate() {
            let known = (0..classes.len()).filter_map(|class| Some((class, get(class, key)?)));
            let known: Vec<(f64, Estimate)> =
                known.map(|(class, estimate)| (class as f64 + 0.14 + 0.38 * place as f64, estimate)).collect();
            chart
                .draw_series(
                    known.iter().map(|(x, e)| Rectangle::new([(*x, 0.0), (x + 0.34, e.mean)], colour.filled())),
                )?
                .label(label)
                .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 10, y + 5)], colour.filled()));
            chart.draw_series(known.iter().filter_map(|(x, e)| {
                let ends = [(x + 0.17, e.mean - e.ci95?), (x + 0.17, e.mean + e.ci95?)];
                Some(PathElement::new(ends, BLACK.stroke_width(2)))
            }))?;
        }
        for (at, class) in classes.iter().enumerate() {
            let (x, y) = chart.backend_coord(&(at as f64 + 0.5, 0.0));
            let centred = plotters::style::text_anchor::Pos::new(
                plotters::style::text_anchor::HPos::Center,
                plotters::style::text_anchor::VPos::Top,
            );
            let style = ("sans-serif", 13).into_font().color(&BLACK).pos(centred);
            root.draw_text(&class.name, &style, (x, y + 8))?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE.mix(0.8))
            .border_style(WHITE)
            .draw()?;
    }
    Ok(root.present()?)
}

fn upper(estimate: Estimate) -> f64 {
    estimate.mean + estimate.ci95.unwrap_or(0.0)
}
