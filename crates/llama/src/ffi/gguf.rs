//! The header of a GGUF file, and the quantiser.

use std::ffi::{CStr, CString};
use std::path::Path;
use std::ptr::{self, NonNull};

use llama_cpp_sys_2 as sys;

use super::{c_path, log, start};
use crate::Error;

/// The header of a GGUF file: its metadata, and where its tensors lie.
pub(crate) struct Gguf {
    header: NonNull<sys::gguf_context>,
}

impl Gguf {
    /// Reads the header of the file at `path`.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        start();
        let c_path = c_path(path)?;
        let params = sys::gguf_init_params { no_alloc: true, ctx: ptr::null_mut() };
        // SAFETY: the path is a C string; a null `ctx` means that no tensors are wanted.
        let (header, reason) = log::watch(|| unsafe { sys::gguf_init_from_file(c_path.as_ptr(), params) });
        match NonNull::new(header) {
            Some(header) => Ok(Self { header }),
            None => Err(Error::Header { path: path.to_owned(), reason }),
        }
    }

    /// Where the tensors' data starts in the file, in bytes; the header comes before.
    pub(crate) fn data_offset(&self) -> u64 {
        // SAFETY: the header is alive.
        unsafe { sys::gguf_get_data_offset(self.header.as_ptr()) as u64 }
    }

    /// How many bytes of data the tensors have, from the first one's start to the last one's end.
    pub(crate) fn data_len(&self) -> u64 {
        (0..self.tensors())
            .map(|tensor| {
                // SAFETY: the header is alive, and `tensor` is less than the number of tensors.
                let (offset, size) = unsafe {
                    (
                        sys::gguf_get_tensor_offset(self.header.as_ptr(), tensor),
                        sys::gguf_get_tensor_size(self.header.as_ptr(), tensor),
                    )
                };
                offset as u64 + size as u64
            })
            .max()
            .unwrap_or(0)
    }

    /// How many tensors the file has.
    pub(crate) fn tensors(&self) -> i64 {
        // SAFETY: the header is alive.
        unsafe { sys::gguf_get_n_tensors(self.header.as_ptr()) }
    }

    /// How many numbers the tensors have.
    pub(crate) fn elements(&self) -> u64 {
        (0..self.tensors())
            .map(|tensor| {
                // SAFETY: the header is alive, `tensor` is less than the number of tensors, and its type is one that the header
                // was accepted with.
                let (size, of_block, block) = unsafe {
                    let kind = sys::gguf_get_tensor_type(self.header.as_ptr(), tensor);
                    let size = sys::gguf_get_tensor_size(self.header.as_ptr(), tensor);
                    (size as u64, sys::ggml_type_size(kind) as u64, sys::ggml_blck_size(kind))
                };
                size.checked_div(of_block).unwrap_or(0).saturating_mul(u64::try_from(block).unwrap_or(0))
            })
            .fold(0, u64::saturating_add)
    }

    /// In how many files the model comes.
    pub(crate) fn parts(&self) -> u16 {
        // SAFETY: the header is alive and the key a C string; the value is only read where it is there and a u16.
        unsafe {
            let key = sys::gguf_find_key(self.header.as_ptr(), c"split.count".as_ptr());
            if key >= 0 && sys::gguf_get_kv_type(self.header.as_ptr(), key) == sys::GGUF_TYPE_UINT16 {
                sys::gguf_get_val_u16(self.header.as_ptr(), key).max(1)
            } else {
                1
            }
        }
    }

    /// A text of the metadata, if it is there.
    pub(crate) fn text(&self, key: &str) -> Option<String> {
        let (key, kind) = self.find(key)?;
        // SAFETY: the header is alive, the key is in it, and its value is a text, which ends in a NUL and lives as long.
        (kind == sys::GGUF_TYPE_STRING).then(|| unsafe {
            CStr::from_ptr(sys::gguf_get_val_str(self.header.as_ptr(), key)).to_string_lossy().into_owned()
        })
    }

    /// A number of 32 bits with a point of the metadata; none if it is not there or something else.
    pub(crate) fn float(&self, key: &str) -> Option<f32> {
        let (key, kind) = self.find(key)?;
        // SAFETY: the header is alive, the key is in it, and its value is such a number.
        (kind == sys::GGUF_TYPE_FLOAT32).then(|| unsafe { sys::gguf_get_val_f32(self.header.as_ptr(), key) })
    }

    /// An array of bytes of the metadata; none if it is not there or something else.
    pub(crate) fn bytes(&self, key: &str) -> Option<Vec<u8>> {
        let (key, kind) = self.find(key)?;
        let header = self.header.as_ptr();
        // SAFETY: the header is alive and the key is in it; the type of the elements is only asked for of an array. There are so
        // many elements of one byte, which are copied one by one, since the place of none at all may be null.
        unsafe {
            if kind != sys::GGUF_TYPE_ARRAY
                || ![sys::GGUF_TYPE_UINT8, sys::GGUF_TYPE_INT8].contains(&sys::gguf_get_arr_type(header, key))
            {
                return None;
            }
            let data = sys::gguf_get_arr_data(header, key).cast::<u8>();
            Some((0..sys::gguf_get_arr_n(header, key)).map(|i| data.add(i).read()).collect())
        }
    }

    /// An array of texts of the metadata, each up to its first NUL; none if it is not there or something else.
    pub(crate) fn texts(&self, key: &str) -> Option<Vec<Vec<u8>>> {
        let (key, kind) = self.find(key)?;
        let header = self.header.as_ptr();
        // SAFETY: the header is alive and the key is in it; the type of the elements is only asked for of an array. There are so
        // many texts, each of which ends in a NUL and lives as long as the header.
        unsafe {
            if kind != sys::GGUF_TYPE_ARRAY || sys::gguf_get_arr_type(header, key) != sys::GGUF_TYPE_STRING {
                return None;
            }
            let text = |i| CStr::from_ptr(sys::gguf_get_arr_str(header, key, i)).to_bytes().to_vec();
            Some((0..sys::gguf_get_arr_n(header, key)).map(text).collect())
        }
    }

    /// A whole number of 32 bits of the metadata, or an array of them or of truth values; none if it is not there or something
    /// else.
    pub(crate) fn numbers(&self, key: &str) -> Option<Vec<u64>> {
        let (key, kind) = self.find(key)?;
        let header = self.header.as_ptr();
        // SAFETY: the header is alive, the key is in it, and each value is read as what its type says that it is. An array has so
        // many elements, of 4 bytes, which need not be aligned, or of one.
        unsafe {
            match kind {
                sys::GGUF_TYPE_UINT32 => Some(vec![sys::gguf_get_val_u32(header, key).into()]),
                sys::GGUF_TYPE_ARRAY
                    if [sys::GGUF_TYPE_UINT32, sys::GGUF_TYPE_INT32].contains(&sys::gguf_get_arr_type(header, key)) =>
                {
                    let data = sys::gguf_get_arr_data(header, key).cast::<u32>();
                    let element = |i| u64::from(data.add(i).read_unaligned());
                    Some((0..sys::gguf_get_arr_n(header, key)).map(element).collect())
                }
                sys::GGUF_TYPE_ARRAY if sys::gguf_get_arr_type(header, key) == sys::GGUF_TYPE_BOOL => {
                    let data = sys::gguf_get_arr_data(header, key).cast::<u8>();
                    Some((0..sys::gguf_get_arr_n(header, key)).map(|i| u64::from(data.add(i).read() != 0)).collect())
                }
                _ => None,
            }
        }
    }

    /// The number and the type of a key, if it is there.
    fn find(&self, key: &str) -> Option<(i64, sys::gguf_type)> {
        let key = CString::new(key).ok()?;
        // SAFETY: the header is alive and the key a C string; its type is only asked for where it is there.
        unsafe {
            let key = sys::gguf_find_key(self.header.as_ptr(), key.as_ptr());
            (key >= 0).then(|| (key, sys::gguf_get_kv_type(self.header.as_ptr(), key)))
        }
    }

    /// A GGUF file with the metadata of this one and no tensors.
    pub(crate) fn metadata(&self) -> Vec<u8> {
        // SAFETY: both headers are alive until the second one is freed, which happens once and after its last use.
        // The buffer has the size that the second header is said to take.
        unsafe {
            let metadata = sys::gguf_init_empty();
            sys::gguf_set_kv(metadata, self.header.as_ptr());
            sys::gguf_remove_key(metadata, c"split.count".as_ptr());
            let mut bytes = vec![0; sys::gguf_get_meta_size(metadata)];
            sys::gguf_get_meta_data(metadata, bytes.as_mut_ptr().cast());
            sys::gguf_free(metadata);
            bytes
        }
    }
}

