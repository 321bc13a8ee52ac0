//! Why a download failed, told apart by whether another source can help.

use std::io;
use std::path::Path;

use crate::Error;

/// Why a source did not deliver a file.
pub(super) enum Failure {
    /// The source is to blame, for this reason; another one may do better.
    Source(String),
    /// This machine is to blame; no source can do better.
    Local(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Local(error)
    }
}

/// Makes the error of an access to `path`.
pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> Error + '_ {
    move |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::DiskFull(path.to_owned()),
        _ => Error::ModelFile { path: path.to_owned(), source },
    }
}
