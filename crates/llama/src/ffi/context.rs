//! A context: a KV cache on loaded weights, and the forward passes that fill it.

use std::ffi::c_void;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::Arc;

use llama_cpp_sys_2 as sys;
use sled_core::step::{Row, SequenceId};
use sled_model::Pulse;

use super::weights::Weights;
use super::{log, start};

/// From 64 rows on, llama.cpp's attention on a CPU works in tiles of 64 rows by 64 cells, and computes a tile if any of its rows
/// sees any of its cells: rows of many sequences then pay for each other's text. (Measured on 64 sequences of 128 tokens: 1872
/// ms in one piece, 1312 in two.) A pass of more rows is computed in pieces of so many.
const CPU_ROWS: u32 = 63;

/// Whether llama.cpp was built to compute on OpenMP's threads, which outlive a pass by themselves; `Cargo.toml` says where.
const OPENMP: bool = cfg!(all(target_os = "linux", target_env = "gnu"));

/// How a context is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ContextOptions {
    /// How many tokens its cache holds, at least 1.
    pub(crate) cells: u32,
    /// How many sequences its cache tells apart, from 1 to [`super::MAX_SEQUENCES`].
    pub(crate) sequences: u32,
    /// How many rows a forward pass may have, at least 1.
    pub(crate) rows: u32,
    /// On how many threads it computes, from 1 to [`super::MAX_THREADS`].
    pub(crate) threads: u32,
    /// The type of what the cache holds.
    pub(crate) cache: sys::ggml_type,
}

/// Why a forward pass failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The cache has no cells left; it is as it was before.
    NoCells,
    /// Anything else.
    Other {
        /// What `llama_decode` returned.
        code: i32,
        /// What llama.cpp says.
        reason: String,
    },
}

/// A KV cache on loaded weights.
pub(crate) struct Context {
    context: NonNull<sys::llama_context>,
    batch: Batch,
    // Fields are dropped in this order, after `drop` has freed the context that uses both.
    _pool: Option<Pool>,
    pulse: Box<Pulse>,
    weights: Arc<Weights>,
}

// SAFETY: a context is not bound to the thread that made it; it must only not be used by two at once, and it is not
// `Sync`. The pointers in the batch point into the batch's own vectors.
unsafe impl Send for Context {}

impl Context {
    /// Makes a context on `weights`; the error is what llama.cpp says.
    ///
    /// Ends the process if `options` are out of range.
    pub(crate) fn new(weights: &Arc<Weights>, options: ContextOptions) -> Result<Self, String> {
        start();
        let threads = i32::try_from(options.threads).unwrap_or(i32::MAX);
        // SAFETY: the call has no arguments.
        let mut params = unsafe { sys::llama_context_default_params() };
        params.n_ctx = options.cells;
        params.n_batch = options.rows;
        params.n_ubatch = if super::has_gpu() { options.rows } else { options.rows.min(CPU_ROWS) };
        params.n_seq_max = options.sequences;
        params.n_threads = threads;
        params.n_threads_batch = threads;
        params.flash_attn_type = sys::LLAMA_FLASH_ATTN_TYPE_AUTO;
        params.type_k = options.cache;
        params.type_v = options.cache;
        params.no_perf = true;
        // Without it, a ragged batch of many sequences is computed in several passes.
        params.kv_unified = true;
        // Without it, what has left the sliding window is lost at once, and nothing could be rolled back.
        params.swa_full = true;
        // SAFETY: the model is alive, and the pointers in the default parameters are null.
        let (context, reason) = log::watch(|| unsafe { sys::llama_init_from_model(weights.as_ptr(), params) });
        let context = NonNull::new(context).ok_or(reason)?;
        let pool = (threads > 1 && !OPENMP).then(|| Pool::attach(context, threads));
        let pulse = Box::<Pulse>::default();
        // SAFETY: the context is alive. What it is given has a fixed place, which the box keeps until the context is freed.
        unsafe {
            let data = ptr::from_ref(&*pulse).cast_mut().cast();
            sys::llama_set_abort_callback(context.as_ptr(), Some(beat), data);
        }
        Ok(Self { context, batch: Batch::default(), _pool: pool, pulse, weights: Arc::clone(weights) })
    }

