//! What can go wrong with a simulation.

use std::path::PathBuf;

/// What can go wrong with a simulation; each message is one sentence for the user.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file is no recording.
    #[error("cannot use {} as recorded drafts: {reason}; make one with `sled bench record`", .path.display())]
    Recording {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The state machines asked a model for what cannot be.
    #[error("the simulated model failed: {0}")]
    Model(#[from] sled_model::Error),
    /// A sampling parameter is out of range.
    #[error(transparent)]
    Sampling(#[from] sled_core::sampler::SamplingError),
    /// A file is no profile.
    #[error("cannot use {} as a profile: {reason}", .path.display())]
    Profile {
        /// The file, or the folder of profiles.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// No profile has this name.
    #[error("there is no {what} `{name}`; use one of {known}")]
    UnknownProfile {
        /// A machine, a drafter or a target.
        what: &'static str,
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// A scenario says what cannot be.
    #[error("{0}")]
    Scenario(String),
    /// A file is no scenario.
    #[error("cannot use {} as a scenario: {reason}", .path.display())]
    ScenarioFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}
