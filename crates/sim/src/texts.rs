//! The texts that a simulated target generates, and the drafts along them: recorded, or drawn at random.
//!
//! The target's choice at a place of an answer depends on the answer and the place alone, so that a model need not keep any
//! tokens, and whatever text a lost connection leaves can be gone on with. An answer has a number, which its prompt spells; so
//! model and drafters know what to say without being told.

use std::sync::Arc;

use sled_core::Token;
use sled_core::sampler::{Context, Draft, Sampler};
use sled_core::step::{CacheOp, Row};
use sled_model::drafter::Drafter;
use sled_model::{Error, Limits, Model};

use crate::recording::{Output, Outputs};
use crate::rng::{mix, unit};

/// Tokens in the vocabulary of drawn texts.
const VOCAB: u64 = 8;

/// Texts with one drafter.
#[derive(Clone, Debug)]
pub struct Family {
    /// Where answers and drafts come from.
    pub source: Source,
    /// With this probability the drafter knows whether its draft is right, and its confidence says so: 1 or 0. It is the share
    /// of the variance of being right that such a confidence explains.
    pub knowledge: f64,
    /// The least and the most tokens of a prompt; as recorded, if there are none.
    pub prompt: Option<(usize, usize)>,
}

/// Where answers and drafts come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A recording.
    Recorded(Outputs),
    /// Each draft is right with this probability, whatever the others are, and the drafter's confidence is that probability.
    Drawn {
        /// The probability that a draft is right.
        acceptance: f64,
        /// The least and the most tokens of an answer.
        answer: (usize, usize),
    },
}

impl Source {
    /// How many different answers there are before they repeat.
    #[must_use]
    pub fn answers(&self) -> usize {
        match self {
            Self::Recorded(outputs) => outputs.all().len().max(1),
            Self::Drawn { .. } => 1,
        }
    }
}

/// All texts of a simulation. Answer `number` is of the family `number % families`. A clone shares them.
#[derive(Clone, Debug)]
pub struct Texts(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    families: Vec<Family>,
    shared: usize,
    seed: u64,
    vocab_size: usize,
    /// Rows of logits with one 1, for every token: the row of token `t` begins at `vocab_size - 1 - t`.
    one_hot: Vec<f32>,
    longest: usize,
}

impl Texts {
    /// The texts of `families`, whose prompts begin with the same `shared` tokens. The seed decides what is drawn.
    #[must_use]
    pub fn new(families: Vec<Family>, shared: usize, seed: u64) -> Self {
        let vocab = |family: &Family| match &family.source {
            Source::Recorded(outputs) => outputs.vocab_size(),
            Source::Drawn { .. } => VOCAB as usize,
        };
        let vocab_size = families.iter().map(vocab).max().unwrap_or(1);
        let mut one_hot = vec![0.0; 2 * vocab_size - 1];
        one_hot[vocab_size - 1] = 1.0;
        let longest = families.iter().map(|family| family.longest(shared)).max().unwrap_or(0);
        Self(Arc::new(Inner { families, shared, seed, vocab_size, one_hot, longest }))
    }

    /// How many families there are.
    #[must_use]
    pub fn families(&self) -> &[Family] {
        &self.0.families
    }

    /// The longest that a prompt and its answer get together.
    #[must_use]
    pub fn longest(&self) -> usize {
        self.0.longest
    }

    /// What all prompts begin with.
    #[must_use]
    pub fn shared(&self) -> Vec<Token> {
        vec![0; self.0.shared]
    }

    /// The prompt of the answer `number`.
    #[must_use]
    pub fn prompt(&self, number: Token) -> Vec<Token> {
        let mut prompt = vec![number; self.prompt_len(number)];
        prompt.iter_mut().take(self.0.shared).for_each(|token| *token = 0);
        prompt
    }

    /// How many tokens the answer `number` has.
    #[must_use]
    pub fn answer_len(&self, number: Token) -> usize {
        let Some((family, index)) = self.find(number) else { return 0 };
        match &family.source {
            Source::Recorded(outputs) => outputs.cycle(index).map_or(0, |output| output.tokens.len()),
            Source::Drawn { answer, .. } => self.between(*answer, number, 0),
        }
    }

    fn prompt_len(&self, number: Token) -> usize {
        let Some((family, index)) = self.find(number) else { return 0 };
        let len = match (family.prompt, &family.source) {
            (Some(range), _) => self.between(range, number, 1),
            (None, Source::Recorded(outputs)) => outputs.cycle(index).map_or(0, |output| output.prompt_len),
            (None, Source::Drawn { .. }) => 0,
        };
        len.max(self.0.shared + 1)
    }

