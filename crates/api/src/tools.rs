//! Tool calls in the syntax of Hermes and Qwen: what a template must teach, and how calls are read from an answer while it
//! comes.
//!
//! ```text
//! <tool_call>
//! {"name": "NAME", "arguments": {...}}
//! </tool_call>
//! ```

use serde_json::Value;

/// What begins a call.
pub(crate) const OPEN: &str = "<tool_call>";
/// What ends it.
pub(crate) const CLOSE: &str = "</tool_call>";

/// Whether a chat template teaches this syntax.
pub(crate) fn teaches(template: &str) -> bool {
    template.contains("tools") && template.contains(OPEN) && template.contains("arguments")
}

/// A part of an answer that may call tools.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Text for the user.
    Content(String),
    /// A call begins; its arguments follow.
    Call {
        /// The tool's name.
        name: String,
    },
    /// The next piece of the arguments of the last call.
    Arguments(String),
}

/// Reads calls from an answer while it comes.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    /// What is not told yet.
    buffer: String,
    place: Place,
    calls: usize,
}

/// Where in an answer a reader is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Content,
    /// After [`OPEN`], before the arguments.
    Head,
    /// In a block whose head is not in the usual order: it is read as a whole.
    Block,
    Arguments(Nesting),
    /// After the arguments, before [`CLOSE`].
    Tail,
}

/// How deep in JSON a reader is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Nesting {
    depth: usize,
    string: bool,
    escaped: bool,
}

impl Nesting {
    /// Whether the value that began before `character` ends with it.
    fn ends_with(&mut self, character: char) -> bool {
        match (self.string, character) {
            (true, _) if self.escaped => self.escaped = false,
            (true, '\\') => self.escaped = true,
            (_, '"') => self.string = !self.string,
            (false, '{' | '[') => self.depth += 1,
            (false, '}' | ']') => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        self.depth == 0
    }
}

/// What the beginning of a block is.
enum Head {
    /// A name, and the arguments begin after so many bytes.
    Is(String, usize),
    /// It may still become one.
    Incomplete,
    /// It is in another order.
    Other,
}

impl Reader {
    /// How many calls there were.
    pub(crate) fn calls(&self) -> usize {
        self.calls
    }

    /// Reads on.
    pub(crate) fn push(&mut self, text: &str) -> Vec<Part> {
        self.buffer.push_str(text);
        let mut parts = Vec::new();
        while self.step(&mut parts) {}
        parts
    }

    /// Reads to the end: what is left is text, unless it is a call that was not closed.
    pub(crate) fn finish(&mut self) -> Vec<Part> {
        let rest = std::mem::take(&mut self.buffer);
        let mut parts = Vec::new();
        match std::mem::take(&mut self.place) {
            Place::Content => self.content(&rest, &mut parts),
            Place::Head | Place::Block => self.block(&rest, "", &mut parts),
            Place::Arguments(_) | Place::Tail => {}
        }
        parts
    }

    /// Takes one thing from the buffer; false if more must come first.
    fn step(&mut self, parts: &mut Vec<Part>) -> bool {
        match self.place {
            Place::Content => {
                if let Some(at) = self.buffer.find(OPEN) {
                    let before = self.take(at);
                    self.content(before.trim_end(), parts);
                    self.take(OPEN.len());
                    self.place = Place::Head;
                    return true;
                }
                // The beginning of a mark, and white space before it, are no text yet.
                let beginning = (1..OPEN.len()).rev().find(|&len| self.buffer.ends_with(&OPEN[..len])).unwrap_or(0);
                let sure = self.buffer[..self.buffer.len() - beginning].trim_end().len();
                let text = self.take(sure);
                self.content(&text, parts);
                false
            }
            Place::Head => match head(&self.buffer) {
                Head::Is(name, at) => {
                    self.take(at);
                    self.call(name, parts);
                    self.place = Place::Arguments(Nesting::default());
                    true
                }
                Head::Incomplete => false,
                Head::Other => {
                    self.place = Place::Block;
                    true
                }
            },
            Place::Block => {
                let Some(at) = self.buffer.find(CLOSE) else { return false };
                let block = self.take(at);
                self.take(CLOSE.len());
                self.place = Place::Content;
                self.block(&block, CLOSE, parts);
                true
            }
            Place::Arguments(mut nesting) => {
                let end = self.buffer.char_indices().find(|&(_, character)| nesting.ends_with(character));
                let ended = end.map(|(at, character)| at + character.len_utf8());
                let piece = self.take(ended.unwrap_or(self.buffer.len()));
                if !piece.is_empty() {
                    parts.push(Part::Arguments(piece));
                }
                self.place = if ended.is_some() { Place::Tail } else { Place::Arguments(nesting) };
                ended.is_some()
            }
            Place::Tail => {
                let Some(at) = self.buffer.find(CLOSE) else { return false };
                self.take(at + CLOSE.len());
                self.place = Place::Content;
                true
            }
        }
    }

    fn take(&mut self, bytes: usize) -> String {
        let rest = self.buffer.split_off(bytes);
        std::mem::replace(&mut self.buffer, rest)
    }

    fn call(&mut self, name: String, parts: &mut Vec<Part>) {
        self.calls += 1;
        parts.push(Part::Call { name });
    }

    /// Text for the user; white space between calls is none.
    fn content(&self, text: &str, parts: &mut Vec<Part>) {
        let text = if self.calls > 0 { text.trim_start() } else { text };
        if !text.is_empty() {
            parts.push(Part::Content(text.to_owned()));
        }
    }