impl Drop for Gguf {
    fn drop(&mut self) {
        // SAFETY: the header is alive and nobody else has it.
        unsafe { sys::gguf_free(self.header.as_ptr()) };
    }
}

/// What llama.cpp calls a format of model files, such as `Q4_K - Medium`.
pub(crate) fn file_type_name(file_type: sys::llama_ftype) -> String {
    // SAFETY: any number has a name, which is a static C string.
    unsafe { CStr::from_ptr(sys::llama_ftype_name(file_type)) }.to_string_lossy().into_owned()
}

/// Writes a copy of the model file `input` to `output`, with its weights as `file_type`, on all cores that are there for it.
pub(crate) fn quantize(input: &Path, output: &Path, file_type: sys::llama_ftype) -> Result<(), Error> {
    start();
    let (from, to) = (c_path(input)?, c_path(output)?);
    // SAFETY: the call has no arguments.
    let mut params = unsafe { sys::llama_model_quantize_default_params() };
    params.nthread = std::thread::available_parallelism().map_or(1, |cores| i32::try_from(cores.get()).unwrap_or(1));
    params.ftype = file_type;
    params.allow_requantize = true;
    // SAFETY: both paths are C strings, and `params` lives until the call returns.
    let (code, reason) =
        log::watch(|| unsafe { sys::llama_model_quantize(from.as_ptr(), to.as_ptr(), &raw const params) });
    match code {
        0 => Ok(()),
        _ => Err(Error::Convert { path: input.to_owned(), reason }),
    }
}
