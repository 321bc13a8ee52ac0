//! What passes take, kept for the next start: a file in the cache folder for each engine that was measured.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sled_core::names::Fingerprint;
use sled_core::splitmix;
use sled_llama::{CacheType, LlamaModel, System};
use sled_server::Pass;

use crate::measure;
use crate::threads::Processor;

/// A longer file is none of ours, in bytes.
const LONGEST: u64 = 1 << 16;

/// A pass that takes longer was not measured.
const SLOWEST: Duration = Duration::from_secs(3600);

/// Whose passes they are: with another of these, they take another time.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// The fingerprint of the model file.
    pub model: String,
    /// The version of this program, and what its engine was compiled for.
    pub build: String,
    /// The processor and the GPUs.
    pub machine: String,
    /// On how many threads it computes.
    pub threads: u32,
    /// How its cache holds keys and values.
    pub cache: String,
    /// Layers on the GPU, unless these are as many as may be.
    pub gpu_layers: Option<u32>,
    /// Rows that a pass may have.
    pub rows: usize,
}

impl Key {
    /// The key of an engine on this machine, whose passes have up to `rows` rows.
    pub fn new(model: &LlamaModel, cache: CacheType, threads: u32, gpu_layers: Option<u32>, rows: usize) -> Self {
        let System { cpu_features, backends, gpus, .. } = System::read();
        let gpus: String = gpus.iter().map(|gpu| format!(", {}", gpu.name)).collect();
        Self {
            model: model.fingerprint().to_string(),
            build: format!("{} {} {}", env!("CARGO_PKG_VERSION"), backends.join("+"), cpu_features.join("+")),
            machine: format!("{}, {} CPUs{gpus}", measure::cpu_name(), Processor::read().online),
            threads,
            cache: format!("{cache:?}"),
            gpu_layers,
            rows,
        }
    }
}

/// What a file holds.
#[derive(serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    key: Key,
    /// `[rows, microseconds]`, by rising rows.
    passes: Vec<(usize, u64)>,
}

impl Kept {
    fn new(key: &Key, passes: &[Pass]) -> Self {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        Self { key: key.clone(), passes: passes.iter().map(|pass| (pass.rows, micros(pass.time))).collect() }
    }

    /// The passes, if they are of `key` and may be what somebody measured.
    fn passes(self, key: &Key) -> Option<Vec<Pass>> {
        let passes: Vec<Pass> =
            self.passes.into_iter().map(|(rows, micros)| Pass { rows, time: Duration::from_micros(micros) }).collect();
        let may_be = |pass: &Pass| (1..=key.rows).contains(&pass.rows) && !pass.time.is_zero() && pass.time <= SLOWEST;
        let rises = passes.windows(2).all(|two| two[0].rows < two[1].rows);
        (self.key == *key && !passes.is_empty() && rises && passes.iter().all(may_be)).then_some(passes)
    }
}

/// A folder of such files.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
}

impl Store {
    /// What is kept in `folder`, which need not be there yet.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// What was kept of `key`; `None` if that is nothing, or not what was written.
    pub fn read(&self, key: &Key) -> Option<Vec<Pass>> {
        let mut text = String::new();
        File::open(self.path(key)).ok()?.take(LONGEST).read_to_string(&mut text).ok()?;
        serde_json::from_str::<Kept>(&text).ok()?.passes(key)
    }