    /// A whole number in `range`, drawn for an answer.
    fn between(&self, range: (usize, usize), number: Token, what: u64) -> usize {
        let span = range.1.saturating_sub(range.0) as u64 + 1;
        range.0 + (self.hash(number, u64::MAX - what) % span) as usize
    }

    fn find(&self, number: Token) -> Option<(&Family, usize)> {
        let families = &self.0.families;
        let number = number as usize;
        Some((families.get(number % families.len().max(1))?, number / families.len().max(1)))
    }

    fn hash(&self, number: Token, what: u64) -> u64 {
        mix(mix(mix(self.0.seed) ^ u64::from(number)) ^ what)
    }

    /// The target's choice for the place `at` of the answer `number`.
    fn choice(&self, number: Token, at: usize) -> Token {
        let Some((family, index)) = self.find(number) else { return 0 };
        match &family.source {
            Source::Recorded(outputs) => {
                outputs.cycle(index).and_then(|output| output.tokens.get(at).copied()).unwrap_or(0)
            }
            Source::Drawn { .. } => (self.hash(number, at as u64) % VOCAB) as Token,
        }
    }

    /// What is drafted after `text`, an answer of which the first `right` tokens are known to be the target's; and how many of
    /// them are.
    fn draft(&self, number: Token, text: &[Token], mut right: usize) -> (Option<Draft>, usize) {
        let Some((family, index)) = self.find(number) else { return (None, 0) };
        let at = text.len();
        let draft = match &family.source {
            Source::Recorded(outputs) => {
                let Some(output) = outputs.cycle(index) else { return (None, 0) };
                let rest = |right: usize| text.get(right..).unwrap_or_default().iter();
                right = right.min(at);
                right += rest(right).zip(output.tokens.iter().skip(right)).take_while(|(a, b)| a == b).count();
                output.draft_after(at, right)
            }
            Source::Drawn { acceptance, .. } => {
                let choice = self.choice(number, at);
                let is_right = unit(self.hash(number, at as u64 | 1 << 40)) < *acceptance;
                let token = if is_right { choice } else { (choice + 1) % VOCAB as Token };
                Some(Draft { token, confidence: *acceptance as f32 })
            }
        };
        let knows = family.knowledge > 0.0 && unit(self.hash(number, at as u64 | 1 << 41)) < family.knowledge;
        let truth = |draft: Draft| f32::from(u8::from(draft.token == self.choice(number, at)));
        let told = |draft: Draft| Draft { confidence: if knows { truth(draft) } else { draft.confidence }, ..draft };
        (draft.map(told), right)
    }
}

impl Family {
    fn longest(&self, shared: usize) -> usize {
        let (prompt, answer) = match &self.source {
            Source::Recorded(outputs) => {
                let longest = |of: fn(&Output) -> usize| outputs.all().iter().map(of).max();
                (longest(|output| output.prompt_len), longest(|output| output.tokens.len()))
            }
            Source::Drawn { answer, .. } => (None, Some(answer.1)),
        };
        let prompt = self.prompt.map(|(_, most)| most).or(prompt).unwrap_or(0);
        prompt.max(shared + 1) + answer.unwrap_or(0)
    }
}

/// Drafts along the texts.
#[derive(Clone, Debug)]
pub struct TextDrafter {
    texts: Texts,
    /// The answer that was drafted last, and how many of its tokens were the target's.
    last: (Token, usize),
}

impl TextDrafter {
    /// A drafter for `texts`.
    #[must_use]
    pub fn new(texts: Texts) -> Self {
        Self { texts, last: (0, 0) }
    }
}

impl Drafter for TextDrafter {
    fn draft(&mut self, context: Context<'_>, _sampler: &Sampler) -> Result<Option<Draft>, Error> {
        let Some(&number) = context.tokens.get(self.texts.0.shared) else { return Ok(None) };
        let text = context.tokens.get(self.texts.prompt_len(number)..).unwrap_or_default();
        let known = if self.last.0 == number { self.last.1 } else { 0 };
        let (draft, right) = self.texts.draft(number, text, known);
        self.last = (number, right);
        Ok(draft)
    }
}

/// A model that generates the texts.
#[derive(Clone, Debug)]
pub struct TextModel {
    texts: Texts,
    cache: Vec<Cached>,
    /// What was chosen after each row of the last pass.
    choices: Vec<Token>,
}

/// What is known of a sequence: its length, and which answer it is, once that was said.
#[derive(Clone, Copy, Debug, Default)]
struct Cached {
    len: usize,
    number: Option<Token>,
}

impl TextModel {
    /// A model with room for `sequences` of the texts.
    #[must_use]
    pub fn new(texts: Texts, sequences: usize) -> Self {
        Self { texts, cache: vec![Cached::default(); sequences], choices: Vec::new() }
    }

