//! Plans for the committed profiles.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

use sled_sim::economics::Prices;
use sled_sim::plan::{self, Limit, Plan, Wish};
use sled_sim::profile::Profiles;

fn plan(drafter: &str, rate: f64, context: usize) -> Plan {
    let root = Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("../..");
    let wish = Wish {
        server: "a100x4/70b-16bit".to_owned(),
        devices: vec![(drafter.to_owned(), 1.0)],
        rate,
        rtt_ms: 20.0,
        context,
        recording: root.join("data/drafts.json"),
        prices: Prices::default(),
    };
    plan::plan(&wish, &Profiles::load(&root.join("profiles")).unwrap(), &|_| {}).unwrap()
}

#[test]
fn a_slow_drafter_is_no_reason_to_draft_and_a_full_memory_is_a_limit() {
    let plan = plan("pi-5/1b-4bit", 25.0, 2048);
    assert_eq!(plan.best.policy, "none", "{plan:?}");
    // 166 GiB beside the weights, 640 MiB for each session of 2048 tokens.
    assert!((260..270).contains(&plan.memory.unwrap()), "{plan:?}");
    assert!(plan.best.devices < 100 && plan.limit == Limit::Compute, "{plan:?}");
    // The server costs 20.2 $ an hour.
    let cost = 20.2 / 3.6 / plan.best.tokens_per_s;
    assert!((plan.best.usd_per_1k_tokens.unwrap() / cost - 1.0).abs() < 1e-9, "{plan:?}");
    let falls = plan.curve.windows(2).all(|pair| pair[0].devices >= pair[1].devices);
    assert!(falls, "{:?}", plan.curve);
}

#[test]
fn long_contexts_fill_the_memory() {
    let plan = plan("orin-nano/1b-4bit", 20.0, 32_768);
    assert_eq!((plan.limit, Some(plan.best.devices)), (Limit::Memory, plan.memory), "{plan:?}");
}
