//! The target's vocabulary, on a device that may have no file with it.
//!
//! A server sends it once; it is kept under its SHA-256, which the server announces, so that whatever the file says (the tokens, the
//! chat template) belongs to what was announced. Nothing is written before all of it is there and right.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sled_core::names::Fingerprint;
use sled_model::vocabulary::Vocab;
use sled_wire::{Checksum, VocabularyPieces, pb};

use crate::{Error, RemoteServer};

/// How far a server may fall behind [`LEAST_RATE`] with its vocabulary before it is given up.
const PATIENCE: Duration = Duration::from_secs(10);

/// The fewest bytes a second that a vocabulary may come with: half a megabit.
const LEAST_RATE: u64 = 64 << 10;

/// What files are called before they are complete.
const UNFINISHED: &str = ".tmp";

/// To write a file takes seconds: an unfinished one of this age was left by a process that was killed.
const ABANDONED: Duration = Duration::from_secs(600);

/// Reads a file with a vocabulary, as the engine does that made it; its error is one sentence for the user.
pub type ReadVocabulary = fn(&Path) -> Result<Vocab, Box<dyn std::error::Error + Send + Sync>>;

/// Where vocabularies are kept, and how a file with one is read.
#[derive(Clone, Debug)]
pub struct Vocabularies {
    folder: PathBuf,
    read: ReadVocabulary,
}

impl Vocabularies {
    /// Those in `folder`, which need not exist yet.
    #[must_use]
    pub fn new(folder: PathBuf, read: ReadVocabulary) -> Self {
        Self { folder, read }
    }

    /// The vocabulary of the server's target: from the folder if it is there, else from the server, and kept in the folder.
    ///
    /// # Errors
    /// If the server does not send it, sends another, or it cannot be written or read.
    pub async fn obtain(&self, remote: &RemoteServer) -> Result<Vocab, Error> {
        let announced = remote.description().vocabulary_fingerprint;
        let checksum = remote.description().vocabulary_file.checksum;
        let all = self.clone();
        let look = move || {
            all.clean();
            all.kept(checksum, announced)
        };
        if let Some(vocab) = aside(look).await? {
            return Ok(vocab);
        }
        let file = download_vocabulary(remote).await?;
        let all = self.clone();
        aside(move || all.keep(checksum, announced, &file)).await?
    }

    /// The vocabulary with this fingerprint, from the file with this checksum, if that is in the folder.
    #[must_use]
    pub fn kept(&self, checksum: Checksum, fingerprint: Fingerprint) -> Option<Vocab> {
        let path = self.path(checksum);
        let whole = std::fs::read(&path).is_ok_and(|file| Checksum::of(&file) == checksum);
        (self.read)(&path).ok().filter(|vocab| whole && vocab.fingerprint() == fingerprint)
    }

    /// Reads the file called `name` in the folder.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read_beside(&self, name: &str) -> std::io::Result<String> {
        std::fs::read_to_string(self.folder.join(name))
    }

    /// Writes a file called `name` to the folder, whole or not at all, which must be there.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write_beside(&self, name: &str, content: &[u8]) -> std::io::Result<()> {
        let mut unfinished = self.unfinished()?;
        unfinished.write_all(content)?;
        unfinished.persist(self.folder.join(name))?;
        Ok(())
    }

    /// Writes `file`, which has this checksum, to the folder, and reads the vocabulary in it.
    fn keep(&self, checksum: Checksum, announced: Fingerprint, file: &[u8]) -> Result<Vocab, Error> {
        let path = self.path(checksum);
        let failed = |source: std::io::Error| Error::VocabularyFile { path: path.clone(), source };
        std::fs::create_dir_all(&self.folder).map_err(failed)?;
        let mut unfinished = self.unfinished().map_err(failed)?;
        unfinished.write_all(file).and_then(|()| unfinished.as_file().sync_all()).map_err(failed)?;
        let vocab = (self.read)(unfinished.path()).map_err(Error::UnreadableVocabulary)?;
        let sent = vocab.fingerprint();
        if sent != announced {
            return Err(Error::VocabularyMismatch { announced, sent });
        }
        unfinished.persist(&path).map_err(|error| failed(error.error))?;
        Ok(vocab)
    }

    /// A file that is to get another name when it is complete, and is gone if it never is.
    fn unfinished(&self) -> std::io::Result<tempfile::NamedTempFile> {
        tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(&self.folder)
    }

    /// Removes what processes left in the folder that were killed.
    fn clean(&self) {
        let now = SystemTime::now();
        let is_abandoned = |entry: &std::fs::DirEntry| {
            let unfinished = entry.file_name().to_str().is_some_and(|name| name.starts_with(UNFINISHED));
            let written = || entry.metadata().ok().filter(std::fs::Metadata::is_file)?.modified().ok();
            let age = || written().and_then(|written| now.duration_since(written).ok());
            unfinished && age().is_some_and(|age| age > ABANDONED)
        };
        for entry in std::fs::read_dir(&self.folder).into_iter().flatten().flatten().filter(is_abandoned) {
            // Another process may have done it.
            let _gone = std::fs::remove_file(entry.path());
        }
    }

    fn path(&self, checksum: Checksum) -> PathBuf {
        self.folder.join(format!("{checksum}.gguf"))
    }
}

/// The file with the vocabulary of the server's target, as the server announced it.
///
/// # Errors
/// If the server sends another, sends it too slowly, or does not send it.
pub async fn download_vocabulary(remote: &RemoteServer) -> Result<Vec<u8>, Error> {
    let began = tokio::time::Instant::now();
    let in_time = |received: u64| began + PATIENCE + Duration::from_secs_f64(received as f64 / LEAST_RATE as f64);
    let too_slow = |_elapsed| Error::SlowVocabulary;
    let mut client = remote.client.clone();
    let asked = client.vocabulary(pb::VocabularyRequest {});
    let mut chunks = tokio::time::timeout_at(in_time(0), asked).await.map_err(too_slow)??.into_inner();
    let mut pieces = VocabularyPieces::of(remote.description().vocabulary_file);
    loop {
        let deadline = in_time(pieces.received());
        match tokio::time::timeout_at(deadline, chunks.message()).await.map_err(too_slow)?? {
            Some(chunk) => pieces.take(&chunk)?,
            None => return Ok(pieces.finish()?),
        }
    }
}

/// Does what takes a while on a thread where nobody waits for it.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(|_panicked| Error::Interrupted)
}
