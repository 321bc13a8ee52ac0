//! The file with the target's vocabulary, as it travels: announced with its size and checksum, sent in pieces, and believed only
//! when all of them are there.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::{WireError, pb};

/// The largest vocabulary that a device takes; those of today's models have 20 MiB at most.
pub const MAX_VOCABULARY_BYTES: u64 = 64 << 20;

/// The vocabulary travels in pieces of this size.
const CHUNK_BYTES: usize = 256 << 10;

/// A SHA-256; written with 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Checksum([u8; 32]);

impl Checksum {
    /// The checksum of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Checksum {
    type Err = WireError;

    fn from_str(text: &str) -> Result<Self, WireError> {
        let digit = |byte: u8| char::from(byte).to_digit(16).filter(|_| !byte.is_ascii_uppercase());
        let mut bytes = [0; 32];
        if text.len() != 2 * bytes.len() {
            return Err(WireError::WrongChecksum);
        }
        for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            for &each in digits {
                let value = digit(each).and_then(|value| u8::try_from(value).ok()).ok_or(WireError::WrongChecksum)?;
                *byte = *byte << 4 | value;
            }
        }
        Ok(Self(bytes))
    }
}

/// What a server says of the file that it sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VocabularyFile {
    /// Its bytes.
    pub bytes: u64,
    /// Its checksum.
    pub checksum: Checksum,
}

impl VocabularyFile {
    /// What is to be said of `file`.
    #[must_use]
    pub fn of(file: &[u8]) -> Self {
        Self { bytes: file.len() as u64, checksum: Checksum::of(file) }
    }

    pub(crate) fn encode_checksum(&self) -> Vec<u8> {
        self.checksum.0.to_vec()
    }

    pub(crate) fn decode(bytes: u64, checksum: &[u8]) -> Result<Self, WireError> {
        if bytes > MAX_VOCABULARY_BYTES {
            return Err(WireError::VocabularyTooLarge { bytes });
        }
        let checksum = checksum.try_into().map_err(|_other_length| WireError::WrongChecksum)?;
        Ok(Self { bytes, checksum: Checksum(checksum) })
    }
}

/// Cuts a vocabulary file into messages, without copying it.
pub fn vocabulary_chunks(mut file: Bytes) -> impl Iterator<Item = pb::VocabularyChunk> {
    std::iter::from_fn(move || {
        let len = file.len().min(CHUNK_BYTES);
        (len > 0).then(|| pb::VocabularyChunk { data: file.split_to(len) })
    })
}

/// Puts the pieces together again.
#[derive(Debug)]
pub struct VocabularyPieces {
    announced: VocabularyFile,
    file: Vec<u8>,
}

impl VocabularyPieces {
    /// Expects what was announced.
    #[must_use]
    pub fn of(announced: VocabularyFile) -> Self {
        Self { announced, file: Vec::new() }
    }

    /// How many bytes are there.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.file.len() as u64
    }

    /// Adds the next piece.
    ///
    /// # Errors
    /// If it is empty, or there are more bytes than were announced.
    pub fn take(&mut self, chunk: &pb::VocabularyChunk) -> Result<(), WireError> {
        let received = self.received() + chunk.data.len() as u64;
        if chunk.data.is_empty() || received > self.announced.bytes {
            return Err(WireError::OtherVocabularyFile);
        }
        self.file.extend_from_slice(&chunk.data);
        Ok(())
    }

    /// The file, now that nothing more comes.
    ///
    /// # Errors
    /// If it is not the one that was announced.
    pub fn finish(self) -> Result<Vec<u8>, WireError> {
        if VocabularyFile::of(&self.file) == self.announced {
            Ok(self.file)
        } else {
            Err(WireError::OtherVocabularyFile)
        }
    }
}
