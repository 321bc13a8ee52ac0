//! What generated text looks like on a terminal.

use std::io::Write;
use std::time::Duration;

use sled_core::device::{Provenance, Stats};
use sled_core::text::TextStream;
use sled_model::llama::Vocab;

/// Shows tokens as text while they are committed, and keeps the text.
pub struct Screen<'a> {
    vocab: &'a Vocab,
    stream: TextStream,
    out: Option<Box<dyn Write + Send>>,
    colours: bool,
    text: String,
}

impl<'a> Screen<'a> {
    /// Text goes to `out`, if there is one, and ends before the first of `stops`.
    pub fn new(vocab: &'a Vocab, stops: &[String], out: Option<Box<dyn Write + Send>>, colours: bool) -> Self {
        Self { vocab, stream: TextStream::new(stops.iter().cloned()), out, colours, text: String::new() }
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
        if let Some(out) = &mut self.out {
            let _closed = writeln!(out);
        }
        self.text
    }

    fn print(&mut self, text: &str, provenance: Option<Provenance>) {
        self.text.push_str(text);
        let Some(out) = &mut self.out else { return };
        // A reader that went away ends the showing, not the generation.
        let _closed = match provenance.filter(|_| self.colours && !text.is_empty()) {
            Some(provenance) => write!(out, "\x1b[{}m{text}\x1b[0m", colour(provenance)),
            None => write!(out, "{text}"),
        };
        let _closed = out.flush();
    }
}

fn colour(provenance: Provenance) -> u8 {
    match provenance {
        Provenance::Accepted => 32,
        Provenance::Corrected => 31,
        Provenance::Bonus => 34,
    }
}

/// What the colours mean, in one line.
pub fn legend() -> &'static str {
    "\x1b[32maccepted draft\x1b[0m · \x1b[31mcorrection\x1b[0m · \x1b[34mbonus\x1b[0m"
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
    line
}
