//! Log probabilities, for those who ask.

use super::math::ln;
use super::row::{Rank, Row};
use super::truncation;
use crate::Token;

/// The model's log probabilities at one position, at temperature 1 and before grammar, penalties, biases and truncations.
/// A probability of 0 has the logarithm [`f32::MIN`].
#[derive(Clone, Debug, PartialEq)]
pub struct Logprobs {
    /// That of the chosen token.
    pub chosen: f32,
    /// The most likely tokens and theirs, most likely first; equals by rising id.
    pub top: Vec<(Token, f32)>,
}

impl Logprobs {
    /// The most tokens that `top` may have.
    pub const MAX_TOP: u8 = 20;
}

/// The log probability of `token` and those of the `top` most likely tokens: `z_i - ln(sum_j exp(z_j))`, with an error below
/// 1e-5.
pub(super) fn logprobs(row: &Row<'_>, token: Token, top: usize) -> Logprobs {
    let Some(best) = row.best() else { return Logprobs { chosen: f32::MIN, top: Vec::new() } };
    let max = f64::from(best.logit());
    // The mass is a multiple of the probability of the best, and at least 1.
    let below = ln(row.mass(Rank::LAST, 1.0));
    let logprob = |rank: Rank| ((f64::from(rank.logit()) - max - below) as f32).max(f32::MIN);
    let mut ranks = match top {
        0 => Vec::new(),
        _ => row.ranks(truncation::largest(row, top)),
    };
    ranks.sort_unstable();
    let chosen = row.rank(token).map_or(f32::MIN, logprob);
    Logprobs { chosen, top: ranks.into_iter().map(|rank| (rank.token(), logprob(rank))).collect() }
}
