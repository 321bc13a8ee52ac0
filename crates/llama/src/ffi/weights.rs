//! A loaded model: its weights, or its vocabulary alone.

use std::ffi::{CStr, c_char};
use std::path::Path;
use std::ptr::{self, NonNull};

use llama_cpp_sys_2 as sys;
use sled_core::Token;

use super::{c_path, log, start};
use crate::Error;

/// What to load of a model file.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Load {
    /// The vocabulary and the metadata.
    Vocabulary,
    /// The vocabulary, the metadata, and whether the weights have the shapes that they must have; not the weights themselves.
    Shapes,
    /// The weights too, with at most this many layers on the GPU.
    Weights {
        /// How many layers.
        gpu_layers: u32,
    },
}

/// A token that is found in a text before that is tokenised.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Special {
    /// Whether only where the names of control tokens are looked for.
    pub(crate) named: bool,
    /// Whether it takes white space beside it along.
    pub(crate) strips: bool,
}

/// A loaded model.
#[derive(Debug)]
pub(crate) struct Weights {
    model: NonNull<sys::llama_model>,
    vocab: *const sys::llama_vocab,
}

// SAFETY: a loaded model is not bound to a thread, and nothing changes it: the calls below take it as const, and
// tokenisation is documented as thread-safe. `llama_init_from_model` takes it as mut, but writes to it only if the
// context overrides the model's RoPE scaling, which ours never do.
unsafe impl Send for Weights {}
// SAFETY: as above.
unsafe impl Sync for Weights {}

impl Weights {
    /// Loads the file at `path`, and the files that belong to it if it is the first of several.
    pub(crate) fn load(path: &Path, load: Load) -> Result<Self, Error> {
        start();
        let c_path = c_path(path)?;
        // SAFETY: the call has no arguments.
        let mut params = unsafe { sys::llama_model_default_params() };
        params.load_mode = sys::LLAMA_LOAD_MODE_MMAP;
        match load {
            Load::Vocabulary => params.vocab_only = true,
            Load::Shapes => {
                params.no_alloc = true;
                params.load_mode = sys::LLAMA_LOAD_MODE_NONE;
                params.n_gpu_layers = 0;
            }
            Load::Weights { gpu_layers } => params.n_gpu_layers = i32::try_from(gpu_layers).unwrap_or(i32::MAX),
        }
        // SAFETY: the path is a C string, and the pointers in the default parameters are null or static.
        let (model, reason) = log::watch(|| unsafe { sys::llama_model_load_from_file(c_path.as_ptr(), params) });
        let model = NonNull::new(model).ok_or_else(|| Error::Unloadable { path: path.to_owned(), reason })?;
        // SAFETY: the model is alive; its vocabulary is a part of it.
        let vocab = unsafe { sys::llama_model_get_vocab(model.as_ptr()) };
        Ok(Self { model, vocab })
    }

    /// The model, for making a context.
    pub(super) fn as_ptr(&self) -> *mut sys::llama_model {
        self.model.as_ptr()
    }

