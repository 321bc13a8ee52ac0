//! What the page says of the paper's results holds with another seed too.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

use sled_sim::paper::{Effort, Progress, conclusions, reproduce};

struct Silent;

impl Progress for Silent {
    fn begin(&self, _what: &str, _runs: usize) {}

    fn done(&self) {}
}

fn all_hold_with(seed: u64) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    // A quarter of the virtual time of the page.
    let paper = reproduce(&root, &Effort { seeds: vec![seed], time: 0.25 }, &Silent).unwrap();
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
