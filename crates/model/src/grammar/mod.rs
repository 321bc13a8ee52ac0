//! Grammars: compiles their texts, with llguidance, to what the core's sampler asks.
//!
//! Device and server compile the same text with the same vocabulary, so that both know the same tokens to be allowed. What
//! is allowed is a function of the text and the tokens generated so far: whatever depends on anything else (a limit on
//! tokens, stop strings) is refused.

mod depth;
mod references;
mod request;

use std::collections::VecDeque;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::panic_utils::catch_unwind;
use llguidance::{JsonCompileOptions, ParserFactory, TokenParser};
pub use references::resolve_references;
use sled_core::Token;
use sled_core::sampler::{Constraint, Grammar, GrammarText, Matcher, TokenSet};
use sled_core::sequence::common_prefix;
use toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};

use crate::Error;
use crate::vocabulary::Vocab;

/// How many compiled grammars are kept for the next request that has the same.
const KEPT: usize = 16;

/// The longest token that the library takes, in bytes.
const LONGEST_TOKEN: usize = 1024;

/// White space between the parts of a JSON text: a space, or a line break with some indentation. Where any is allowed, models
/// that do not know how to go on fill the answer with it (the same rule as llama.cpp's).
const WHITE_SPACE: &str = r" |\n{1,2}[ \t]{0,20}";

/// Compiles grammars for one vocabulary. It is made at once; what it needs of the vocabulary is prepared with the first grammar,
/// or before it ([`Compiler::prepare`]).
pub struct Compiler {
    pieces: Box<dyn Fn() -> Vec<Vec<u8>> + Send + Sync>,
    end_of_generation: Arc<[Token]>,
    factory: OnceLock<Result<ParserFactory, String>>,
    kept: Mutex<VecDeque<Grammar>>,
}

impl Compiler {
    /// A compiler for `vocab`.
    #[must_use]
    pub fn new(vocab: &Vocab) -> Self {
        let end_of_generation = vocab.eog_tokens().to_vec();
        let vocab = vocab.clone();
        Self::with_pieces(&end_of_generation, move || (0..vocab.size()).map(|token| piece(&vocab, token)).collect())
    }

    /// A compiler for a vocabulary whose tokens stand for these bytes: those of token `i` are at index `i`, and none where it
    /// stands for nothing in a text.
    #[must_use]
    pub fn with_pieces(end_of_generation: &[Token], pieces: impl Fn() -> Vec<Vec<u8>> + Send + Sync + 'static) -> Self {
        Self {
            pieces: Box::new(pieces),
            end_of_generation: end_of_generation.into(),
            factory: OnceLock::new(),
            kept: Mutex::default(),
        }
    }

    /// Prepares what the first grammar needs of the vocabulary, which takes seconds where that is large. A grammar that comes
    /// meanwhile waits for it.
    pub fn prepare(&self) {
        let _kept = self.factory();
    }

    /// Compiles `grammar`, if it is not compiled. It takes milliseconds, a fraction of a second for a large one, and seconds if
    /// nothing is prepared: too long for a thread that others wait for.
    ///
    /// # Errors
    /// [`Error::Grammar`] if the text is no grammar, or too large or complex a one.
    pub fn compile(&self, grammar: &Grammar) -> Result<Grammar, Error> {
        if grammar.is_compiled() {
            return Ok(grammar.clone());
        }
        if let Some(kept) = self.keep(|kept| kept.iter().find(|kept| *kept == grammar).cloned()) {
            return Ok(kept);
        }
        let parser = self.parser(grammar.text()).map_err(Error::Grammar)?;
        let constraint = Compiled::new(parser, Arc::clone(&self.end_of_generation));
        let compiled = Grammar::compiled(grammar.text().clone(), Arc::new(constraint));
        self.keep(|kept| {
            kept.truncate(KEPT - 1);
            kept.push_front(compiled.clone());
        });
        Ok(compiled)
    }

    fn keep<T>(&self, f: impl FnOnce(&mut VecDeque<Grammar>) -> T) -> T {
        f(&mut self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn parser(&self, text: &GrammarText) -> Result<TokenParser, String> {
        let (len, most) = (text.len(), GrammarText::MAX_BYTES);
        if len > most {
            return Err(format!("its text has {len} bytes, and at most {most} are allowed"));
        }
        depth::check(text)?;
        let factory = self.factory().as_ref().map_err(String::clone)?;
        let top = top_level(text)?;
        let mut parser = factory.create_parser(top).map_err(|error| brief(&error))?;
        parser.parser.grammar().lexer_spec().check_rollback().map_err(|error| brief(&error))?;
        parser.start_without_prompt();
        Ok(parser)
    }

    fn factory(&self) -> &Result<ParserFactory, String> {
        self.factory.get_or_init(|| self.new_factory())
    }

    fn new_factory(&self) -> Result<ParserFactory, String> {
        let Some(&end) = self.end_of_generation.first() else {
            return Err("the model's vocabulary has no token that ends an answer".to_owned());
        };
        let factory = catch_unwind(AssertUnwindSafe(|| {
            let pieces = (self.pieces)();
            let size = u32::try_from(pieces.len())?;
            let trie = TokTrie::from(&TokRxInfo::new(size, end), &pieces);
            let trie = trie.with_eos_tokens(&self.end_of_generation);
            let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
            let mut factory = ParserFactory::new_simple(&env)?;
            factory.quiet();
            *factory.limits_mut() = ParserLimits { verbose_errors: false, ..ParserLimits::default() };
            Ok(factory)
        }));
        factory.map_err(|error| brief(&error))
    }
}

impl fmt::Debug for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Compiler")
    }
}

