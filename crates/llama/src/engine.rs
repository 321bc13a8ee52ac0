//! A context on loaded weights, as an engine.

use llama_cpp_sys_2 as sys;
use sled_core::step::{CacheOp, Row, SequenceId};
use sled_model::{Error, Limits, Model, Pulse};

use super::ffi::{self, Context, ContextOptions, Failure};
use super::footprint::CacheType;
use super::memory;
use super::model::LlamaModel;

/// How large an engine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineOptions {
    /// How many tokens its cache holds, over all sequences; rounded up to a multiple of 256.
    pub context: u32,
    /// How many sequences it tells apart, from 1 to 256.
    pub sequences: u32,
    /// How many rows a forward pass may have, up to `context`.
    pub rows: u32,
    /// On how many threads it computes, from 1 to [`EngineOptions::MAX_THREADS`].
    pub threads: u32,
    /// How exactly the cache holds keys and values.
    pub cache: CacheType,
}

impl EngineOptions {
    /// The most threads that an engine can compute on.
    pub const MAX_THREADS: u32 = ffi::MAX_THREADS;
}

/// A context on loaded weights: a KV cache of many sequences, which share its cells.
///
/// A pass that fails changes nothing, so an engine stays usable after every error.
pub struct LlamaEngine {
    context: Context,
    name: String,
    limits: Limits,
    sliding_window: usize,
    /// How many tokens each sequence has.
    lengths: Vec<usize>,
    /// What `lengths` become if the pass under way succeeds.
    next_lengths: Vec<usize>,
    /// Which rows of the last pass asked for logits.
    wants_logits: Vec<bool>,
}

impl LlamaEngine {
    /// Makes an engine on `model`.
    ///
    /// # Errors
    /// If an option is out of range, the model is of a kind that cannot be served, or there is no memory for the cache.
    pub fn new(model: &LlamaModel, options: &EngineOptions) -> Result<Self, crate::Error> {
        check_option("context tokens", options.context, i32::MAX.unsigned_abs())?;
        check_option("sequences", options.sequences, ffi::MAX_SEQUENCES)?;
        check_option("rows", options.rows, options.context)?;
        check_option("threads", options.threads, ffi::MAX_THREADS)?;
        let weights = model.weights();
        let unsuitable = |why| crate::Error::Architecture {
            name: model.description().name.clone(),
            architecture: model.description().architecture.clone(),
            why,
        };
        if let Some(why) = weights.limitation() {
            return Err(unsuitable(why));
        }
        if let Some(footprint) = model.footprint() {
            footprint.check_cache(options.context.into(), options.cache, memory::available())?;
        }
        let context = Context::new(
            weights,
            ContextOptions {
                cells: options.context,
                sequences: options.sequences,
                rows: options.rows,
                threads: options.threads,
                cache: match options.cache {
                    CacheType::F16 => sys::GGML_TYPE_F16,
                    CacheType::Q8_0 => sys::GGML_TYPE_Q8_0,
                },
            },
        )
        .map_err(|reason| crate::Error::Context {
            name: model.description().name.clone(),
            cells: options.context as usize,
            reason,
        })?;
        if !context.is_causal() {
            return Err(unsuitable("does not generate from left to right"));
        }
        let limits = Limits {
            vocab_size: weights.vocab_size(),
            cells: context.cells(),
            sequences: options.sequences as usize,
            rows: context.rows(),
            context: weights.train_context().min(context.cells()),
        };
        Ok(Self {
            context,
            name: model.description().name.clone(),
            limits,
            sliding_window: weights.sliding_window(),
            lengths: vec![0; limits.sequences],
            next_lengths: Vec::new(),
            wants_logits: Vec::new(),
        })
    }

    /// How many tokens `sequence` has.
    fn len(&self, sequence: SequenceId) -> Result<usize, Error> {
        let unknown = Error::UnknownSequence { sequence, sequences: self.limits.sequences };
        self.lengths.get(sequence as usize).copied().ok_or(unknown)
    }

