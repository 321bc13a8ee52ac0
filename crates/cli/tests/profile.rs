//! `sled profile` on a real model: what it writes can be read, and added to. The file comes from `make test`.

#![allow(unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::path::Path;

use assert_cmd::Command;
use sled_sim::profile::{Mark, PassTime, Profile};

fn measure(out: &Path, args: &[&str]) -> Profile {
    let mut command = Command::cargo_bin("sled").unwrap();
    command.args(["profile", "--repeat", "3", "-c", "32", "--out"]).arg(out).args(args);
    let said = String::from_utf8(command.assert().success().get_output().stdout.clone()).unwrap();
    assert!(said.contains("  rows         ms   ms a row\n     1 "), "{said}");
    assert!(said.contains("ms more for each thousand tokens in the cache"), "{said}");
    Profile::load(out).unwrap()
}

#[test]
fn real_profiles_have_their_numbers_and_sources() {
    let model = support::file("SLED_TEST_SMOLLM2");
    let model = model.to_str().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("here.toml");
    let profile = measure(&out, &["-m", model, "--draft", model, "--rows", "4,1,2"]);
    let (target, drafter) = (profile.targets.values().next().unwrap(), profile.drafters.values().next().unwrap());
    let PassTime::Points(points) = &target.time else { panic!("{target:?}") };
    assert_eq!(points.value.iter().map(|[rows, _]| *rows).collect::<Vec<_>>(), [1.0, 2.0, 4.0]);
    assert!(points.value.iter().all(|[_, ms]| *ms > 0.1), "{points:?}");
    assert!(drafter.tokens_per_s.value > 1.0, "{drafter:?}");
    for entry in profile.entries() {
        assert_eq!(entry.mark, Mark::Measured, "{entry:?}");
        assert!(entry.source.contains("sled profile -m"), "{entry:?}");
    }
    // What is there stays; the same model is measured anew.
    let again = measure(&out, &["-m", model, "--rows", "1,8"]);
    assert_eq!((again.targets.len(), again.drafters), (1, profile.drafters));
}
