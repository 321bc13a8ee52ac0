//! A recording as a model and drafters: real drafts and real outputs, at no cost.

use sled_core::Token;
use sled_core::sampler::{Context, Draft, Sampler};
use sled_core::sequence::common_prefix;
use sled_core::step::{CacheOp, Row};
use sled_model::drafter::Drafter;
use sled_model::{Error, Limits, Model};

use crate::recording::{Output, Recording};

/// How many tokens stand in for a prompt. What they are names the output; they are no part of any measurement.
const PROMPT: usize = 2;

/// The outputs of a recording, in a vocabulary of their own that has nothing but their tokens: token `i` is the output's
/// `i`-th different one, so that a row of logits is short.
#[derive(Clone, Debug)]
pub struct Replay {
    outputs: Vec<Output>,
    vocab_size: usize,
}

impl Replay {
    /// Replays `recording`.
    #[must_use]
    pub fn new(recording: &Recording) -> Self {
        let outputs: Vec<Output> = recording.outputs.iter().map(renumber).collect();
        let largest = |output: &Output| {
            let drafts = output.drafts.iter().flat_map(|draft| [draft.token, draft.second]);
            let detours = output.detours.iter().flatten().map(|(token, _)| *token);
            output.tokens.iter().copied().chain(drafts).chain(detours).max().unwrap_or(0) as usize
        };
        let vocab_size = outputs.iter().map(largest).max().unwrap_or(0).max(outputs.len()) + 1;
        Self { outputs, vocab_size }
    }

    /// How many outputs there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.outputs.len()
    }

    /// Whether there is no output.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.outputs.is_empty()
    }

    /// The outputs, in tokens of the replay's vocabulary.
    #[must_use]
    pub fn outputs(&self) -> &[Output] {
        &self.outputs
    }

    /// Tokens in the vocabulary.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// What stands in for the prompt of the output `index`.
    #[must_use]
    pub fn prompt(&self, index: usize) -> Vec<Token> {
        vec![Token::try_from(index).unwrap_or(Token::MAX); PROMPT]
    }

    /// A model whose choices are the recorded ones, with room for `sequences` of them.
    #[must_use]
    pub fn target(&self, sequences: usize) -> ReplayTarget {
        let context = PROMPT + self.outputs.iter().map(|output| output.tokens.len()).max().unwrap_or(0) + 1;
        ReplayTarget { replay: self.clone(), context, cache: vec![Vec::new(); sequences], logits: Vec::new() }
    }

    /// A drafter that proposes what was recorded, for whichever output its text is.
    #[must_use]
    pub fn drafter(&self) -> ReplayDrafter {
        ReplayDrafter(self.clone())
    }

    /// The output that a text continues, and what there is of it.
    fn find<'a>(&self, text: &'a [Token]) -> Option<(&Output, &'a [Token])> {
        let index = usize::try_from(*text.first()?).ok()?;
        Some((self.outputs.get(index)?, text.get(PROMPT..)?))
    }

    /// The recorded choice after `text`; token 0 after what is no beginning of an output.
    fn choice(&self, text: &[Token]) -> Token {
        self.find(text)
            .filter(|(output, rest)| output.tokens.starts_with(rest))
            .and_then(|(output, rest)| output.tokens.get(rest.len()).copied())
            .unwrap_or(0)
    }
}

fn renumber(output: &Output) -> Output {
    let mut known: Vec<Token> = Vec::new();
    let mut number = |token: Token| {
        let at = known.iter().position(|&other| other == token).unwrap_or_else(|| {
            known.push(token);
            known.len() - 1
        });
        Token::try_from(at).unwrap_or(Token::MAX)
    };
    let mut output = output.clone();
    output.tokens.iter_mut().for_each(|token| *token = number(*token));
    for draft in &mut output.drafts {
        draft.token = number(draft.token);
        draft.second = number(draft.second);
    }
    output.detours.iter_mut().flatten().for_each(|(token, _)| *token = number(*token));
    output
}

/// Proposes what was recorded.
#[derive(Clone, Debug)]
pub struct ReplayDrafter(Replay);

impl Drafter for ReplayDrafter {
    fn draft(&mut self, context: Context<'_>, _sampler: &Sampler) -> Result<Option<Draft>, Error> {
        let Some((output, text)) = self.0.find(context.tokens) else { return Ok(None) };
        let right = common_prefix(text, &output.tokens);
        if right == text.len() {
            let draft = output.drafts.get(right);
            return Ok(draft.map(|draft| Draft { token: draft.token, confidence: draft.confidence }));
        }
        // After the first wrong token, which the detour follows.
        let detour = output.detours.get(right).map(Vec::as_slice).unwrap_or_default();
        Ok(detour.get(text.len() - right - 1).map(|&(token, confidence)| Draft { token, confidence }))
    }
}

/// A model whose choices are the recorded ones.
#[derive(Clone, Debug)]
pub struct ReplayTarget {
    replay: Replay,
    context: usize,
    cache: Vec<Vec<Token>>,
    /// The logits of the rows of the last pass, one after the other.
    logits: Vec<f32>,
}

impl ReplayTarget {
    fn sequence(&mut self, sequence: u32) -> Result<&mut Vec<Token>, Error> {
        let sequences = self.cache.len();
        usize::try_from(sequence)
            .ok()
            .and_then(|index| self.cache.get_mut(index))
            .ok_or(Error::UnknownSequence { sequence, sequences })
    }
}

impl Model for ReplayTarget {
    fn limits(&self) -> Limits {
        let sequences = self.cache.len();
        Limits {
            vocab_size: self.replay.vocab_size,
            cells: sequences * (self.context + 64),
            sequences,
            rows: 512,
            context: self.context,
        }
    }

    fn apply(&mut self, op: CacheOp) -> Result<(), Error> {
        match op {
            CacheOp::Truncate { sequence, len } => self.sequence(sequence)?.truncate(len),
            CacheOp::CopyPrefix { from, to, len } => {
                let prefix = self.sequence(from)?.iter().copied().take(len).collect();
                *self.sequence(to)? = prefix;
            }
        }
        Ok(())
    }

    fn forward(&mut self, rows: &[Row]) -> Result<(), Error> {
        self.logits.clear();
        for row in rows {
            self.sequence(row.sequence)?.push(row.token);
            let begin = self.logits.len();
            self.logits.resize(begin + self.replay.vocab_size, 0.0);
            let sequence = row.sequence as usize;
            let choice = self.replay.choice(self.cache.get(sequence).map(Vec::as_slice).unwrap_or_default());
            if let Some(logit) = self.logits.get_mut(begin + choice as usize) {
                *logit = 1.0;
            }
        }
        Ok(())
    }

    fn logits(&self, row: usize) -> Result<&[f32], Error> {
        let begin = row * self.replay.vocab_size;
        self.logits.get(begin..begin + self.replay.vocab_size).ok_or(Error::NoLogits(row))
    }
}
