//! A recording as a model and drafters: real drafts and real outputs, at no cost.

use sled_core::Token;

use crate::recording::{Output, Outputs, Recording};
use crate::texts::{Family, Source, TextDrafter, TextModel, Texts};

/// How many tokens stand in for a prompt. What they are names the output; they are no part of any measurement.
const PROMPT: usize = 2;

/// The outputs of a recording, with short prompts, to be generated and drafted again. A clone shares them.
#[derive(Clone, Debug)]
pub struct Replay {
    outputs: Outputs,
    texts: Texts,
}

impl Replay {
    /// Replays `recording`.
    #[must_use]
    pub fn new(recording: &Recording) -> Self {
        let outputs = Outputs::of(recording);
        let source = Source::Recorded(outputs.clone());
        let family = Family { source, knowledge: 0.0, prompt: Some((PROMPT, PROMPT)) };
        Self { outputs, texts: Texts::new(vec![family], 0, 0) }
    }

    /// How many outputs there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.outputs().len()
    }

    /// Whether there is no output.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.outputs().is_empty()
    }

    /// The outputs, in tokens of the replay's vocabulary.
    #[must_use]
    pub fn outputs(&self) -> &[Output] {
        self.outputs.all()
    }

    /// What stands in for the prompt of the output `index`.
    #[must_use]
    pub fn prompt(&self, index: usize) -> Vec<Token> {
        self.texts.prompt(Token::try_from(index).unwrap_or(Token::MAX))
    }

    /// A model whose choices are the recorded ones, with room for `sequences` of them.
    #[must_use]
    pub fn target(&self, sequences: usize) -> TextModel {
        TextModel::new(self.texts.clone(), sequences)
    }

    /// A drafter that proposes what was recorded, for whichever output its text is.
    #[must_use]
    pub fn drafter(&self) -> TextDrafter {
        TextDrafter::new(self.texts.clone())
    }
}
