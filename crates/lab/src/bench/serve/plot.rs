//! The picture of a run: how much faster devices that draft are than thin clients, and what there was to gain.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use super::results::Format;
use crate::args::Mode;
use crate::spread::Spread;

/// Colours that people with colour blindness tell apart (Okabe & Ito, 2008).
const BLUE: RGBColor = RGBColor(0, 114, 178);
const ORANGE: RGBColor = RGBColor(230, 159, 0);
const BLACK: RGBColor = RGBColor(60, 60, 60);
const GREY: RGBColor = RGBColor(190, 190, 190);

/// At so many devices, so much.
type Line = Vec<(f64, Spread)>;

/// What a panel shows, over thin clients.
struct Ratios {
    sled: Line,
    peer: Line,
    noise: Line,
    bound: Vec<(f64, f64)>,
}

impl Ratios {
    /// While no prompt is read, as the bound is; with prompts where nothing else was measured.
    fn of(format: &Format) -> Self {
        let line = |mode: Mode| -> Line {
            let ratio = |devices| {
                let generating = format.ratio_generating(mode, Mode::Central, devices);
                generating.or_else(|| format.ratio(mode, Mode::Central, devices))
            };
            format.devices().into_iter().filter_map(|devices| Some((devices as f64, ratio(devices)?))).collect()
        };
        let bound = format.bounds.iter().map(|bound| (bound.devices as f64, bound.over_central)).collect();
        Self { sled: line(Mode::Sled), peer: line(Mode::LlamaServer), noise: line(Mode::Control), bound }
    }

    /// The least and the most on the y axis.
    fn range(&self) -> (f64, f64) {
        let lines = [&self.sled, &self.peer, &self.noise].into_iter().flatten();
        let values = lines.flat_map(|(_, spread)| [spread.least, spread.most]);
        let values = values.chain(self.bound.iter().map(|(_, bound)| *bound));
        values.fold((0.9, 1.1), |(least, most), value| (f64::min(least, value), f64::max(most, value)))
    }
}

/// Draws a panel for each model file.
pub fn draw(path: &Path, formats: &[Format]) -> anyhow::Result<()> {
    let root = SVGBackend::new(path, (460 * u32::try_from(formats.len().max(1))?, 400)).into_drawing_area();
    root.fill(&WHITE)?;
    let all: Vec<Ratios> = formats.iter().map(Ratios::of).collect();
    // One scale for all panels.
    let ranges = all.iter().map(Ratios::range);
    let (least, most) = ranges.fold((0.9, 1.1), |a, b| (f64::min(a.0, b.0), f64::max(a.1, b.1)));
    for ((area, format), ratios) in root.split_evenly((1, formats.len().max(1))).iter().zip(formats).zip(&all) {
        panel(area, format, ratios, 0.97 * least..1.25 * most)?;
    }
    Ok(root.present()?)
}

fn panel(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    format: &Format,
    ratios: &Ratios,
    y: std::ops::Range<f64>,
) -> anyhow::Result<()> {
    let devices = format.devices();
    let most = devices.iter().copied().max().unwrap_or(1) as f64;
    let name =
        Path::new(&format.target).file_stem().map_or(format.target.clone(), |name| name.to_string_lossy().into());
    let mut chart = ChartBuilder::on(area)
        .caption(name, ("sans-serif", 16))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(48)
        .build_cartesian_2d((0.9..most * 1.15).log_scale().base(2.0), y)?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc("devices")
        .y_desc("tokens/s over thin clients")
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| format!("{y:.1}"))
        .draw()?;
    let noise = &ratios.noise;
    if !noise.is_empty() {
        let above = noise.iter().map(|(x, spread)| (*x, spread.most));
        let below = noise.iter().rev().map(|(x, spread)| (*x, spread.least));
        let band = Polygon::new(above.chain(below).collect::<Vec<_>>(), GREY.mix(0.5).filled());
        chart
            .draw_series([band])?
            .label("thin clients again (noise)")
            .legend(|(x, y)| Rectangle::new([(x, y - 4), (x + 16, y + 4)], GREY.mix(0.5).filled()));
    }
    chart.draw_series(LineSeries::new([(0.9, 1.0), (most * 1.15, 1.0)], BLACK.stroke_width(1)))?;
    if !ratios.bound.is_empty() {
        chart
            .draw_series(DashedLineSeries::new(ratios.bound.iter().copied(), 6, 4, BLACK.stroke_width(2)))?
            .label("bound")
            .legend(|(x, y)| {
                EmptyElement::at((x, y))
                    + PathElement::new([(0, 0), (6, 0)], BLACK.stroke_width(2))
                    + PathElement::new([(10, 0), (16, 0)], BLACK.stroke_width(2))
            });
    }
    for (label, line, colour) in [("SLED", &ratios.sled, BLUE), ("llama-server", &ratios.peer, ORANGE)] {
        if line.is_empty() {
            continue;
        }
        let medians = || line.iter().map(|(x, spread)| (*x, spread.median));
        chart
            .draw_series(LineSeries::new(medians(), colour.stroke_width(2)))?
            .label(label)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
        chart.draw_series(medians().map(|point| Circle::new(point, 3, colour.filled())))?;
        let bar = |(x, spread): &(f64, Spread)| {
            PathElement::new([(*x, spread.least), (*x, spread.most)], colour.stroke_width(1))
        };
        chart.draw_series(line.iter().map(bar))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.8))
        .border_style(WHITE)
        .draw()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::bench::serve::made_up::formats;

    #[test]
    fn the_picture_has_ratios_bound_and_noise_of_each_format() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.svg");
        draw(&path, &formats()).unwrap();
        let picture = std::fs::read_to_string(path).unwrap();
        for text in ["a-q4_0", "a-f16"] {
            assert_eq!(picture.matches(text).count(), 1, "{text}");
        }
        for text in ["SLED", "llama-server", "bound", "thin clients again (noise)"] {
            assert_eq!(picture.matches(text).count(), 2, "{text}");
        }
    }
}
