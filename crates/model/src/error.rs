//! What can go wrong with a model.

use std::path::PathBuf;

/// What can go wrong with a model; each message is one sentence for the user.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The model file is not there.
    #[error("there is no model file at {}; check the path, or `sled list` for models by name", .0.display())]
    NotFound(PathBuf),
    /// The model's vocabulary cannot be used.
    #[error("the vocabulary of {name} cannot be used because it {why}; choose another model")]
    Vocabulary {
        /// The model's name.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A grammar cannot be used.
    #[error("the grammar cannot be used: {0}")]
    Grammar(String),
    /// A forward pass has no row, or more than it may have.
    #[error("a forward pass must have from 1 to {limit} rows, and it has {rows}")]
    Rows {
        /// How many rows it has.
        rows: usize,
        /// How many it may have.
        limit: usize,
    },
    /// A sequence number is out of range.
    #[error("there is no sequence {sequence}; the engine has {sequences} of them")]
    UnknownSequence {
        /// The number given.
        sequence: u32,
        /// How many sequences there are.
        sequences: usize,
    },
    /// A token id is out of range.
    #[error("there is no token {token}; the vocabulary has {vocab_size} of them")]
    UnknownToken {
        /// The id given.
        token: u32,
        /// How many tokens there are.
        vocab_size: usize,
    },
    /// A row does not extend the cache of its sequence.
    #[error("position {position} does not extend sequence {sequence}, which has {len} tokens")]
    Position {
        /// The sequence.
        sequence: u32,
        /// The row's position.
        position: usize,
        /// How long the sequence is at that row.
        len: usize,
    },
    /// A sequence is as long as it can get.
    #[error("sequence {sequence} is full with {limit} tokens; start a new one or serve with a larger context")]
    SequenceFull {
        /// The sequence.
        sequence: u32,
        /// How long a sequence can get.
        limit: usize,
    },
    /// The cache has no cells left for the rows of a pass.
    #[error("the cache of {cells} tokens has no room for {rows} more; free a sequence or serve with a larger context")]
    CacheFull {
        /// How many rows were to be added.
        rows: usize,
        /// How many cells the cache has.
        cells: usize,
    },
    /// A length given to a cache operation exceeds the sequence.
    #[error("sequence {sequence} has {have} tokens and not {len}")]
    CacheLength {
        /// The sequence.
        sequence: u32,
        /// The length given.
        len: usize,
        /// How long the sequence is.
        have: usize,
    },
    /// A prefix was to be copied to a sequence that is not empty.
    #[error("a prefix can only be copied to an empty sequence, and sequence {sequence} has {len} tokens")]
    CopyTarget {
        /// The sequence.
        sequence: u32,
        /// How long it is.
        len: usize,
    },
    /// The engine cannot roll the cache back.
    #[error("{name} cannot forget the end of a sequence; choose a model whose cache can be rolled back")]
    Rollback {
        /// The model's name.
        name: String,
    },
    /// A model with a sliding window has lost the part of it that a shortened sequence needs.
    #[error("the sliding window before token {len} of sequence {sequence} is lost; evaluate the sequence again from 0")]
    WindowLost {
        /// The sequence.
        sequence: u32,
        /// How long it was to be.
        len: usize,
    },
    /// A forward pass failed.
    #[error("the engine failed in a forward pass: {0}")]
    Pass(String),
    /// The logits of a row are not there.
    #[error("row {0} of the last forward pass did not ask for logits")]
    NoLogits(usize),
    /// A text cannot be tokenised.
    #[error("a text of {bytes} bytes is too long to be tokenised; shorten it")]
    TextTooLong {
        /// How many bytes it has.
        bytes: usize,
    },
    /// A text has digits or blanks that the vocabulary's tokeniser would take too long for.
    #[error(
        "{characters} digits or blanks in a row take this model's tokeniser too long; put something else between them"
    )]
    RunTooLong {
        /// How many there are in the longest run.
        characters: usize,
    },
    /// A chat template is not valid, or refuses the messages.
    #[error("the model's chat template cannot be used: {0}")]
    ChatTemplate(String),
    /// There is no process to render a chat template in.
    #[error("cannot start a process to render chats: {0}; the system may be out of memory or processes")]
    Renderer(#[source] std::io::Error),
    /// Too much waits for the workers already.
    #[error("too many requests are being prepared; try again in a second")]
    WorkersBusy,
    /// A piece of work was not done in time.
    #[error("the request takes too long to prepare; shorten its text, or make its grammar simpler")]
    WorkTooLong,
    /// A piece of work panicked.
    #[error("the request cannot be prepared; shorten its text, or make its grammar simpler")]
    WorkFailed,
    /// No worker can be started.
    #[error("cannot start a thread to prepare requests: {0}; the system may be out of memory or threads")]
    Workers(#[source] std::io::Error),
    /// There is nothing to continue.
    #[error("the prompt is empty; give at least one token")]
    EmptyPrompt,
    /// The catalogue that was built into the program is broken.
    #[error("the built-in catalogue of models is broken: {0}")]
    Catalog(#[source] toml::de::Error),
    /// A name that no model has.
    #[error("there is no model called `{name}`{}; see `sled list`", nearest.as_ref().map_or(String::new(), |nearest| format!(" (did you mean `{nearest}`?)")))]
    UnknownModel {
        /// The name given.
        name: String,
        /// The name that is most like it.
        nearest: Option<String>,
    },
    /// A reference that names no file on Hugging Face.
    #[error("`{0}` is no reference to a model on Hugging Face; use hf:ORG/REPO/FILE.gguf")]
    BadReference(String),
    /// There is no home folder.
    #[error("there is no folder to keep models in; set HF_HUB_CACHE or HOME")]
    NoHome,
    /// A model that is known but not there.
    #[error("{0} is not downloaded; run `sled pull {0}`")]
    NotDownloaded(String),
    /// A downloaded file that has changed since.
    #[error("the file of {name} at {} is corrupt; run `sled pull {name}` to get it again", .path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// The model.
        name: String,
    },
    /// No source gave the file.
    #[error("cannot download {name} ({reason}); check the network and pull again")]
    Download {
        /// The model.
        name: String,
        /// What each source said.
        reason: String,
    },
    /// What was downloaded is not the model.
    #[error("what was downloaded for {name} is not the right file ({reason}) and was removed; pull again")]
    WrongFile {
        /// The model.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// A file of the model folder cannot be read or written.
    #[error("cannot access {}: {source}; check that the disk is not full and the folder writable", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
}
