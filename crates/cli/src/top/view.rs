//! How it is drawn. Everything has its place at 80 columns and 24 lines, and grows from there.

use indicatif::HumanDuration;
use ratatui::Frame as Screen;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{
    Axis, Bar, BarChart, BarGroup, Block, Cell, Chart, Dataset, GraphType, LineGauge, Paragraph, Row, Sparkline, Table,
};
use sled_server::{Frame, Session};
use std::time::Duration;

use super::history::History;

/// From this width on, the pictures stand side by side.
const WIDE: u16 = 116;

/// The least that can be drawn on.
const LEAST: (u16, u16) = (60, 18);

/// Colours, or none.
pub struct Palette {
    main: Style,
    second: Style,
    warning: Style,
    quiet: Style,
}

impl Palette {
    /// Without colours where the user wants none (<https://no-color.org>).
    pub fn of_environment() -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self::new(plain)
    }

    fn new(plain: bool) -> Self {
        let colour = |colour| if plain { Style::new() } else { Style::new().fg(colour) };
        Self {
            main: colour(Color::Cyan),
            second: colour(Color::Yellow),
            warning: colour(Color::Red).add_modifier(Modifier::BOLD),
            quiet: Style::new().add_modifier(Modifier::DIM),
        }
    }
}

/// Draws what is known.
pub fn draw(screen: &mut Screen<'_>, history: &History, palette: &Palette) {
    let area = screen.area();
    let Some(frame) = history.latest() else {
        let text = history.trouble().unwrap_or_else(|| "waiting for the first figures; q quits".to_owned());
        screen.render_widget(Paragraph::new(text).wrap(ratatui::widgets::Wrap { trim: true }), area);
        return;
    };
    if area.width < LEAST.0 || area.height < LEAST.1 {
        let text = format!("{:.1} tokens/s; make the terminal larger for the rest", frame.rates.tokens_per_s);
        screen.render_widget(Paragraph::new(text), area);
        return;
    }
    let wide = area.width >= WIDE;
    let height = (area.height / 4).clamp(5, 11);
    let pictures = if wide { height + 2 } else { 2 * height };
    let [head, pictures, gauge, table, foot] = Layout::vertical([
        Constraint::Length(3),
        Constraint::Length(pictures),
        Constraint::Length(1),
        Constraint::Min(3),
        Constraint::Length(1),
    ])
    .areas(area);
    header(screen, head, history, frame, palette);
    let [rate, sizes, steps, queue] = if wide {
        Layout::horizontal([Constraint::Fill(4), Constraint::Fill(3), Constraint::Fill(4), Constraint::Length(25)])
            .areas(pictures)
    } else {
        let [above, below] = Layout::vertical([Constraint::Fill(1); 2]).areas(pictures);
        let [rate, sizes] = Layout::horizontal([Constraint::Fill(1); 2]).areas(above);
        let [steps, queue] = Layout::horizontal([Constraint::Fill(1), Constraint::Length(25)]).areas(below);
        [rate, sizes, steps, queue]
    };
    draw_rate(screen, rate, history, palette);
    draw_sizes(screen, sizes, history, palette);
    draw_steps(screen, steps, history, frame, palette);
    draw_numbers(screen, queue, frame, palette);
    draw_cells(screen, gauge, frame, palette);
    draw_sessions(screen, table, frame, palette);
    let trouble = history.trouble();
    let foot_line = match &trouble {
        Some(trouble) => Line::styled(trouble.as_str(), palette.warning),
        None => Line::styled("q quits", palette.quiet),
    };
    screen.render_widget(foot_line, foot);
}

fn header(screen: &mut Screen<'_>, area: Rect, history: &History, frame: &Frame, palette: &Palette) {
    let (server, rates) = (&frame.server, &frame.rates);
    let up = HumanDuration(Duration::from_secs_f64(frame.time_s.max(0.0)));
    let threads = if server.threads == 1 { "1 thread".to_owned() } else { format!("{} threads", server.threads) };
    let goal = server.rate_goal.map(|goal| format!(" · goal {goal} tokens/s")).unwrap_or_default();
    let acceptance = history.acceptance().map_or_else(|| "-".to_owned(), |share| format!("{:.0} %", 100.0 * share));
    let traffic = format!("  in {}/s  out {}/s", bytes(rates.bytes_in_per_s), bytes(rates.bytes_out_per_s));
    let lines = vec![
        Line::from(vec![server.model.as_str().bold(), Span::styled(format!("  up {up}"), palette.quiet)]),
        Line::styled(
            format!(
                "sled {} · context {} · {} in cache · {threads} · {} · assist {}{goal}",
                server.version, server.context, server.sequences, server.batching, server.assist
            ),
            palette.quiet,
        ),
        Line::from(vec![
            Span::styled(format!("{:.1} tokens/s", rates.tokens_per_s), palette.main.add_modifier(Modifier::BOLD)),
            Span::raw(format!(
                "  {:.1} rounds/s  {:.0} rows/s  {:.1} passes/s  accepted {acceptance}",
                rates.rounds_per_s, rates.rows_per_s, rates.steps_per_s
            )),
            Span::raw(if area.width < 100 { String::new() } else { traffic }),
        ]),
    ];
    screen.render_widget(Paragraph::new(lines), area);
}

