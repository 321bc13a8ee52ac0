//! What passes of an engine take, found out before it serves: as it was kept, or measured.
//!
//! | file | what it does |
//! |---|---|
//! | `survey.rs` | which passes are measured, within which time; whether what was kept still holds |
//! | `store.rs` | what was measured, kept in the cache folder |

mod store;
mod survey;

use std::fmt;
use std::time::{Duration, Instant};

use sled_model::Model;
use sled_server::Pass;
pub use store::{Key, Store};

use crate::measure::{self, Effort};
use crate::progress::bar;

/// How long passes are measured, and for a quarter of it more where something disturbs them.
const BUDGET: Duration = Duration::from_secs(8);

/// What passes take, and how that is known.
pub struct Known {
    /// By rising rows; none if a pass failed.
    pub passes: Vec<Pass>,
    source: Source,
}

enum Source {
    Kept,
    Measured(Duration),
}

/// Finds out what passes of `model` take, whose cache is empty and stays so. What `store` has of `key` is believed if some passes
/// agree; else all are measured, and kept.
pub fn learn(model: &mut impl Model, store: Option<&Store>, key: &Key) -> Known {
    let began = Instant::now();
    let mut pass = |rows| time(model, rows);
    if let Some(kept) = store.and_then(|store| store.read(key))
        && survey::confirm(&kept, &mut pass).unwrap_or_default()
    {
        return Known { passes: kept, source: Source::Kept };
    }
    let rows = survey::rows(key.rows);
    let bar = bar(survey::most(rows.len()), "measuring passes".to_owned());
    let measured = survey::measure(&rows, BUDGET, &mut pass, || bar.inc(1));
    bar.finish_and_clear();
    let passes = measured.unwrap_or_else(|error| {
        // The first pass that serves somebody tells why, if it fails too.
        tracing::warn!(%error, "cannot measure what passes take");
        Vec::new()
    });
    if let Some(store) = store.filter(|_| !passes.is_empty())
        && let Err(error) = store.write(key, &passes)
    {
        tracing::warn!(%error, "what passes take is not kept, and will be measured again at the next start");
    }
    Known { passes, source: Source::Measured(began.elapsed()) }
}

/// What a pass of `rows` rows takes.
fn time(model: &mut impl Model, rows: usize) -> anyhow::Result<Duration> {
    let once = Effort { context: 0, repeat: 0, budget: Duration::MAX };
    let times = measure::times(model, &[rows], &once, || ())?;
    let ms = times.first().map_or(0.0, |[_, ms]| *ms);
    Ok(Duration::from_secs_f64(ms.max(0.0) / 1e3))
}

impl fmt::Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Some(first), Some(last)) = (self.passes.first(), self.passes.last()) else {
            return f.write_str("passes could not be measured");
        };
        let ms = |pass: &Pass| format!("{:.0} ms for {}", pass.time.as_secs_f64() * 1e3, pass.rows);
        write!(f, "a pass takes {} to {} rows, ", ms(first), ms(last))?;
        match self.source {
            Source::Kept => f.write_str("as was measured before"),
            Source::Measured(time) => write!(f, "measured in {:.1} s", time.as_secs_f64()),
        }
    }
}
