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
    pub look: Look,
    pub points: Vec<(f64, f64, f64)>,
}

/// How a line looks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Points that are joined, with their intervals.
    Joined,
    /// The same, broad, for what lies below another line.
    Broad,
    /// Dashed, without points.
    Dashed,
    /// Hollow circles that are not joined.
    Circles,
    /// Crosses that are not joined.
    Crosses,
}

/// How an axis is divided.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Evenly, from 0.
    Linear,
    /// By powers of 2.
    Twos,
    /// By powers of 10.
    Tens,
}

/// A panel.
pub struct Panel {
    pub title: String,
    pub x: (&'static str, Scale),
    pub y: (&'static str, Scale),
    pub lines: Vec<Line>,
    /// How high the panel is over its highest point, to leave room for the legend.
    pub headroom: f64,
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
        let xs = range(self.x.1, self.points().map(|(x, _, _)| (x, x)), 1.05);
        let ys = range(self.y.1, self.points().map(|(_, y, width)| (y, y + width)), self.headroom);
        let mut builder = ChartBuilder::on(area);
        builder
            .caption(&self.title, ("sans-serif", 16))
            .margin(12)
            .margin_right(20)
            .x_label_area_size(38)
            .y_label_area_size(58);
        let log =
            |(from, to): (f64, f64), scale| (from..to).log_scale().base(if scale == Scale::Twos { 2.0 } else { 10.0 });
        let (log_x, log_y) = (log(xs, self.x.1), log(ys, self.y.1));
        match (self.x.1, self.y.1) {
            (Scale::Linear, Scale::Linear) => self.fill(builder.build_cartesian_2d(xs.0..xs.1, ys.0..ys.1)?),
            (Scale::Linear, _) => self.fill(builder.build_cartesian_2d(xs.0..xs.1, log_y)?),
            (_, Scale::Linear) => self.fill(builder.build_cartesian_2d(log_x, ys.0..ys.1)?),
            (_, _) => self.fill(builder.build_cartesian_2d(log_x, log_y)?),
        }
    }

    fn points(&self) -> impl Iterator<Item = (f64, f64, f64)> {
        self.lines.iter().flat_map(|line| line.points.iter().copied())
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
            let stroke = colour.stroke_width(match line.look {
                Look::Broad => 7,
                Look::Dashed => 1,
                _ => 2,
            });
            match line.look {
                Look::Circles => {
                    let circles = points().map(|point| Circle::new(point, 7, stroke));
                    chart
                        .draw_series(circles)?
                        .label(&line.name)
                        .legend(move |(x, y)| Circle::new((x + 8, y), 5, stroke));
                    continue;
                }
                Look::Crosses => {
                    let crosses = points().map(|point| Cross::new(point, 6, stroke));
                    chart
                        .draw_series(crosses)?
                        .label(&line.name)
                        .legend(move |(x, y)| Cross::new((x + 8, y), 5, stroke));
                    continue;
                }
                Look::Dashed => {
                    let dashes = DashedLineSeries::new(points(), 5, 4, stroke);
                    let short = move |(x, y)| PathElement::new([(x, y), (x + 6, y)], stroke);
                    chart.draw_series(dashes)?.label(&line.name).legend(short);
                    continue;
                }
                Look::Joined | Look::Broad => {}
            }
            chart
                .draw_series(LineSeries::new(points(), stroke))?
                .label(&line.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], stroke));
            let size = if line.look == Look::Broad { 6 } else { 3 };
            chart.draw_series(points().map(|point| Circle::new(point, size, colour.filled())))?;
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

/// From where to where an axis goes that has values from the first to the second of each pair.
fn range(scale: Scale, values: impl Iterator<Item = (f64, f64)>, room: f64) -> (f64, f64) {
    let (least, most) = values.fold((f64::INFINITY, f64::MIN_POSITIVE), |(least, most), (low, high)| {
        (f64::min(least, low), f64::max(most, high))
    });
    if scale == Scale::Linear { (0.0, room * most) } else { (least / 1.2, 1.1 * room * most) }
}

fn label(x: f64) -> String {
    if x >= 1000.0 && x % 1000.0 == 0.0 {
        format!("{:.0}k", x / 1000.0)
    } else {
        format!("{}", (x * 1e6).round() / 1e6)
    }
}