fn draw_rate(screen: &mut Screen<'_>, area: Rect, history: &History, palette: &Palette) {
    let width = usize::from(area.width.saturating_sub(2));
    let rates: Vec<f64> = history.rates(width).collect();
    let most = rates.iter().copied().fold(0.0, f64::max);
    let title = format!(" tokens/s, most {most:.1} in {} s ", rates.len());
    // The latest is at the right.
    let missing = std::iter::repeat_n(0, width.saturating_sub(rates.len()));
    let data: Vec<u64> = missing.chain(rates.iter().map(|rate| (10.0 * rate) as u64)).collect();
    let sparkline = Sparkline::default().data(data).style(palette.main);
    screen.render_widget(sparkline.block(Block::bordered().border_style(palette.quiet).title(title)), area);
}

fn draw_sizes(screen: &mut Screen<'_>, area: Rect, history: &History, palette: &Palette) {
    let sizes = history.batch_sizes();
    let all = sizes.iter().sum::<u64>().max(1);
    let block = Block::bordered().border_style(palette.quiet).title(" sessions in a pass, last minute ");
    let bins = bins(&sizes);
    let count = u16::try_from(bins.len()).unwrap_or(u16::MAX).max(1);
    let bar_width = (area.width.saturating_sub(2 + count) / count).clamp(3, 7);
    let bars: Vec<Bar<'_>> = bins
        .into_iter()
        .map(|(label, passes)| {
            let share = 100 * passes / all;
            let text = if passes == 0 { String::new() } else { format!("{share}%") };
            Bar::default().value(share).label(label).text_value(text)
        })
        .collect();
    let chart = BarChart::default()
        .data(BarGroup::default().bars(&bars))
        .bar_width(bar_width)
        .bar_gap(1)
        .bar_style(palette.second)
        .value_style(palette.second.add_modifier(Modifier::REVERSED))
        .label_style(palette.quiet);
    screen.render_widget(chart.block(block), area);
}

/// Passes by the number of their sessions, in powers of two, as far as there were any.
fn bins(sizes: &[u64]) -> Vec<(String, u64)> {
    let (mut bins, mut from) = (Vec::new(), 1);
    while from <= sizes.len() || bins.len() < 2 {
        let to: usize = if from == 1 { 1 } else { 2 * (from - 1) };
        let passes = sizes.get(from - 1..to.min(sizes.len())).map_or(0, |sizes| sizes.iter().sum());
        bins.push((if from == to { to.to_string() } else { format!("{from}-{to}") }, passes));
        from = to + 1;
    }
    bins
}

fn draw_steps(screen: &mut Screen<'_>, area: Rect, history: &History, frame: &Frame, palette: &Palette) {
    let points = history.points();
    let cost = frame.cost;
    let most_rows = points.iter().map(|point| point.0).fold(4.0, f64::max);
    let at = |rows: f64| (rows, cost.fixed_ms + rows * cost.row_ms);
    let most_ms = points.iter().map(|point| point.1).chain([at(most_rows).1]).fold(1.0, f64::max);
    let line = [at(0.0), at(most_rows)];
    let title = format!(" ms a pass by rows: {:.1} + {:.2} n ", cost.fixed_ms, cost.row_ms);
    let datasets = vec![
        Dataset::default().marker(Marker::Braille).graph_type(GraphType::Line).style(palette.quiet).data(&line),
        Dataset::default().marker(Marker::Dot).graph_type(GraphType::Scatter).style(palette.second).data(&points),
    ];
    let axis = |most: f64| {
        Axis::default().style(palette.quiet).bounds([0.0, most]).labels(["0".to_owned(), format!("{most:.0}")])
    };
    let chart = Chart::new(datasets)
        .block(Block::bordered().border_style(palette.quiet).title(title))
        .legend_position(None)
        .x_axis(axis(most_rows))
        .y_axis(axis(most_ms));
    screen.render_widget(chart, area);
}

