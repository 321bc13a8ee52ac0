//! The time of passes and of drafts, on any model.

use std::time::{Duration, Instant};

use sled_core::Token;
use sled_core::sampler::{Context, Sampler};
use sled_core::step::{CacheOp, Row};
use sled_model::Model;
use sled_model::drafter::Drafter;

/// How thoroughly passes are measured.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// How many tokens each sequence has in the cache.
    pub context: usize,
    /// How many passes of each number of rows count, the median of them.
    pub repeat: usize,
    /// The time after which no other pass begins.
    pub budget: Duration,
}

/// What passes take.
#[derive(Debug)]
pub struct Passes {
    /// `[rows, milliseconds]`, without what the tokens in the cache take.
    pub points: Vec<[f64; 2]>,
    /// What each thousand tokens in the cache add, in milliseconds.
    pub context_ms: f64,
    /// What a row that reads a prompt adds to a pass, as a share of what one adds that decides a token.
    pub prompt_row: f64,
}

/// Measures passes as [`times`] does, of one row of a sequence that is `longer` by so many tokens, and of the most rows as rows of
/// a prompt.
///
/// # Errors
/// If the model refuses a pass.
pub fn passes(
    model: &mut impl Model,
    rows: &[usize],
    effort: &Effort,
    longer: usize,
    done: impl FnMut(),
) -> anyhow::Result<Passes> {
    let Effort { context, repeat, .. } = *effort;
    let sequences = fill(model, rows, context)?;
    let times = turns(model, rows, sequences, effort, Instant::now(), done)?;
    extend(model, 0, context, longer)?;
    let alone = |model: &mut _, context| {
        let times = (0..=repeat).map(|_| pass(model, 1, 1, context)).collect::<anyhow::Result<Vec<_>>>();
        times.map(median)
    };
    let with_more = alone(model, context + longer)?;
    model.apply(CacheOp::Truncate { sequence: 0, len: context })?;
    // Where tokens in the cache cost nothing that can be measured, the difference is noise.
    let context_ms = round(((with_more - alone(model, context)?) / longer as f64 * 1e3).max(0.0));
    let point = |[rows, ms]: [f64; 2]| {
        let cached = rows * context as f64 / 1e3 * context_ms;
        [rows, round((ms - cached).max(0.0))]
    };
    let points: Vec<[f64; 2]> = times.into_iter().map(point).collect();
    let prompt_row = prompt_row(model, &points, context, context_ms, repeat)?;
    clear(model, sequences)?;
    Ok(Passes { points, context_ms, prompt_row })
}

/// What a row of a prompt adds to a pass over what one adds that decides a token, between the least and the most rows of `points`.
/// A pass that reads a prompt does not need the logits of its rows, which with a large vocabulary are a good part of the work.
fn prompt_row(
    model: &mut impl Model,
    points: &[[f64; 2]],
    context: usize,
    context_ms: f64,
    repeat: usize,
) -> anyhow::Result<f64> {
    let (Some([least, shortest]), Some([most, longest])) = (points.first(), points.last()) else { return Ok(1.0) };
    let rows = *most as usize;
    let mut read = || {
        let began = Instant::now();
        extend(model, 0, context, rows)?;
        let time = began.elapsed().as_secs_f64() * 1e3;
        model.apply(CacheOp::Truncate { sequence: 0, len: context })?;
        Ok(time)
    };
    let time = median((0..=repeat).map(|_| read()).collect::<anyhow::Result<Vec<_>>>()?);
    let cached = (context + rows) as f64 / 1e3 * context_ms;
    let all = (longest - shortest) / (most - least) * (most - 1.0);
    // Such a row has less to compute: where it seems dearer, that is noise.
    Ok(round(((time - cached - shortest) / all.max(f64::MIN_POSITIVE)).clamp(0.0, 1.0)))
}

/// `[rows, milliseconds]` of passes of each of `rows` (rising), of as many sequences as the model has, and of one row each where
/// these suffice. The model's cache is empty before and after.
///
/// All are measured in turn, so that what else the machine does falls on all of them. The first turn finds caches cold, and counts
/// only where the budget ends before another. What the budget has no time for at all is left out, from the most rows; the first of
/// `rows` is always there.
///
/// # Errors
/// If the model refuses a pass.
pub fn times(
    model: &mut impl Model,
    rows: &[usize],
    effort: &Effort,
    done: impl FnMut(),
) -> anyhow::Result<Vec<[f64; 2]>> {
    let began = Instant::now();
    let sequences = fill(model, rows, effort.context)?;
    let times = turns(model, rows, sequences, effort, began, done)?;
    clear(model, sequences)?;
    Ok(times)
}

