//! What was found out, as lines for a terminal.

use indicatif::HumanBytes;

use sled_launch::models;

use super::checks::Mark;
use super::expect::{ASSUMED_ACCEPTANCE, ASSUMED_DRAFT_MS, Speeds};
use super::facts::{Facts, Format};
use super::{Report, choice};

/// All lines; with `colours`, marks are signs, else words.
pub fn lines(report: &Report, colours: bool) -> Vec<String> {
    let mut lines = Vec::new();
    for check in &report.checks {
        lines.push(format!("{} {:<10}  {}", mark(check.mark, colours), check.name, check.fact));
        if let Some(advice) = &check.advice {
            let indent = if colours { 14 } else { 20 };
            lines.push(format!("{:indent$}-> {advice}", ""));
        }
    }
    if !report.expected.is_empty() {
        lines.push(String::new());
        lines.extend(table(report));
    }
    if report.facts.formats.iter().filter(|format| format.error.is_none()).count() > 1 {
        lines.push(String::new());
        lines.extend(formats(&report.facts));
    }
    if let Some(advice) = &report.advice {
        lines.push(String::new());
        lines.push(format!("{}:", advice.reason));
        lines.push(format!("  {}", advice.command));
    }
    lines
}

fn mark(mark: Mark, colours: bool) -> &'static str {
    match (mark, colours) {
        (Mark::Ok, false) => "ok     ",
        (Mark::Warning, false) => "warning",
        (Mark::Problem, false) => "PROBLEM",
        (Mark::Ok, true) => "\x1b[32m✓\x1b[0m",
        (Mark::Warning, true) => "\x1b[33m!\x1b[0m",
        (Mark::Problem, true) => "\x1b[31m✗\x1b[0m",
    }
}

/// Tokens a second in one of the modes.
type Rate = fn(&Speeds) -> Option<f64>;

/// Speeds by mode and load. A mode that nobody has is left out.
fn table(report: &Report) -> Vec<String> {
    let is_server = report.facts.target.is_some();
    let measured = report.facts.trial.as_ref().is_some_and(|trial| trial.error.is_none());
    let how = match (is_server, measured) {
        (true, _) => "each device, simulated from the passes above",
        (false, true) => "simulated from the measured",
        (false, false) => "measured",
    };
    let head = |speeds: &Speeds| match speeds.others {
        0 => "alone".to_owned(),
        1 => "beside 1 other".to_owned(),
        others => format!("beside {others} others"),
    };
    let row = |name: &str, cells: Vec<String>| {
        let cells: Vec<String> = cells.iter().map(|cell| format!("{cell:>17}")).collect();
        format!("  {name:<36}{}", cells.concat())
    };
    let mut lines = vec![format!("tokens/s to expect ({how}):")];
    lines.push(row("", report.expected.iter().map(head).collect()));
    let sled = if is_server {
        format!("drafts of {ASSUMED_DRAFT_MS:.0} ms, {:.0} % right *", 100.0 * ASSUMED_ACCEPTANCE)
    } else {
        "SLED: drafted here, verified there".to_owned()
    };
    let modes: [(&str, Rate); 3] = [
        (&sled, |speeds| speeds.sled),
        ("plain: the server decodes", |speeds| speeds.plain),
        ("this device alone", |speeds| speeds.device),
    ];
    for (name, rate) in modes {
        if report.expected.iter().any(|speeds| rate(speeds).is_some()) {
            let cell = |speeds: &Speeds| rate(speeds).map_or("-".to_owned(), |rate| format!("{rate:.1}"));
            lines.push(row(name, report.expected.iter().map(cell).collect()));
        }
    }
    if is_server {
        lines.push("  * assumed: devices differ".to_owned());
    } else if measured && report.facts.server.as_ref().is_some_and(|server| server.is_here) {
        lines.push("  server and device share this machine's cores; together they are slower than this".to_owned());
    }
    lines
}

/// What was measured of each format, the fastest first.
fn formats(facts: &Facts) -> Vec<String> {
    let measured: Vec<&Format> = facts.formats.iter().filter(|format| format.error.is_none()).collect();
    let for_devices = choice::devices(facts.target.as_ref().map_or(1, |target| target.devices));
    let rows: Vec<f64> = measured
        .iter()
        .map(|it| &it.points)
        .max_by_key(|points| points.len())
        .map_or_else(Vec::new, |points| points.iter().map(|[rows, _]| *rows).collect());
    let width = measured.iter().map(|format| format.format.len()).max().unwrap_or_default();
    let head: Vec<String> = rows.iter().map(|rows| format!("{rows:>7}")).collect();
    let mut lines = vec![
        format!(
            "formats at hand, by how fast they are {for_devices} (ms of a pass by its rows, and tokens/s of each):"
        ),
        format!("  {:<width$}{:>12}{}{:>9}{:>10}", "", "size", head.concat(), "plain", "drafts *"),
    ];
    for format in measured {
        let ms = |rows: &f64| format.points.iter().find(|[other, _]| other == rows).map(|[_, ms]| *ms);
        let cells: Vec<String> =
            rows.iter().map(|rows| ms(rows).map_or_else(|| format!("{:>7}", "-"), |ms| format!("{ms:>7.0}"))).collect();
        let rate = |rate: Option<f64>| rate.unwrap_or_default();
        lines.push(format!(
            "  {:<width$}{:>12}{}{:>9.1}{:>10.1}  {}",
            format.format,
            HumanBytes(format.bytes).to_string(),
            cells.concat(),
            rate(format.plain),
            rate(format.sled),
            models::api_name(&format.name)
        ));
    }
    lines
}
