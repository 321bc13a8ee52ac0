//! A vocabulary of bytes, and some tokens more.

use sled_core::Token;
use sled_model::synthetic::{SyntheticToken, SyntheticVocab};
use sled_model::vocabulary::Vocab;

pub const IM_START: Token = 256;
pub const IM_END: Token = 257;
pub const TOOL_CALL: Token = 258;
pub const END_TOOL_CALL: Token = 259;
/// The token `the`, the only ones besides of more than a byte are `th` and `he`.
pub const THE: Token = 262;

/// A vocabulary with the chat template of `template.jinja`, or without any.
pub fn vocabulary(template: bool) -> Vocab {
    made(template.then_some(include_str!("template.jinja")))
}

/// A vocabulary with a chat template or without.
pub fn made(template: Option<&str>) -> Vocab {
    let mut made = SyntheticVocab::bytes();
    let control = ["<|im_start|>", "<|im_end|>"].map(str::to_owned).map(SyntheticToken::Control);
    let text = ["<tool_call>", "</tool_call>", "th", "he", "the"].map(|text| SyntheticToken::Text(text.into()));
    made.tokens.extend(control.into_iter().chain(text));
    made.eos = Some(IM_END);
    made.chat_template = template.map(str::to_owned);
    made.vocab().unwrap()
}
