//! A model file, before llama.cpp sees it: whether it is whole, whether it fits, and what identifies it.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use sled_core::names::{Fingerprint, PlainText};

use super::ffi::Gguf;
use super::header;
use crate::Error;

/// How many pieces of a file's weights its fingerprint looks at, and how many bytes of each.
const SAMPLES: u64 = 64;
const SAMPLE_LEN: u64 = 4096;

/// The file of a model, or the several files that a large one comes in, all of them whole.
pub(super) struct ModelFile {
    parts: Vec<Part>,
    /// Of the first part.
    header: Gguf,
}

struct Part {
    path: PathBuf,
    len: u64,
    data_offset: u64,
}

impl ModelFile {
    /// Checks the file at `path`, and those that belong to it if it is the first of several.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let (first, header) = Part::open(path)?;
        if let Some(why) = header::defect(&header) {
            return Err(Error::Header { path: path.to_owned(), reason: why.to_owned() });
        }
        let mut parts = vec![first];
        for sibling in siblings(path, header.parts())? {
            parts.push(Part::open(&sibling)?.0);
        }
        Ok(Self { parts, header })
    }

    /// Whether there are weights, and not a vocabulary alone.
    pub(super) fn has_weights(&self) -> bool {
        self.header.tensors() > 0
    }

    /// What the authors of the model call it, else the name of its file.
    pub(super) fn name(&self) -> String {
        let name = self.header.text("general.name").filter(|name| !name.trim().is_empty());
        name.map(|name| PlainText::from(name).into()).unwrap_or_else(|| {
            let stem = self.parts.first().and_then(|part| part.path.file_stem());
            stem.unwrap_or_default().to_string_lossy().into_owned()
        })
    }

    /// The header, which of a model in several files is that of the first.
    pub(super) fn header(&self) -> &Gguf {
        &self.header
    }

    /// How many bytes the files have.
    pub(super) fn len(&self) -> u64 {
        self.parts.iter().map(|part| part.len).sum()
    }

    /// Whether the file at `path` is one of them.
    pub(super) fn has(&self, path: &Path) -> bool {
        let Ok(path) = path.canonicalize() else { return false };
        self.parts.iter().any(|part| part.path.canonicalize().is_ok_and(|part| part == path))
    }

    /// What identifies the content: part of a hash over the lengths, the headers, and samples of the
    /// weights taken at even distances, so that it costs the same for a file of 100 GB as for one of 100 MB.
    pub(super) fn fingerprint(&self) -> Result<Fingerprint, Error> {
        let mut hash = Sha256::new();
        for part in &self.parts {
            part.add_to(&mut hash).map_err(|source| Error::ModelFile { path: part.path.clone(), source })?;
        }
        Ok(fingerprint(hash))
    }
}

impl Part {
    fn open(path: &Path) -> Result<(Self, Gguf), Error> {
        let inaccessible = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => sled_model::Error::NotFound(path.to_owned()).into(),
            _ => Error::ModelFile { path: path.to_owned(), source },
        };
        let mut file = File::open(path).map_err(inaccessible)?;
        let len = file.metadata().map_err(inaccessible)?.len();
        let mut magic = Vec::new();
        file.by_ref().take(4).read_to_end(&mut magic).map_err(inaccessible)?;
        if magic != b"GGUF" {
            return Err(Error::NotGguf(path.to_owned()));
        }
        let header = Gguf::open(path)?;
        let needed = header.data_offset() + header.data_len();
        if len < needed {
            return Err(Error::Truncated { path: path.to_owned(), needed, actual: len });
        }
        Ok((Self { path: path.to_owned(), len, data_offset: header.data_offset() }, header))
    }

    fn add_to(&self, hash: &mut Sha256) -> io::Result<()> {
        let mut file = File::open(&self.path)?;
        hash.update(self.len.to_le_bytes());
        io::copy(&mut file.by_ref().take(self.data_offset), &mut Sink(hash))?;
        let data_len = self.len.saturating_sub(self.data_offset);
        if data_len <= SAMPLES * SAMPLE_LEN {
            io::copy(&mut file, &mut Sink(hash))?;
            return Ok(());
        }
        for sample in 0..SAMPLES {
            // The last sample ends where the file does.
            let offset = u128::from(sample) * u128::from(data_len - SAMPLE_LEN) / u128::from(SAMPLES - 1);
            file.seek(SeekFrom::Start(self.data_offset + u64::try_from(offset).unwrap_or(0)))?;
            io::copy(&mut file.by_ref().take(SAMPLE_LEN), &mut Sink(hash))?;
        }
        Ok(())
    }
}

/// A hash as something to write to.
struct Sink<'a>(&'a mut Sha256);

impl io::Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The first 8 bytes of a hash.
pub(super) fn fingerprint(hash: Sha256) -> Fingerprint {
    Fingerprint::new(hash.finalize().iter().take(8).fold(0, |number, &byte| number << 8 | u64::from(byte)))
}

/// The other files of a model that comes in `count` files, of which `path` is the first.
fn siblings(path: &Path, count: u16) -> Result<Vec<PathBuf>, Error> {
    if count == 1 {
        return Ok(Vec::new());
    }
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    match name.strip_suffix(&format!("-00001-of-{count:05}.gguf")) {
        Some(stem) => Ok((2..=count)
            .map(|number| path.with_file_name(format!("{stem}-{number:05}-of-{count:05}.gguf")))
            .collect()),
        None => Err(Error::Unloadable {
            path: path.to_owned(),
            reason: format!("it is one of {count} files; give the one that ends in -00001-of-{count:05}.gguf"),
        }),
    }
}

/// Refuses weights of `needed` bytes at `path` if more than `available` bytes; unknown memory is taken to suffice.
pub(super) fn check_memory(path: &Path, needed: u64, available: Option<u64>) -> Result<(), Error> {
    match available {
        Some(available) if needed > available => Err(Error::TooLarge { path: path.to_owned(), needed, available }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn a_model_larger_than_the_free_memory_is_refused_in_one_sentence() {
        let path = Path::new("big.gguf");
        let error = check_memory(path, 9 << 30, Some(3 << 29)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the model big.gguf needs 9.0 GiB of memory and 1.5 GiB are available; choose a smaller quantisation"
        );
        assert!(check_memory(path, 1 << 30, Some(1 << 30)).is_ok());
        assert!(check_memory(path, u64::MAX, None).is_ok());
    }

    #[test]
    fn the_files_of_a_split_model_are_named_by_number() {
        let path = Path::new("dir/m-00001-of-00003.gguf");
        let names = siblings(path, 3).unwrap();
        assert_eq!(names, [Path::new("dir/m-00002-of-00003.gguf"), Path::new("dir/m-00003-of-00003.gguf")]);
        assert!(siblings(path, 1).unwrap().is_empty());
        let error = siblings(Path::new("dir/m-00002-of-00003.gguf"), 3).unwrap_err();
        assert!(error.to_string().contains("give the one that ends in -00001-of-00003.gguf"), "{error}");
    }
}