/// The bytes that the library knows a token by: what it stands for in a text, or for a control token, which a grammar may
/// name, a mark and its name.
fn piece(vocab: &Vocab, token: usize) -> Vec<u8> {
    let Ok(token) = Token::try_from(token) else { return Vec::new() };
    let mut bytes = vocab.piece(token, false);
    // No text has the byte that marks control tokens.
    if bytes.first() == Some(&TokTrie::SPECIAL_TOKEN_MARKER) {
        return Vec::new();
    }
    if bytes.is_empty() {
        let name = vocab.piece(token, true);
        if !name.is_empty() {
            bytes = [&[TokTrie::SPECIAL_TOKEN_MARKER], &name[..]].concat();
        }
    }
    bytes.truncate(if bytes.len() > LONGEST_TOKEN { 0 } else { LONGEST_TOKEN });
    bytes
}

/// Allows only so much white space in JSON for `schema` as serves its readers, unless the schema itself says how much
/// (llguidance's `x-guidance`). [`Compiler::compile`] does this with schemas, but not with those that a Lark grammar refers to.
pub fn bound_white_space(schema: &mut serde_json::Value) {
    let options = JsonCompileOptions { whitespace_pattern: Some(WHITE_SPACE.to_owned()), ..Default::default() };
    if schema.as_object().is_some_and(|schema| !schema.contains_key("x-guidance")) {
        options.apply_to(schema);
    }
}

fn top_level(text: &GrammarText) -> Result<TopLevelGrammar, String> {
    let json = |mut schema| {
        resolve_references(&mut schema);
        bound_white_space(&mut schema);
        TopLevelGrammar::from_json_schema(schema)
    };
    Ok(match text {
        GrammarText::JsonObject => json(serde_json::json!({"type": "object"})),
        GrammarText::JsonSchema(schema) => {
            json(serde_json::from_str(schema).map_err(|error| format!("the schema is not JSON: {error}"))?)
        }
        GrammarText::Lark(source) => TopLevelGrammar::from_lark(source.clone()),
        GrammarText::Regex(expression) => TopLevelGrammar::from_regex(expression),
    })
}

/// The first line of what the library says.
fn brief(error: &impl fmt::Display) -> String {
    let message = error.to_string();
    message
        .lines()
        .map(str::trim)
        .find(|line| !line.is_empty())
        .unwrap_or("it is not valid")
        .trim_end_matches('.')
        .to_owned()
}

/// A compiled grammar.
struct Compiled {
    /// At the beginning of an answer.
    parser: Mutex<TokenParser>,
    end_of_generation: Arc<[Token]>,
    /// The same, as a set.
    ends: TokenSet,
}

impl Compiled {
    fn new(parser: TokenParser, end_of_generation: Arc<[Token]>) -> Self {
        let last = end_of_generation.iter().max().map_or(0, |&last| last as usize + 1);
        let mut ends = TokenSet::empty(last);
        end_of_generation.iter().for_each(|&token| {
            ends.insert(token);
        });
        Self { parser: Mutex::new(parser), end_of_generation, ends }
    }

    fn parser(&self) -> TokenParser {
        self.parser.lock().unwrap_or_else(PoisonError::into_inner).deep_clone()
    }
}

impl Constraint for Compiled {
    fn matcher(self: Arc<Self>) -> Box<dyn Matcher> {
        Box::new(Follower { constraint: self, parser: None, consumed: Vec::new(), allowed: None })
    }
}

/// Follows one answer.
struct Follower {
    constraint: Arc<Compiled>,
    /// Where the parser stands: after `consumed`. `None` before the first question, and after a failure.
    parser: Option<TokenParser>,
    consumed: Vec<Token>,
    /// What may follow `consumed`, once it was asked for.
    allowed: Option<TokenSet>,
}

impl Follower {
    /// Leads the parser to the end of `generated`, or to where that leaves the grammar; returns what may follow there.
    fn follow(&mut self, generated: &[Token]) -> Result<(), String> {
        let end_of_generation = Arc::clone(&self.constraint.end_of_generation);
        let parser = self.parser.get_or_insert_with(|| self.constraint.parser());
        let keep = common_prefix(&self.consumed, generated);
        if keep < self.consumed.len() {
            parser.rollback(self.consumed.len() - keep).map_err(|error| brief(&error))?;
            self.consumed.truncate(keep);
            self.allowed = None;
        }
        for &token in generated.get(keep..).unwrap_or_default() {
            if end_of_generation.contains(&token) || !parser.validate_token(token).map_err(|error| brief(&error))? {
                break;
            }
            parser.consume_token(token).map_err(|error| brief(&error))?;
            self.consumed.push(token);
            self.allowed = None;
        }
        if self.allowed.is_none() {
            self.allowed = Some(match parser.compute_mask() {
                Ok(mask) => TokenSet::from_words(mask.into()),
                // A dead end: no token makes the text one of the grammar's.
                Err(_) if parser.stop_reason().is_ok() => self.constraint.ends.clone(),
                Err(error) => return Err(brief(&error)),
            });
        }
        Ok(())
    }
}

impl Matcher for Follower {
    fn allowed(&mut self, generated: &[Token]) -> Result<&TokenSet, String> {
        let followed = catch_unwind(AssertUnwindSafe(|| Ok(self.follow(generated))));
        if let Err(reason) = followed.unwrap_or_else(|error| Err(brief(&error))) {
            (self.parser, self.allowed) = (None, None);
            self.consumed.clear();
            return Err(format!("the grammar is too complex to be followed ({reason}); make it simpler"));
        }
        let left = self.consumed.len() < generated.len();
        let ends = &self.constraint.ends;
        Ok(self.allowed.as_ref().filter(|_| !left).unwrap_or(ends))
    }
}
