//! What a forward pass of a target takes on a machine.

use std::time::Duration;

use serde::Deserialize;
use sled_core::cost::CostTable;

use super::number::{Entry, Mark, Number, Written, check, check_source};
use crate::cost::PassCost;

/// A model that a machine serves.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "WrittenTarget")]
pub struct Target {
    /// What it is, for people.
    pub title: String,
    /// The time of a pass over its rows, with little in the cache.
    pub time: PassTime,
    /// What each thousand tokens in the cache of the pass's sequences add, in milliseconds.
    pub context_ms: Option<Number>,
    /// What a row that reads a prompt adds, as a share of what one adds that decides a token; the same if it is not known.
    pub prompt_row: Option<Number>,
    /// What its weights take, in GiB.
    pub weights_gib: Option<Number>,
    /// What a token takes in the KV cache, in KiB.
    pub kv_kib: Option<Number>,
}

/// The time of a pass over its rows.
#[derive(Clone, Debug, PartialEq)]
pub enum PassTime {
    /// `fixed + row * rows`, in milliseconds.
    Line {
        /// What does not depend on the rows.
        fixed_ms: Number,
        /// What each row adds.
        row_ms: Number,
    },
    /// Straight lines between measured points.
    Points(Points),
}

/// Points of a curve, and where they are from.
#[derive(Clone, Debug, PartialEq)]
pub struct Points {
    /// `[rows, milliseconds]`, at least two, with rising rows.
    pub value: Vec<[f64; 2]>,
    /// How they came to be known.
    pub mark: Mark,
    /// A reference, a command, or the arithmetic.
    pub source: String,
    table: CostTable,
}

impl Target {
    /// How long a pass of `rows` rows takes whose sequences have `cached` tokens in the cache together.
    #[must_use]
    pub fn pass(&self, rows: usize, cached: usize) -> Duration {
        let context = self.context_ms.as_ref().map_or(0.0, |number| number.value) * cached as f64 / 1e3;
        self.time.table().time(rows) + Duration::try_from_secs_f64(context / 1e3).unwrap_or_default()
    }

    /// What a server spends on a pass.
    #[must_use]
    pub fn cost(&self) -> PassCost {
        PassCost {
            target: self.time.table(),
            context: self.context_ms.as_ref().map_or(0.0, |number| number.value) / 1e6,
            prompt_row: self.prompt_row.as_ref().map_or(1.0, |number| number.value),
            drafter: None,
        }
    }

    pub(super) fn entries(&self, at: &str) -> Vec<Entry<'_>> {
        let entry = |key: &str, number| Entry::new(format!("{at}.{key}"), number);
        let time = match &self.time {
            PassTime::Line { fixed_ms, row_ms } => vec![entry("fixed_ms", fixed_ms), entry("row_ms", row_ms)],
            PassTime::Points(Points { value, mark, source, .. }) => {
                vec![Entry { key: format!("{at}.points"), value: pairs(value), mark: *mark, source }]
            }
        };
        let others = [
            ("context_ms", &self.context_ms),
            ("prompt_row", &self.prompt_row),
            ("weights_gib", &self.weights_gib),
            ("kv_kib", &self.kv_kib),
        ];
        let others = others.into_iter().filter_map(|(key, number)| Some(entry(key, number.as_ref()?)));
        time.into_iter().chain(others).collect()
    }
}

impl PassTime {
    /// The same as a table.
    #[must_use]
    pub fn table(&self) -> CostTable {
        match self {
            Self::Line { fixed_ms, row_ms } => CostTable::line(fixed_ms.value / 1e3, row_ms.value / 1e3),
            Self::Points(points) => points.table.clone(),
        }
    }
}

/// Points as they are written in a profile.
pub(super) fn pairs(points: &[[f64; 2]]) -> String {
    let pairs: Vec<String> = points.iter().map(|[rows, ms]| format!("[{rows}, {ms}]")).collect();
    format!("[{}]", pairs.join(", "))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenTarget {
    title: String,
    fixed_ms: Option<Number>,
    row_ms: Option<Number>,
    points: Option<Written<Vec<[f64; 2]>>>,
    context_ms: Option<Number>,
    prompt_row: Option<Number>,
    weights_gib: Option<Number>,
    kv_kib: Option<Number>,
}

impl TryFrom<WrittenTarget> for Target {
    type Error = String;

    fn try_from(written: WrittenTarget) -> Result<Self, String> {
        let WrittenTarget { title, fixed_ms, row_ms, points, context_ms, prompt_row, weights_gib, kv_kib } = written;
        let time = match (fixed_ms, row_ms, points) {
            (Some(fixed_ms), Some(row_ms), None) => PassTime::Line { fixed_ms, row_ms },
            (None, None, Some(points)) => PassTime::Points(points.try_into()?),
            _ => return Err("a target has either `fixed_ms` and `row_ms`, or `points`".to_owned()),
        };
        Ok(Self { title, time, context_ms, prompt_row, weights_gib, kv_kib })
    }
}

impl TryFrom<Written<Vec<[f64; 2]>>> for Points {
    type Error = String;

    fn try_from(Written { value, mark, source }: Written<Vec<[f64; 2]>>) -> Result<Self, String> {
        check_source(&source)?;
        value.iter().flatten().try_for_each(|&number| check(number))?;
        Self::new(value, mark, source)
    }
}

impl Points {
    /// Points `[rows, milliseconds]`.
    ///
    /// # Errors
    /// If there are less than two, or their rows do not rise.
    pub fn new(value: Vec<[f64; 2]>, mark: Mark, source: String) -> Result<Self, String> {
        let points = value.iter().map(|&[rows, ms]| (rows, ms / 1e3)).collect();
        let table = CostTable::new(points)
            .ok_or("`points` needs two points `[rows, ms]` at least, whose rows rise from one to the next")?;
        Ok(Self { value, mark, source, table })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn number(value: f64) -> Number {
        Number { value, mark: Mark::Assumed, source: "a test".to_owned() }
    }

    fn target(time: PassTime) -> Target {
        let context_ms = Some(number(0.5));
        Target { title: String::new(), time, context_ms, prompt_row: None, weights_gib: None, kv_kib: None }
    }

    #[test]
    fn a_line_and_what_is_cached() {
        let line = target(PassTime::Line { fixed_ms: number(29.0), row_ms: number(0.17) });
        assert_eq!(line.pass(100, 0), Duration::from_millis(46));
        assert_eq!(line.pass(100, 8_000), Duration::from_millis(50));
    }

    #[test]
    fn lines_between_points_and_beyond() {
        let points = vec![[1.0, 100.0], [2.0, 130.0], [4.0, 150.0], [8.0, 250.0]];
        let table = target(PassTime::Points(Points::new(points, Mark::Measured, "a test".to_owned()).unwrap()));
        let ms = |rows| table.pass(rows, 0).as_millis();
        assert_eq!([1, 2, 3, 4, 6, 8, 12].map(ms), [100, 130, 140, 150, 200, 250, 350]);
        assert_eq!(table.pass(0, 0), Duration::from_millis(70));
    }
}