    /// Checks everything that llama.cpp would answer by ending the process, and computes the lengths after the pass.
    fn check(&mut self, rows: &[Row]) -> Result<(), Error> {
        let limits = self.limits;
        if rows.is_empty() || rows.len() > limits.rows {
            return Err(Error::Rows { rows: rows.len(), limit: limits.rows });
        }
        self.next_lengths.clone_from(&self.lengths);
        for &Row { sequence, position, token, .. } in rows {
            let len = self
                .next_lengths
                .get_mut(sequence as usize)
                .ok_or(Error::UnknownSequence { sequence, sequences: limits.sequences })?;
            if position != *len {
                return Err(Error::Position { sequence, position, len: *len });
            }
            if position >= limits.context {
                return Err(Error::SequenceFull { sequence, limit: limits.context });
            }
            if token as usize >= limits.vocab_size {
                return Err(Error::UnknownToken { token, vocab_size: limits.vocab_size });
            }
            *len += 1;
        }
        Ok(())
    }

    fn truncate(&mut self, sequence: SequenceId, len: usize) -> Result<(), Error> {
        let have = self.len(sequence)?;
        if len > have {
            return Err(Error::CacheLength { sequence, len, have });
        }
        if len == have {
            return Ok(());
        }
        if !self.context.truncate(sequence, len) {
            return Err(Error::Rollback { name: self.name.clone() });
        }
        self.lengths[sequence as usize] = len;
        self.check_window(sequence, len)
    }

    fn copy_prefix(&mut self, from: SequenceId, to: SequenceId, len: usize) -> Result<(), Error> {
        let have = self.len(from)?;
        if len > have {
            return Err(Error::CacheLength { sequence: from, len, have });
        }
        let occupied = self.len(to)?;
        if occupied > 0 {
            return Err(Error::CopyTarget { sequence: to, len: occupied });
        }
        self.context.copy_prefix(from, to, len);
        self.lengths[to as usize] = len;
        self.check_window(to, len)
    }

    /// Whether the layers with a sliding window still have all that the next token of a sequence of `len` tokens sees.
    ///
    /// llama.cpp takes the cells of what has left a sequence's window when others run short of cells; a sequence that is
    /// cut then sees less than it did, and its logits would silently differ.
    fn check_window(&self, sequence: SequenceId, len: usize) -> Result<(), Error> {
        if self.sliding_window == 0 || len == 0 {
            return Ok(());
        }
        match self.context.first_position(sequence) {
            Some(first) if first <= len.saturating_sub(self.sliding_window) => Ok(()),
            _ => Err(Error::WindowLost { sequence, len }),
        }
    }
}

impl Model for LlamaEngine {
    fn limits(&self) -> Limits {
        self.limits
    }

    fn apply(&mut self, op: CacheOp) -> Result<(), Error> {
        match op {
            CacheOp::Truncate { sequence, len } => self.truncate(sequence, len),
            CacheOp::CopyPrefix { from, to, len } => self.copy_prefix(from, to, len),
        }
    }

    fn forward(&mut self, rows: &[Row]) -> Result<(), Error> {
        self.wants_logits.clear();
        self.check(rows)?;
        if let Err(failure) = self.context.decode(rows) {
            // A pass may be computed in pieces: what the first of them left in the cache goes.
            for row in rows {
                self.context.truncate(row.sequence, self.lengths[row.sequence as usize]);
            }
            return Err(match failure {
                Failure::NoCells => Error::CacheFull { rows: rows.len(), cells: self.limits.cells },
                Failure::Other { code, reason } => Error::Pass(format!("llama.cpp gives code {code}: {reason}")),
            });
        }
        std::mem::swap(&mut self.lengths, &mut self.next_lengths);
        self.wants_logits.extend(rows.iter().map(|row| row.wants_logits));
        Ok(())
    }

    fn logits(&self, row: usize) -> Result<&[f32], Error> {
        let wanted = self.wants_logits.get(row).copied().unwrap_or(false);
        wanted.then(|| self.context.logits(row)).flatten().ok_or(Error::NoLogits(row))
    }

    fn pulse(&self) -> Option<Pulse> {
        // A GPU is given a whole pass at once.
        (!ffi::has_gpu()).then(|| self.context.pulse().clone())
    }
}

fn check_option(what: &'static str, value: u32, most: u32) -> Result<(), crate::Error> {
    if (1..=most).contains(&value) {
        Ok(())
    } else {
        Err(crate::Error::EngineOption { what, value: value as usize, most: most as usize })
    }
}
