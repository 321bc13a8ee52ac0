//! Numbers as pages have them.

use sled_sim::scenario::Estimate;

/// Three digits, without an exponent.
pub fn number(x: f64) -> String {
    if x == 0.0 {
        return "0".to_owned();
    }
    let digits = (2 - x.abs().log10().floor() as i32).clamp(0, 6);
    format!("{x:.*}", usize::try_from(digits).unwrap_or_default())
}

/// Two digits after the point below 10, and one from there on.
pub fn short(x: f64) -> String {
    let digits = if x < 10.0 { 2 } else { 1 };
    format!("{x:.digits$}")
}

/// A whole number of at least 0, its digits in groups of three.
pub fn thousands(x: f64) -> String {
    let digits = format!("{:.0}", x.abs());
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    groups.join(",")
}

/// The mean and half its 95 % interval, if that is not 0 at this precision.
pub fn estimate(estimate: Estimate) -> String {
    let mean = number(estimate.mean);
    let decimals = mean.split_once('.').map_or(0, |(_, decimals)| decimals.len());
    let width = estimate.ci95.map(|width| format!("{width:.decimals$}"));
    match width.filter(|width| width.chars().any(|c| c.is_ascii_digit() && c != '0')) {
        Some(width) => format!("{mean} ± {width}"),
        None => mean,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_as_many_as_pages_have() {
        let written = [137.04, 5.065, 0.028_57, 0.000_458, 1234.5, 0.0].map(number);
        assert_eq!(written, ["137", "5.07", "0.0286", "0.000458", "1234", "0"]);
        assert_eq!([1_677_826.0, 17_396.0, 5.0, 77_454.6].map(thousands), ["1,677,826", "17,396", "5", "77,455"]);
        let with = |mean, ci95| estimate(Estimate { mean, ci95 });
        assert_eq!(
            [with(5.065, Some(0.013)), with(5.065, Some(0.001)), with(48.0, None)],
            ["5.07 ± 0.01", "5.07", "48.0"]
        );
    }
}
