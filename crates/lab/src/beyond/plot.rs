//! The pictures.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::capacity::Capacities;
use super::map::{DEVICES, DRAFTS, Map, STEPS, TRIPS};
use super::series::Series;

/// Colours that people with colour blindness tell apart (Okabe & Ito, 2008).
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 0, 0),
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(213, 94, 0),
    RGBColor(150, 150, 150),
];

type Line = (String, Vec<(f64, f64)>);

/// The user's speed, one line each.
pub fn lines(path: &Path, series: &Series) -> anyhow::Result<()> {
    let xs = series.xs();
    let line = |line: &&str| {
        let value = |(at, x): (usize, &f64)| Some((at as f64, series.get(line, *x)?.speed.mean));
        ((*line).to_owned(), xs.iter().enumerate().filter_map(value).collect())
    };
    let lines: Vec<Line> = series.lines().iter().map(line).collect();
    chart(path, "tokens/s of a device", &series.x, &xs, &lines, false)
}

/// Devices over the rate, on a logarithmic scale.
pub fn capacities(path: &Path, capacities: &Capacities) -> anyhow::Result<()> {
    let rates = Capacities::rates();
    let line = |line: &&str| {
        let value = |(at, rate): (usize, &f64)| {
            let devices = capacities.get(line, *rate)?.devices;
            (devices > 0).then_some((at as f64, devices as f64))
        };
        ((*line).to_owned(), rates.iter().enumerate().filter_map(value).collect())
    };
    let lines: Vec<Line> = capacities.lines().iter().map(line).collect();
    chart(path, "devices that each get a rate", "tokens/s that each gets", &rates, &lines, true)
}

fn chart(path: &Path, title: &str, x: &str, xs: &[f64], lines: &[Line], logarithmic: bool) -> anyhow::Result<()> {
    let root = SVGBackend::new(path, (900, 460)).into_drawing_area();
    root.fill(&WHITE)?;
    let scale = |y: f64| if logarithmic { y.log10() } else { y };
    let top = lines.iter().flat_map(|(_, points)| points).map(|&(_, y)| scale(y)).fold(0.1, f64::max);
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 16))
        .margin(12)
        .margin_right(220)
        .x_label_area_size(40)
        .y_label_area_size(56)
        .build_cartesian_2d(-0.2..xs.len() as f64 - 0.8, 0.0..1.08 * top)?;
    let name = |at: &f64| {
        let near = at.round();
        let label = xs.get(near as usize).map(f64::to_string).unwrap_or_default();
        if (at - near).abs() < 0.01 && near >= 0.0 { label } else { String::new() }
    };
    let value = |y: &f64| if logarithmic { format!("{:.0}", 10f64.powf(*y)) } else { format!("{y:.0}") };
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc(x)
        .x_labels(xs.len() * 2)
        .x_label_formatter(&name)
        .y_label_formatter(&value)
        .draw()?;
    for ((at, (label, points)), colour) in lines.iter().enumerate().zip(COLOURS.into_iter().cycle()) {
        let width = if at < COLOURS.len() { 2 } else { 1 };
        let points: Vec<(f64, f64)> = points.iter().map(|&(x, y)| (x, scale(y))).collect();
        chart.draw_series(LineSeries::new(points.clone(), colour.stroke_width(width)))?;
        chart.draw_series(points.into_iter().map(|point| Circle::new(point, 3, colour.filled())))?;
        let y = 40 + 20 * i32::try_from(at)?;
        root.draw(&PathElement::new([(690, y), (710, y)], colour.stroke_width(2)))?;
        root.draw_text(label, &("sans-serif", 13).into_font().color(&BLACK), (716, y - 7))?;
    }
    Ok(root.present()?)
}

/// The map: a panel for each number of devices, coloured by the gain.
pub fn map(path: &Path, map: &Map) -> anyhow::Result<()> {
    let root = SVGBackend::new(path, (1120, 840)).into_drawing_area();
    root.fill(&WHITE)?;
    for (area, devices) in root.split_evenly((2, 2)).iter().zip(DEVICES) {
        panel(area, map, devices)?;
    }
    Ok(root.present()?)
}

fn panel(area: &DrawingArea<SVGBackend<'_>, Shift>, map: &Map, devices: usize) -> anyhow::Result<()> {
    const LEFT: i32 = 150;
    const TOP: i32 = 64;
    const CELL: (i32, i32) = (62, 28);
    let text = |size: i32| ("sans-serif", size).into_font().color(&BLACK);
    let centred = |size: i32| text(size).pos(Pos::new(HPos::Center, VPos::Center));
    let title = format!("{devices} device{}: gain by ms a step (columns)", if devices == 1 { "" } else { "s" });
    area.draw_text(&title, &text(15), (LEFT, 16))?;
    for (column, step) in (0..).zip(STEPS) {
        area.draw_text(&step.to_string(), &centred(12), (LEFT + CELL.0 * column + CELL.0 / 2, TOP - 12))?;
    }
    let cases = DRAFTS.iter().flat_map(|draft| TRIPS.map(|trip| (*draft, trip)));
    for (row, (draft, trip)) in (0..).zip(cases) {
        let y = TOP + CELL.1 * row;
        area.draw_text(&format!("draft {draft}, RTT {trip}"), &text(12), (20, y + 8))?;
        for (column, step) in (0..).zip(STEPS) {
            let Some(point) = map.get(step, draft, trip, devices) else { continue };
            let x = LEFT + CELL.0 * column;
            let corners = [(x, y), (x + CELL.0 - 2, y + CELL.1 - 2)];
            area.draw(&Rectangle::new(corners, colour(point.gain).filled()))?;
            area.draw_text(&format!("{:.2}", point.gain), &centred(12), (x + CELL.0 / 2 - 1, y + CELL.1 / 2 - 1))?;
        }
    }
    Ok(())
}

/// Orange below 1, white at 1, blue above.
fn colour(gain: f64) -> RGBColor {
    let blend = |end: (f64, f64, f64), share: f64| {
        let mix = |to: f64| (255.0 + (to - 255.0) * share.clamp(0.0, 1.0)) as u8;
        RGBColor(mix(end.0), mix(end.1), mix(end.2))
    };
    if gain < 1.0 { blend((230.0, 120.0, 0.0), (1.0 - gain) / 0.1) } else { blend((70.0, 150.0, 220.0), gain - 1.0) }
}
