//! Where model files are kept, and when they are trusted.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::download::{Downloaded, hugging_face, mirror};
use super::{ModelRef, Progress};
use crate::Error;

/// The folder of models, and the ways to fill it.
#[derive(Clone, Debug)]
pub struct Store {
    /// The folder, laid out as Hugging Face's tools do.
    pub folder: PathBuf,
    /// The address of Hugging Face, or of a mirror that speaks like it.
    pub endpoint: String,
    /// A token for repositories that ask for one.
    pub token: Option<String>,
    /// The command that downloads Python packages; `download` and its flags are appended.
    pub pip: Vec<String>,
}

impl Store {
    /// The store that the environment describes: `HF_HUB_CACHE`, `HF_HOME`, `HF_ENDPOINT`, `HF_TOKEN`.
    ///
    /// # Errors
    /// If there is no home folder to keep models in.
    pub fn from_env() -> Result<Self, Error> {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let folder = variable("HF_HUB_CACHE")
            .map(PathBuf::from)
            .or_else(|| variable("HF_HOME").map(|home| PathBuf::from(home).join("hub")))
            .or_else(|| variable("HOME").map(|home| PathBuf::from(home).join(".cache/huggingface/hub")))
            .ok_or(Error::NoHome)?;
        let text = |name| variable(name).and_then(|value| value.into_string().ok());
        Ok(Self {
            folder,
            endpoint: text("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned()),
            token: text("HF_TOKEN"),
            pip: ["python3", "-m", "pip"].map(str::to_owned).to_vec(),
        })
    }

    /// Where the file of a model is.
    ///
    /// # Errors
    /// If it is not there, or has not the size that it must have.
    pub fn locate(&self, model: &ModelRef) -> Result<PathBuf, Error> {
        let Some(place) = self.place(model) else {
            return match model {
                ModelRef::Path(path) if path.is_file() => Ok(path.clone()),
                _ => Err(Error::NotFound(PathBuf::from(model.name()))),
            };
        };
        let path = place.find().ok_or_else(|| Error::NotDownloaded(model.name()))?;
        let bytes = fs::metadata(&path).map_err(|source| Error::Io { path: path.clone(), source })?.len();
        if place.bytes.is_some_and(|expected| expected != bytes) {
            return Err(Error::Corrupt { path, name: model.name() });
        }
        Ok(path)
    }

    /// Makes sure that the file of a model is there, and returns where. What was downloaded before an interruption is kept.
    ///
    /// # Errors
    /// If no source has it, or what came is not the file that it must be; nothing is put in its place then.
    pub fn pull(&self, model: &ModelRef, progress: &mut dyn Progress) -> Result<PathBuf, Error> {
        let Some(place) = self.place(model) else { return self.locate(model) };
        match self.locate(model) {
            Err(Error::NotDownloaded(_)) => {}
            Err(Error::Corrupt { path, .. }) => remove(&path.canonicalize().unwrap_or(path))?,
            located => return located,
        }
        let blobs = place.folder.join("blobs");
        fs::create_dir_all(&blobs).map_err(|source| Error::Io { path: blobs.clone(), source })?;
        // Whoever pulls the same model waits here, and then finds it.
        let lock_path = blobs.join(".sled.lock");
        let lock = File::create(&lock_path).and_then(|file| file.lock().map(|()| file));
        let _lock = lock.map_err(|source| Error::Io { path: lock_path, source })?;
        if let Ok(path) = self.locate(model) {
            return Ok(path);
        }
        let downloaded = self.download(model, &blobs, progress)?;
        place.put(&downloaded, &model.name(), progress)
    }

    /// The files of the folder that are not in the catalogue, as references that can be pulled and served.
    #[must_use]
    pub fn others(&self) -> Vec<(String, PathBuf)> {
        let known: Vec<PathBuf> = super::entries()
            .unwrap_or_default()
            .into_iter()
            .filter_map(|entry| self.locate(&ModelRef::Known(Box::new(entry))).ok())
            .collect();
        let mut found = Vec::new();
        for repo in children(&self.folder) {
            let Some(name) = repo.file_name().and_then(|name| name.to_str()?.strip_prefix("models--")) else {
                continue;
            };
            for file in children(&repo.join("snapshots")).iter().flat_map(|snapshot| children(snapshot)) {
                if file.extension().is_some_and(|extension| extension == "gguf") && !known.contains(&file) {
                    let file_name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                    found.push((format!("hf:{}/{file_name}", name.replacen("--", "/", 1)), file.clone()));
                }
            }
        }
        found.sort();
        found
    }

    fn download(&self, model: &ModelRef, blobs: &Path, progress: &mut dyn Progress) -> Result<Downloaded, Error> {
        match model {
            ModelRef::Known(entry) => {
                let partial = |source| blobs.join(format!("{}.{source}.incomplete", entry.sha256));
                let first = match &entry.repo {
                    Some(repo) => hugging_face(self, repo, &entry.file, &partial("hf"), progress),
                    None => Err("it is not there".to_owned()),
                };
                first.or_else(|first| {
                    mirror(self, entry, &partial("mirror"), progress).map_err(|second| Error::Download {
                        name: entry.name.clone(),
                        reason: format!("Hugging Face: {first}; mirror: {second}"),
                    })
                })
            }
            ModelRef::HuggingFace { repo, file } => {
                let partial = blobs.join(format!("{}.hf.incomplete", file.replace('/', "--")));
                hugging_face(self, repo, file, &partial, progress)
                    .map_err(|reason| Error::Download { name: model.name(), reason })
            }
            ModelRef::Path(path) => Err(Error::NotFound(path.clone())),
        }
    }

    fn place(&self, model: &ModelRef) -> Option<Place> {
        let folder = |repo: &str| self.folder.join(format!("models--{}", repo.replace('/', "--")));
        match model {
            ModelRef::Known(entry) => Some(Place {
                folder: folder(entry.repo.as_deref().unwrap_or(&format!("sled/{}", entry.name))),
                file: entry.file.clone(),
                bytes: Some(entry.bytes),
                sha256: Some(entry.sha256.clone()),
            }),
            ModelRef::HuggingFace { repo, file } => {
                Some(Place { folder: folder(repo), file: file.clone(), bytes: None, sha256: None })
            }
            ModelRef::Path(_) => None,
        }
    }
}

/// Where one model's file belongs.
struct Place {
    folder: PathBuf,
    file: String,
    bytes: Option<u64>,
    sha256: Option<String>,
}

impl Place {
    /// The file, in the snapshot that `main` names or in any other.
    fn find(&self) -> Option<PathBuf> {
        let main = fs::read_to_string(self.folder.join("refs/main")).unwrap_or_default();
        std::iter::once(self.folder.join("snapshots").join(main.trim()))
            .chain(children(&self.folder.join("snapshots")))
            .map(|snapshot| snapshot.join(&self.file))
            .find(|path| path.is_file())
    }