    /// How many tokens the cache holds; llama.cpp rounds up what was asked for.
    pub(crate) fn cells(&self) -> usize {
        // SAFETY: the context is alive.
        unsafe { sys::llama_n_ctx(self.context.as_ptr()) as usize }
    }

    /// How many rows a forward pass may have; llama.cpp limits what was asked for to the cells.
    pub(crate) fn rows(&self) -> usize {
        // SAFETY: the context is alive.
        unsafe { sys::llama_n_batch(self.context.as_ptr()) as usize }
    }

    /// Beats each time that the CPU has computed a node of the graph.
    pub(crate) fn pulse(&self) -> &Pulse {
        &self.pulse
    }

    /// Whether there is a cache at all and a token sees only what comes before it.
    pub(crate) fn is_causal(&self) -> bool {
        // SAFETY: the context is alive.
        unsafe { !self.memory().is_null() && sys::llama_get_causal_attn(self.context.as_ptr()) }
    }

    /// Computes `rows` in one pass and adds them to the cache. Returns when the logits are there.
    ///
    /// Ends the process if there are no rows, or more than [`Self::rows`].
    pub(crate) fn decode(&mut self, rows: &[Row]) -> Result<(), Failure> {
        let batch = self.batch.fill(rows);
        // SAFETY: the context is alive. The arrays of the batch have as many elements as it has rows, and they live
        // until `self.batch` is changed again; llama.cpp copies them, and refuses ids and positions out of range.
        let (code, reason) = log::watch(|| unsafe {
            let code = sys::llama_decode(self.context.as_ptr(), batch);
            sys::llama_synchronize(self.context.as_ptr());
            code
        });
        match code {
            0 => Ok(()),
            1 => Err(Failure::NoCells),
            code => Err(Failure::Other { code, reason }),
        }
    }

    /// The logits that row `row` of the last pass asked for, one for each token of the vocabulary.
    pub(crate) fn logits(&self, row: usize) -> Option<&[f32]> {
        let index = i32::try_from(row).ok()?;
        // SAFETY: the context is alive and, not being `Sync`, used by this thread alone. llama.cpp answers null if
        // there are no such logits, else with as many as the vocabulary has tokens. They stay as they are until the
        // next pass, which borrows the context mutably; llama.cpp sorts the rows at the first call after a pass, when
        // nobody has a slice of them yet.
        unsafe {
            let logits = sys::llama_get_logits_ith(self.context.as_ptr(), index);
            (!logits.is_null()).then(|| slice::from_raw_parts(logits, self.weights.vocab_size()))
        }
    }

    /// Forgets everything at and after position `len` of `sequence`; tells whether the cache can do that.
    ///
    /// Ends the process if the sequence is out of range.
    pub(crate) fn truncate(&mut self, sequence: SequenceId, len: usize) -> bool {
        // SAFETY: the cache is alive.
        unsafe { sys::llama_memory_seq_rm(self.memory(), id(sequence), position(len), -1) }
    }

    /// Makes the first `len` tokens of `from` belong to `to` as well.
    ///
    /// Ends the process if a sequence is out of range.
    pub(crate) fn copy_prefix(&mut self, from: SequenceId, to: SequenceId, len: usize) {
        // SAFETY: the cache is alive.
        unsafe { sys::llama_memory_seq_cp(self.memory(), id(from), id(to), 0, position(len)) }
    }

    /// The first position of `sequence` from which on every layer's cache has all of it; `None` if it has none.
    ///
    /// Ends the process if the sequence is out of range.
    pub(crate) fn first_position(&self, sequence: SequenceId) -> Option<usize> {
        // SAFETY: the cache is alive.
        usize::try_from(unsafe { sys::llama_memory_seq_pos_min(self.memory(), id(sequence)) }).ok()
    }

