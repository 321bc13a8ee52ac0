//! Where committed bytes become text: whole characters only, and nothing after a stop string.

/// Turns the bytes of tokens, as they are committed, into text that may be shown.
///
/// A token may end inside a character, and a stop string may end inside a token or span several: bytes are held back until
/// they can neither be part of an unfinished character nor the beginning of a stop string.
#[derive(Clone, Debug, Default)]
pub struct TextStream {
    stops: Vec<String>,
    /// Bytes of a character that is not complete.
    partial: Vec<u8>,
    /// Text that may be the beginning of a stop string.
    held: String,
    stopped: bool,
}

impl TextStream {
    /// A stream that ends before the first of `stops`; empty strings never stop it.
    #[must_use]
    pub fn new(stops: impl IntoIterator<Item = String>) -> Self {
        Self { stops: stops.into_iter().filter(|stop| !stop.is_empty()).collect(), ..Self::default() }
    }

    /// Whether a stop string was met. Nothing comes out any more.
    #[must_use]
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    /// Whether bytes are held back: what comes out next belongs in part to tokens before the next one.
    #[must_use]
    pub fn holds(&self) -> bool {
        !self.partial.is_empty() || !self.held.is_empty()
    }

    /// Adds the bytes of one token and returns the text that may be shown now.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        if self.stopped {
            return String::new();
        }
        self.partial.extend_from_slice(bytes);
        let text = self.take_complete();
        self.release(&text)
    }

    /// Ends the stream and returns what was held back; an unfinished character becomes U+FFFD.
    pub fn finish(&mut self) -> String {
        if self.stopped {
            return String::new();
        }
        let rest = String::from_utf8_lossy(&std::mem::take(&mut self.partial)).into_owned();
        let mut text = self.release(&rest);
        text.push_str(&std::mem::take(&mut self.held));
        text
    }

    /// The complete characters of `partial`, invalid bytes replaced by U+FFFD.
    fn take_complete(&mut self) -> String {
        let mut text = String::new();
        let mut bytes = std::mem::take(&mut self.partial);
        loop {
            match std::str::from_utf8(&bytes) {
                Ok(valid) => {
                    text.push_str(valid);
                    return text;
                }
                Err(error) => {
                    let (valid, rest) = bytes.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    let Some(invalid) = error.error_len() else {
                        self.partial = rest.to_vec();
                        return text;
                    };
                    text.push(char::REPLACEMENT_CHARACTER);
                    bytes = rest.split_at(invalid).1.to_vec();
                }
            }
        }
    }

    fn release(&mut self, text: &str) -> String {
        self.held.push_str(text);
        let first = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min();
        if let Some(at) = first {
            self.stopped = true;
            self.held.truncate(at);
            return std::mem::take(&mut self.held);
        }
        let keep = self.stops.iter().map(|stop| overlap(&self.held, stop)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        std::mem::replace(&mut self.held, rest)
    }
}

/// The length of the longest end of `text` that is a beginning of `stop`, in bytes.
fn overlap(text: &str, stop: &str) -> usize {
    (1..stop.len()).rev().find(|&len| stop.is_char_boundary(len) && text.ends_with(&stop[..len])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(stops: &[&str], pieces: &[&[u8]]) -> (Vec<String>, bool) {
        let mut stream = TextStream::new(stops.iter().map(|&s| s.to_owned()));
        let mut out: Vec<String> = pieces.iter().map(|piece| stream.push(piece)).collect();
        out.push(stream.finish());
        (out, stream.stopped())
    }

    #[test]
    fn a_character_cut_between_tokens_waits_for_its_end() {
        let (out, _) = stream(&[], &[b"a\xf0\x9f", b"\x98", b"\x80b"]);
        assert_eq!(out, ["a", "", "😀b", ""]);
    }

    #[test]
    fn invalid_and_unfinished_bytes_become_replacement_characters() {
        let (out, _) = stream(&[], &[b"a\xffb", b"\xe2\x82"]);
        assert_eq!(out, ["a\u{fffd}b", "", "\u{fffd}"]);
    }

    #[test]
    fn a_stop_string_over_several_tokens_is_never_shown() {
        let (out, stopped) = stream(&["END"], &[b"one E", b"N", b"D two"]);
        assert_eq!((out, stopped), (vec!["one ".into(), String::new(), String::new(), String::new()], true));
    }

    #[test]
    fn what_only_looked_like_a_stop_string_is_shown_after_all() {
        let (out, stopped) = stream(&["END"], &[b"E", b"N", b"Z", b"E"]);
        assert_eq!(
            (out, stopped),
            (vec![String::new(), String::new(), "ENZ".into(), String::new(), "E".into()], false)
        );
    }

    #[test]
    fn the_earliest_of_several_stop_strings_wins() {
        let (out, stopped) = stream(&["yy", "x"], &[b"abxyy"]);
        assert_eq!((out[0].as_str(), stopped), ("ab", true));
    }

    #[test]
    fn it_says_whether_bytes_are_held_back() {
        let mut stream = TextStream::new(["END".to_owned()]);
        let held = [&b"a"[..], b"E", b"N", b"x", b"\xe2", b"\x82\xac", b"E", b"ND"].map(|bytes| {
            stream.push(bytes);
            stream.holds()
        });
        assert_eq!(held, [false, true, true, false, true, false, true, false]);
    }

    #[test]
    fn a_stop_string_does_not_depend_on_where_tokens_are_cut() {
        let text = "Zeile eins\n\nZeile zwei".as_bytes();
        for cut in 0..text.len() {
            let (out, stopped) = stream(&["\n\n"], &[&text[..cut], &text[cut..]]);
            assert_eq!((out.concat().as_str(), stopped), ("Zeile eins", true), "cut at {cut}");
        }
    }
}
