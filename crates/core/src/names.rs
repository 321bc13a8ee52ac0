//! Names and texts from outside, as types that hold nothing that could do harm: a [`Fingerprint`] is no path, and a [`PlainText`]
//! does not speak to a terminal.

use std::fmt;
use std::ops::Deref;
use std::str::FromStr;

/// Stands for what cannot be shown.
const REPLACEMENT: char = char::REPLACEMENT_CHARACTER;

/// Names a model or a vocabulary by its content: written with exactly 16 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(u64);

/// What is no fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a fingerprint has exactly 16 hexadecimal digits in lower case")]
pub struct NoFingerprint;

impl Fingerprint {
    /// The fingerprint of something with this hash.
    #[must_use]
    pub const fn new(hash: u64) -> Self {
        Self(hash)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Fingerprint {
    type Err = NoFingerprint;

    fn from_str(text: &str) -> Result<Self, NoFingerprint> {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != 16 || !text.bytes().all(is_digit) {
            return Err(NoFingerprint);
        }
        u64::from_str_radix(text, 16).map(Self).map_err(|_none| NoFingerprint)
    }
}

/// One line of text that a terminal can show as it is. Control characters, and those that change the direction of what stands
/// around them, are U+FFFD in it; what is beyond [`PlainText::MAX_BYTES`] is cut off.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PlainText(String);

impl PlainText {
    /// The most bytes that it has, without the sign that something was cut off.
    pub const MAX_BYTES: usize = 1024;

    /// Makes `text` fit to be shown.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let kept = text.get(..text.floor_char_boundary(Self::MAX_BYTES)).unwrap_or_default();
        let mut shown: String = kept.chars().map(|c| if is_plain(c) { c } else { REPLACEMENT }).collect();
        if kept.len() < text.len() {
            shown.push('…');
        }
        Self(shown)
    }
}

/// `text` of several lines without the control characters that a terminal obeys: all but line feeds and tabs are U+FFFD.
#[must_use]
pub fn for_terminal(text: &str) -> String {
    let shown = |c: char| if c.is_control() && !matches!(c, '\n' | '\t') { REPLACEMENT } else { c };
    text.chars().map(shown).collect()
}

/// Whether `c` changes nothing but its own place on a line.
fn is_plain(c: char) -> bool {
    let breaks = matches!(c, '\u{2028}' | '\u{2029}');
    // Unicode's property Bidi_Control.
    let turns = matches!(c, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    !(c.is_control() || breaks || turns)
}

impl fmt::Display for PlainText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for PlainText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl Deref for PlainText {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl FromStr for PlainText {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self::new(text))
    }
}

impl From<&str> for PlainText {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl From<String> for PlainText {
    fn from(text: String) -> Self {
        Self::new(&text)
    }
}

impl From<PlainText> for String {
    fn from(text: PlainText) -> Self {
        text.0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_fingerprint_is_exactly_16_lower_case_hexadecimal_digits() {
        let fingerprint: Fingerprint = "00ab456789abcdef".parse().unwrap();
        assert_eq!(fingerprint, Fingerprint::new(0x00ab_4567_89ab_cdef));
        assert_eq!(fingerprint.to_string(), "00ab456789abcdef");
        for none in [
            "",
            "0123456789abcde",
            "0123456789abcdef0",
            "0123456789ABCDEF",
            "+123456789abcdef",
            "../../../etc/cro",
            "/tmp/0123456789a",
            "0123456789abcde\n",
            "0123456789abcdé",
            "０１２３４５６７",
        ] {
            assert_eq!(none.parse::<Fingerprint>(), Err(NoFingerprint), "{none:?}");
        }
    }

    #[test]
    fn plain_text_cannot_speak_to_a_terminal() {
        let shown = |text: &str| PlainText::new(text).to_string();
        assert_eq!(shown("Jürgens Pi (模型) 🦀"), "Jürgens Pi (模型) 🦀");
        assert_eq!(shown("\x1b]0;evil\x07\x1b[2J"), "\u{fffd}]0;evil\u{fffd}\u{fffd}[2J");
        assert_eq!(shown("a\u{9b}31mb\u{7f}c\r\n\td"), "a\u{fffd}31mb\u{fffd}c\u{fffd}\u{fffd}\u{fffd}d");
        assert_eq!(shown("gpj.\u{202e}exe\u{2066}x\u{2028}y"), "gpj.\u{fffd}exe\u{fffd}x\u{fffd}y");
        let long = shown(&"é".repeat(PlainText::MAX_BYTES));
        assert_eq!((long.len(), long.ends_with("é…")), (PlainText::MAX_BYTES + '…'.len_utf8(), true));
    }

    #[test]
    fn text_for_a_terminal_keeps_its_lines_and_loses_its_commands() {
        assert_eq!(for_terminal("a\n\tb\r\x1b[2J\u{9b}c\0"), "a\n\tb\u{fffd}\u{fffd}[2J\u{fffd}c\u{fffd}");
        assert_eq!(for_terminal("שלום\u{200f} 👨‍👩‍👧"), "שלום\u{200f} 👨‍👩‍👧");
    }
}
