//! What passes take is measured when a server is first started, and known when it is started again. The model comes from `make
//! test`, which names it in SLED_TEST_SMOLLM2.

#![allow(unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use support::{Server, file};

/// What a server says that has this folder for caches.
fn start(cache: &Path) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sled"));
    command.args(["serve", "--port", "0", "-c", "1024", "-np", "2", "-m"]).arg(file("SLED_TEST_SMOLLM2"));
    command.env("XDG_CACHE_HOME", cache);
    Server::of(command).terminate()
}

fn kept(cache: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(cache.join("sled").join("passes")).unwrap();
    files.map(|file| file.unwrap().path()).collect()
}

const MEASURED: &str = "rows, measured in ";
const KNOWN: &str = "rows, as was measured before";

#[test]
fn real_server_that_is_started_again_knows_what_its_passes_take() {
    let cache = tempfile::tempdir().unwrap();
    let first = start(cache.path());
    assert!(first.contains(MEASURED) && first.contains("a pass takes "), "{first}");
    let files = kept(cache.path());
    assert_eq!(files.len(), 1, "{files:?}");
    // Where something else takes the cores meanwhile, passes are measured anew, and the next start has those.
    let believed = (0..10).any(|_| start(cache.path()).contains(KNOWN));
    assert!(believed);
    assert_eq!(kept(cache.path()), files);
}

#[test]
fn real_server_measures_anew_what_it_cannot_read() {
    let cache = tempfile::tempdir().unwrap();
    start(cache.path());
    let files = kept(cache.path());
    let written = std::fs::read_to_string(&files[0]).unwrap();
    std::fs::write(&files[0], &written[..written.len() / 2]).unwrap();
    let said = start(cache.path());
    assert!(said.contains(MEASURED), "{said}");
    let again: serde_json::Value = serde_json::from_slice(&std::fs::read(&files[0]).unwrap()).unwrap();
    assert_eq!(again["passes"][0][0], 1, "{again}");
    assert_eq!(kept(cache.path()), files);
}

#[test]
fn real_server_without_a_folder_for_caches_measures_each_time() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let said = start(&file);
    assert!(said.contains(MEASURED) && said.contains("what passes take is not kept"), "{said}");
}
