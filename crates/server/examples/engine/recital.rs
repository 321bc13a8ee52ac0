//! An engine that has learned some sentences by heart.
//!
//! Its tokens are bytes. After a text it finds each byte as likely as the longest end of the text that the byte follows in a
//! sentence. A real engine would keep keys and values where this one keeps tokens.

use std::path::Path;

use sled_core::Token;
use sled_core::names::Fingerprint;
use sled_core::step::{CacheOp, Row};
use sled_model::vocabulary::{Tokenizer, Vocab, VocabInfo};
use sled_model::{Error, Limits, Model};

const SENTENCES: &str = "\
The quick brown fox jumps over the lazy dog.
A device drafts tokens, and the server verifies them in batches.
How vexingly quick daft zebras jump!
";

/// The token that ends a sentence, after all bytes.
const END: Token = 256;

/// The file with the vocabulary that devices are sent. What is in it is a matter between the engine and [`read_vocabulary`].
pub const VOCABULARY_FILE: &[u8] = b"recital: tokens are bytes";

/// The engine.
pub struct Recital {
    limits: Limits,
    /// The tokens in the KV cache, for each sequence.
    cache: Vec<Vec<Token>>,
    /// The logits of each row of the last pass; none where they were not wanted.
    logits: Vec<Vec<f32>>,
}

impl Recital {
    /// An engine with an empty cache.
    pub fn new() -> Self {
        let (sequences, context) = (16, 1024);
        let limits = Limits { vocab_size: END as usize + 1, cells: sequences * context, sequences, rows: 256, context };
        Self { limits, cache: vec![Vec::new(); sequences], logits: Vec::new() }
    }

    fn sequence(&mut self, sequence: u32) -> Result<&mut Vec<Token>, Error> {
        let sequences = self.limits.sequences;
        self.cache.get_mut(sequence as usize).ok_or(Error::UnknownSequence { sequence, sequences })
    }
}

impl Model for Recital {
    fn limits(&self) -> Limits {
        self.limits
    }

    fn apply(&mut self, op: CacheOp) -> Result<(), Error> {
        match op {
            CacheOp::Truncate { sequence, len } => self.sequence(sequence)?.truncate(len),
            CacheOp::CopyPrefix { from, to, len } => {
                let donor = self.sequence(from)?;
                let have = donor.len();
                let prefix = donor.get(..len).ok_or(Error::CacheLength { sequence: from, have, len })?.to_vec();
                *self.sequence(to)? = prefix;
            }
        }
        Ok(())
    }

    fn forward(&mut self, rows: &[Row]) -> Result<(), Error> {
        self.logits.clear();
        for &Row { sequence, position, token, wants_logits } in rows {
            let cached = self.sequence(sequence)?;
            if position != cached.len() {
                return Err(Error::Position { sequence, position, len: cached.len() });
            }
            cached.push(token);
            let logits = if wants_logits { logits_after(cached) } else { Vec::new() };
            self.logits.push(logits);
        }
        Ok(())
    }

    fn logits(&self, row: usize) -> Result<&[f32], Error> {
        let logits = self.logits.get(row).filter(|logits| !logits.is_empty());
        logits.map(Vec::as_slice).ok_or(Error::NoLogits(row))
    }
}

fn logits_after(text: &[Token]) -> Vec<f32> {
    let sentences = SENTENCES.as_bytes();
    let mut logits = vec![0.0_f32; END as usize + 1];
    for (at, &next) in sentences.iter().enumerate() {
        let pairs = sentences[..at].iter().rev().zip(text.iter().rev());
        let agree = pairs.take_while(|&(&byte, &token)| Token::from(byte) == token).count();
        let next = if next == b'\n' { END } else { next.into() };
        logits[next as usize] = logits[next as usize].max(agree as f32);
    }
    logits
}

#[derive(Debug)]
struct Bytes;

impl Tokenizer for Bytes {
    fn tokenize(&self, text: &str, _add_special: bool, _parse_special: bool) -> Result<Vec<Token>, Error> {
        Ok(text.bytes().map(Token::from).collect())
    }

    fn piece(&self, token: Token, _special: bool) -> Vec<u8> {
        u8::try_from(token).into_iter().collect()
    }
}

/// The engine's vocabulary.
pub fn vocabulary() -> Vocab {
    let info = VocabInfo {
        size: END as usize + 1,
        bos: None,
        eos: Some(END),
        add_bos: false,
        eog_tokens: vec![END],
        chat_template: None,
        fingerprint: Fingerprint::new(0x7265_6369_7461_6c01),
    };
    Vocab::new(info, Bytes)
}

/// Reads the vocabulary from the file that the server sent.
///
/// # Errors
/// If it is another file.
pub fn read_vocabulary(path: &Path) -> Result<Vocab, Box<dyn std::error::Error + Send + Sync>> {
    if std::fs::read(path)? == VOCABULARY_FILE {
        Ok(vocabulary())
    } else {
        Err("the server's vocabulary is not that of a recital; check --server".into())
    }
}
