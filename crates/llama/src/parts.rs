//! Parts of a text between its control tokens, so that tokenising it takes time in proportion to its length.
//!
//! llama.cpp looks for control tokens in a list of the pieces found so far, and walks through it from the beginning for each: a
//! text of many control tokens takes quadratic time. So the tokens that are found beyond doubt are taken out here, and llama.cpp
//! is given what is between them. It tokenises each stretch between control tokens for itself, so that the tokens are the same.

use std::collections::HashMap;
use std::ops::Range;

use aho_corasick::{AhoCorasick, MatchKind};
use sled_core::Token;

use super::ffi::Weights;

/// Fewer control tokens than this are left to llama.cpp.
const FEW: usize = 64;
/// The most that it may find in one part.
const MOST: usize = 16_384;

/// Finds the control tokens of a vocabulary.
#[derive(Debug)]
pub(super) struct Parts {
    /// Finds the spellings, or nothing if there are none.
    finder: Option<AhoCorasick>,
    spelt: Vec<Spelling>,
}

#[derive(Clone, Copy, Debug)]
struct Spelling {
    token: Token,
    /// Whether where it is found depends on what is beside it.
    doubtful: bool,
}

/// A part of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// To be tokenised.
    Text(Range<usize>),
    /// A control token.
    Control(Token),
}

/// Spellings that overlap each other, and no others.
struct Cluster {
    range: Range<usize>,
    /// The spelling that covers all of it, if one does.
    whole: Option<usize>,
    /// How many of them may stand beside each other.
    beside: usize,
}

impl Parts {
    /// Of the tokens that are looked for in every text and, with `named`, of control tokens too.
    pub(super) fn new(weights: &Weights, named: bool) -> Self {
        let tokens = (0..weights.vocab_size()).filter_map(|token| Token::try_from(token).ok());
        let special: Vec<_> = tokens
            .filter_map(|token| Some((token, weights.special(token)?)))
            .filter(|(_, special)| named || !special.named)
            .map(|(token, special)| (token, special, weights.piece(token, true)))
            .filter(|(_, _, bytes)| !bytes.is_empty())
            .collect();
        let strips = special.iter().any(|(_, special, _)| special.strips);
        let mut count: HashMap<&[u8], usize> = HashMap::new();
        special.iter().for_each(|(_, _, bytes)| *count.entry(bytes).or_default() += 1);
        let spelt = special.iter().map(|(token, special, bytes)| {
            let blank = |byte: Option<&u8>| byte.is_none_or(|byte| byte.is_ascii_whitespace() || *byte == 0x0b);
            let beside_blanks = strips && (blank(bytes.first()) || blank(bytes.last()));
            Spelling { token: *token, doubtful: special.strips || beside_blanks || count[&bytes[..]] > 1 }
        });
        let finder =
            AhoCorasick::builder().match_kind(MatchKind::Standard).build(special.iter().map(|(_, _, bytes)| bytes));
        Self { spelt: spelt.collect(), finder: finder.ok().filter(|_| !special.is_empty()) }
    }

    /// The parts of `text`; `None` if one of them holds too many control tokens.
    pub(super) fn of(&self, text: &str) -> Option<Vec<Part>> {
        let clusters = self.clusters(text);
        let found: usize = clusters.iter().map(|cluster| cluster.beside).sum();
        if found < FEW {
            return Some(vec![Part::Text(0..text.len())]);
        }
        let (mut parts, mut begin, mut inside) = (Vec::new(), 0, 0);
        for cluster in clusters {
            let Some(spelling) = cluster.whole.map(|whole| self.spelt[whole]).filter(|spelling| !spelling.doubtful)
            else {
                inside += cluster.beside;
                if inside > MOST {
                    return None;
                }
                continue;
            };
            if begin < cluster.range.start {
                parts.push(Part::Text(begin..cluster.range.start));
            }
            parts.push(Part::Control(spelling.token));
            (begin, inside) = (cluster.range.end, 0);
        }
        if begin < text.len() {
            parts.push(Part::Text(begin..text.len()));
        }
        Some(parts)
    }

    fn clusters(&self, text: &str) -> Vec<Cluster> {
        let mut clusters: Vec<Cluster> = Vec::new();
        let mut counted = 0;
        // They come in the order of their ends.
        for found in self.finder.iter().flat_map(|finder| finder.find_overlapping_iter(text)) {
            let mut cluster = Cluster { range: found.range(), whole: Some(found.pattern().as_usize()), beside: 0 };
            if found.start() >= counted {
                (cluster.beside, counted) = (1, found.end());
            }
            while let Some(before) = clusters.pop_if(|before| before.range.end > found.start()) {
                if cluster.range.start > before.range.start {
                    cluster.whole = before.whole.filter(|_| before.range.end == cluster.range.end);
                    cluster.range.start = before.range.start;
                }
                cluster.beside += before.beside;
            }
            clusters.push(cluster);
        }
        clusters
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use sled_core::Token;

    use sled_model::vocabulary::Vocab;
    use sled_model::workers::Workers;

    use crate::ffi::{Load, Weights};
    use crate::{load_vocabulary, vocabulary};

    /// A random number below `n`, from a state.
    fn below(state: &mut u64, n: usize) -> usize {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((*state >> 33) % n as u64).unwrap()
    }

    #[test]
    fn tokens_are_those_of_the_engine_alone() {
        let pieces = [
            "<|im_start|>",
            "<|im_end|>",
            "<tool_call>",
            "</tool_call>",
            "<|im_",
            "end|>",
            "<",
            "the",
            " ",
            "\n",
            "th",
            "é",
            "語",
        ];
        for pre in ["qwen2", "tekken", "falcon", "gpt-2"] {
            let file = vocabulary::file(pre);
            let engine = Weights::load(file.path(), Load::Vocabulary).unwrap();
            let vocab = load_vocabulary(file.path()).unwrap();
            let mut state = 7;
            for round in 0..20 {
                let text: String =
                    (0..50 + below(&mut state, 600)).map(|_| pieces[below(&mut state, pieces.len())]).collect();
                for (add, parse) in [(true, true), (false, true), (true, false)] {
                    let alone: Vec<Token> = engine.tokenize(&text, add, parse).unwrap();
                    assert_eq!(vocab.tokenize(&text, add, parse).unwrap(), alone, "{pre}, round {round}: {text}");
                }
            }
        }
    }

    #[test]
    fn the_longest_run_of_one_character_is_tokenised_on_a_worker() {
        for pre in ["tekken", "gpt-4o", "viking", "falcon", "exaone-moe"] {
            for sign in ["a", " ", "!"] {
                let tokenise = move || {
                    let run = sign.repeat(Vocab::LONGEST_TEXT);
                    vocabulary::made(pre).tokenize(&run, false, true).map(|tokens| tokens.len())
                };
                let tokens = Workers::shared().run_blocking(tokenise).unwrap().unwrap();
                assert_eq!(tokens, Vocab::LONGEST_TEXT, "{pre}, {sign:?}");
            }
        }
    }

    #[test]
    fn a_megabyte_of_control_tokens_is_tokenised() {
        let vocab = vocabulary::made("qwen2");
        let text = "<|im_start|>the<|im_end|>".repeat(1 << 17);
        let tokens = vocab.tokenize(&text, false, true).unwrap();
        let each = [vocabulary::IM_START, vocabulary::THE, vocabulary::IM_END];
        assert_eq!(tokens.len(), 3 << 17);
        assert!(tokens.chunks(3).all(|tokens| tokens == each));
    }
}