fn draw_numbers(screen: &mut Screen<'_>, area: Rect, frame: &Frame, palette: &Palette) {
    let (step, totals) = (&frame.step, &frame.totals);
    let number = |label: &str, value: String, style: Style| {
        let width = usize::from(area.width.saturating_sub(2));
        let gap = width.saturating_sub(label.len() + value.chars().count());
        Line::from(vec![Span::raw(label.to_owned()), Span::raw(" ".repeat(gap)), Span::styled(value, style)])
    };
    let alarm = |count: u64| if count > 0 { palette.warning } else { Style::new() };
    let mut lines = vec![
        number("pass", format!("{:.1} ms", step.ms_mean), Style::new()),
        number("queue", format!("{:.1} ms", step.queue_ms_mean), Style::new()),
        number("evicted", totals.evictions.to_string(), alarm(totals.evictions)),
        number("refused", totals.refused.to_string(), alarm(totals.refused)),
        number("rows a pass", format!("{:.1}", step.rows_mean), Style::new()),
        number("sessions a pass", format!("{:.1}", step.sessions_mean), Style::new()),
        number("tokens so far", totals.tokens.to_string(), Style::new()),
        number("sessions so far", totals.sessions_opened.to_string(), Style::new()),
    ];
    lines.truncate(usize::from(area.height.saturating_sub(2)));
    screen.render_widget(Paragraph::new(lines).block(Block::bordered().border_style(palette.quiet)), area);
}

fn draw_cells(screen: &mut Screen<'_>, area: Rect, frame: &Frame, palette: &Palette) {
    let cells = frame.cells;
    let share = cells.used as f64 / cells.total.max(1) as f64;
    let gauge = LineGauge::default()
        .ratio(share.clamp(0.0, 1.0))
        .label(format!("KV cache {} of {} tokens, {:.0} %", cells.used, cells.total, 100.0 * share))
        .filled_style(if share > 0.95 { palette.warning } else { palette.main })
        .unfilled_style(palette.quiet);
    screen.render_widget(gauge, area);
}

fn draw_sessions(screen: &mut Screen<'_>, area: Rect, frame: &Frame, palette: &Palette) {
    let head = ["ID", "DEVICE", "ACTIVITY", "TOKENS/S", "ACCEPTED", "TEXT", "CACHED", "COMMITTED", "AGE"];
    let narrow = area.width < 90;
    let keep = |at: usize| !(narrow && at == 7);
    let right = |text: String| Cell::from(Line::from(text).right_aligned());
    let row = |session: &Session| {
        let acceptance = match session.drafted {
            0 => "-".to_owned(),
            drafted => format!("{:.0} %", 100.0 * session.accepted as f64 / drafted as f64),
        };
        let activity = match session.activity.as_str() {
            "drafting" => "drafting".to_owned(),
            activity => format!("{activity} {}", seconds(session.since_s)),
        };
        let cells = [
            right(session.id.to_string()),
            Cell::from(session.device.clone()),
            Cell::from(activity),
            right(format!("{:.1}", session.tokens_per_s)),
            right(acceptance),
            right(session.tokens.to_string()),
            right(session.cached.to_string()),
            right(session.committed.to_string()),
            right(seconds(session.age_s)),
        ];
        let style = if session.activity == "idle" { palette.quiet } else { Style::new() };
        Row::new(cells.into_iter().enumerate().filter(|&(at, _)| keep(at)).map(|(_, cell)| cell)).style(style)
    };
    let titles = head
        .into_iter()
        .enumerate()
        .filter(|&(at, _)| keep(at))
        .map(|(at, title)| if matches!(at, 1 | 2) { Cell::from(title) } else { right(title.to_owned()) });
    let widths = [6, 0, 14, 8, 8, 6, 6, 9, 7];
    let constraint = |width: u16| if width == 0 { Constraint::Fill(1) } else { Constraint::Length(width) };
    let widths = widths.into_iter().enumerate().filter(|&(at, _)| keep(at)).map(|(_, width)| constraint(width));
    let room = usize::from(area.height.saturating_sub(1));
    let hidden = frame.sessions_total > room;
    let shown = if hidden { room.saturating_sub(1) } else { room };
    let rows = frame.sessions.iter().take(shown).map(row);
    if hidden {
        let more = frame.sessions_total - shown.min(frame.sessions.len());
        let last = Rect { y: area.bottom().saturating_sub(1), height: 1, ..area };
        screen.render_widget(Line::styled(format!("       and {more} more"), palette.quiet), last);
    }
    let table = Table::new(rows, widths).header(Row::new(titles).style(Style::new().add_modifier(Modifier::BOLD)));
    screen.render_widget(table.column_spacing(1), area);
}

