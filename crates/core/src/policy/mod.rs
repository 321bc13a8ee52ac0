//! When a device stops drafting and sends.
//!
//! A device asks its [`DraftPolicy`] token by token. [`Policy`] names those that are built in, as options and scenarios spell them,
//! and makes them; [`Device::with_policy`](crate::device::Device::with_policy) takes any other.

mod confidence;
mod fixed;
mod goodput;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::message::{Load, MAX_BLOCK};
use crate::tuning::Tuning;

/// Decides after each drafted token whether to draft another or to send.
///
/// A device asks with `&self`, as often as it likes, and tells what it measures through the methods that begin with `on_`.
///
/// ```
/// use sled_core::device::{Device, DeviceConfig};
/// use sled_core::policy::{DraftPolicy, NextBlock};
///
/// /// Goes on while the whole block is more likely right than wrong.
/// #[derive(Debug)]
/// struct LikelyBlocks;
///
/// impl DraftPolicy for LikelyBlocks {
///     fn takes(&self, block: &NextBlock, acceptance: f64) -> bool {
///         block.survival * acceptance > 0.5
///     }
///
///     fn waits_for(&self, block: &NextBlock, acceptance: f64) -> bool {
///         self.takes(block, acceptance)
///     }
/// }
///
/// let device = Device::with_policy(DeviceConfig::default(), Some(Box::new(LikelyBlocks)));
/// assert_eq!(device.deadline(), None);
/// ```
pub trait DraftPolicy: fmt::Debug + Send + Sync {
    /// Whether a draft that is there goes out with the block. `acceptance`: the probability that it is right if all before it are.
    fn takes(&self, block: &NextBlock, acceptance: f64) -> bool;

    /// Whether the block waits for a draft that is still to be made. `acceptance`: the probability that it will be right if all
    /// before it are.
    fn waits_for(&self, block: &NextBlock, acceptance: f64) -> bool;

    /// How many tokens the server is to decode by itself before it hears of this device again; `None` if the device drafts.
    fn lease(&self) -> Option<usize> {
        None
    }

    /// A block of `len` drafts goes out.
    fn on_block(&mut self, _len: usize) {}

    /// A token took `time` to draft.
    fn on_draft(&mut self, _time: Duration) {}

    /// The server told how busy it was in a pass with `rows` rows of this device. What the pass committed is told next.
    fn on_load(&mut self, _load: Load, _rows: u32) {}

    /// `tokens` were committed in the last `time`; `plainly`, if the server decoded by itself.
    fn on_commit(&mut self, _tokens: usize, _time: Duration, _plainly: bool) {}

    /// A block and its verdict were on the way for `time`, the server's part in it not counted.
    fn on_round_trip(&mut self, _time: Duration) {}
}

/// A block that is to go out, as far as it is decided.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NextBlock {
    /// How many drafts it has so far.
    pub len: usize,
    /// How it will travel.
    pub travel: Travel,
    /// The probability that all of them are right, and all drafts before the block.
    pub survival: f64,
    /// The probability that the block is looked at: behind another, only if its first token is the bonus of that.
    pub validity: f64,
    /// The drafter's confidence in the draft before the next one; `None` if that token is no draft.
    pub confidence: Option<f32>,
}

impl NextBlock {
    /// Whether it is empty so far, and others are under way before it.
    #[must_use]
    pub fn begins_behind(&self) -> bool {
        self.len == 0 && self.travel == Travel::Behind
    }
}

/// How a block travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Travel {
    /// No other block follows until its verdict is there.
    Alone,
    /// It is the first of several.
    First,
    /// Others are under way before it.
    Behind,
}

/// The policies that are built in, by name.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Policy {
    /// As long as another token is worth what it costs (`policy/goodput.rs`).
    #[default]
    Goodput,
    /// Always `k` tokens.
    Fixed {
        /// The length of every block, in `1..=`[`MAX_BLOCK`].
        k: usize,
    },
    /// The paper's Eq. 1: go on while the confidence of the last token is at least `threshold`. The token that fell below
    /// it is sent too: it costs one row and is right more often than not.
    Confidence {
        /// The least confidence to go on, in `0..=1`.
        threshold: f32,
        /// The longest block, in `1..=`[`MAX_BLOCK`].
        k_max: usize,
    },
}

impl Policy {
    /// The policy itself, which has measured nothing yet.
    #[must_use]
    pub fn build(self, tuning: &Tuning) -> Box<dyn DraftPolicy> {
        match self {
            Self::Goodput => Box::new(goodput::Goodput::new(tuning)),
            Self::Fixed { k } => Box::new(fixed::Fixed::new(k, tuning)),
            Self::Confidence { threshold, k_max } => Box::new(confidence::Confidence::new(threshold, k_max)),
        }
    }
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
    #[error("a draft length of {0} is out of range; use 1 to {max}", max = MAX_BLOCK)]
    Length(String),
    /// A threshold out of range.
    #[error("a confidence threshold of {0} is out of range; use 0 to 1")]
    Threshold(String),
}

impl FromStr for Policy {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let length = |text: &str| match text.parse() {
            Ok(k) if (1..=MAX_BLOCK).contains(&k) => Ok(k),
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