    /// A value of the metadata, if it is there and not an array.
    pub(crate) fn metadata(&self, key: &CStr) -> Option<String> {
        let read = |buffer: *mut c_char, len: usize| {
            // SAFETY: the model is alive and the key a C string; `buffer` has `len` bytes, and may be null if there
            // are none, as for snprintf.
            unsafe { sys::llama_model_meta_val_str(self.model.as_ptr(), key.as_ptr(), buffer, len) }
        };
        let len = usize::try_from(read(ptr::null_mut(), 0)).ok()?;
        let mut bytes = vec![0; len + 1];
        read(bytes.as_mut_ptr().cast(), bytes.len());
        bytes.truncate(len);
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// How many parameters the model has.
    pub(crate) fn parameters(&self) -> u64 {
        // SAFETY: the model is alive.
        unsafe { sys::llama_model_n_params(self.model.as_ptr()) }
    }

    /// The name of the quantisation, such as `Q4_K - Medium`.
    pub(crate) fn quantization(&self) -> String {
        // SAFETY: the model is alive, and the name is a static C string.
        let name = unsafe { CStr::from_ptr(sys::llama_ftype_name(sys::llama_model_ftype(self.model.as_ptr()))) };
        name.to_string_lossy().into_owned()
    }

    /// The context that the model was trained with, in tokens.
    pub(crate) fn train_context(&self) -> usize {
        // SAFETY: the model is alive.
        unsafe { sys::llama_model_n_ctx_train(self.model.as_ptr()) }.try_into().unwrap_or(0)
    }

    /// How many tokens the model's sliding window spans; 0 if every token sees the whole sequence.
    pub(crate) fn sliding_window(&self) -> usize {
        // SAFETY: the model is alive.
        unsafe { sys::llama_model_n_swa(self.model.as_ptr()) }.try_into().unwrap_or(0)
    }

    /// Why the model cannot be rolled back or does not generate token after token, if so.
    pub(crate) fn limitation(&self) -> Option<&'static str> {
        let model = self.model.as_ptr();
        // SAFETY: the model is alive.
        unsafe {
            if sys::llama_model_is_recurrent(model) || sys::llama_model_is_hybrid(model) {
                Some("keeps a recurrent state that cannot be rolled back")
            } else if sys::llama_model_is_diffusion(model) {
                Some("does not generate from left to right")
            } else if sys::llama_model_has_encoder(model) || !sys::llama_model_has_decoder(model) {
                Some("needs an encoder")
            } else {
                None
            }
        }
    }

    /// The chat template, in Jinja.
    pub(crate) fn chat_template(&self) -> Option<String> {
        // SAFETY: the model is alive; the template is null or a C string that lives as long as the model.
        unsafe {
            let template = sys::llama_model_chat_template(self.model.as_ptr(), ptr::null());
            (!template.is_null()).then(|| CStr::from_ptr(template).to_string_lossy().into_owned())
        }
    }

    /// The kind of tokeniser, as llama.cpp numbers them.
    pub(crate) fn vocab_type(&self) -> sys::llama_vocab_type {
        // SAFETY: the vocabulary is alive.
        unsafe { sys::llama_vocab_type(self.vocab) }
    }

    /// How many tokens the vocabulary has.
    pub(crate) fn vocab_size(&self) -> usize {
        // SAFETY: the vocabulary is alive.
        unsafe { sys::llama_vocab_n_tokens(self.vocab) }.try_into().unwrap_or(0)
    }

    /// The token that begins a text.
    pub(crate) fn bos(&self) -> Option<Token> {
        // SAFETY: the vocabulary is alive.
        Token::try_from(unsafe { sys::llama_vocab_bos(self.vocab) }).ok()
    }

    /// The token that ends a text.
    pub(crate) fn eos(&self) -> Option<Token> {
        // SAFETY: the vocabulary is alive.
        Token::try_from(unsafe { sys::llama_vocab_eos(self.vocab) }).ok()
    }

    /// Whether tokenising with special tokens puts [`Self::bos`] first.
    pub(crate) fn add_bos(&self) -> bool {
        // SAFETY: the vocabulary is alive.
        unsafe { sys::llama_vocab_get_add_bos(self.vocab) }
    }

    /// Whether tokenising with special tokens puts [`Self::eos`] last.
    pub(crate) fn add_eos(&self) -> bool {
        // SAFETY: the vocabulary is alive.
        unsafe { sys::llama_vocab_get_add_eos(self.vocab) }
    }

    /// Whether generation ends at `token`.
    pub(crate) fn is_eog(&self, token: Token) -> bool {
        // SAFETY: the vocabulary is alive; the token is looked up in a set and may be any number.
        self.id(token).is_some_and(|id| unsafe { sys::llama_vocab_is_eog(self.vocab, id) })
    }

    /// Whether the vocabulary says that no text becomes `token`.
    pub(crate) fn is_unused(&self, token: Token) -> bool {
        self.id(token).is_some_and(|id| {
            // SAFETY: the vocabulary is alive, and the token is in it.
            unsafe { sys::llama_vocab_get_attr(self.vocab, id) & sys::LLAMA_TOKEN_ATTR_UNUSED != 0 }
        })
    }

