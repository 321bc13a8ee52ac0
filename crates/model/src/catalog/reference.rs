//! How a model is referred to.

use std::fmt;
use std::path::{self, Path, PathBuf};

use crate::Error;

use super::Entry;

const HF_PREFIX: &str = "hf:";

/// Which model is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelRef {
    /// One of the catalogue.
    Named(Box<Entry>),
    /// A file on Hugging Face.
    HuggingFace {
        /// The repository, as `organisation/repository`.
        repo: String,
        /// The path of the file within it.
        file: String,
    },
    /// A file on this machine.
    Path(PathBuf),
}

impl ModelRef {
    /// Understands a name of the catalogue, `hf:org/repo/file.gguf`, or a path: what has a separator or ends in `.gguf`.
    ///
    /// # Errors
    /// If it is none of them.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if let Some(location) = text.strip_prefix(HF_PREFIX) {
            return hugging_face(location).ok_or_else(|| Error::HuggingFaceReference(text.to_owned()));
        }
        if text.contains(path::is_separator) || has_gguf_extension(Path::new(text)) {
            return Ok(Self::Path(text.into()));
        }
        Ok(Self::Named(Box::new(Entry::named(text)?)))
    }
}

/// What [`ModelRef::parse`] understands.
impl fmt::Display for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(entry) => f.write_str(&entry.name),
            Self::HuggingFace { repo, file } => write!(f, "{HF_PREFIX}{repo}/{file}"),
            Self::Path(path) => path.display().fmt(f),
        }
    }
}

pub(super) fn has_gguf_extension(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
}

/// Takes `org/repo/file.gguf` apart. The components become parts of URLs and paths, so they may not mean more than a name.
fn hugging_face(location: &str) -> Option<ModelRef> {
    let mut components = location.splitn(3, '/');
    let (organisation, repository, file) = (components.next()?, components.next()?, components.next()?);
    let plain = |name: &str| {
        name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.+".contains(c)) && !name.trim_matches('.').is_empty()
    };
    let valid = location.split('/').all(plain) && has_gguf_extension(Path::new(file));
    valid.then(|| ModelRef::HuggingFace { repo: format!("{organisation}/{repository}"), file: file.to_owned() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn error(text: &str) -> String {
        ModelRef::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn a_name_is_looked_up_in_the_catalogue() {
        let ModelRef::Named(entry) = ModelRef::parse("smollm2-135m").unwrap() else { panic!("no name") };
        assert_eq!((entry.name.as_str(), entry.bytes), ("smollm2-135m", 98_362_432));
    }

    #[test]
    fn an_unknown_name_suggests_the_nearest() {
        assert_eq!(
            error("qwen2.5-code-0.5b"),
            "there is no model named `qwen2.5-code-0.5b`, did you mean `qwen2.5-coder-0.5b`; `sled list` shows all names"
        );
        assert!(error("smollm").contains("`smollm2-135m`"));
        assert_eq!(error("zzz"), "there is no model named `zzz`; `sled list` shows all names");
    }

    #[test]
    fn a_separator_or_the_extension_makes_a_path() {
        for text in ["model.gguf", "./smollm2-135m", "/models/a", "MODEL.GGUF"] {
            assert_eq!(ModelRef::parse(text).unwrap(), ModelRef::Path(text.into()));
        }
    }

    #[test]
    fn a_hugging_face_file_may_lie_in_a_folder() {
        for (text, file) in [("hf:a/b/c.gguf", "c.gguf"), ("hf:a/b/q4/c.gguf", "q4/c.gguf")] {
            let parsed = ModelRef::parse(text).unwrap();
            assert_eq!(parsed, ModelRef::HuggingFace { repo: "a/b".into(), file: file.into() });
            assert_eq!(parsed.to_string(), text);
        }
    }

    #[test]
    fn a_hugging_face_reference_cannot_leave_its_folder() {
        for text in ["hf:a/b", "hf:a/c.gguf", "hf:a/b/c.bin", "hf:../b/c.gguf", "hf:a/b/../c.gguf", "hf:a//c.gguf"] {
            assert_eq!(error(text), format!("`{text}` is no file on Hugging Face; write hf:ORGANISATION/REPOSITORY/FILE.gguf"));
        }
        assert!(ModelRef::parse("hf:a/b/c?d.gguf").is_err());
    }
}
