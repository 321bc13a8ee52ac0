//! What the documents for developers name is there.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

/// All files and folders below `folder`.
fn below(folder: &Path, all: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            below(&path, all);
        }
        all.push(path);
    }
}

/// What stands between backquotes in `text` and looks like a file or a folder.
fn named(text: &str) -> impl Iterator<Item = &str> {
    let is_path = |span: &&str| {
        let is_name = span.chars().all(|c| c.is_ascii_alphanumeric() || "/_.-".contains(c));
        // A route is no path.
        is_name
            && !span.starts_with('/')
            && (span.ends_with(".rs") || span.ends_with(".jinja") || span.trim_end_matches('/').contains('/'))
    };
    text.lines().flat_map(|line| line.split('`').skip(1).step_by(2)).filter(is_path)
}

#[test]
fn every_file_that_the_map_and_the_contributors_table_name_is_there() {
    let root = Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("../..");
    let mut there = Vec::new();
    for folder in ["crates", "fuzz/fuzz_targets", "scripts", "profiles", "docs"] {
        below(&root.join(folder), &mut there);
    }
    let is_there = |name: &str| root.join(name).exists() || there.iter().any(|path| path.ends_with(name));
    for page in ["ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md"] {
        let text = std::fs::read_to_string(root.join(page)).unwrap();
        let missing: Vec<_> =
            named(&text).map(|name| name.trim_end_matches('/')).filter(|name| !is_there(name)).collect();
        assert!(named(&text).count() > 5, "{page} names files");
        assert_eq!(missing, Vec::<&str>::new(), "{page} names what is not there");
    }
}
