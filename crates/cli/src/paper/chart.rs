//! A panel of a plot: lines with error bars, named in a legend.

use plotters::coord::Shift;
use plotters::coord::ranged1d::ValueFormatter;
use plotters::prelude::*;

/// Colours that people with colour blindness tell apart (Okabe & Ito, 2008).
pub const BLUE: RGBColor = RGBColor(0, 114, 178);
pub const ORANGE: RGBColor = RGBColor(230, 159, 0);
pub const GREEN: RGBColor = RGBColor(0, 158, 115);
pub const VERMILION: RGBColor = RGBColor(213, 94, 0);
pub const GREY: RGBColor = RGBColor(120, 120, 120);

/// A line: points `(x, y, half the width of the interval)`.
pub struct Line {
    pub name: String,
    pub colour: RGBColor,
    /// Whether it is a law: dashed, without points.
    pub law: bool,
    pub points: Vec<(f64, f64, f64)>,
}

/// How an axis is divided.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Evenly, from 0.
    Linear,
    /// By powers.
    Log,
}

/// A panel.
pub struct Panel {
    pub title: String,
    pub x: (&'static str, Scale),
    pub y: (&'static str, Scale),
    pub lines: Vec<Line>,
    /// Where the legend is.
    pub legend: SeriesLabelPosition,
}

/// The area of a plot.
pub type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Draws panels side by side, 500 by 400 each.
pub fn draw(path: &std::path::Path, panels: Vec<Panel>) -> anyhow::Result<()> {
    let width = 500 * u32::try_from(panels.len())?;
    let root = SVGBackend::new(path, (width, 400)).into_drawing_area();
    root.fill(&WHITE)?;
    for (area, panel) in root.split_evenly((1, panels.len())).iter().zip(&panels) {
        panel.draw(area)?;
    }
    Ok(root.present()?)
}

impl Panel {
    fn draw(&self, area: &Area<'_>) -> anyhow::Result<()> {
        let (xs, ys) = (self.range(self.x.1, |p| (p.0, 0.0)), self.range(self.y.1, |p| (p.1, p.2)));
        let mut builder = ChartBuilder::on(area);
        builder
            .caption(&self.title, ("sans-serif", 16))
            .margin(12)
            .margin_right(20)
            .x_label_area_size(38)
            .y_label_area_size(58);
        let (log_x, log_y) = ((xs.0..xs.1).log_scale(), (ys.0..ys.1).log_scale());
        match (self.x.1, self.y.1) {
            (Scale::Linear, Scale::Linear) => self.fill(builder.build_cartesian_2d(xs.0..xs.1, ys.0..ys.1)?),
            (Scale::Linear, Scale::Log) => self.fill(builder.build_cartesian_2d(xs.0..xs.1, log_y)?),
            (Scale::Log, Scale::Linear) => self.fill(builder.build_cartesian_2d(log_x, ys.0..ys.1)?),
            (Scale::Log, Scale::Log) => self.fill(builder.build_cartesian_2d(log_x, log_y)?),
        }
    }

    fn range(&self, scale: Scale, of: impl Fn(&(f64, f64, f64)) -> (f64, f64)) -> (f64, f64) {
        let values = || self.lines.iter().flat_map(|line| &line.points).map(&of);
        let least = values().map(|(value, _)| value).fold(f64::INFINITY, f64::min);
        let most = values().map(|(value, width)| value + width).fold(f64::MIN_POSITIVE, f64::max);
        match scale {
            Scale::Linear => (0.0, 1.08 * most),
            Scale::Log => (least / 1.2, most * 1.2),
        }
    }

    fn fill<'a, 'b: 'a, X, Y>(
        &self,
        mut chart: ChartContext<'a, SVGBackend<'b>, Cartesian2d<X, Y>>,
    ) -> anyhow::Result<()>
    where
        X: Ranged<ValueType = f64> + ValueFormatter<f64>,
        Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
    {
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .x_desc(self.x.0)
            .y_desc(self.y.0)
            .x_label_formatter(&|x| label(*x))
            .y_label_formatter(&|y| label(*y))
            .draw()?;
        for line in &self.lines {
            let colour = line.colour;
            let points = || line.points.iter().map(|&(x, y, _)| (x, y));
            if line.law {
                let dashed = DashedLineSeries::new(points(), 5, 4, colour.stroke_width(1));
                chart
                    .draw_series(dashed)?
                    .label(&line.name)
                    .legend(move |(x, y)| PathElement::new([(x, y), (x + 6, y)], colour.stroke_width(1)));
                continue;
            }
            chart
                .draw_series(LineSeries::new(points(), colour.stroke_width(2)))?
                .label(&line.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
            chart.draw_series(points().map(|point| Circle::new(point, 3, colour.filled())))?;
            let bars = line.points.iter().filter(|point| point.2 > 0.0);
            chart.draw_series(bars.map(|&(x, y, width)| {
                PathElement::new([(x, (y - width).max(f64::MIN_POSITIVE)), (x, y + width)], colour.stroke_width(1))
            }))?;
        }
        chart
            .configure_series_labels()
            .position(self.legend.clone())
            .background_style(WHITE.mix(0.8))
            .border_style(WHITE)
            .draw()?;
        Ok(())
    }
}

fn label(x: f64) -> String {
    if x >= 1000.0 && x % 1000.0 == 0.0 {
        format!("{:.0}k", x / 1000.0)
    } else {
        format!("{}", (x * 1e6).round() / 1e6)
    }
}
