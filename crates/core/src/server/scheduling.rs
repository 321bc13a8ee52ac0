//! How a server uses its engine, by name.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// How requests become batches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Batching {
    /// Whenever the engine is free it takes what is ready, ragged. Launching waits only while that raises the expected rate.
    #[default]
    Continuous,
    /// The paper's: wait for `batch_size` requests, or for `max_wait` since the first of them, and pad all to the longest.
    Static {
        /// How many requests make a batch, at least 1.
        batch_size: usize,
        /// The longest that a request waits for others.
        max_wait: Duration,
    },
}

/// Whether a session that has no draft pending when a step is launched is given a plain row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Assist {
    /// Where that is worth its row: everybody while there is no rate goal, else whoever would fall below it.
    #[default]
    Auto,
    /// Only who asks is served.
    Never,
    /// Everybody, in every step; and steps follow each other without a pause.
    Always,
}

/// Why a policy cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SchedulingError {
    /// No batching policy.
    #[error("`{0}` is not a batching policy; use continuous, or static:SIZE:MS (say static:8:100)")]
    Batching(String),
    /// No assist policy.
    #[error("`{0}` is not an assist policy; use auto, never or always")]
    Assist(String),
}

impl FromStr for Batching {
    type Err = SchedulingError;

    fn from_str(text: &str) -> Result<Self, SchedulingError> {
        let unknown = || SchedulingError::Batching(text.to_owned());
        match text.split(':').collect::<Vec<_>>()[..] {
            ["continuous"] => Ok(Self::Continuous),
            ["static", size, wait] => {
                let batch_size = size.parse().ok().filter(|&size| size > 0).ok_or_else(unknown)?;
                let max_wait = wait.parse().map(Duration::from_millis).map_err(|_no_number| unknown())?;
                Ok(Self::Static { batch_size, max_wait })
            }
            _ => Err(unknown()),
        }
    }
}

impl fmt::Display for Batching {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Continuous => write!(f, "continuous"),
            Self::Static { batch_size, max_wait } => write!(f, "static:{batch_size}:{}", max_wait.as_millis()),
        }
    }
}

impl FromStr for Assist {
    type Err = SchedulingError;

    fn from_str(text: &str) -> Result<Self, SchedulingError> {
        match text {
            "auto" => Ok(Self::Auto),
            "never" => Ok(Self::Never),
            "always" => Ok(Self::Always),
            _ => Err(SchedulingError::Assist(text.to_owned())),
        }
    }
}

impl fmt::Display for Assist {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Never => "never",
            Self::Always => "always",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes_and_refuses_the_rest() {
        for text in ["continuous", "static:8:100", "static:1:0"] {
            assert_eq!(text.parse::<Batching>().map(|b| b.to_string()).as_deref(), Ok(text));
        }
        for text in ["auto", "never", "always"] {
            assert_eq!(text.parse::<Assist>().map(|a| a.to_string()).as_deref(), Ok(text));
        }
        for text in ["static", "static:0:5", "static:2:-1", "static:2:x", "dynamic"] {
            assert_eq!(text.parse::<Batching>(), Err(SchedulingError::Batching(text.to_owned())));
        }
        assert!("sometimes".parse::<Assist>().is_err());
    }
}