/// Gives a text of `context` tokens to the sequences that passes of `rows` are of, and says how many these are. It is read once.
fn fill(model: &mut impl Model, rows: &[usize], context: usize) -> anyhow::Result<u32> {
    let most = rows.iter().copied().max().unwrap_or(1);
    let sequences = u32::try_from(most.min(model.limits().sequences))?;
    extend(model, 0, 0, context)?;
    if context > 0 {
        for to in 1..sequences {
            model.apply(CacheOp::CopyPrefix { from: 0, to, len: context })?;
        }
    }
    Ok(sequences)
}

/// Empties what [`fill`] has filled.
fn clear(model: &mut impl Model, sequences: u32) -> anyhow::Result<()> {
    for sequence in 0..sequences {
        model.apply(CacheOp::Truncate { sequence, len: 0 })?;
    }
    Ok(())
}

fn turns(
    model: &mut impl Model,
    rows: &[usize],
    sequences: u32,
    effort: &Effort,
    began: Instant,
    mut done: impl FnMut(),
) -> anyhow::Result<Vec<[f64; 2]>> {
    let mut times = vec![Vec::new(); rows.len()];
    for pass_number in 0..rows.len() * (effort.repeat + 1) {
        if pass_number > 0 && began.elapsed() >= effort.budget {
            break;
        }
        let i = pass_number % rows.len();
        times[i].push(pass(model, rows[i], sequences, effort.context)?);
        done();
    }
    let counted = |times: Vec<f64>| if times.len() > 1 { median(times[1..].to_vec()) } else { median(times) };
    let measured = rows.iter().zip(times).filter(|(_, times)| !times.is_empty());
    Ok(measured.map(|(&rows, times)| [rows as f64, counted(times)]).collect())
}

/// Tokens a second of a drafter that goes on after a text of `context` tokens; from the median time of `drafts` of them.
pub fn drafts(
    drafter: &mut impl Drafter,
    sampler: &Sampler,
    context: usize,
    drafts: usize,
    mut done: impl FnMut(),
) -> anyhow::Result<f64> {
    let mut tokens: Vec<Token> = (0..context).map(token).collect();
    let mut times = Vec::new();
    for i in 0..=drafts {
        let began = Instant::now();
        let draft = drafter.draft(Context { tokens: &tokens, prompt_len: context }, sampler)?;
        // The first draft reads the text.
        if i > 0 {
            times.push(began.elapsed().as_secs_f64());
            done();
        }
        tokens.push(draft.map_or_else(|| token(i), |draft| draft.token));
    }
    Ok(1.0 / median(times))
}

/// Milliseconds of a pass of `rows` rows of the first `sequences`, which have `context` tokens and are left as they were.
fn pass(model: &mut impl Model, rows: usize, sequences: u32, context: usize) -> anyhow::Result<f64> {
    let count = (sequences as usize).min(rows);
    let of = |sequence: usize| {
        let rows = rows / count + usize::from(sequence < rows % count);
        let row =
            move |position| Row { sequence: sequence as u32, position, token: token(position), wants_logits: true };
        (context..context + rows).map(row)
    };
    let rows: Vec<Row> = (0..count).flat_map(of).collect();
    let began = Instant::now();
    model.forward(&rows)?;
    let time = began.elapsed().as_secs_f64() * 1e3;
    for sequence in 0..u32::try_from(count)? {
        model.apply(CacheOp::Truncate { sequence, len: context })?;
    }
    Ok(time)
}

/// Adds `more` tokens to a sequence that has `begin`.
fn extend(model: &mut impl Model, sequence: usize, begin: usize, more: usize) -> anyhow::Result<()> {
    let sequence = u32::try_from(sequence)?;
    let row = |position| Row { sequence, position, token: token(position), wants_logits: false };
    let rows: Vec<Row> = (begin..begin + more).map(row).collect();
    for chunk in rows.chunks(model.limits().rows) {
        model.forward(chunk)?;
    }
    Ok(())
}

