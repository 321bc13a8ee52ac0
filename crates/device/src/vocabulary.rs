//! The target's vocabulary, on a device that may have no file with it.

use std::io::Write;
use std::path::{Path, PathBuf};

use sled_model::llama::Vocab;
use sled_wire::pb;

use crate::{Error, Link};

/// The vocabulary of the server's target: from `folder` if it is there, else from the server, and kept in `folder`.
///
/// # Errors
/// If the server does not send it, sends another, or it cannot be written or read.
pub async fn obtain_vocabulary(link: &Link, folder: &Path) -> Result<Vocab, Error> {
    let announced = &link.description().vocabulary_fingerprint;
    let model = &link.description().model_fingerprint;
    let path = path(folder, model);
    if let Some(vocab) = kept_vocabulary(folder, model, announced) {
        return Ok(vocab);
    }
    let failed = |source: std::io::Error| Error::VocabularyFile { path: path.clone(), source };
    std::fs::create_dir_all(folder).map_err(failed)?;
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    download_vocabulary(link, |piece| file.write_all(piece).map_err(failed)).await?;
    file.as_file().sync_all().map_err(failed)?;
    let vocab = Vocab::load(file.path())?;
    let sent = vocab.fingerprint().to_owned();
    if sent != *announced {
        return Err(Error::VocabularyMismatch { announced: announced.clone(), sent });
    }
    file.persist(&path).map_err(|error| failed(error.error))?;
    Ok(vocab)
}

/// Lets the server send the file with the vocabulary of its target, and hands it over piece by piece.
///
/// # Errors
/// If the server does not send it, or a piece is not taken.
pub async fn download_vocabulary(link: &Link, mut take: impl FnMut(&[u8]) -> Result<(), Error>) -> Result<(), Error> {
    let mut chunks = link.client.clone().vocabulary(pb::VocabularyRequest {}).await?.into_inner();
    while let Some(chunk) = chunks.message().await? {
        take(&chunk.data)?;
    }
    Ok(())
}

/// The vocabulary of the target `model`, with this fingerprint, if it is in `folder`.
pub(crate) fn kept_vocabulary(folder: &Path, model: &str, fingerprint: &str) -> Option<Vocab> {
    Vocab::load(&path(folder, model)).ok().filter(|vocab| vocab.fingerprint() == fingerprint)
}

/// The chat template may differ between models of one vocabulary, so that the file is kept by model.
fn path(folder: &Path, model: &str) -> PathBuf {
    folder.join(format!("{model}.gguf"))
}
