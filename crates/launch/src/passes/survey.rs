//! Which passes are measured, and for how long.

use std::collections::BTreeMap;
use std::time::Duration;

use sled_core::server::CALIBRATION;
use sled_server::Pass;

/// So many of them are measured once more, before all others.
const FIRST: usize = 6;

/// How often all are measured, if there is time; the shortest time counts, as what else a machine does only makes passes longer.
const TURNS: usize = 3;

/// A pass that took this many times as long as one of more rows was disturbed, or its rows miss the end of a tile by little: it is
/// measured again, so often, in a quarter of the budget more.
const DISTURBED: f64 = 1.25;
const RETRIES: usize = 2;

/// What was kept holds as long as passes are not this many times as fast as they were: then the machine was busy.
const FASTER: f64 = 2.0;

/// The same of passes that are slower. A machine that is busy now is no reason to forget what was measured when it was not.
const SLOWER: f64 = 4.0;

/// Up to so many rows what was kept is checked: such a pass takes little time.
const CHECKED: usize = 8;

/// Measures one pass of so many rows.
pub(super) trait Measure: FnMut(usize) -> anyhow::Result<Duration> {}

impl<F: FnMut(usize) -> anyhow::Result<Duration>> Measure for F {}

/// The rows of the passes to measure, of an engine that takes up to `limit` of them.
pub(super) fn rows(limit: usize) -> Vec<usize> {
    CALIBRATION.into_iter().filter(|&rows| rows <= limit).collect()
}

/// How many passes there are at most, where so many numbers of rows are measured.
pub(super) fn most(rows: usize) -> usize {
    rows * TURNS + FIRST.min(rows)
}

/// Measures passes of each of `rows`, in this order and in turns, so that what else the machine does falls on all of them. A pass
/// that would take longer than what is left of `budget` is left out, but for the first. Those that seem disturbed are measured
/// again. The result is in the order of rising rows; `done` is told of each pass of a turn, made or left out.
///
/// # Errors
/// If a pass fails.
pub(super) fn measure(
    rows: &[usize],
    budget: Duration,
    pass: &mut impl Measure,
    mut done: impl FnMut(),
) -> anyhow::Result<Vec<Pass>> {
    // The first pass finds caches cold, and weights on the disk.
    pass(1)?;
    let mut survey = Survey { pass, left: budget, shortest: BTreeMap::new() };
    let all = std::iter::repeat_n(rows, TURNS).flatten();
    for &rows in rows.iter().take(FIRST).chain(all) {
        survey.attempt(rows)?;
        done();
    }
    survey.left = budget / 4;
    for _retry in 0..RETRIES {
        survey.disturbed().into_iter().try_for_each(|rows| survey.attempt(rows))?;
    }
    Ok(survey.shortest.into_iter().map(|(rows, time)| Pass { rows, time }).collect())
}

/// Passes that are being measured.
struct Survey<'a, M> {
    pass: &'a mut M,
    left: Duration,
    /// The shortest time by rows.
    shortest: BTreeMap<usize, Duration>,
}

impl<M: Measure> Survey<'_, M> {
    /// Measures a pass of `rows` rows, if there is time for it.
    fn attempt(&mut self, rows: usize) -> anyhow::Result<()> {
        if self.expected(rows).is_none_or(|expected| expected <= self.left) {
            let time = (self.pass)(rows)?;
            self.left = self.left.saturating_sub(time);
            self.shortest.entry(rows).and_modify(|shortest| *shortest = time.min(*shortest)).or_insert(time);
        }
        Ok(())
    }

    /// What a pass of `rows` rows is expected to take: for each row as much as with as many or fewer, and no longer than with more.
    fn expected(&self, rows: usize) -> Option<Duration> {
        let fewer = self.shortest.range(..=rows).next_back();
        let by_fewer = fewer.map(|(&fewer, time)| time.mul_f64(rows as f64 / fewer as f64));
        by_fewer.into_iter().chain(self.shortest.range(rows + 1..).map(|(_, time)| *time)).min()
    }

    /// The rows of passes that took much longer than one of more rows.
    fn disturbed(&self) -> Vec<usize> {
        let mut least = Duration::MAX;
        let mut disturbed = Vec::new();
        for (&rows, &time) in self.shortest.iter().rev() {
            if time.as_secs_f64() > DISTURBED * least.as_secs_f64() {
                disturbed.push(rows);
            }
            least = least.min(time);
        }
        disturbed.reverse();
        disturbed
    }
}