/// Some token; which one takes no other time.
fn token(i: usize) -> Token {
    Token::try_from(i % 1000).unwrap_or_default()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// What Linux calls the processor, else its architecture.
pub fn cpu_name() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("model name")).and_then(|rest| rest.split_once(':'));
    name.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned())
}

/// With three digits after the point: no measurement here has more.
pub fn round(x: f64) -> f64 {
    (x * 1e3).round() / 1e3
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use sled_model::{Error, Limits};

    use super::*;

    /// Takes 2 ms a pass, 1 ms a row, 0.75 ms a row of a prompt, and 10 ms for each thousand tokens in the cache of its sequences.
    struct Slow {
        lengths: Vec<usize>,
    }

    impl Model for Slow {
        fn limits(&self) -> Limits {
            Limits { vocab_size: 1000, cells: 10_000, sequences: self.lengths.len(), rows: 64, context: 5_000 }
        }

        fn apply(&mut self, op: CacheOp) -> Result<(), Error> {
            match op {
                CacheOp::Truncate { sequence, len } => self.lengths[sequence as usize] = len,
                CacheOp::CopyPrefix { from, to, len } => {
                    assert!(self.lengths[from as usize] >= len && self.lengths[to as usize] == 0);
                    self.lengths[to as usize] = len;
                }
            }
            Ok(())
        }

        fn forward(&mut self, rows: &[Row]) -> Result<(), Error> {
            let mut ms = 2.0;
            for (i, row) in rows.iter().enumerate() {
                assert_eq!(self.lengths[row.sequence as usize], row.position, "rows extend what is in the cache");
                ms += if row.wants_logits { 1.0 } else { 0.75 };
                let is_last = rows.get(i + 1).is_none_or(|next| next.sequence != row.sequence);
                ms += if is_last { 0.01 * row.position as f64 } else { 0.0 };
                self.lengths[row.sequence as usize] += 1;
            }
            std::thread::sleep(Duration::from_secs_f64(ms / 1e3));
            Ok(())
        }

        fn logits(&self, _row: usize) -> Result<&[f32], Error> {
            Ok(&[])
        }
    }

    #[test]
    fn finds_what_rows_and_tokens_in_the_cache_take() {
        let mut model = Slow { lengths: vec![0; 8] };
        let mut passes_done = 0;
        let effort = Effort { context: 100, repeat: 5, budget: Duration::MAX };
        let measured = passes(&mut model, &[1, 4, 8], &effort, 1000, || passes_done += 1).unwrap();
        assert_eq!(passes_done, 18);
        assert_eq!(model.lengths, [0; 8]);
        let near = |value: f64, expected: f64| assert!((value - expected).abs() < 0.4 * expected, "{measured:?}");
        near(measured.context_ms, 10.0);
        near(measured.prompt_row, 0.75);
        for (point, (rows, ms)) in measured.points.iter().zip([(1.0, 3.0), (4.0, 6.0), (8.0, 10.0)]) {
            assert_eq!(point[0], rows);
            near(point[1], ms);
        }
    }
    #[test]
    fn rows_beyond_the_sequences_are_shared_by_them() {
        let mut model = Slow { lengths: vec![0; 3] };
        let effort = Effort { context: 0, repeat: 1, budget: Duration::MAX };
        let rows: Vec<f64> =
            times(&mut model, &[1, 8], &effort, || ()).unwrap().iter().map(|[rows, _]| *rows).collect();
        assert_eq!(rows, [1.0, 8.0]);
        assert_eq!(model.lengths, [0; 3]);
    }

    #[test]
    fn what_there_is_no_time_for_is_left_out() {
        let mut model = Slow { lengths: vec![0; 4] };
        let effort = Effort { context: 10, repeat: 3, budget: Duration::ZERO };
        let mut passes_done = 0;
        let times = times(&mut model, &[2, 4], &effort, || passes_done += 1).unwrap();
        assert_eq!(times.iter().map(|[rows, _]| *rows).collect::<Vec<_>>(), [2.0]);
        assert_eq!((passes_done, model.lengths.as_slice()), (1, [0; 4].as_slice()));
    }
}
