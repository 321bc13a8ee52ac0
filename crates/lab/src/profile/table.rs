//! What passes cost, as a table for people.

/// Passes that differ by less than this share cost the same, as far as a few measurements can tell.
const NOISE: f64 = 0.03;

/// Lines of `points`, `[rows, milliseconds]` with rising rows: what a pass takes, and each of its rows. Passes that take less than
/// some of fewer rows are marked: the kernels work in tiles, and have just filled one.
pub(super) fn lines(points: &[[f64; 2]]) -> Vec<String> {
    let mut lines = vec![format!("{:>6} {:>10} {:>10}", "rows", "ms", "ms a row")];
    for (i, [rows, ms]) in points.iter().enumerate() {
        let dearer = points[..i].iter().find(|[_, fewer]| *fewer > ms * (1.0 + NOISE));
        let mark = dearer.map(|[fewer, _]| format!("  <- less than {fewer}")).unwrap_or_default();
        lines.push(format!("{rows:>6} {ms:>10.1} {:>10.1}{mark}", ms / rows));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filled_tiles_are_marked() {
        let points = [[1.0, 34.0], [12.0, 240.0], [15.0, 309.0], [16.0, 248.0], [17.0, 248.5], [24.0, 378.0]];
        let expected = [
            "  rows         ms   ms a row",
            "     1       34.0       34.0",
            "    12      240.0       20.0",
            "    15      309.0       20.6",
            "    16      248.0       15.5  <- less than 15",
            "    17      248.5       14.6  <- less than 15",
            "    24      378.0       15.8",
        ];
        assert_eq!(lines(&points), expected);
        assert_eq!(lines(&[[1.0, 34.0], [2.0, 33.5]]).last().map(String::as_str), Some("     2       33.5       16.8"));
    }
}
