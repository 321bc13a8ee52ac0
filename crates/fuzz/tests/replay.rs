//! The inputs that the fuzzer kept, in `fuzz/corpus/`, and those that once broke a promise, in `fuzz/regressions/`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).map(|entries| entries.map(|entry| entry.unwrap().path()).collect());
    entries.unwrap_or_default()
}

fn replay(target: &str, run: fn(&[u8])) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz");
    let corpus = files(&root.join("corpus").join(target));
    assert!(!corpus.is_empty(), "there is no corpus for {target}");
    for file in corpus.into_iter().chain(files(&root.join("regressions").join(target))) {
        let data = std::fs::read(&file).unwrap();
        if std::panic::catch_unwind(|| run(&data)).is_err() {
            panic!("{} breaks a promise", file.display());
        }
    }
}

#[test]
fn messages_do_no_harm() {
    replay("wire", sled_fuzz::wire);
}

#[test]
fn sessions_do_no_harm_to_a_server() {
    replay("server", sled_fuzz::server);
}

#[test]
fn the_prefix_cache_does_as_a_plain_list_does() {
    replay("cache", sled_fuzz::cache);
}

#[test]
fn a_server_does_no_harm_to_a_device() {
    replay("device", sled_fuzz::device);
}

#[test]
fn grammars_do_no_harm() {
    replay("grammar", sled_fuzz::grammar);
}

#[test]
fn chat_templates_do_no_harm() {
    replay("template", sled_fuzz::template);
}

#[test]
fn headers_do_no_harm() {
    replay("header", sled_fuzz::header);
}
