//! Grammars: what an answer must look like.
//!
//! A grammar is a sampling parameter like the others: it is told by its text, and what it allows is a function of that text
//! and the tokens generated so far. What compiles a text is outside the core ([`Constraint`]); device and server use the
//! same. Before anything else is done to the logits, those of tokens that the grammar forbids become -inf.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use super::{Context, TokenSet};
use crate::Token;

/// A grammar as a text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum GrammarText {
    /// Any JSON object.
    JsonObject,
    /// JSON that is valid for this JSON schema.
    JsonSchema(String),
    /// A context-free grammar in llguidance's dialect of Lark.
    Lark(String),
    /// A regular expression that the whole answer matches.
    Regex(String),
}

impl GrammarText {
    /// The most bytes that a text may have.
    pub const MAX_BYTES: usize = 64 << 10;

    /// How many bytes the text has.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::JsonObject => 0,
            Self::JsonSchema(text) | Self::Lark(text) | Self::Regex(text) => text.len(),
        }
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A grammar: its text and, once it is compiled, what follows from it. Two grammars are equal if their texts are.
#[derive(Clone)]
pub struct Grammar {
    text: GrammarText,
    constraint: Option<Arc<dyn Constraint>>,
}

impl Grammar {
    /// A grammar that is still to be compiled.
    #[must_use]
    pub fn new(text: GrammarText) -> Self {
        Self { text, constraint: None }
    }

    /// A grammar with what its text was compiled to.
    #[must_use]
    pub fn compiled(text: GrammarText, constraint: Arc<dyn Constraint>) -> Self {
        Self { text, constraint: Some(constraint) }
    }

    /// Any JSON object; still to be compiled.
    #[must_use]
    pub fn json_object() -> Self {
        Self::new(GrammarText::JsonObject)
    }

    /// JSON that is valid for `schema`; still to be compiled.
    #[must_use]
    pub fn json_schema(schema: &str) -> Self {
        Self::new(GrammarText::JsonSchema(schema.to_owned()))
    }

    /// What the Lark grammar `source` describes; still to be compiled.
    #[must_use]
    pub fn lark(source: &str) -> Self {
        Self::new(GrammarText::Lark(source.to_owned()))
    }

    /// What the regular expression `expression` matches; still to be compiled.
    #[must_use]
    pub fn regex(expression: &str) -> Self {
        Self::new(GrammarText::Regex(expression.to_owned()))
    }

    /// The text.
    #[must_use]
    pub fn text(&self) -> &GrammarText {
        &self.text
    }

    /// Whether it can be followed.
    #[must_use]
    pub fn is_compiled(&self) -> bool {
        self.constraint.is_some()
    }

    /// What follows an answer from its beginning; `None` if the grammar is not compiled.
    pub(super) fn follow(&self) -> Option<Follower> {
        let matcher = Arc::clone(self.constraint.as_ref()?).matcher();
        Some(Follower { state: Mutex::new(State { matcher, failure: None }) })
    }
}

impl PartialEq for Grammar {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl fmt::Debug for Grammar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grammar").field("text", &self.text).field("compiled", &self.is_compiled()).finish()
    }
}

/// A compiled grammar. It is shared; what follows one answer is a [`Matcher`] of it.
pub trait Constraint: Send + Sync {
    /// A matcher at the beginning of an answer.
    fn matcher(self: Arc<Self>) -> Box<dyn Matcher>;
}

/// Knows which tokens may come next.
pub trait Matcher: Send {
    /// The tokens that may follow `generated`: a function of the grammar and these tokens, whatever was asked before. Once
    /// the answer may not go on, or is none of the grammar's, they are those that end a generation.
    ///
    /// # Errors
    /// If the grammar has become too complex to be followed; one sentence for the user, without a full stop.
    fn allowed(&mut self, generated: &[Token]) -> Result<&TokenSet, String>;
}

/// A matcher that a sampler asks, whoever holds the sampler.
pub(super) struct Follower {
    state: Mutex<State>,
}

struct State {
    matcher: Box<dyn Matcher>,
    failure: Option<String>,
}

impl Follower {
    /// What `look` sees in the set of tokens that are allowed after `context`; `None` if the grammar cannot be followed.
    pub(super) fn allowed<T>(&self, context: Context<'_>, look: impl FnOnce(&TokenSet) -> T) -> Option<T> {
        let generated = context.tokens.get(context.prompt_len..).unwrap_or_default();
        let State { matcher, failure } = &mut *self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match matcher.allowed(generated) {
            Ok(allowed) => Some(look(allowed)),
            Err(reason) => {
                *failure = Some(reason);
                None
            }
        }
    }

    pub(super) fn failure(&self) -> Option<String> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).failure.clone()
    }
}

impl fmt::Debug for Follower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Follower")
    }
}
