//! A file on its way.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::failure::{Failure, at};
use super::progress::Progress;
use crate::Error;

const MAGIC: &[u8] = b"GGUF";
const CHUNK: usize = 1 << 20;

/// The beginning of a file: what has arrived, kept from one attempt to the next.
pub(super) struct Partial {
    path: PathBuf,
    file: File,
    len: u64,
}

impl Partial {
    /// What an earlier attempt has left at `path`, or nothing.
    pub(super) fn open(path: PathBuf) -> Result<Self, Error> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(at(folder))?;
        }
        let options = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = options.map_err(at(&path))?;
        let len = file.seek(SeekFrom::End(0)).map_err(at(&path))?;
        Ok(Self { path, file, len })
    }

    /// How many bytes have arrived.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Forgets all but the first `len` bytes.
    pub(super) fn truncate(&mut self, len: u64) -> Result<(), Error> {
        if self.len > len {
            self.file.set_len(len).map_err(at(&self.path))?;
            self.file.seek(SeekFrom::Start(len)).map_err(at(&self.path))?;
            self.len = len;
        }
        Ok(())
    }

    /// Appends what `source` delivers, until it ends or fails.
    pub(super) fn append(&mut self, mut source: impl Read, progress: &mut dyn Progress) -> Result<(), Failure> {
        let mut chunk = vec![0; CHUNK];
        loop {
            let count = match source.read(&mut chunk) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => {
                    return Err(Failure::Source(format!("the transfer broke after {} bytes, {error}", self.len)));
                }
            };
            let (written, _) = chunk.split_at(count);
            self.file.write_all(written).map_err(at(&self.path))?;
            self.len += count as u64;
            progress.advance(count as u64);
        }
    }

    /// Reads the whole file again and checks its size, what kind of file it is, and, where `sha256` is known, its hash.
    /// A file that is too short is kept, to be continued; one that is wrong is removed. Gives back the hash.
    pub(super) fn verify(
        &mut self, bytes: Option<u64>, sha256: Option<&str>, progress: &mut dyn Progress,
    ) -> Result<String, Failure> {
        if let Some(bytes) = bytes.filter(|bytes| self.len < *bytes) {
            return Err(Failure::Source(format!("the transfer ended after {} of {bytes} bytes", self.len)));
        }
        progress.start(Some(self.len), "checking the file");
        let mut hasher = Sha256::new();
        let mut chunk = vec![0; CHUNK];
        let mut magic = Vec::new();
        self.file.rewind().map_err(at(&self.path))?;
        loop {
            let count = self.file.read(&mut chunk).map_err(at(&self.path))?;
            let (read, _) = chunk.split_at(count);
            if count == 0 {
                break;
            }
            magic.extend(read.iter().take(MAGIC.len() - magic.len()));
            hasher.update(read);
            progress.advance(count as u64);
        }
        let actual: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();

        let fault = if bytes.is_some_and(|bytes| self.len > bytes) {
            "the file is larger than it should be"
        } else if sha256.is_some_and(|sha256| sha256 != actual) {
            "the file has the wrong SHA-256"
        } else if magic != MAGIC {
            "the file is not a GGUF model file"
        } else {
            return Ok(actual);
        };
        fs::remove_file(&self.path).map_err(at(&self.path))?;
        Err(Failure::Source(fault.to_owned()))
    }

    /// Makes the file appear at `place`, whole and on the disk.
    pub(super) fn place(self, place: &Path) -> Result<(), Error> {
        self.file.sync_all().map_err(at(&self.path))?;
        fs::rename(&self.path, place).map_err(at(place))
    }
}
