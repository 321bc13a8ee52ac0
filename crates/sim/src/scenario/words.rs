//! Policies and ranges as they are written in a scenario.

use serde::{Deserialize, Serialize};

/// A whole number, or the least and the most of a range in which each is as likely.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a whole number, or a range like [32, 256]")]
pub enum Range {
    /// Always this.
    One(usize),
    /// The least and the most.
    Between([usize; 2]),
}

impl Range {
    /// The least and the most.
    #[must_use]
    pub fn ends(self) -> (usize, usize) {
        match self {
            Self::One(number) => (number, number),
            Self::Between([least, most]) => (least, most),
        }
    }
}

/// The tokens of an answer.
impl Default for Range {
    fn default() -> Self {
        Self::One(128)
    }
}

/// What has a name that the command line knows.
pub(super) mod named {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(in super::super) fn serialize<T: Display, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }

    pub(in super::super) fn deserialize<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(
        from: D,
    ) -> Result<T, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

/// A drafting policy, or `none`.
pub(super) mod policy {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use sled_core::policy::Policy;

    pub(in super::super) fn serialize<S: Serializer>(policy: &Option<Policy>, to: S) -> Result<S::Ok, S::Error> {
        match policy {
            Some(policy) => to.collect_str(policy),
            None => to.serialize_str("none"),
        }
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Policy>, D::Error> {
        let text = String::deserialize(from)?;
        if text == "none" {
            return Ok(None);
        }
        let or_none = |error| format!("{error}; or none, for a thin client");
        text.parse().map(Some).map_err(|error| D::Error::custom(or_none(error)))
    }
}

/// What is done while a verdict is under way.
pub(super) mod ahead {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use sled_core::device::Ahead;

    const NAMES: [(&str, Ahead); 3] =
        [("nothing", Ahead::Nothing), ("drafts", Ahead::Drafts), ("blocks", Ahead::Blocks)];

    pub(in super::super) fn serialize<S: Serializer>(ahead: &Ahead, to: S) -> Result<S::Ok, S::Error> {
        let name = NAMES.into_iter().find(|(_, other)| other == ahead);
        to.serialize_str(name.map_or("blocks", |(name, _)| name))
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Ahead, D::Error> {
        let text = String::deserialize(from)?;
        let known = NAMES.into_iter().find(|(name, _)| *name == text);
        let unknown = || D::Error::custom(format!("`{text}` is not a way to go ahead; use nothing, drafts or blocks"));
        known.map(|(_, ahead)| ahead).ok_or_else(unknown)
    }
}
