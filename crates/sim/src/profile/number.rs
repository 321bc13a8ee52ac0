//! A number and where it is from.

use serde::Deserialize;

/// How a number came to be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mark {
    /// By running it.
    Measured,
    /// Somebody else says so.
    Published,
    /// By an arithmetic or a judgement that the source states.
    Assumed,
}

impl Mark {
    /// The mark as it is written in profiles and on pages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Measured => "measured",
            Self::Published => "published",
            Self::Assumed => "assumed",
        }
    }
}

/// A number that is at least 0, and where it is from.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "Written<f64>")]
pub struct Number {
    /// The number, in the unit that its key names.
    pub value: f64,
    /// How it came to be known.
    pub mark: Mark,
    /// A reference, a command, or the arithmetic.
    pub source: String,
}

/// A number of a profile under its name, for lists of where numbers are from.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry<'a> {
    /// Its name in the file.
    pub key: String,
    /// The number, or several, as they are written there.
    pub value: String,
    /// How it came to be known.
    pub mark: Mark,
    /// A reference, a command, or the arithmetic.
    pub source: &'a str,
}

impl<'a> Entry<'a> {
    pub(super) fn new(key: String, number: &'a Number) -> Self {
        Self { key, value: number.value.to_string(), mark: number.mark, source: &number.source }
    }
}

/// A value as it is written in a profile.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Written<T> {
    pub(super) value: T,
    pub(super) mark: Mark,
    pub(super) source: String,
}

/// Whether a number can be a time, a rate or a price.
pub(super) fn check(value: f64) -> Result<(), String> {
    if value.is_finite() && value >= 0.0 {
        Ok(())
    } else {
        Err(format!("{value} is out of range; use a number of at least 0"))
    }
}

/// Whether a source says anything.
pub(super) fn check_source(source: &str) -> Result<(), String> {
    if source.trim().is_empty() { Err("a `source` is empty; say where its number is from".to_owned()) } else { Ok(()) }
}

impl TryFrom<Written<f64>> for Number {
    type Error = String;

    fn try_from(Written { value, mark, source }: Written<f64>) -> Result<Self, String> {
        check(value)?;
        check_source(&source)?;
        Ok(Self { value, mark, source })
    }
}
