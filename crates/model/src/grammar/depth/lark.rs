//! The depth of Lark grammars.

use std::collections::HashMap;

use serde_json::Value;

use super::{Graph, json, regex_depth};

/// The longest chain of definitions in `source`: each is a step from those that name it, and so is each bracket around its name.
pub(super) fn depth(source: &str) -> usize {
    let mut graph = Graph::default();
    let top = graph.add();
    let mut reader = Reader {
        rest: source,
        graph,
        names: vec![HashMap::new()],
        references: Vec::new(),
        blocks: vec![Block { scope: 0, whole: top, part: top, brackets: 0, candidate: None }],
    };
    reader.read();
    let Reader { mut graph, names, references, .. } = reader;
    for Reference { from, scope, name, steps } in references {
        if let Some(&to) = names[scope].get(name) {
            graph.step(from, to, steps);
        }
    }
    graph.longest()
}

struct Reader<'a> {
    rest: &'a str,
    graph: Graph,
    /// What each block defines.
    names: Vec<HashMap<&'a str, usize>>,
    references: Vec<Reference<'a>>,
    /// The blocks that the reader is in, the innermost last.
    blocks: Vec<Block<'a>>,
}

/// A name in a definition.
struct Reference<'a> {
    from: usize,
    scope: usize,
    name: &'a str,
    steps: usize,
}

/// A grammar: the whole, or one inside `%lark { }`.
struct Block<'a> {
    scope: usize,
    whole: usize,
    /// The definition that is read.
    part: usize,
    brackets: usize,
    /// The last name outside brackets, which a colon makes a definition's, and how many references there were before it.
    candidate: Option<(&'a str, usize)>,
}

impl<'a> Reader<'a> {
    fn read(&mut self) {
        while let Some(character) = self.rest.chars().next() {
            match character {
                '"' => drop(self.take_quoted('"')),
                '/' if self.rest.starts_with("//") => self.skip_line(),
                '#' => self.skip_line(),
                '/' => {
                    let expression = self.take_quoted('/');
                    self.deepen(regex_depth(expression));
                }
                '<' => self.skip_special(),
                '%' => self.directive(),
                ':' if self.rest.starts_with("::") => self.skip(2),
                ':' => self.define(),
                '(' | '[' | '{' => self.open(),
                ')' | ']' | '}' => self.close(character),
                '_' | 'a'..='z' | 'A'..='Z' => self.name(),
                character => self.skip(character.len_utf8()),
            }
        }
    }

    fn block(&mut self) -> Option<&mut Block<'a>> {
        self.blocks.last_mut()
    }

    fn skip(&mut self, bytes: usize) {
        self.rest = self.rest.get(bytes..).unwrap_or_default();
    }

    fn skip_line(&mut self) {
        self.skip(self.rest.find('\n').unwrap_or(self.rest.len()));
    }

    /// A text between two marks, the first of which comes next; a backslash takes the character behind it along.
    fn take_quoted(&mut self, mark: char) -> &'a str {
        let text = &self.rest[mark.len_utf8()..];
        let mut escaped = false;
        let end = text.find(|character: char| {
            let ends = character == mark && !escaped;
            escaped = character == '\\' && !escaped;
            ends
        });
        let end = end.unwrap_or(text.len());
        self.rest = text.get(end + mark.len_utf8()..).unwrap_or_default();
        &text[..end]
    }

    /// The name of a special token, such as `<|end|>`.
    fn skip_special(&mut self) {
        let end = self.rest.find(|character: char| character == '>' || character.is_whitespace());
        self.skip(end.unwrap_or(0).max(1));
    }

    fn directive(&mut self) {
        if let Some(json) = self.rest.strip_prefix("%json") {
            let depth = self.take_json(json).map_or(0, |value| 1 + json::depth(&value));
            self.deepen(depth);
        } else if let Some(json) = self.rest.strip_prefix("%regex").or(self.rest.strip_prefix("%llguidance")) {
            self.take_json(json);
        } else if let Some(block) = self.rest.strip_prefix("%lark")
            && let Some(inside) = block.trim_start_matches([' ', '\t']).strip_prefix('{')
        {
            self.rest = inside;
            self.enter();
        } else {
            self.skip(1);
        }
    }

    fn take_json(&mut self, text: &'a str) -> Option<Value> {
        let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
        let value = values.next().and_then(Result::ok);
        self.rest = &text[if value.is_some() { values.byte_offset() } else { 0 }..];
        value
    }

    fn enter(&mut self) {
        let whole = self.graph.add();
        if let Some(&mut Block { part, brackets, .. }) = self.block() {
            self.graph.step(part, whole, 1 + brackets);
        }
        let scope = self.names.len();
        self.names.push(HashMap::new());
        self.blocks.push(Block { scope, whole, part: whole, brackets: 0, candidate: None });
    }

    fn open(&mut self) {
        self.skip(1);
        if let Some(block) = self.block() {
            block.brackets += 1;
        }
        self.deepen(0);
    }

    fn close(&mut self, bracket: char) {
        self.skip(1);
        let nested = self.blocks.len() > 1;
        let Some(block) = self.block() else { return };
        if bracket == '}' && block.brackets == 0 && nested {
            self.blocks.pop();
        } else {
            block.brackets = block.brackets.saturating_sub(1);
        }
    }

    /// The definition that is read is this deep where the reader stands.
    fn deepen(&mut self, depth: usize) {
        if let Some(&mut Block { part, brackets, .. }) = self.block() {
            self.graph.deepen(part, brackets + depth);
        }
    }

    /// A rule's name has small letters, a terminal's capitals: `aB` is two names.
    fn name(&mut self) {
        let first = self.rest.bytes().find(|&byte| byte != b'_');
        let capital = first.is_some_and(|byte| byte.is_ascii_uppercase());
        let belongs = |byte: u8| {
            let letter = if capital { byte.is_ascii_uppercase() } else { byte.is_ascii_lowercase() };
            letter || byte.is_ascii_digit() || b"_-".contains(&byte)
        };
        let len = self.rest.bytes().take_while(|&byte| belongs(byte)).count().max(1);
        let (name, rest) = self.rest.split_at(len);
        self.rest = rest;
        let before = self.references.len();
        let Some(block) = self.blocks.last_mut() else { return };
        if block.brackets == 0 {
            block.candidate = Some((name, before));
        }
        self.references.push(Reference { from: block.part, scope: block.scope, name, steps: 1 + block.brackets });
    }

    fn define(&mut self) {
        self.skip(1);
        let Some(block) = self.blocks.last_mut() else { return };
        let Some((name, before)) = block.candidate.take() else { return };
        self.references.truncate(before);
        let part = *self.names[block.scope].entry(name).or_insert_with(|| self.graph.add());
        block.part = part;
        block.brackets = 0;
        self.graph.step(block.whole, part, 1);
    }
}
