//! What the page says of the paper's results holds with another seed too.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

use sled_sim::paper::{Effort, Paper, Progress, conclusions, reproduce};

struct Silent;

impl Progress for Silent {
    fn begin(&self, _what: &str, _runs: usize) {}

    fn done(&self) {}
}

fn paper(seed: u64, time: f64) -> Paper {
    let root = Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("../..");
    reproduce(&root, &Effort { seeds: vec![seed], time }, &Silent).unwrap()
}

fn all_hold_with(seed: u64) {
    // A quarter of the virtual time of the page.
    let paper = paper(seed, 0.25);
    let conclusions = conclusions(&paper);
    let broken: Vec<_> = conclusions.iter().filter(|conclusion| !conclusion.holds).collect();
    assert!(broken.is_empty() && conclusions.len() > 10, "seed {seed}: {broken:#?}");
}

#[test]
fn the_conclusions_hold_with_one_seed() {
    all_hold_with(101);
}

#[test]
fn and_with_another() {
    all_hold_with(202);
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let bytes = |seed| serde_json::to_string(&paper(seed, 0.05)).unwrap();
    let first = bytes(7);
    assert!(first == bytes(7) && first != bytes(8));
}