    fn sequence(&mut self, sequence: u32) -> Result<&mut Cached, Error> {
        let sequences = self.cache.len();
        usize::try_from(sequence)
            .ok()
            .and_then(|index| self.cache.get_mut(index))
            .ok_or(Error::UnknownSequence { sequence, sequences })
    }
}

impl Model for TextModel {
    fn limits(&self) -> Limits {
        let sequences = self.cache.len();
        let context = self.texts.longest() + 1;
        Limits { vocab_size: self.texts.0.vocab_size, cells: sequences * (context + 64), sequences, rows: 512, context }
    }

    fn apply(&mut self, op: CacheOp) -> Result<(), Error> {
        let shared = self.texts.0.shared;
        let number = |cached: Cached, len| cached.number.filter(|_| len > shared);
        match op {
            CacheOp::Truncate { sequence, len } => {
                let cached = self.sequence(sequence)?;
                if len > cached.len {
                    return Err(Error::CacheLength { sequence, len, have: cached.len });
                }
                *cached = Cached { len, number: number(*cached, len) };
            }
            CacheOp::CopyPrefix { from, to, len } => {
                let donor = *self.sequence(from)?;
                if len > donor.len {
                    return Err(Error::CacheLength { sequence: from, len, have: donor.len });
                }
                *self.sequence(to)? = Cached { len, number: number(donor, len) };
            }
        }
        Ok(())
    }

    fn forward(&mut self, rows: &[Row]) -> Result<(), Error> {
        self.choices.clear();
        let shared = self.texts.0.shared;
        for &Row { sequence, position, token, .. } in rows {
            let cached = self.sequence(sequence)?;
            if position != cached.len {
                return Err(Error::Position { sequence, position, len: cached.len });
            }
            if cached.len == shared {
                cached.number = Some(token);
            }
            cached.len += 1;
            let &mut Cached { len, number } = cached;
            let choice = number.map(|number| {
                let at = len.saturating_sub(self.texts.prompt_len(number));
                self.texts.choice(number, at)
            });
            self.choices.push(choice.unwrap_or(0));
        }
        Ok(())
    }

    fn logits(&self, row: usize) -> Result<&[f32], Error> {
        let vocab_size = self.texts.0.vocab_size;
        let choice = self.choices.get(row).ok_or(Error::NoLogits(row))?;
        let begin = vocab_size.saturating_sub(1 + *choice as usize);
        self.texts.0.one_hot.get(begin..begin + vocab_size).ok_or(Error::NoLogits(row))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(acceptance: f64, knowledge: f64) -> Texts {
        let source = Source::Drawn { acceptance, answer: (40_000, 40_000) };
        Texts::new(vec![Family { source, knowledge, prompt: Some((3, 3)) }], 0, 1)
    }

    #[test]
    fn the_model_chooses_what_the_texts_say_and_checks_positions() {
        let texts = drawn(0.5, 0.0);
        let mut model = TextModel::new(texts.clone(), 1);
        let row = |position, token| Row { sequence: 0, position, token, wants_logits: true };
        let prompt: Vec<Row> = texts.prompt(5).into_iter().enumerate().map(|(at, token)| row(at, token)).collect();
        assert!(model.forward(&prompt).is_ok());
        let logits = model.logits(2).unwrap_or_default();
        assert_eq!(logits.iter().position(|&logit| logit == 1.0), Some(texts.choice(5, 0) as usize));
        assert_eq!((logits.len(), logits.iter().sum::<f32>()), (VOCAB as usize, 1.0));
        assert!(model.forward(&[row(7, 0)]).is_err());
    }

    #[test]
    fn drafts_are_right_as_often_as_stated_and_known_as_often_as_stated() {
        for (acceptance, knowledge) in [(0.7, 0.0), (0.7, 0.4), (0.2, 1.0)] {
            let texts = drawn(acceptance, knowledge);
            let text: Vec<Token> = vec![0; 40_000];
            let drafts: Vec<(Draft, bool)> = (0..text.len())
                .filter_map(|at| Some((texts.draft(9, &text[..at], 0).0?, texts.choice(9, at))))
                .map(|(draft, choice)| (draft, draft.token == choice))
                .collect();
            let share = |of: &dyn Fn(&(Draft, bool)) -> bool| {
                drafts.iter().filter(|draft| of(draft)).count() as f64 / drafts.len() as f64
            };
            assert!((share(&|draft| draft.1) - acceptance).abs() < 0.01);
            let known = share(&|(draft, right)| draft.confidence == f32::from(u8::from(*right)));
            assert!((known - knowledge).abs() < 0.01, "{known} {knowledge}");
        }
    }
}
