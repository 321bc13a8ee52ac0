//! Chats to tokens: what a template writes may be control tokens; what people wrote, and it only passes on, never is.

use std::collections::HashSet;
use std::ops::Range;

use aho_corasick::AhoCorasick;
use serde_json::{Map, Value};
use sled_core::Token;

use crate::Error;
use crate::chat::{Extras, Renderer, Template, TemplateSource};
use crate::vocabulary::Vocab;

/// A vocabulary's chat template, and how its prompts become tokens.
#[derive(Debug)]
pub struct ChatPrompts {
    vocab: Vocab,
    template: Template,
    names: Names,
}

impl ChatPrompts {
    /// The chat template of a vocabulary, which `renderer` is to render; `None` if it has none.
    ///
    /// # Errors
    /// If the template is not valid.
    pub fn of(vocab: &Vocab, renderer: &Renderer) -> Result<Option<Self>, Error> {
        let Some(source) = TemplateSource::of(vocab) else { return Ok(None) };
        let template = renderer.compile(source)?;
        Ok(Some(Self { names: Names::of(vocab)?, vocab: vocab.clone(), template }))
    }

    /// The tokens of a chat, as [`Template::render`] renders it. Control tokens are those that the template itself
    /// writes: where messages, tools or variables spell one, it is text.
    ///
    /// With `add_special`, what the model wants at the ends of a text is added.
    ///
    /// # Errors
    /// If the template refuses the messages, or makes more than `longest` bytes of them.
    pub fn tokens(
        &self,
        mut messages: Vec<Value>,
        mut extras: Extras,
        add_generation_prompt: bool,
        add_special: bool,
        longest: usize,
    ) -> Result<Vec<Token>, Error> {
        let render = |messages: &[Value], extras: &Extras| {
            let text = self.template.render(messages, extras, add_generation_prompt)?;
            if text.len() > longest { Err(Error::TextTooLong { bytes: text.len() }) } else { Ok(text) }
        };
        let spelt = {
            let texts = messages.iter().chain(&extras.tools).chain(extras.variables.values());
            texts.into_iter().any(|value| self.names.are_in(value))
        };
        if !spelt {
            let text = render(&messages, &extras)?;
            return self.vocab.tokenize(&text, add_special, true);
        }
        let mark = self.unused(&messages, &extras)?;
        let values = messages.iter_mut().chain(&mut extras.tools).chain(extras.variables.values_mut());
        values.for_each(|value| self.names.mark(value, mark));
        let text = render(&messages, &extras)?;
        let mut tokens = Vec::new();
        for piece in self.names.cut(&text, mark) {
            match piece {
                Piece::Template(text) => tokens.extend(self.vocab.tokenize(text, false, true)?),
                Piece::Plain(text) => tokens.extend(self.vocab.tokenize(&text, false, false)?),
            }
        }
        if add_special {
            let ends = self.vocab.tokenize("", true, false)?;
            let (before, after) = ends.split_at(usize::from(self.vocab.add_bos()).min(ends.len()));
            tokens = [before, &tokens, after].concat();
        }
        Ok(tokens)
    }

    /// A character for private use that is in no text that a prompt is made of.
    fn unused(&self, messages: &[Value], extras: &Extras) -> Result<char, Error> {
        let mut used = HashSet::new();
        let mut see = |text: &str| {
            used.extend(text.chars().filter(|character| PRIVATE.iter().any(|area| area.contains(character))))
        };
        messages
            .iter()
            .chain(&extras.tools)
            .chain(extras.variables.values())
            .for_each(|value| each_text(value, &mut see));
        extras.variables.keys().for_each(|name| see(name));
        see(self.vocab.chat_template().unwrap_or_default());
        self.names.all.iter().for_each(|name| see(name));
        PRIVATE.into_iter().flatten().find(|character| !used.contains(character)).ok_or_else(|| {
            Error::ChatTemplate("the messages have every character for private use; leave one of them out".to_owned())
        })
    }
}

/// Where Unicode has no characters of its own.
const PRIVATE: [std::ops::RangeInclusive<char>; 3] =
    ['\u{e000}'..='\u{f8ff}', '\u{f0000}'..='\u{ffffd}', '\u{100000}'..='\u{10fffd}'];

/// A part of a rendered prompt.
#[derive(Debug, PartialEq, Eq)]
enum Piece<'a> {
    /// The control tokens that it spells are meant.
    Template(&'a str),
    /// It spells control tokens that are not meant.
    Plain(String),
}

/// The names of all control tokens.
#[derive(Debug)]
struct Names {
    all: Vec<String>,
    finder: AhoCorasick,
}

impl Names {
    fn of(vocab: &Vocab) -> Result<Self, Error> {
        let tokens = 0..Token::try_from(vocab.size()).unwrap_or(Token::MAX);
        let control = tokens.filter(|&token| vocab.piece(token, false).is_empty());
        let names = control.filter_map(|token| String::from_utf8(vocab.piece(token, true)).ok());
        Self::new(names.filter(|name| !name.is_empty()).collect())
    }

    fn new(all: Vec<String>) -> Result<Self, Error> {
        let finder = AhoCorasick::new(&all).map_err(|error| Error::ChatTemplate(error.to_string()))?;
        Ok(Self { all, finder })
    }

    /// Whether any text in `value` has one.
    fn are_in(&self, value: &Value) -> bool {
        let mut found = false;
        each_text(value, &mut |text| found = found || self.finder.is_match(text));
        found
    }

