//! What can go wrong with llama.cpp.
//!
//! What reads, converts or loads a file, or makes an engine, fails with this crate's [`Error`]. Loaded engines and vocabularies are
//! asked through the traits of `sled_model`, and fail with its error, as those of any other engine; [`Error::Model`] holds it where
//! it is found out at loading.

use std::path::PathBuf;

/// Bytes as gibibytes, for people to read.
#[allow(clippy::cast_precision_loss)]
fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

/// What can go wrong before there is an engine or a vocabulary; each message is one sentence for the user.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What any engine may find wrong with a model.
    #[error(transparent)]
    Model(#[from] sled_model::Error),
    /// The file is no model file.
    #[error("{} is not a GGUF model file; give the path of a .gguf file or the name of a model", .0.display())]
    NotGguf(PathBuf),
    /// The header of a model file cannot be read, or says what cannot be.
    #[error("the header of {} cannot be used ({reason}); pull the model again", .path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file ends before its last tensor does.
    #[error("the model file {} is truncated ({actual} of {needed} bytes); pull it again", .path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// How many bytes its header says that it has.
        needed: u64,
        /// How many bytes it has.
        actual: u64,
    },
    /// The model file is larger than the memory that is free.
    #[error(
        "the model {} needs {:.1} GiB of memory and {:.1} GiB are available; choose a smaller quantisation",
        .path.display(), gib(*needed), gib(*available)
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// How many bytes its weights take.
        needed: u64,
        /// How many bytes are free.
        available: u64,
    },
    /// The file has a vocabulary and no weights.
    #[error("{} holds a vocabulary without weights; give the model file that it was made from", .0.display())]
    NoWeights(PathBuf),
    /// A model file or a vocabulary file cannot be read or written.
    #[error("cannot access {}: {source}", .path.display())]
    ModelFile {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// The engine refuses a model file.
    #[error("llama.cpp cannot load {}: {reason}", .path.display())]
    Unloadable {
        /// The file.
        path: PathBuf,
        /// What the engine says.
        reason: String,
    },
    /// The model's architecture cannot be used.
    #[error("{name} ({architecture}) cannot be used because it {why}; choose a decoder-only transformer")]
    Architecture {
        /// The model's name.
        name: String,
        /// Its architecture.
        architecture: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A number given to an engine is out of range.
    #[error("an engine's number of {what} must be from 1 to {most}, and {value} was given")]
    EngineOption {
        /// What is counted.
        what: &'static str,
        /// The number given.
        value: usize,
        /// The largest number allowed.
        most: usize,
    },
    /// The engine cannot make a context.
    #[error("llama.cpp cannot keep {cells} tokens of context for {name}, choose a smaller context: {reason}")]
    Context {
        /// The model's name.
        name: String,
        /// How many cells were asked for.
        cells: usize,
        /// What the engine says.
        reason: String,
    },
    /// A context is larger than the memory that is free.
    #[error(
        "a context of {tokens} tokens takes {:.1} GiB of memory with {name} and {:.1} GiB are available; {most} tokens would fit, \
         see -c",
        gib(*needed), gib(*available)
    )]
    ContextTooLarge {
        /// The model's name.
        name: String,
        /// How many tokens were asked for.
        tokens: u64,
        /// How many bytes they take.
        needed: u64,
        /// How many bytes are free.
        available: u64,
        /// How many tokens there is room for.
        most: u64,
    },
    /// A model file cannot be converted.
    #[error("llama.cpp cannot convert {}: {reason}", .path.display())]
    Convert {
        /// The file to be converted.
        path: PathBuf,
        /// What the engine says.
        reason: String,
    },
}
