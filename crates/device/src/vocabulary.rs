//! The target's vocabulary, on a device that may have no file with it.
//!
//! A server sends it once; it is kept under its SHA-256, which the server announces, so that whatever the file says (the tokens, the
//! chat template) belongs to what was announced. Nothing is written before all of it is there and right.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sled_core::names::Fingerprint;
use sled_model::llama::Vocab;
use sled_wire::{Checksum, VocabularyPieces, pb};

use crate::{Error, Link};

/// How far a server may fall behind [`LEAST_RATE`] with its vocabulary before it is given up.
const PATIENCE: Duration = Duration::from_secs(10);

/// The fewest bytes a second that a vocabulary may come with: half a megabit.
const LEAST_RATE: u64 = 64 << 10;

/// What files are called before they are complete.
const UNFINISHED: &str = ".tmp";

/// To write a file takes seconds: an unfinished one of this age was left by a process that was killed.
const ABANDONED: Duration = Duration::from_secs(600);

/// The vocabulary of the server's target: from `folder` if it is there, else from the server, and kept in `folder`.
///
/// # Errors
/// If the server does not send it, sends another, or it cannot be written or read.
pub async fn obtain_vocabulary(link: &Link, folder: &Path) -> Result<Vocab, Error> {
    let announced = link.description().vocabulary_fingerprint;
    let checksum = link.description().vocabulary_file.checksum;
    let kept = folder.to_owned();
    let look = move || {
        clean(&kept);
        kept_vocabulary(&kept, checksum, announced)
    };
    if let Some(vocab) = aside(look).await? {
        return Ok(vocab);
    }
    let file = download_vocabulary(link).await?;
    let folder = folder.to_owned();
    aside(move || keep(&folder, checksum, announced, &file)).await?
}

/// The file with the vocabulary of the server's target, as the server announced it.
///
/// # Errors
/// If the server sends another, sends it too slowly, or does not send it.
pub async fn download_vocabulary(link: &Link) -> Result<Vec<u8>, Error> {
    let began = tokio::time::Instant::now();
    let in_time = |received: u64| began + PATIENCE + Duration::from_secs_f64(received as f64 / LEAST_RATE as f64);
    let too_slow = |_elapsed| Error::SlowVocabulary;
    let mut client = link.client.clone();
    let asked = client.vocabulary(pb::VocabularyRequest {});
    let mut chunks = tokio::time::timeout_at(in_time(0), asked).await.map_err(too_slow)??.into_inner();
    let mut pieces = VocabularyPieces::of(link.description().vocabulary_file);
    loop {
        let deadline = in_time(pieces.received());
        match tokio::time::timeout_at(deadline, chunks.message()).await.map_err(too_slow)?? {
            Some(chunk) => pieces.take(&chunk)?,
            None => return Ok(pieces.finish()?),
        }
    }
}

/// The vocabulary with this fingerprint, from the file with this checksum, if that is in `folder`.
pub(crate) fn kept_vocabulary(folder: &Path, checksum: Checksum, fingerprint: Fingerprint) -> Option<Vocab> {
    let path = path(folder, checksum);
    let whole = std::fs::read(&path).is_ok_and(|file| Checksum::of(&file) == checksum);
    Vocab::load(&path).ok().filter(|vocab| whole && vocab.fingerprint() == fingerprint)
}

/// Writes `file`, which has this checksum, to `folder`, and reads the vocabulary in it.
fn keep(folder: &Path, checksum: Checksum, announced: Fingerprint, file: &[u8]) -> Result<Vocab, Error> {
    let path = path(folder, checksum);
    let failed = |source: std::io::Error| Error::VocabularyFile { path: path.clone(), source };
    std::fs::create_dir_all(folder).map_err(failed)?;
    let mut unfinished = unfinished(folder).map_err(failed)?;
    unfinished.write_all(file).and_then(|()| unfinished.as_file().sync_all()).map_err(failed)?;
    let vocab = Vocab::load(unfinished.path())?;
    let sent = vocab.fingerprint();
    if sent != announced {
        return Err(Error::VocabularyMismatch { announced, sent });
    }
    unfinished.persist(&path).map_err(|error| failed(error.error))?;
    Ok(vocab)
}

/// A file in `folder` that is to get another name when it is complete, and is gone if it never is.
pub(crate) fn unfinished(folder: &Path) -> std::io::Result<tempfile::NamedTempFile> {
    tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(folder)
}

/// Removes what processes left in `folder` that were killed.
fn clean(folder: &Path) {
    let now = SystemTime::now();
    let is_abandoned = |entry: &std::fs::DirEntry| {
        let unfinished = entry.file_name().to_str().is_some_and(|name| name.starts_with(UNFINISHED));
        let written = || entry.metadata().ok().filter(std::fs::Metadata::is_file)?.modified().ok();
        unfinished && written().and_then(|written| now.duration_since(written).ok()).is_some_and(|age| age > ABANDONED)
    };
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten().filter(is_abandoned) {
        // Another process may have done it.
        let _gone = std::fs::remove_file(entry.path());
    }
}

fn path(folder: &Path, checksum: Checksum) -> PathBuf {
    folder.join(format!("{checksum}.gguf"))
}

/// Does what takes a while on a thread where nobody waits for it.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(|_panicked| Error::Interrupted)
}
