//! Recorded drafts: what a real drafter proposed at every position of real target outputs.
//!
//! A committed output depends on nothing but the target, so a drafter's proposal at every position of it can be recorded once
//! and replayed at any device speed, network and load, with the acceptance of the real pair. Where the drafter was wrong, what
//! it would have drafted next is recorded too: a device goes on drafting until it learns of the mistake.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sled_core::Token;
use sled_core::sampler::Draft;
use sled_core::sequence::common_prefix;

use crate::Error;

/// Real drafts for a set of prompts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Recording {
    /// The command that made it.
    pub command: String,
    /// The target model.
    pub target: String,
    /// The draft model.
    pub draft: String,
    /// One output for each prompt, greedy.
    pub outputs: Vec<Output>,
}

/// The target's answer to one prompt, and what the drafter proposed along it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Output {
    /// What kind of prompt it was.
    pub kind: String,
    /// How many tokens the prompt had.
    pub prompt_len: usize,
    /// The target's own tokens.
    pub tokens: Vec<Token>,
    /// What the drafter proposed for the position of each token, all before it being the target's.
    pub drafts: Vec<Proposal>,
    /// What it proposed after each wrong proposal, in order of position: empty where it was right.
    pub detours: Vec<Vec<(Token, f32)>>,
}

/// A proposal, and what the drafter's distribution tells about it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Proposal {
    /// The proposed token.
    pub token: Token,
    /// Its probability.
    pub confidence: f32,
    /// The likeliest other token.
    pub second: Token,
    /// The entropy of the distribution, in nats.
    pub entropy: f32,
    /// By how much the likeliest token is more probable than the second.
    pub margin: f32,
}

impl Output {
    /// What the drafter proposes after `text`, which is an answer up to some token.
    #[must_use]
    pub fn draft(&self, text: &[Token]) -> Option<Draft> {
        self.draft_after(text.len(), common_prefix(text, &self.tokens))
    }

    /// What the drafter proposes after `len` tokens, of which the first `right` are the target's. After a wrong one the recorded
    /// detour follows; where that ends, what was proposed after the target's own tokens stands in for it.
    #[must_use]
    pub fn draft_after(&self, len: usize, right: usize) -> Option<Draft> {
        let detour = self.detours.get(right).filter(|_| right < len);
        let detour = detour.and_then(|detour| detour.get(len - right - 1));
        let draft = |proposal: &Proposal| Draft { token: proposal.token, confidence: proposal.confidence };
        match detour {
            Some(&(token, confidence)) => Some(Draft { token, confidence }),
            None => self.drafts.get(len).map(draft),
        }
    }
}

impl Recording {
    /// Reads a recording.
    ///
    /// # Errors
    /// If the file cannot be read, or is none.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let at = |reason: String| Error::Recording { path: PathBuf::from(path), reason };
        let text = std::fs::read_to_string(path).map_err(|error| at(error.to_string()))?;
        let recording: Self = serde_json::from_str(&text).map_err(|error| at(error.to_string()))?;
        for output in &recording.outputs {
            if output.drafts.len() != output.tokens.len() || output.detours.len() != output.tokens.len() {
                return Err(at("an output has not as many drafts as tokens".to_owned()));
            }
        }
        Ok(recording)
    }
}

/// The outputs of a recording, in a vocabulary of their own that has nothing but their tokens: token `i` is the output's
/// `i`-th different one, so that a row of logits is short. A clone shares them.
#[derive(Clone, Debug)]
pub struct Outputs {
    all: Arc<[Output]>,
    vocab_size: usize,
}

impl Outputs {
    /// The outputs of `recording`.
    #[must_use]
    pub fn of(recording: &Recording) -> Self {
        let all: Arc<[Output]> = recording.outputs.iter().map(renumber).collect();
        let largest = |output: &Output| {
            let drafts = output.drafts.iter().flat_map(|draft| [draft.token, draft.second]);
            let detours = output.detours.iter().flatten().map(|(token, _)| *token);
            output.tokens.iter().copied().chain(drafts).chain(detours).max().unwrap_or(0) as usize
        };
        let vocab_size = all.iter().map(largest).max().unwrap_or(0).max(all.len()) + 1;
        Self { all, vocab_size }
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> &[Output] {
        &self.all
    }

    /// The output `index`, which begins again after the last; `None` if there is no output.
    #[must_use]
    pub fn cycle(&self, index: usize) -> Option<&Output> {
        self.all.get(index % self.all.len().max(1))
    }

    /// Tokens in the vocabulary.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
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