    /// Puts `mark` into all names in the texts of `value`, after the first character.
    fn mark(&self, value: &mut Value, mark: char) {
        match value {
            Value::String(text) => self.mark_text(text, mark),
            Value::Array(values) => values.iter_mut().for_each(|value| self.mark(value, mark)),
            Value::Object(members) => {
                let marked = std::mem::take(members).into_iter().map(|(mut key, mut value)| {
                    self.mark_text(&mut key, mark);
                    self.mark(&mut value, mark);
                    (key, value)
                });
                *members = marked.collect::<Map<_, _>>();
            }
            _ => {}
        }
    }

    fn mark_text(&self, text: &mut String, mark: char) {
        let first = |at: usize| text.get(at..).and_then(|rest| rest.chars().next()).map_or(0, char::len_utf8);
        let mut places: Vec<usize> = self
            .finder
            .find_overlapping_iter(text.as_str())
            .map(|found| found.start() + first(found.start()))
            .collect();
        if places.is_empty() {
            return;
        }
        places.sort_unstable();
        places.dedup();
        let mut marked = String::with_capacity(text.len() + places.len() * mark.len_utf8());
        let mut from = 0;
        for place in places {
            marked.push_str(text.get(from..place).unwrap_or_default());
            marked.push(mark);
            from = place;
        }
        marked.push_str(text.get(from..).unwrap_or_default());
        *text = marked;
    }

    /// Cuts a rendered prompt next to control tokens of the template, so that marks and control tokens are in different pieces.
    /// A tokeniser splits a text there anyway.
    fn cut<'a>(&self, text: &'a str, mark: char) -> Vec<Piece<'a>> {
        let control: Vec<Range<usize>> = self
            .finder
            .find_overlapping_iter(text)
            .map(|found| found.range())
            // A name of one character is before its mark.
            .filter(|range| !text.get(range.end..).is_some_and(|rest| rest.starts_with(mark)))
            .collect();
        let ends: Vec<usize> = control.iter().map(|range| range.end).collect();
        let mut starts: Vec<usize> = control.iter().map(|range| range.start).collect();
        starts.sort_unstable();
        let mut pieces = Vec::new();
        let mut done = 0;
        while let Some(at) = text.get(done..).and_then(|rest| rest.find(mark)).map(|at| done + at) {
            let before = ends.partition_point(|&end| end <= at);
            let start = before.checked_sub(1).and_then(|last| ends.get(last).copied()).unwrap_or(0).max(done);
            let end = starts.get(starts.partition_point(|&start| start <= at)).copied().unwrap_or(text.len());
            if start > done {
                pieces.push(Piece::Template(text.get(done..start).unwrap_or_default()));
            }
            pieces.push(Piece::Plain(text.get(start..end).unwrap_or_default().replace(mark, "")));
            done = end;
        }
        if done < text.len() {
            pieces.push(Piece::Template(text.get(done..).unwrap_or_default()));
        }
        pieces
    }
}

/// Shows `see` all texts in `value`, names of members included.
fn each_text(value: &Value, see: &mut impl FnMut(&str)) {
    match value {
        Value::String(text) => see(text),
        Value::Array(values) => values.iter().for_each(|value| each_text(value, see)),
        Value::Object(members) => members.iter().for_each(|(key, value)| {
            see(key);
            each_text(value, see);
        }),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use serde_json::json;

    use super::*;

    fn names(all: &[&str]) -> Names {
        Names::new(all.iter().map(|&name| name.to_owned()).collect()).unwrap()
    }

    fn marked(names: &Names, mut value: Value) -> Value {
        names.mark(&mut value, '!');
        value
    }

    #[test]
    fn names_are_marked_wherever_they_are_and_nothing_else_is() {
        let names = names(&["<a>", "<b>", "><", "<|x|>", "ö"]);
        let plain = json!({ "a": ["< a>", 1, null, "<|x|"], "b": "" });
        assert!(!names.are_in(&plain));
        assert_eq!(marked(&names, plain.clone()), plain);
        let spelt = json!({ "<a>": ["x<|x|>y", { "k": "<a><b>" }], "z": "ö", "y": 1 });
        assert!(names.are_in(&spelt) && names.are_in(&json!([{ "<b>": 1 }])));
        assert_eq!(
            marked(&names, spelt).to_string(),
            json!({ "<!a>": ["x<!|x|>y", { "k": "<!a>!<!b>" }], "z": "ö!", "y": 1 }).to_string()
        );
    }

    #[test]
    fn a_prompt_is_cut_at_the_templates_own_control_tokens() {
        let names = names(&["<a>", "<b>", "ö"]);
        let cut = |text| names.cut(text, '!');
        let plain = |text: &str| Piece::Plain(text.to_owned());
        assert_eq!(cut("<a>one<b>two"), [Piece::Template("<a>one<b>two")]);
        assert_eq!(
            cut("<a>x<b>one <!b> two <!a><b>y<a>"),
            [Piece::Template("<a>x<b>"), plain("one <b> two <a>"), Piece::Template("<b>y<a>")]
        );
        assert_eq!(cut("one <!b>"), [plain("one <b>")]);
        assert_eq!(cut("<!a><a><!b>"), [plain("<a>"), Piece::Template("<a>"), plain("<b>")]);
        assert_eq!(cut("<a>ö! ö<b>"), [Piece::Template("<a>"), plain("ö "), Piece::Template("ö<b>")]);
    }
}