    /// A whole block: a call, or else text as it stands.
    fn block(&mut self, block: &str, close: &str, parts: &mut Vec<Part>) {
        let value: Option<Value> = serde_json::from_str(block).ok();
        let name = value.as_ref().and_then(|value| value["name"].as_str());
        let arguments = value.as_ref().and_then(|value| value.get("arguments").or_else(|| value.get("parameters")));
        match (name, arguments) {
            (Some(name), Some(arguments)) => {
                self.call(name.to_owned(), parts);
                let text = arguments.as_str().map_or_else(|| arguments.to_string(), str::to_owned);
                parts.push(Part::Arguments(text));
            }
            _ => parts.push(Part::Content(format!("{OPEN}{block}{close}"))),
        }
    }
}

/// Reads `{"name": "NAME", "arguments": {`, up to the brace.
fn head(text: &str) -> Head {
    let mut rest = text;
    for expected in ["{", "\"name\"", ":"] {
        rest = match literal(rest, expected) {
            Ok(rest) => rest,
            Err(head) => return head,
        };
    }
    rest = rest.trim_start();
    let mut nesting = Nesting::default();
    if !rest.is_empty() && !rest.starts_with('"') {
        return Head::Other;
    }
    let closing = rest.char_indices().skip(1).find(|&(_, character)| {
        nesting.string = true;
        nesting.ends_with(character);
        !nesting.string
    });
    let Some((at, _)) = closing else { return Head::Incomplete };
    let Ok(name) = serde_json::from_str(&rest[..=at]) else { return Head::Other };
    rest = &rest[at + 1..];
    for expected in [",", "\"arguments\"", ":"] {
        rest = match literal(rest, expected) {
            Ok(rest) => rest,
            Err(head) => return head,
        };
    }
    rest = rest.trim_start();
    match rest.chars().next() {
        Some('{') => Head::Is(name, text.len() - rest.len()),
        Some(_) => Head::Other,
        None => Head::Incomplete,
    }
}

/// What follows `expected`, white space before it left out.
fn literal<'a>(text: &'a str, expected: &str) -> Result<&'a str, Head> {
    let text = text.trim_start();
    text.strip_prefix(expected).ok_or(if expected.starts_with(text) { Head::Incomplete } else { Head::Other })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    /// What a reader makes of a text that comes in pieces of so many bytes; neighbours of a kind joined.
    fn read(text: &str, size: usize) -> Vec<Part> {
        let mut reader = Reader::default();
        let mut parts: Vec<Part> = Vec::new();
        let characters: Vec<char> = text.chars().collect();
        let pieces = characters.chunks(size).map(|piece| piece.iter().collect::<String>());
        let mut all: Vec<Part> = pieces.flat_map(|piece| reader.push(&piece)).collect();
        all.extend(reader.finish());
        for part in all {
            match (parts.last_mut(), part) {
                (Some(Part::Content(a)), Part::Content(b)) | (Some(Part::Arguments(a)), Part::Arguments(b)) => {
                    a.push_str(&b);
                }
                (_, part) => parts.push(part),
            }
        }
        parts
    }

    fn content(text: &str) -> Part {
        Part::Content(text.to_owned())
    }

    fn call(name: &str, arguments: &str) -> [Part; 2] {
        [Part::Call { name: name.to_owned() }, Part::Arguments(arguments.to_owned())]
    }

    #[test]
    fn calls_are_read_however_the_text_is_cut() {
        let nested = "{\"s\": \"a \\\\\\\" } ö {\", \"list\": [{}, [1]]}";
        let cases: Vec<(String, Vec<Part>)> = vec![
            ("just text \n".into(), vec![content("just text \n")]),
            ("a < b, <tool is no call>".into(), vec![content("a < b, <tool is no call>")]),
            (
                format!("Let me see.\n\n<tool_call>\n{{\"name\": \"f\", \"arguments\": {nested}}}\n</tool_call>"),
                [vec![content("Let me see.")], call("f", nested).to_vec()].concat(),
            ),
            (
                "<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>\n<tool_call>\n{\"name\":\"g\",\
                 \"arguments\":{\"x\":1}}\n</tool_call>\n"
                    .into(),
                [call("f", "{}"), call("g", "{\"x\":1}")].concat(),
            ),
            (
                "<tool_call>{\"arguments\": {\"x\": 1}, \"name\": \"f\"}</tool_call> Done".into(),
                [call("f", "{\"x\":1}").to_vec(), vec![content("Done")]].concat(),
            ),
            ("<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": 1}}".into(), call("f", "{\"x\": 1}").to_vec()),
            ("<tool_call>\n{\"name\": \"f\", \"arguments\": \"{}\"}\n".into(), call("f", "{}").to_vec()),
            ("<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": ".into(), call("f", "{\"x\": ").to_vec()),
            ("<tool_call>nonsense</tool_call>".into(), vec![content("<tool_call>nonsense</tool_call>")]),
            ("a\n<tool_call>\n{\"na".into(), vec![content("a"), content("<tool_call>\n{\"na")]),
        ];
        for (text, expected) in cases {
            let joined = read(&text, usize::MAX);
            let expected: Vec<Part> = expected.into_iter().fold(Vec::new(), |mut parts, part| {
                match (parts.last_mut(), part) {
                    (Some(Part::Content(a)), Part::Content(b)) => a.push_str(&b),
                    (_, part) => parts.push(part),
                }
                parts
            });
            assert_eq!(joined, expected, "{text}");
            for size in 1..12 {
                assert_eq!(read(&text, size), expected, "{text} in pieces of {size}");
            }
        }
    }
}
