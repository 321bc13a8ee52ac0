//! What a forward pass takes, by its number of rows.
//!
//! That is a staircase, not a line: kernels compute rows in tiles, so that sixteen rows may take less time than twelve. Server,
//! simulator and profiles use the same table of measured points.

use std::time::Duration;

/// Seconds that a pass takes, by its rows: measured points, joined by straight lines. The first and the last line go on beyond
/// them.
#[derive(Clone, Debug, PartialEq)]
pub struct CostTable {
    /// `(rows, seconds)`, at least two, with rising rows.
    points: Vec<(f64, f64)>,
}

impl CostTable {
    /// The table through `points`, each `(rows, seconds)`; `None` if there are fewer than two, or their rows do not rise.
    #[must_use]
    pub fn new(points: Vec<(f64, f64)>) -> Option<Self> {
        let rises = points.windows(2).all(|pair| pair[0].0 < pair[1].0);
        (points.len() >= 2 && rises).then_some(Self { points })
    }

    /// A pass without rows takes `fixed` seconds, and each row adds `row` seconds.
    #[must_use]
    pub fn line(fixed: f64, row: f64) -> Self {
        Self { points: vec![(0.0, fixed), (1.0, fixed + row)] }
    }

    /// Seconds that a pass of `rows` rows takes.
    #[must_use]
    pub fn seconds(&self, rows: f64) -> f64 {
        let beyond = self.points.partition_point(|(at, _)| *at < rows).clamp(1, self.points.len() - 1);
        let ((x0, y0), (x1, y1)) = (self.points[beyond - 1], self.points[beyond]);
        (y0 + (y1 - y0) * (rows - x0) / (x1 - x0)).max(0.0)
    }

    /// Seconds of passes of no row up to `most`, in order. The same as asking for each of them, in time that is linear.
    #[must_use]
    pub fn tabulate(&self, most: usize) -> Vec<f64> {
        let mut seconds = Vec::with_capacity(most + 1);
        for (i, pair) in self.points.windows(2).enumerate() {
            let is_last = i + 2 == self.points.len();
            let end = if is_last { most } else { (pair[1].0.max(0.0) as usize).min(most) };
            let ((x0, y0), (x1, y1)) = (pair[0], pair[1]);
            let slope = (y1 - y0) / (x1 - x0);
            seconds.extend((seconds.len()..=end).map(|rows| (y0 + slope * (rows as f64 - x0)).max(0.0)));
        }
        seconds
    }

    /// How long a pass of `rows` rows takes.
    #[must_use]
    pub fn time(&self, rows: usize) -> Duration {
        Duration::try_from_secs_f64(self.seconds(rows as f64)).unwrap_or_default()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn points_are_joined_by_lines_that_go_on() {
        let table = CostTable::new(vec![(2.0, 0.100), (4.0, 0.140), (8.0, 0.120)]);
        let times = |rows| table.as_ref().map(|table| (1e3 * table.seconds(rows)).round());
        assert_eq!(
            [1.0, 2.0, 3.0, 6.0, 8.0, 12.0, 100.0].map(times),
            [80., 100., 120., 130., 120., 100., 0.].map(Some)
        );
        assert_eq!(CostTable::new(vec![(2.0, 0.1), (2.0, 0.2)]), None);
        assert_eq!(CostTable::new(vec![(2.0, 0.1)]), None);
    }

    #[test]
    fn all_times_at_once_are_those_of_each() {
        let points = vec![(0.0, 0.1), (1.0, 0.12), (7.4, 0.3), (7.9, 0.2), (16.0, 0.25)];
        let table = CostTable::new(points).unwrap();
        for most in [0, 3, 7, 8, 40] {
            let all = table.tabulate(most);
            assert_eq!(all.len(), most + 1);
            for (rows, seconds) in all.into_iter().enumerate() {
                assert!((seconds - table.seconds(rows as f64)).abs() < 1e-12, "{rows} of {most}");
            }
        }
    }

    #[test]
    fn a_line_is_one_wherever_it_is_asked() {
        let line = CostTable::line(0.02, 0.001);
        assert_eq!([0, 1, 30].map(|rows| line.time(rows).as_micros()), [20_000, 21_000, 50_000]);
    }
}