    /// Checks what was downloaded and puts it in its place.
    fn put(&self, downloaded: &Downloaded, name: &str, progress: &mut dyn Progress) -> Result<PathBuf, Error> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::Io { path, source }
        };
        let partial = &downloaded.path;
        let bytes = fs::metadata(partial).map_err(failed(partial))?.len();
        let expected = self.bytes.or(downloaded.bytes);
        let sha256 = digest(partial, bytes, progress).map_err(failed(partial))?;
        let wrong = match self.sha256.as_ref().or(downloaded.sha256.as_ref()) {
            Some(right) if *right != sha256 => Some(format!("its SHA-256 is {sha256} and should be {right}")),
            _ if expected.is_some_and(|expected| expected != bytes) => Some(format!("it has {bytes} bytes")),
            _ if !is_gguf(partial) => Some("it is not a GGUF file".to_owned()),
            _ => None,
        };
        if let Some(reason) = wrong {
            remove(partial)?;
            return Err(Error::WrongFile { name: name.to_owned(), reason });
        }
        let blob = self.folder.join("blobs").join(&sha256);
        fs::rename(partial, &blob).map_err(failed(&blob))?;
        let revision = downloaded.revision.clone().unwrap_or_else(|| sha256.chars().take(40).collect());
        let path = self.folder.join("snapshots").join(&revision).join(&self.file);
        let depth = self.file.split('/').count() + 1;
        if let Some(snapshot) = path.parent() {
            fs::create_dir_all(snapshot).map_err(failed(snapshot))?;
        }
        if path.symlink_metadata().is_ok() {
            remove(&path)?;
        }
        link(&blob, &format!("{}blobs/{sha256}", "../".repeat(depth)), &path).map_err(failed(&path))?;
        let main = self.folder.join("refs/main");
        if downloaded.revision.is_some() || !main.exists() {
            fs::create_dir_all(self.folder.join("refs")).map_err(failed(&main))?;
            fs::write(&main, revision).map_err(failed(&main))?;
        }
        Ok(path)
    }
}

/// A link where the system has them, else a copy.
fn link(blob: &Path, target: &str, path: &Path) -> std::io::Result<()> {
    #[cfg(unix)]
    if std::os::unix::fs::symlink(target, path).is_ok() {
        return Ok(());
    }
    let _only_for_links = target;
    fs::copy(blob, path).map(|_bytes| ())
}

fn remove(path: &Path) -> Result<(), Error> {
    fs::remove_file(path).map_err(|source| Error::Io { path: path.to_owned(), source })
}

fn children(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn is_gguf(path: &Path) -> bool {
    let mut magic = [0; 4];
    File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && magic == *b"GGUF"
}

fn digest(path: &Path, bytes: u64, progress: &mut dyn Progress) -> std::io::Result<String> {
    progress.begin("checking", 0, Some(bytes));
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let len = file.read(&mut buffer)?;
        if len == 0 {
            break;
        }
        hash.update(&buffer[..len]);
        progress.advance(len as u64);
    }
    progress.end();
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
