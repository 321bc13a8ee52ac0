//! The table on the terminal.

use sled_sim::figures::Figures;

use super::results::{Format, Results};
use crate::args::Mode;
use crate::spread::Spread;

/// What one window was like.
pub fn line(f: &Figures) -> String {
    format!(
        "{:12} {:>3} devices: {:>6.1} tokens/s, {:>5.2} each ({:>5.2} p5), TTFT {:>6.0} ms, TPOT {:>5.0} ms, {:.2} rows/token, {:.1} % differ",
        f.mode,
        f.devices,
        f.output_throughput,
        f.device_throughput_mean,
        f.device_throughput_p5,
        f.median_ttft_ms,
        f.mean_tpot_ms,
        f.rows_per_token,
        100.0 * f.differing_share
    )
}

/// Medians of all windows, and their ratios over thin clients.
pub fn print(results: &Results) {
    for format in &results.formats {
        println!("\n{}", format.target);
        println!(
            "{:12} {:>7} {:>9} {:>18} {:>18} {:>6} {:>7} {:>9} {:>9} {:>10} {:>10}",
            "mode",
            "devices",
            "tokens/s",
            "over central",
            "generating",
            "bound",
            "p5",
            "TTFT ms",
            "TPOT ms",
            "chunk p99",
            "rows/token",
        );
        for devices in format.devices() {
            [Mode::Central, Mode::Control, Mode::Sled, Mode::LlamaServer]
                .into_iter()
                .for_each(|mode| print_row(format, mode, devices));
        }
    }
}

fn print_row(format: &Format, mode: Mode, devices: usize) {
    let median = |of: fn(&Figures) -> f64| format.figure(mode, devices, of).map(|spread| spread.median);
    let Some(windows) = median(|figures| figures.output_throughput) else { return };
    let number = |value: Option<f64>, digits: usize| value.map_or("-".to_owned(), |value| format!("{value:.digits$}"));
    let spread = |spread: Option<Spread>| {
        spread
            .filter(|_| mode != Mode::Central)
            .map_or("-".to_owned(), |Spread { median, least, most }| format!("{median:.2} ({least:.2}-{most:.2})"))
    };
    let bound = format.bound(devices).filter(|_| mode == Mode::Sled).map(|bound| bound.over_central);
    println!(
        "{:12} {devices:>7} {:>9.1} {:>18} {:>18} {:>6} {:>7} {:>9} {:>9} {:>10} {:>10}",
        mode.name(),
        format.speed(mode, devices).map_or(windows, |speed| speed.median),
        spread(format.ratio(mode, Mode::Central, devices)),
        spread(format.ratio_generating(mode, Mode::Central, devices)),
        number(bound, 2),
        number(median(|figures| figures.device_throughput_p5), 2),
        number(median(|figures| figures.median_ttft_ms), 0),
        number(median(|figures| figures.mean_tpot_ms), 0),
        number(median(|figures| figures.p99_chunk_ms), 0),
        number(median(|figures| figures.rows_per_token), 2),
    );
}