/// Whether `kept` still holds, by passes of few rows, each of which has two tries.
///
/// # Errors
/// If a pass fails.
pub(super) fn confirm(kept: &[Pass], pass: &mut impl Measure) -> anyhow::Result<bool> {
    pass(1)?;
    let few = kept.iter().rev().find(|pass| pass.rows <= CHECKED);
    for kept in kept.first().into_iter().chain(few) {
        let mut holds = || anyhow::Ok(is_near(kept.time, pass(kept.rows)?));
        if !holds()? && !holds()? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn is_near(kept: Duration, seen: Duration) -> bool {
    kept.mul_f64(SLOWER) > seen && seen.mul_f64(FASTER) > kept
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A pass of an engine that works in tiles of four rows, with what it is asked for.
    struct Engine {
        asked: Vec<usize>,
        tile: Duration,
    }

    impl Engine {
        fn new(tile_ms: u64) -> Self {
            Self { asked: Vec::new(), tile: Duration::from_millis(tile_ms) }
        }

        fn takes(&self, rows: usize) -> Duration {
            self.tile * u32::try_from(rows.div_ceil(4)).unwrap()
        }

        fn pass(&mut self, rows: usize) -> anyhow::Result<Duration> {
            self.asked.push(rows);
            Ok(self.takes(rows))
        }
    }

    fn measured(engine: &mut Engine, rows: &[usize], budget_ms: u64) -> Vec<Pass> {
        measure(rows, Duration::from_millis(budget_ms), &mut |rows| engine.pass(rows), || ()).unwrap()
    }

    #[test]
    fn no_more_rows_are_measured_than_a_pass_may_have() {
        assert_eq!(rows(4), [1, 2, 3, 4]);
        assert_eq!(rows(63).into_iter().max(), Some(63));
        assert_eq!(rows(10_000).len(), CALIBRATION.len());
        let mut once = CALIBRATION.to_vec();
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), CALIBRATION.len());
    }

    #[test]
    fn all_are_measured_where_there_is_time() {
        let mut engine = Engine::new(1);
        let passes = measured(&mut engine, &[1, 2, 8, 4], 1000);
        let expected: Vec<Pass> = [1, 2, 4, 8].map(|rows| Pass { rows, time: engine.takes(rows) }).to_vec();
        assert_eq!(passes, expected);
        assert_eq!(engine.asked, [&[1][..], &[1, 2, 8, 4].repeat(4)].concat());
        assert_eq!(most(4), 16);
    }

    #[test]
    fn what_would_exceed_the_budget_is_left_out_and_what_fits_is_not() {
        let mut engine = Engine::new(100);
        // 100 ms for one, two and four rows; sixteen are expected to take 400, and 64 four times as much.
        let passes = measured(&mut engine, &[1, 4, 16, 64, 2], 1000);
        assert_eq!(passes.iter().map(|pass| pass.rows).collect::<Vec<_>>(), [1, 2, 4, 16]);
        assert_eq!(engine.asked, [1, 1, 4, 16, 2, 1, 4, 2]);
        // However slow it is, something is known.
        let mut slow = Engine::new(60_000);
        assert_eq!(measured(&mut slow, &[1, 2, 4], 1000), [Pass { rows: 1, time: slow.tile }]);
    }

    #[test]
    fn the_shortest_time_counts_but_that_of_the_first_pass_of_all() {
        let mut times = [1, 9, 5, 7, 6].into_iter();
        let passes = measure(&[1], Duration::MAX, &mut |_| Ok(Duration::from_millis(times.next().unwrap())), || ());
        assert_eq!(passes.unwrap(), [Pass { rows: 1, time: Duration::from_millis(5) }]);
        assert_eq!(times.next(), None);
    }

    #[test]
    fn what_took_longer_than_more_rows_is_measured_again() {
        let mut engine = Engine::new(100);
        let mut disturbed = [2, 4].into_iter().peekable();
        let mut pass = |rows| {
            let time = engine.pass(rows)?;
            Ok(if disturbed.next_if_eq(&rows).is_some() { time * 4 } else { time })
        };
        // There is time for little more than a turn, and for those with which something went wrong.
        let passes = measure(&[8, 2, 4], Duration::from_millis(1200), &mut pass, || ()).unwrap();
        assert_eq!(
            passes,
            [(2, 100), (4, 100), (8, 200)].map(|(rows, ms)| Pass { rows, time: Duration::from_millis(ms) })
        );
        assert_eq!(engine.asked, [1, 8, 2, 4, 8, 2, 4]);
    }

    #[test]
    fn a_pass_that_fails_is_an_error() {
        let mut fails = |_| Err(anyhow::anyhow!("the cells have melted"));
        assert!(measure(&[1], Duration::MAX, &mut fails, || ()).is_err());
        assert!(confirm(&[], &mut fails).is_err());
    }

    #[test]
    fn what_was_kept_holds_unless_passes_take_four_times_as_long_or_half() {
        let kept = |tile_ms| {
            let engine = Engine::new(tile_ms);
            [1, 4, 8, 16].map(|rows| Pass { rows, time: engine.takes(rows) })
        };
        let confirmed = |kept: &[Pass], engine: &mut Engine| confirm(kept, &mut |rows| engine.pass(rows)).unwrap();
        for (tile_ms, holds) in [(10, true), (6, true), (39, true), (40, false), (5, false), (1, false)] {
            assert_eq!(confirmed(&kept(10), &mut Engine::new(tile_ms)), holds, "{tile_ms}");
        }
        let mut engine = Engine::new(10);
        assert!(confirmed(&kept(10), &mut engine));
        assert_eq!(engine.asked, [1, 1, 8]);
        // One disturbed pass is no reason to measure anew.
        let mut times = [10, 90, 10, 30].into_iter().map(Duration::from_millis);
        assert!(confirm(&kept(10), &mut |_| Ok(times.next().unwrap())).unwrap());
        assert_eq!(times.next(), None);
    }
}
