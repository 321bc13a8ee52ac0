//! Why a message from the other side is refused.

use tonic::Status;

use crate::PROTOCOL;

/// Why a message from the other side is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The other side speaks another version of the protocol.
    #[error(
        "the other side speaks version {theirs} of the protocol, this one version {PROTOCOL}; run the same version of sled on both"
    )]
    Protocol {
        /// The version that the other side speaks.
        theirs: u32,
    },
    /// A message of no kind that this version knows.
    #[error("a message has no content that this version knows; run the same version of sled on device and server")]
    Empty,
    /// A token id that the vocabulary lacks.
    #[error(
        "token {token} is not in the vocabulary of {vocabulary_size} tokens; use the target's vocabulary on the device"
    )]
    UnknownToken {
        /// The id.
        token: u32,
        /// Tokens in the vocabulary.
        vocabulary_size: usize,
    },
    /// A draft block that is too long.
    #[error("a draft of {len} tokens is too long; shorten it to the {max_draft} that the server takes")]
    DraftTooLong {
        /// Tokens in the block.
        len: usize,
        /// The most that are allowed.
        max_draft: usize,
    },
    /// Something that ends beyond what a session may have.
    #[error(
        "a text of {len} tokens is too long for a session of {context}; shorten it, or start the server with a larger -c"
    )]
    BeyondContext {
        /// How many tokens the sequence would have.
        len: usize,
        /// The most that it may have.
        context: usize,
    },
    /// A prompt that is longer than the text that it is a part of.
    #[error(
        "a prompt of {prompt_len} tokens cannot be part of a text of {len}; run the same version of sled on device and server"
    )]
    PromptBeyondText {
        /// Tokens in the prompt.
        prompt_len: usize,
        /// Tokens in the text.
        len: usize,
    },
    /// Logit biases whose tokens and values do not pair up.
    #[error("logit_bias has {tokens} tokens but {values} values; send one value for each token")]
    UnpairedLogitBias {
        /// How many tokens there are.
        tokens: usize,
        /// How many values there are.
        values: usize,
    },
    /// Log probabilities of more tokens than may be asked for.
    #[error("log probabilities of {len} tokens are too many at one position; ask for at most {max}")]
    TooManyLogprobs {
        /// How many tokens there are.
        len: usize,
        /// The most that are allowed.
        max: u8,
    },
    /// Log probabilities that are none, or of other tokens than their message has.
    #[error("the log probabilities do not belong to their tokens; run the same version of sled on device and server")]
    WrongLogprobs,
    /// A grammar that is too long.
    #[error("a grammar of {len} bytes is too long; shorten it to {max}")]
    GrammarTooLong {
        /// Its bytes.
        len: usize,
        /// The most that are allowed.
        max: usize,
    },
    /// A fingerprint that is none.
    #[error(
        "the {what} is not one: it must have 16 hexadecimal digits in lower case; run the same version of sled on both"
    )]
    WrongFingerprint {
        /// Which one it is.
        what: &'static str,
    },
    /// A number that no server and no model comes near.
    #[error("the server claims {what} of {value}, where {max} is the most that makes sense; look for another server")]
    Implausible {
        /// What has the number.
        what: &'static str,
        /// The number.
        value: usize,
        /// The most that is taken.
        max: usize,
    },
    /// A vocabulary that is larger than any that is known.
    #[error("the server's vocabulary has {bytes} bytes, and at most 64 MiB are taken; use another model")]
    VocabularyTooLarge {
        /// Its bytes.
        bytes: u64,
    },
    /// A checksum that is none.
    #[error("the checksum of the vocabulary is not a SHA-256; run the same version of sled on device and server")]
    WrongChecksum,
    /// A vocabulary that differs from what was said of it.
    #[error("the server sent another vocabulary file than it announced; try again, or look for another server")]
    OtherVocabularyFile,
    /// A name that cannot be shown.
    #[error("the {what} has control characters; use printable ones")]
    Unprintable {
        /// Which name it is.
        what: &'static str,
    },
    /// A name that is too long to be one.
    #[error("the {what} has {len} bytes, and at most {max} are allowed; shorten it")]
    NameTooLong {
        /// Which name it is.
        what: &'static str,
        /// Its bytes.
        len: usize,
        /// The most that are allowed.
        max: usize,
    },
}

impl From<WireError> for Status {
    fn from(error: WireError) -> Self {
        match error {
            WireError::Protocol { .. } => Self::failed_precondition(error.to_string()),
            _ => Self::invalid_argument(error.to_string()),
        }
    }
}
