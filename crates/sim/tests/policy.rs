//! What `goodput` makes of idle and loaded servers, with real drafts in virtual time.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::time::Duration;

use sled_core::cost::CostTable;
use sled_core::device::Ahead;
use sled_core::policy::Policy;
use sled_core::server::{Assist, Batching};
use sled_sim::experiment::{self, Figures, Regime};
use sled_sim::recording::Recording;
use sled_sim::replay::Replay;

fn replay() -> Replay {
    let path = Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("../../data/drafts.json");
    Replay::new(&Recording::load(&path).unwrap())
}

fn run(replay: &Replay, devices: usize, rtt_ms: u64, policy: Option<Policy>, ahead: Ahead) -> Figures {
    run_with(replay, devices, rtt_ms, policy, ahead, Assist::Auto)
}

fn run_with(
    replay: &Replay,
    devices: usize,
    rtt_ms: u64,
    policy: Option<Policy>,
    ahead: Ahead,
    assist: Assist,
) -> Figures {
    let regime = Regime {
        cost: CostTable::line(0.118, 0.017),
        draft_time: Duration::from_millis(20),
        rtt: Duration::from_millis(rtt_ms),
        devices,
        outputs: 60 / devices.min(6),
        batching: Batching::Continuous,
        assist,
        rate_goal: None,
    };
    experiment::run(replay, &regime, policy, ahead, 1).unwrap()
}

#[test]
fn where_the_server_is_saturated_it_is_as_fast_as_plain_decoding() {
    let replay = replay();
    let plain = run(&replay, 32, 20, None, Ahead::Blocks);
    let goodput = run(&replay, 32, 20, Some(Policy::Goodput), Ahead::Blocks);
    let long = run(&replay, 32, 20, Some(Policy::Fixed { k: 8 }), Ahead::Blocks);
    assert!(goodput.tokens_per_s > 0.99 * plain.tokens_per_s, "{goodput:?} {plain:?}");
    // Devices that send too much are trimmed.
    assert!(long.tokens_per_s > 0.97 * plain.tokens_per_s && long.rows_per_token < 1.1, "{long:?} {plain:?}");
}

#[test]
fn alone_on_an_idle_server_it_beats_plain_decoding_near_and_far() {
    let replay = replay();
    let near = run(&replay, 1, 0, Some(Policy::Goodput), Ahead::Nothing);
    let plain = run(&replay, 1, 0, None, Ahead::Blocks);
    assert!(near.tokens_per_s > 1.5 * plain.tokens_per_s, "{near:?} {plain:?}");
    // Over a long way, where blocks alone are slower than plain decoding, the server's help keeps every device at its speed.
    let far = |assist, policy| run_with(&replay, 1, 400, policy, Ahead::Blocks, assist).tokens_per_s;
    let fixed = Some(Policy::Fixed { k: 8 });
    let plain = far(Assist::Never, None);
    assert!(far(Assist::Never, fixed) < 0.9 * plain && far(Assist::Auto, fixed) > 0.99 * plain);
    assert!(far(Assist::Auto, Some(Policy::Goodput)) > 0.99 * plain);
}

#[test]
fn it_is_within_3_percent_of_every_fixed_length_whether_idle_or_loaded() {
    let replay = replay();
    for (devices, rtt) in [(1, 20), (1, 200), (16, 20)] {
        let goodput = run(&replay, devices, rtt, Some(Policy::Goodput), Ahead::Blocks);
        for k in [1, 2, 4, 8] {
            let fixed = run(&replay, devices, rtt, Some(Policy::Fixed { k }), Ahead::Blocks);
            assert!(
                goodput.tokens_per_s > 0.97 * fixed.tokens_per_s,
                "{devices} devices, k={k}: {goodput:?} {fixed:?}"
            );
        }
    }
}

#[test]
fn drafting_ahead_and_sending_ahead_are_each_worth_it() {
    let replay = replay();
    let policy = Some(Policy::Confidence { threshold: 0.5, k_max: 8 });
    for rtt in [0, 100, 400] {
        let [sync, drafts, blocks] =
            [Ahead::Nothing, Ahead::Drafts, Ahead::Blocks].map(|ahead| run(&replay, 1, rtt, policy, ahead));
        assert!(sync.tokens_per_s < drafts.tokens_per_s, "{sync:?} {drafts:?}");
        assert!(drafts.tokens_per_s < blocks.tokens_per_s, "{drafts:?} {blocks:?}");
        // Running ahead does not lengthen blocks.
        assert!(blocks.rows_per_token < 1.03 * sync.rows_per_token, "{blocks:?} {sync:?}");
    }
}