/// A time in few characters.
fn seconds(seconds: f64) -> String {
    match seconds {
        s if s < 100.0 => format!("{s:.1} s"),
        s if s < 6000.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

/// Bytes in few characters.
fn bytes(bytes: f64) -> String {
    match bytes {
        b if b < 1e3 => format!("{b:.0} B"),
        b if b < 1e6 => format!("{:.1} kB", b / 1e3),
        b => format!("{:.1} MB", b / 1e6),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;

    fn frame(sessions: usize) -> Frame {
        let session = |id: usize| {
            serde_json::json!({"id": id, "device": format!("pi-{id}"), "tokens": 120, "cached": 100, "committed": 96,
                "drafted": 80, "accepted": 60, "tokens_per_s": 7.1, "activity": "waiting", "since_s": 0.1, "age_s": 20.0})
        };
        serde_json::from_value(serde_json::json!({
            "time_s": 60.0,
            "server": {"model": "a model", "version": "0", "context": 4096, "sequences": 32, "threads": 2,
                "batching": "continuous", "assist": "auto", "rate_goal": null},
            "rates": {"tokens_per_s": 31.2, "rounds_per_s": 12.0, "rows_per_s": 44.0, "steps_per_s": 5.1,
                "bytes_in_per_s": 100.0, "bytes_out_per_s": 2000.0},
            "totals": {"tokens": 1000, "steps": 100, "rows": 900, "commits": 400, "drafted": 300, "accepted": 200,
                "evictions": 3, "refused": 4, "sessions_opened": 40},
            "step": {"sessions_mean": 3.2, "rows_mean": 7.7, "ms_mean": 180.0, "queue_ms_mean": 20.0,
                "points": [[4, 120.0], [9, 210.5]]},
            "cost": {"fixed_ms": 70.0, "row_ms": 17.0},
            "batch_sizes": [1, 2, 3, 4, 5],
            "cells": {"used": 100, "total": 400},
            "sessions": (0..sessions).map(session).collect::<Vec<_>>(),
            "sessions_total": sessions,
        }))
        .unwrap()
    }

    fn drawn(width: u16, height: u16, history: &History) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|screen| draw(screen, history, &Palette::new(true))).unwrap();
        assert!(terminal.backend().buffer().content().iter().all(|cell| cell.fg == Color::Reset));
        terminal.backend().to_string()
    }

    #[test]
    fn the_smallest_terminal_shows_all_there_is() {
        let mut history = History::default();
        history.add(frame(40));
        let text = drawn(80, 24, &history);
        for what in [
            "a model",
            "31.2 tokens/s",
            "5.1 passes/s",
            "tokens/s, most 31.2",
            "sessions in a pass",
            "70.0 + 17.00 n",
            "KV cache 100 of 400 tokens, 25 %",
            "evicted               3",
            "refused               4",
            "pi-0",
            "75 %",
            "and 35 more",
            "q quits",
        ] {
            assert!(text.contains(what), "{what} is missing in\n{text}");
        }
    }

    #[test]
    fn any_size_can_be_drawn_on() {
        let mut history = History::default();
        history.add(frame(300));
        for (width, height) in [(1, 1), (10, 3), (60, 18), (80, 24), (115, 30), (116, 30), (250, 80)] {
            drawn(width, height, &history);
            drawn(width, height, &History::default());
        }
    }

    #[test]
    fn a_server_that_is_away_is_said_in_one_line_and_the_last_figures_stay() {
        let mut history = History::default();
        history.add(frame(1));
        history.lose("http://x is away; trying again".to_owned());
        let text = drawn(80, 24, &history);
        assert!(text.contains("is away; trying again") && text.contains("pi-0") && !text.contains("q quits"), "{text}");
        history.add(frame(1));
        assert!(drawn(80, 24, &history).contains("q quits"));
    }

    #[test]
    fn bins_are_powers_of_two_and_lose_no_pass() {
        let bins = bins(&[1, 2, 3, 4, 5, 6]);
        let labels: Vec<_> = bins.iter().map(|(label, _)| label.as_str()).collect();
        assert_eq!(labels, ["1", "2", "3-4", "5-8"]);
        assert_eq!(bins.iter().map(|(_, passes)| passes).sum::<u64>(), 21);
    }
}
