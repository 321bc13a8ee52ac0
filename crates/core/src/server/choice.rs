//! The batch as a whole: how many rows a pass is to have.
//!
//! Drafts are candidates for rows, each worth the probability that it and all before it in its block are right, times what a
//! token is worth to its session. A pass of `n` rows takes `c(n)` seconds, in which the server would commit `rate * c(n)` tokens
//! elsewhere. The best batch has the `n` with the largest `value(n) - rate * c(n)` of all `n`: since `c` is a staircase, the first
//! row that does not pay by itself says nothing of those behind it.

use super::costs::Costs;

/// How many of the candidates with these `values`, most valuable first, are to have rows beside `base` others, where a second is
/// worth `rate` tokens.
pub(super) fn best(values: &[f64], base: usize, rate: f64, costs: &Costs) -> usize {
    surplus(values, base, rate, costs).fold((0, f64::NEG_INFINITY), better).0
}

/// What one more row costs, in tokens, where the candidates with these `values` might come and `taken` of them usually are: a row of
/// those that make the best batch beyond, or of those that come nearest to it; and no more than the last that is taken brings.
pub(super) fn price(values: &[f64], taken: usize, base: usize, rate: f64, costs: &Costs) -> f64 {
    let taken = taken.min(values.len());
    let beyond = surplus(values, base, rate, costs).skip(taken + 1).fold((taken + 1, f64::NEG_INFINITY), better).0;
    let last = taken.checked_sub(1).and_then(|last| values.get(last)).copied();
    row(beyond - taken, base + taken, rate, costs).min(last.unwrap_or(f64::INFINITY))
}

/// What each of `more` rows costs, in tokens, beside `base` others.
pub(super) fn row(more: usize, base: usize, rate: f64, costs: &Costs) -> f64 {
    rate * (costs.pass(base + more) - costs.pass(base)).max(0.0) / more.max(1) as f64
}

/// The number of candidates that are taken, and what is left of their value if the pass is paid for.
fn surplus(values: &[f64], base: usize, rate: f64, costs: &Costs) -> impl Iterator<Item = (usize, f64)> {
    let taken = values.iter().scan(0.0, |sum, value| {
        *sum += value;
        Some(*sum)
    });
    std::iter::once(0.0).chain(taken).enumerate().map(move |(k, value)| (k, value - rate * costs.pass(base + k)))
}

/// Of equals, the smaller one.
fn better(best: (usize, f64), next: (usize, f64)) -> (usize, f64) {
    if next.1 > best.1 { next } else { best }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::server::tuning::CostTuning;

    /// Passes of 1, 2, ... rows that take so many milliseconds.
    fn costs(steps: &[u64]) -> Costs {
        let mut costs = Costs::new(CostTuning::default(), steps.len());
        for _ in 0..30 {
            for (at, &ms) in steps.iter().enumerate() {
                costs.observe(at + 1, at + 1, Duration::from_millis(ms));
            }
        }
        costs
    }

    /// The survivals of a block of which each draft is right with probability `p`.
    fn block(p: f64) -> impl Iterator<Item = f64> {
        (1..=8).map(move |len| p.powi(len))
    }

    /// The best that any numbers of drafts of each session bring, beside a row of each; by trying all of them.
    fn exhaustive(blocks: &[f64], rate: f64, costs: &Costs) -> f64 {
        let lengths = |code: usize| (0..blocks.len() as u32).map(move |i| code / 9_usize.pow(i) % 9);
        let brings = |code| {
            let value: f64 = lengths(code).zip(blocks).flat_map(|(len, &p)| block(p).take(len)).sum();
            value - rate * costs.pass(blocks.len() + lengths(code).sum::<usize>())
        };
        (0..9_usize.pow(blocks.len() as u32)).map(brings).fold(f64::NEG_INFINITY, f64::max)
    }

    #[test]
    fn rows_that_do_not_pay_by_themselves_are_gone_beyond() {
        // The second and the third row cost 60 ms each, the next ones next to nothing.
        let costs = costs(&[103, 162, 228, 219, 230, 236, 257, 278]);
        let values: Vec<f64> = block(0.8).collect();
        let rate = 1.0 / costs.pass(1);
        assert_eq!(best(&values, 1, rate, &costs), 7);
        assert!(price(&values, 0, 1, rate, &costs) < 0.3);
    }

    #[test]
    fn where_no_batch_pays_a_row_costs_what_it_would_bring() {
        let costs = costs(&[40, 80, 120, 160, 200, 240, 280, 320]);
        let values: Vec<f64> = block(0.8).collect();
        let rate = 1.0 / costs.pass(1);
        assert_eq!(best(&values, 1, rate, &costs), 0);
        assert!((price(&values, 0, 1, rate, &costs) - 1.0).abs() < 0.01);
    }

    #[test]
    fn within_a_tile_rows_cost_nothing() {
        let mut steps: Vec<u64> = (1..=15).map(|rows| 20 * rows).collect();
        steps.extend([165, 200, 220]);
        let costs = costs(&steps);
        assert_eq!(row(4, 9, 30.0, &costs), 0.0);
        // Six sessions of one draft each fill what is left of the tile, and the next row is beyond it.
        assert_eq!(best(&[0.5; 12], 9, 50.0, &costs), 7);
    }

    proptest! {
        #[test]
        fn no_batch_is_better_whatever_the_staircase(
            steps in prop::collection::vec(20_u64..400, 28),
            blocks in prop::collection::vec(0.05_f64..0.95, 1..4),
            rate in 0.5_f64..60.0,
        ) {
            let costs = costs(&steps);
            let mut values: Vec<f64> = blocks.iter().flat_map(|&p| block(p)).collect();
            values.sort_by(|a, b| b.total_cmp(a));
            let taken = best(&values, blocks.len(), rate, &costs);
            let brings = values[..taken].iter().sum::<f64>() - rate * costs.pass(blocks.len() + taken);
            let most = exhaustive(&blocks, rate, &costs);
            prop_assert!(brings >= most - 1e-9 * most.abs().max(1.0), "{brings} of {most}");
        }
    }
}