    /// Keeps `passes`. Whoever reads meanwhile finds all or nothing of them.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, key: &Key, passes: &[Pass]) -> std::io::Result<()> {
        std::fs::create_dir_all(&self.folder)?;
        let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
        file.write_all(serde_json::to_string(&Kept::new(key, passes))?.as_bytes())?;
        file.persist(self.path(key))?;
        Ok(())
    }

    fn path(&self, key: &Key) -> PathBuf {
        let text = format!("{key:?}");
        let hash = text.bytes().fold(0, |hash, byte| splitmix::hash(hash ^ u64::from(byte)));
        self.folder.join(Path::new(&Fingerprint::new(hash).to_string()).with_extension("json"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn key() -> Key {
        Key {
            model: "0123456789abcdef".to_owned(),
            build: "0.1.0 CPU AVX2".to_owned(),
            machine: "a processor, 2 CPUs".to_owned(),
            threads: 2,
            cache: "F16".to_owned(),
            gpu_layers: None,
            rows: 512,
        }
    }

    fn passes() -> Vec<Pass> {
        [(1, 34_000), (4, 98_000), (16, 248_001)]
            .map(|(rows, micros)| Pass { rows, time: Duration::from_micros(micros) })
            .to_vec()
    }

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().join("passes"));
        (folder, store)
    }

    #[test]
    fn what_was_kept_is_found_again_under_its_own_key() {
        let (_folder, store) = store();
        assert_eq!(store.read(&key()), None);
        store.write(&key(), &passes()).unwrap();
        assert_eq!(store.read(&key()), Some(passes()));
        let others = [
            Key { model: "0123456789abcdee".to_owned(), ..key() },
            Key { build: "0.1.0 CPU AVX512".to_owned(), ..key() },
            Key { machine: "another, 2 CPUs".to_owned(), ..key() },
            Key { threads: 1, ..key() },
            Key { cache: "Q8_0".to_owned(), ..key() },
            Key { gpu_layers: Some(0), ..key() },
            Key { rows: 256, ..key() },
        ];
        for other in others {
            assert_eq!(store.read(&other), None, "{other:?}");
        }
        // The latest counts, and what others were told is still there.
        store.write(&Key { threads: 1, ..key() }, &passes()[..1]).unwrap();
        store.write(&key(), &passes()[..2]).unwrap();
        assert_eq!(store.read(&key()), Some(passes()[..2].to_vec()));
        assert_eq!(std::fs::read_dir(&store.folder).unwrap().count(), 2);
    }

    #[test]
    fn files_that_are_corrupt_or_of_somebody_else_are_as_good_as_none() {
        let (_folder, store) = store();
        store.write(&key(), &passes()).unwrap();
        let good = std::fs::read_to_string(store.path(&key())).unwrap();
        let read = |text: &[u8]| {
            std::fs::write(store.path(&key()), text).unwrap();
            store.read(&key())
        };
        assert_eq!(read(good.as_bytes()), Some(passes()));
        for end in 0..good.len() {
            assert_eq!(read(&good.as_bytes()[..end]), None, "{}", &good[..end]);
        }
        let with = |passes: &str| read(good.replace("[[1,34000],[4,98000],[16,248001]]", passes).as_bytes());
        assert_eq!(with("[[1,34000]]"), Some(passes()[..1].to_vec()));
        let odd = [
            "[]",
            "null",
            "[[0,1]]",
            "[[513,1]]",
            "[[1,0]]",
            "[[2,5],[1,5]]",
            "[[1,5],[1,5]]",
            "[[1,-5]]",
            "[[1,5.5]]",
            "[[1,3600000001]]",
            "[[1]]",
            "[[1,18446744073709551615]]",
        ];
        for odd in odd {
            assert_eq!(with(odd), None, "{odd}");
        }
        assert_eq!(read(good.replace("\"threads\":2", "\"threads\":3").as_bytes()), None);
        assert_eq!(read(good.replace("{\"key\"", "{\"more\":1,\"key\"").as_bytes()), None);
        assert_eq!(read(&[0xff; 100]), None);
        assert_eq!(read(format!("{good}{}", " ".repeat(1 << 16)).as_bytes()), Some(passes()));
        assert_eq!(read(format!("{}{good}", " ".repeat(1 << 16)).as_bytes()), None);
    }

    #[test]
    fn a_folder_that_cannot_be_is_an_error_for_who_writes_and_nothing_for_who_reads() {
        let (folder, _) = store();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let store = Store::new(file);
        assert_eq!(store.read(&key()), None);
        assert!(store.write(&key(), &passes()).is_err());
    }
}