    /// How `token` is found in a text before that is tokenised; `None` if it is not.
    pub(crate) fn special(&self, token: Token) -> Option<Special> {
        // SAFETY: the vocabulary is alive, and the token is in it.
        let attributes = self.id(token).map(|id| unsafe { sys::llama_vocab_get_attr(self.vocab, id) })?;
        let has = |attribute| attributes & attribute != 0;
        let named = has(sys::LLAMA_TOKEN_ATTR_CONTROL | sys::LLAMA_TOKEN_ATTR_UNKNOWN);
        let strips = has(sys::LLAMA_TOKEN_ATTR_LSTRIP | sys::LLAMA_TOKEN_ATTR_RSTRIP);
        (named || has(sys::LLAMA_TOKEN_ATTR_USER_DEFINED)).then_some(Special { named, strips })
    }

    /// How the vocabulary spells `token`; empty if there is no such token.
    pub(crate) fn text(&self, token: Token) -> &[u8] {
        match self.id(token) {
            // SAFETY: the token is in the vocabulary, whose strings end in a NUL and live as long as the model.
            Some(id) => unsafe { CStr::from_ptr(sys::llama_vocab_get_text(self.vocab, id)) }.to_bytes(),
            None => &[],
        }
    }

    /// The bytes that `token` stands for in a text; empty if there is no such token, or it is a control token and
    /// `special` is not set.
    pub(crate) fn piece(&self, token: Token, special: bool) -> Vec<u8> {
        const USUAL_LEN: usize = 32;
        let Some(id) = self.id(token) else {
            return Vec::new();
        };
        let mut bytes = vec![0; USUAL_LEN];
        loop {
            let room = i32::try_from(bytes.len()).unwrap_or(i32::MAX);
            // SAFETY: the token is in the vocabulary, and the buffer has at least `room` bytes.
            let len = unsafe { sys::llama_token_to_piece(self.vocab, id, bytes.as_mut_ptr().cast(), room, 0, special) };
            match usize::try_from(len) {
                Ok(len) => {
                    bytes.truncate(len);
                    return bytes;
                }
                Err(_) => bytes.resize(len.unsigned_abs() as usize, 0),
            }
        }
    }

    /// The tokens of `text`; `None` if it is too long for llama.cpp.
    ///
    /// Ends the process if a special token is to be added that the vocabulary lacks, or if it has no tokeniser.
    pub(crate) fn tokenize(&self, text: &str, add_special: bool, parse_special: bool) -> Option<Vec<Token>> {
        const SPECIAL: usize = 8;
        let text_len = i32::try_from(text.len()).ok()?;
        let mut tokens: Vec<Token> = vec![0; text.len() + SPECIAL];
        loop {
            let room = i32::try_from(tokens.len()).unwrap_or(i32::MAX);
            // SAFETY: the vocabulary is alive, the text has `text_len` bytes of UTF-8, and the buffer has at least
            // `room` elements of the size of a token id, which is never negative.
            let len = unsafe {
                let buffer = tokens.as_mut_ptr().cast::<sys::llama_token>();
                sys::llama_tokenize(
                    self.vocab,
                    text.as_ptr().cast(),
                    text_len,
                    buffer,
                    room,
                    add_special,
                    parse_special,
                )
            };
            match usize::try_from(len) {
                Ok(len) => {
                    tokens.truncate(len);
                    return Some(tokens);
                }
                Err(_) if len == i32::MIN => return None,
                Err(_) => tokens.resize(len.unsigned_abs() as usize, 0),
            }
        }
    }

    /// `token` as llama.cpp numbers it, if there is such a token.
    fn id(&self, token: Token) -> Option<sys::llama_token> {
        ((token as usize) < self.vocab_size()).then(|| sys::llama_token::try_from(token).ok()).flatten()
    }
}

impl Drop for Weights {
    fn drop(&mut self) {
        // SAFETY: the model is alive, and every context on it holds an `Arc` of this, so none is left.
        unsafe { sys::llama_model_free(self.model.as_ptr()) };
    }
}