    fn memory(&self) -> sys::llama_memory_t {
        // SAFETY: the context is alive; its memory is a part of it.
        unsafe { sys::llama_get_memory(self.context.as_ptr()) }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: the context is alive and nobody else has it; its threads and its model are dropped after it.
        unsafe { sys::llama_free(self.context.as_ptr()) };
    }
}

/// What llama.cpp calls between the nodes of a graph, to hear whether it is to give up.
///
/// # Safety
/// `pulse` points to a [`Pulse`].
unsafe extern "C" fn beat(pulse: *mut c_void) -> bool {
    // SAFETY: `Context::new` passes a pulse that lives longer than the context which calls this. It is only read, and may be
    // from several threads.
    unsafe { &*pulse.cast::<Pulse>() }.beat();
    false
}

/// The arrays that `llama_batch` points to, kept between passes.
#[derive(Default)]
struct Batch {
    tokens: Vec<sys::llama_token>,
    positions: Vec<sys::llama_pos>,
    sequences: Vec<sys::llama_seq_id>,
    sequence_pointers: Vec<*mut sys::llama_seq_id>,
    sequence_counts: Vec<i32>,
    outputs: Vec<i8>,
}

impl Batch {
    /// The batch of `rows`, which is valid until this is changed again.
    fn fill(&mut self, rows: &[Row]) -> sys::llama_batch {
        self.tokens.clear();
        self.tokens.extend(rows.iter().map(|row| sys::llama_token::try_from(row.token).unwrap_or(i32::MAX)));
        self.positions.clear();
        self.positions.extend(rows.iter().map(|row| position(row.position)));
        self.sequences.clear();
        self.sequences.extend(rows.iter().map(|row| id(row.sequence)));
        self.sequence_pointers.clear();
        self.sequence_pointers.extend(self.sequences.iter_mut().map(ptr::from_mut));
        self.sequence_counts.resize(rows.len(), 1);
        self.outputs.clear();
        self.outputs.extend(rows.iter().map(|row| i8::from(row.wants_logits)));
        sys::llama_batch {
            n_tokens: i32::try_from(rows.len()).unwrap_or(i32::MAX),
            token: self.tokens.as_mut_ptr(),
            embd: ptr::null_mut(),
            pos: self.positions.as_mut_ptr(),
            n_seq_id: self.sequence_counts.as_mut_ptr(),
            seq_id: self.sequence_pointers.as_mut_ptr(),
            logits: self.outputs.as_mut_ptr(),
        }
    }
}

/// A position as llama.cpp numbers it; what exceeds its range becomes a position that no cache has.
fn position(position: usize) -> sys::llama_pos {
    sys::llama_pos::try_from(position).unwrap_or(sys::llama_pos::MAX)
}

/// A sequence as llama.cpp numbers it; what exceeds its range becomes a sequence that no cache has.
fn id(sequence: SequenceId) -> sys::llama_seq_id {
    sys::llama_seq_id::try_from(sequence).unwrap_or(sys::llama_seq_id::MAX)
}

/// The threads that a context computes on where there is no OpenMP: without them, llama.cpp makes new ones for each pass.
struct Pool {
    threads: NonNull<sys::ggml_threadpool>,
}

impl Pool {
    /// How long threads spin for the next graph before they sleep, from 0 to 100. Contexts share cores here, with each
    /// other and with other processes, and a pass follows the last one only when the network has answered.
    const POLL: u32 = 0;

    /// Makes `threads` threads, and `context` use them.
    fn attach(context: NonNull<sys::llama_context>, threads: i32) -> Self {
        // SAFETY: the parameters live until the pool is made; the context is alive, and its owner frees it before the
        // pool.
        unsafe {
            let mut params = sys::ggml_threadpool_params_default(threads);
            params.poll = Self::POLL;
            let threads = NonNull::new_unchecked(sys::ggml_threadpool_new(&raw mut params));
            sys::llama_attach_threadpool(context.as_ptr(), threads.as_ptr(), threads.as_ptr());
            Self { threads }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: the pool is alive, and the context that used it is gone.
        unsafe { sys::ggml_threadpool_free(self.threads.as_ptr()) };
    }
}
