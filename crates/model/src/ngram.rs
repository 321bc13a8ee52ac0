//! Prompt lookup: proposes what followed the last few tokens the last time they occurred (Saxena, 2023). Needs no
//! model, and drafts well where text repeats itself: code edits, summaries, quotations.

use std::collections::HashMap;

use sled_core::Token;
use sled_core::sampler::{Context, Draft, Sampler};
use sled_core::sequence::common_prefix;

use crate::Error;
use crate::drafter::Drafter;

/// The longest and the shortest n-gram that is looked up. A single token recurs too often to tell what follows.
const LONGEST: usize = 3;
const SHORTEST: usize = 2;

/// How many of the latest occurrences count: the one that makes the proposal and those it is judged by.
const JUDGED: usize = 8;

/// How often a text goes on as it did after the only other occurrence of its last three tokens, or of its last two
/// where three are new. Counted over words and signs it is 0.45 to 0.65, or 0.30 to 0.43: least in prose, most in
/// program code.
const LONGEST_RECURS: f32 = 0.6;
const SHORTEST_RECURS: f32 = 0.4;

/// The n-grams of the text so far.
#[derive(Clone, Debug, Default)]
pub struct NgramDrafter {
    tokens: Vec<Token>,
    /// For each n-gram that another token follows, the positions of those tokens, in order.
    triples: HashMap<[Token; LONGEST], Vec<usize>>,
    pairs: HashMap<[Token; SHORTEST], Vec<usize>>,
}

impl NgramDrafter {
    /// Makes `tokens` the text, keeping what it shares with the last one.
    fn follow(&mut self, tokens: &[Token]) {
        let keep = common_prefix(&self.tokens, tokens);
        for position in (keep..self.tokens.len()).rev() {
            forget(&mut self.triples, &self.tokens, position);
            forget(&mut self.pairs, &self.tokens, position);
        }
        self.tokens.truncate(keep);
        self.tokens.extend(&tokens[keep..]);
        for position in keep..tokens.len() {
            note(&mut self.triples, tokens, position);
            note(&mut self.pairs, tokens, position);
        }
    }
}

impl Drafter for NgramDrafter {
    fn draft(&mut self, context: Context<'_>, sampler: &Sampler) -> Result<Option<Draft>, Error> {
        self.follow(context.tokens);
        let triple = look_up(&self.triples, &self.tokens).map(|followers| (followers, LONGEST_RECURS));
        let found = triple.or_else(|| Some((look_up(&self.pairs, &self.tokens)?, SHORTEST_RECURS)));
        let draft = found.and_then(|(followers, recurs)| judge(&self.tokens, followers, recurs));
        Ok(draft.filter(|draft| sampler.allows(context, draft.token)))
    }
}

/// The `N` tokens before `position`.
fn gram<const N: usize>(tokens: &[Token], position: usize) -> Option<[Token; N]> {
    tokens.get(position.checked_sub(N)?..position)?.try_into().ok()
}

fn note<const N: usize>(index: &mut HashMap<[Token; N], Vec<usize>>, tokens: &[Token], position: usize) {
    if let Some(gram) = gram(tokens, position) {
        index.entry(gram).or_default().push(position);
    }
}

/// Takes back the latest note.
fn forget<const N: usize>(index: &mut HashMap<[Token; N], Vec<usize>>, tokens: &[Token], position: usize) {
    if let Some(gram) = gram(tokens, position)
        && let Some(positions) = index.get_mut(&gram)
    {
        positions.pop();
        if positions.is_empty() {
            index.remove(&gram);
        }
    }
}

fn look_up<'a, const N: usize>(index: &'a HashMap<[Token; N], Vec<usize>>, tokens: &[Token]) -> Option<&'a [usize]> {
    index.get(&gram(tokens, tokens.len())?).map(Vec::as_slice)
}

/// Proposes the latest follower. The followers before it are the evidence: the confidence is the rate at which they
/// were the same token, with `recurs` counted as one more of them.
fn judge(tokens: &[Token], followers: &[usize], recurs: f32) -> Option<Draft> {
    let (&latest, before) = followers.split_last()?;
    let token = *tokens.get(latest)?;
    let evidence = before.get(before.len().saturating_sub(JUDGED - 1)..)?;
    let agreeing = evidence.iter().filter(|&&position| tokens.get(position) == Some(&token)).count();
    Some(Draft { token, confidence: (agreeing as f32 + recurs) / (evidence.len() as f32 + 1.0) })
}
