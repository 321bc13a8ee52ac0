//! What generated text looks like on a terminal.

use std::borrow::Cow;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use sled_core::device::{Provenance, Stats};
use sled_core::names::for_terminal;
use sled_core::text::TextStream;
use sled_model::vocabulary::Vocab;

/// Says on stdout where a process that stays can be reached. Whoever started it may have stopped listening, which is no reason to
/// stop.
pub fn announce(lines: &str) {
    let _nobody_listens = writeln!(std::io::stdout(), "{lines}");
}

/// Where text is shown, and how it may be marked there.
pub struct Output {
    to: Box<dyn Write + Send>,
    marks: Marks,
    /// Whether a terminal reads it, which would obey what control characters in it say; a pipe is given the text as it is.
    terminal: bool,
}

/// How text is marked by who proposed it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Marks {
    /// Every token by its colour.
    Colours,
    /// Provisional text by a dim italic.
    Terminal,
    /// Provisional text by brackets.
    Plain,
}

impl Output {
    /// Shows on stdout; with `colours`, who proposed each token.
    pub fn stdout(colours: bool) -> Self {
        let terminal = std::io::stdout().is_terminal();
        let plain = if terminal { Marks::Terminal } else { Marks::Plain };
        let marks = if colours { Marks::Colours } else { plain };
        // Colours are for terminals, be it at the end of a pipe.
        Self { to: Box::new(std::io::stdout()), marks, terminal: terminal || colours }
    }

    /// Shows on stderr, with colours.
    pub fn stderr() -> Self {
        Self { to: Box::new(std::io::stderr()), marks: Marks::Colours, terminal: true }
    }
}

/// `value` as JSON in one line. JSON spells most control characters as escapes, and this the rest too.
pub fn json(value: &impl serde::Serialize) -> serde_json::Result<String> {
    let mut line = String::new();
    for c in serde_json::to_string(value)?.chars() {
        match c {
            '\u{7f}'..='\u{9f}' => line += &format!("\\u{:04x}", u32::from(c)),
            c => line.push(c),
        }
    }
    Ok(line)
}

/// Shows tokens as text as they come, and keeps the text.
pub struct Screen<'a> {
    vocab: &'a Vocab,
    stream: TextStream,
    out: Option<Output>,
    /// Whether a bracket is open.
    bracket: bool,
    text: String,
}

impl<'a> Screen<'a> {
    /// Text goes to `out`, if there is one, and ends before the first of `stops`.
    pub fn new(vocab: &'a Vocab, stops: &[String], out: Option<Output>) -> Self {
        Self { vocab, stream: TextStream::new(stops.iter().cloned()), out, bracket: false, text: String::new() }
    }

    /// Shows a token; false if it completed a stop string.
    pub fn show(&mut self, token: sled_core::Token, provenance: Option<Provenance>) -> bool {
        let text = self.stream.push(&self.vocab.piece(token, false));
        self.print(&text, provenance);
        !self.stream.stopped()
    }

    /// Shows what was held back, and returns all of the text.
    pub fn finish(mut self) -> String {
        let rest = self.stream.finish();
        self.print(&rest, None);
        let closing = if self.bracket { "⟫" } else { "" };
        if let Some(out) = &mut self.out {
            let _closed = writeln!(out.to, "{closing}");
        }
        self.text
    }

    fn print(&mut self, text: &str, provenance: Option<Provenance>) {
        self.text.push_str(text);
        let Some(Output { to, marks, terminal }) = &mut self.out else { return };
        let text = if *terminal { Cow::Owned(for_terminal(text)) } else { Cow::Borrowed(text) };
        let style = provenance.filter(|_| !text.is_empty()).and_then(|provenance| style(provenance, *marks));
        let bracketed = *marks == Marks::Plain && provenance.map_or(self.bracket, |p| p == Provenance::Provisional);
        let bracket = match (std::mem::replace(&mut self.bracket, bracketed), bracketed) {
            (false, true) => "⟪",
            (true, false) => "⟫",
            _ => "",
        };
        // A reader that went away ends the showing, not the generation.
        let _closed = match style {
            Some(style) => write!(to, "\x1b[{style}m{text}\x1b[0m"),
            None => write!(to, "{bracket}{text}"),
        };
        let _closed = to.flush();
    }
}

fn style(provenance: Provenance, marks: Marks) -> Option<&'static str> {
    match (marks, provenance) {
        (Marks::Plain, _) => None,
        (_, Provenance::Provisional) => Some("2;3"),
        (Marks::Terminal, _) => None,
        (Marks::Colours, Provenance::Accepted) => Some("32"),
        (Marks::Colours, Provenance::Corrected) => Some("31"),
        (Marks::Colours, Provenance::Bonus) => Some("34"),
    }
}

/// What the colours mean, in one line.
pub fn legend() -> &'static str {
    "\x1b[32maccepted draft\x1b[0m · \x1b[31mcorrection\x1b[0m · \x1b[34mbonus\x1b[0m · \x1b[2;3mprovisional\x1b[0m"
}

/// A provenance as `--json` spells it.
pub fn name(provenance: Provenance) -> &'static str {
    match provenance {
        Provenance::Accepted => "accepted",
        Provenance::Corrected => "corrected",
        Provenance::Bonus => "bonus",
        Provenance::Provisional => "provisional",
    }
}

/// What a generation took, in one line.
pub fn summary(tokens: usize, elapsed: Duration, stats: &Stats) -> String {
    let rate = tokens as f64 / elapsed.as_secs_f64().max(1e-9);
    let mut line = format!("{tokens} tokens in {:.1} s, {rate:.1} tokens/s", elapsed.as_secs_f64());
    if stats.rounds > 0 {
        line += &format!(" · {} rounds of {:.2} tokens", stats.rounds, tokens as f64 / stats.rounds as f64);
    }
    if stats.draft_tokens > 0 {
        let accepted = 100.0 * stats.accepted_tokens as f64 / stats.draft_tokens as f64;
        line += &format!(" · {accepted:.0} % of {} drafts accepted", stats.draft_tokens);
    }
    if stats.disconnections > 0 && stats.provisional_tokens > 0 {
        line += &format!(" · {} tokens are provisional: no server was there to verify them", stats.provisional_tokens);
    }
    line
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn json_has_no_control_characters_and_means_the_same() {
        let text = "a\u{1b}[2J\u{7f}\u{9b}31m\n\u{9f}\u{a0}é";
        let line = json(&text).unwrap();
        assert!(!line.contains(char::is_control), "{line:?}");
        assert_eq!(serde_json::from_str::<String>(&line).unwrap(), text);
    }
}
