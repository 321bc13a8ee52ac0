//! When a device stops drafting and sends.

use std::fmt;
use std::str::FromStr;

/// Decides after each drafted token whether to draft another or to send.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Policy {
    /// As long as another token is worth what it costs, see [`crate::goodput`].
    #[default]
    Goodput,
    /// Always `k` tokens.
    Fixed {
        /// The length of every block, in `1..=`[`Policy::MAX_LENGTH`].
        k: usize,
    },
    /// The paper's Eq. 1: go on while the confidence of the last token is at least `threshold`. The token that fell below
    /// it is sent too: it costs one row and is right more often than not.
    Confidence {
        /// The least confidence to go on, in `0..=1`.
        threshold: f32,
        /// The longest block, in `1..=`[`Policy::MAX_LENGTH`].
        k_max: usize,
    },
}

impl Policy {
    /// The longest draft block that a device sends and a server accepts.
    pub const MAX_LENGTH: usize = 64;
}

/// Why a policy cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Neither form.
    #[error(
        "`{0}` is not a drafting policy; use goodput, fixed:K (say fixed:4) or confidence:C:KMAX (say confidence:0.5:8)"
    )]
    Unknown(String),
    /// A length out of range.
    #[error("a draft length of {0} is out of range; use 1 to {max}", max = Policy::MAX_LENGTH)]
    Length(String),
    /// A threshold out of range.
    #[error("a confidence threshold of {0} is out of range; use 0 to 1")]
    Threshold(String),
}

impl FromStr for Policy {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let length = |text: &str| match text.parse() {
            Ok(k) if (1..=Self::MAX_LENGTH).contains(&k) => Ok(k),
            _ => Err(PolicyError::Length(text.to_owned())),
        };
        match text.split(':').collect::<Vec<_>>()[..] {
            ["goodput"] => Ok(Self::Goodput),
            ["fixed", k] => Ok(Self::Fixed { k: length(k)? }),
            ["confidence", threshold, k_max] => match threshold.parse() {
                Ok(c) if (0.0..=1.0).contains(&c) => Ok(Self::Confidence { threshold: c, k_max: length(k_max)? }),
                _ => Err(PolicyError::Threshold(threshold.to_owned())),
            },
            _ => Err(PolicyError::Unknown(text.to_owned())),
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Goodput => write!(f, "goodput"),
            Self::Fixed { k } => write!(f, "fixed:{k}"),
            Self::Confidence { threshold, k_max } => write!(f, "confidence:{threshold}:{k_max}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        for text in ["goodput", "fixed:4", "confidence:0.5:8", "confidence:0:64"] {
            assert_eq!(text.parse::<Policy>().map(|p| p.to_string()).as_deref(), Ok(text));
        }
    }

    #[test]
    fn refuses_what_is_out_of_range() {
        assert_eq!("fixed:0".parse::<Policy>(), Err(PolicyError::Length("0".into())));
        assert_eq!("fixed:65".parse::<Policy>(), Err(PolicyError::Length("65".into())));
        assert_eq!("fixed:-1".parse::<Policy>(), Err(PolicyError::Length("-1".into())));
        assert_eq!("confidence:NaN:8".parse::<Policy>(), Err(PolicyError::Threshold("NaN".into())));
        assert_eq!("confidence:1.5:8".parse::<Policy>(), Err(PolicyError::Threshold("1.5".into())));
        assert_eq!("greedy".parse::<Policy>(), Err(PolicyError::Unknown("greedy".into())));
    }
}
