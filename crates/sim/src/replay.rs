//! A recording as a model and drafters: real drafts and real outputs, at no cost.

use std::sync::Arc;

use sled_core::Token;

use crate::recording::{Output, Recording};
use crate::texts::{Family, Source, TextDrafter, TextModel, Texts};

/// How many tokens stand in for a prompt. What they are names the output; they are no part of any measurement.
const PROMPT: usize = 2;

/// The outputs of a recording, in a vocabulary of their own that has nothing but their tokens: token `i` is the output's
/// `i`-th different one, so that a row of logits is short. A clone shares them.
#[derive(Clone, Debug)]
pub struct Replay {
    outputs: Arc<[Output]>,
    vocab_size: usize,
}

impl Replay {
    /// Replays `recording`.
    #[must_use]
    pub fn new(recording: &Recording) -> Self {
        let outputs: Arc<[Output]> = recording.outputs.iter().map(renumber).collect();
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

    /// The recording's texts alone, with short prompts.
    fn texts(&self) -> Texts {
        let prompt = Some((PROMPT, PROMPT));
        let family = Family { source: Source::Recorded(self.clone()), knowledge: 0.0, prompt };
        Texts::new(vec![family], 0, 0)
    }

    /// What stands in for the prompt of the output `index`.
    #[must_use]
    pub fn prompt(&self, index: usize) -> Vec<Token> {
        self.texts().prompt(Token::try_from(index).unwrap_or(Token::MAX))
    }

    /// A model whose choices are the recorded ones, with room for `sequences` of them.
    #[must_use]
    pub fn target(&self, sequences: usize) -> TextModel {
        TextModel::new(self.texts(), sequences)
    }

    /// A drafter that proposes what was recorded, for whichever output its text is.
    #[must_use]
    pub fn drafter(&self) -> TextDrafter {
        TextDrafter::new(self.texts())
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
