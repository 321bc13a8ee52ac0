//! Top-k, top-p and min-p, without sorting the vocabulary.
//!
//! Each of them keeps the tokens up to some [`Rank`], so all that they come to is one rank, the *cut*.

use super::SamplingParams;
use super::math::ln;
use super::row::{Rank, Row};
use crate::Token;

/// How many logits deeper top-p looks with each step.
const STEP: f32 = 2.0;

/// The rank of the last token that `params` leave to choose from.
pub(super) fn cut(row: &Row<'_>, best: Rank, params: &SamplingParams) -> Rank {
    let mut cut = Rank::LAST;
    if params.top_k > 0 {
        cut = largest(row, params.top_k as usize);
    }
    if params.top_p < 1.0 {
        cut = nucleus(row, best, cut, params.top_p);
    }
    if params.min_p > 0.0 {
        cut = cut.min(at_least(best, params.min_p));
    }
    cut
}

/// The rank of the `count`-th most likely token, of the last one if there are fewer.
pub(super) fn largest(row: &Row<'_>, count: usize) -> Rank {
    // As many chunks as tokens are wanted reach this floor, so the tokens that are wanted do as well.
    let mut peaks = row.peaks().to_vec();
    let floor = match peaks.len() >= count {
        true => *peaks.select_nth_unstable_by(count - 1, |a, b| b.total_cmp(a)).1,
        false => f32::MIN,
    };
    let mut ranks = row.ranks(Rank::new(floor, Token::MAX).min(Rank::LAST));
    match ranks.len() >= count {
        true => *ranks.select_nth_unstable(count - 1).1,
        false => Rank::LAST,
    }
}

/// The last rank of the shortest run of the most likely tokens that has `share` of the mass up to the rank `cut`.
fn nucleus(row: &Row<'_>, best: Rank, cut: Rank, share: f32) -> Rank {
    let goal = f64::from(share) * row.mass(cut, 1.0);
    let mut depth = STEP;
    let (mut above, mut mass_above) = (Rank::BEFORE_ALL, 0.0);
    // Ends, because tokens far below the best have no weight: what is above them has all the mass.
    loop {
        let floor = Rank::new(best.logit() - depth, Token::MAX).min(cut);
        let mass = row.mass(floor, 1.0);
        if mass >= goal {
            let mut band = row.ranks(floor);
            band.retain(|&rank| rank > above);
            return first_to_reach(row, &mut band, goal - mass_above);
        }
        (above, mass_above) = (floor, mass);
        depth += STEP;
    }
}

/// The last rank of the shortest run of the best of `ranks` whose mass is at least `goal`: a search by halves, which
/// takes time in proportion to the number of ranks.
fn first_to_reach(row: &Row<'_>, mut ranks: &mut [Rank], mut goal: f64) -> Rank {
    while ranks.len() > 1 {
        let middle = ranks.len() / 2;
        ranks.select_nth_unstable(middle);
        let (better, worse) = ranks.split_at_mut(middle);
        let mass: f64 = better.iter().map(|rank| row.weight(rank.logit(), 1.0)).sum();
        if mass >= goal {
            ranks = better;
        } else {
            goal -= mass;
            ranks = worse;
        }
    }
    ranks.first().copied().unwrap_or(Rank::LAST)
}

/// The rank below which tokens are less than `share` times as likely as the best.
fn at_least(best: Rank, share: f32) -> Rank {
    let floor = f64::from(best.logit()) + ln(f64::from(share));
    let rounded = floor as f32;
    let floor = if f64::from(rounded) < floor { rounded.next_up() } else { rounded };
    Rank::new(floor + 0.0, Token::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn min_p_falls_between_two_neighbouring_floats() {
        for step in 1..1000_u16 {
            let (best, share) = (f32::from(step) * 0.37 - 50.0, f32::from(step) / 1000.0);
            let exact = f64::from(best) + f64::from(share).ln();
            let floor = at_least(Rank::new(best, 0), share).logit();
            assert!(f64::from(floor) >= exact && f64::from(floor.next_down()) < exact, "{share} below {best}");
        }
    }
}
