//! A backend that answers anything, and keeps to the grammar that it is given.

use llguidance::api::TopLevelGrammar;
use llguidance::{Matcher, ParserFactory};
use sled_api::backend::{Grammar, Job, Refusal};
use toktrie::ApproximateTokEnv;

use super::{Do, Fake, say};

/// A backend that answers anything, and keeps to the grammar that it is given.
pub fn parrot() -> Fake {
    Fake::new(answer)
}

fn answer(job: &Job) -> Result<Vec<Do>, Refusal> {
    let text = match &job.grammar {
        Some(grammar) => constrained(grammar)?,
        None => String::new(),
    };
    if !text.is_empty() {
        return Ok(say(&text));
    }
    let luck = if job.sampling.temperature == 0.0 { 0 } else { job.sampling.seed };
    Ok(say(&format!("Red, green and blue 🦀 are the colours that number {luck} likes.")))
}

/// A short text that `grammar` allows.
fn constrained(grammar: &Grammar) -> Result<String, Refusal> {
    let invalid = |error: &dyn std::fmt::Display| Refusal::Invalid(format!("the grammar is wrong: {error}"));
    let top = match grammar {
        Grammar::JsonObject => TopLevelGrammar::from_json_schema(serde_json::json!({ "type": "object" })),
        Grammar::JsonSchema(schema) => {
            TopLevelGrammar::from_json_schema(serde_json::from_str(schema).map_err(|error| invalid(&error))?)
        }
        Grammar::Lark(lark) => TopLevelGrammar::from_lark(lark.clone()),
    };
    let mut factory = ParserFactory::new_simple(&ApproximateTokEnv::single_byte_env()).unwrap();
    factory.quiet();
    let mut matcher = Matcher::new(factory.create_parser(top));
    if let Some(error) = matcher.get_error() {
        return Err(invalid(&error));
    }
    let mut text = Vec::new();
    while !matcher.is_accepting().unwrap() && text.len() < 2000 {
        let mask = matcher.compute_mask().unwrap();
        // What closes comes first, so that it ends.
        let wanted = b"}]\"<".iter().copied().chain(b'0'..=b'z').chain(0..=255);
        let byte = wanted.into_iter().find(|&byte| mask.is_allowed(byte.into())).unwrap();
        matcher.consume_token(byte.into()).unwrap();
        text.push(byte);
    }
    Ok(String::from_utf8(text).unwrap())
}
