//! Where there is a closed form, the simulator agrees with it; and the same seed gives the same bytes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use sled_core::device::Ahead;
use sled_core::policy::Policy;
use sled_core::server::Batching;
use sled_sim::scenario::{self, Cost, DeviceClass, Estimate, Load, Range, Scenario, ServerClass, Summary};
use sled_sim::theory;

const SEEDS: [u64; 6] = [1, 2, 3, 4, 5, 6];

fn thin(count: usize) -> DeviceClass {
    DeviceClass { name: "thin".to_owned(), count, policy: None, ..DeviceClass::default() }
}

fn scenario(cost: Cost, load: Load, devices: DeviceClass) -> Scenario {
    let server = ServerClass { cost: Some(cost), ..ServerClass::default() };
    Scenario { server, load, devices: vec![devices], ..Scenario::default() }
}

fn run(scenario: &Scenario) -> Summary {
    scenario::run_seeds(scenario, &SEEDS, 2, &|_| {}).unwrap()
}

fn get(summary: &Summary, path: &str) -> Estimate {
    summary.get(path).unwrap_or_else(|| panic!("{path} has no value"))
}

/// A true value is outside of a 95 % interval once in twenty times; so these are three times as wide, and never wider than
/// `most`, relatively.
fn agrees(estimate: Estimate, expected: f64, most: f64) {
    let off = (estimate.mean - expected).abs();
    assert!(off <= 3.0 * estimate.ci95.unwrap() && off <= most * expected, "{estimate:?}, expected {expected}");
}

#[test]
fn tokens_per_round_of_synchronous_devices_follow_the_geometric_series() {
    for (acceptance, k) in [(0.5, 2), (0.7, 4), (0.9, 8)] {
        let device = DeviceClass {
            count: 4,
            policy: Some(Policy::Fixed { k }),
            ahead: Ahead::Nothing,
            draft_ms: Some(1.0),
            acceptance: Some(acceptance),
            ..DeviceClass::default()
        };
        let load = Load { prompt_tokens: Some(Range::One(1)), answer_tokens: Range::One(2000), ..Load::default() };
        let mut scenario = scenario(Cost::line(10.0, 0.0), load, device);
        // Static batches, which are not trimmed to what drafts are worth.
        scenario.server.batching = "static:1:0".parse::<Batching>().unwrap();
        scenario.window_s = 120.0;
        let tokens = get(&run(&scenario), "tokens_per_round");
        agrees(tokens, theory::tokens_per_round(acceptance, k as u32), 0.01);
    }
}

#[test]
fn a_server_of_one_request_at_a_time_is_an_md1_queue() {
    // One token a prompt, one prompt a pass: a deterministic server, and so many devices that their prompts are a Poisson process.
    let service = 0.010;
    for load in [0.3, 0.6, 0.8] {
        let devices = 1000;
        let prompts = Load {
            poisson: Some(load / service / devices as f64),
            prompt_tokens: Some(Range::One(1)),
            answer_tokens: Range::One(1),
            ..Load::default()
        };
        let mut scenario = scenario(Cost::line(9.0, 1.0), prompts, thin(devices));
        scenario.server.batching = "static:1:0".parse::<Batching>().unwrap();
        scenario.window_s = 200.0;
        let summary = run(&scenario);
        let wait = 1e3 * theory::md1_wait(service, load / service).unwrap();
        agrees(get(&summary, "server.queue_ms"), wait, 0.05);
        agrees(get(&summary, "server.utilisation"), load, 0.02);
        agrees(get(&summary, "mean_response_s"), wait / 1e3 + service, 0.05);
    }
}

#[test]
fn an_overloaded_server_answers_as_fast_as_it_can() {
    let prompts = Load {
        poisson: Some(1.0),
        prompt_tokens: Some(Range::One(1)),
        answer_tokens: Range::One(1),
        ..Load::default()
    };
    let mut scenario = scenario(Cost::line(9.0, 1.0), prompts, thin(300));
    scenario.server.batching = "static:1:0".parse::<Batching>().unwrap();
    let report = scenario::run(&scenario, 1).unwrap();
    assert!((report.server.utilisation - 1.0).abs() < 1e-9, "{report:?}");
    assert!((report.figures.output_throughput - 100.0).abs() < 0.1, "{report:?}");
}

#[test]
fn littles_law_holds_whatever_the_server_does() {
    for (policy, devices) in [(None, 20), (Some(Policy::Goodput), 20), (Some(Policy::Fixed { k: 4 }), 60)] {
        let device = DeviceClass {
            count: devices,
            policy,
            draft_ms: Some(15.0),
            acceptance: Some(0.7),
            knowledge: 0.3,
            ..DeviceClass::default()
        };
        let load = Load { poisson: Some(0.05), answer_tokens: Range::Between([8, 120]), ..Load::default() };
        let mut scenario = scenario(Cost::line(20.0, 0.5), load, device);
        scenario.window_s = 1200.0;
        let summary = run(&scenario);
        let [waiting, rate, time] =
            ["mean_requests", "requests_per_s", "mean_response_s"].map(|path| get(&summary, path).mean);
        // Answers that are cut by the ends of the window are all that differs.
        assert!((rate * time / waiting - 1.0).abs() < 0.01, "{waiting} {rate} {time}");
    }
}

#[test]
fn thin_clients_in_a_closed_loop_share_passes_of_a_line() {
    for devices in [1, 7, 64] {
        // An answer is longer than the window, so that no prompt comes between.
        let load = Load { prompt_tokens: Some(Range::One(1)), answer_tokens: Range::One(100_000), ..Load::default() };
        let report = scenario::run(&scenario(Cost::line(20.0, 0.5), load, thin(devices)), 1).unwrap();
        let pass = 0.020 + 0.0005 * devices as f64;
        let expected = devices as f64 / pass;
        // A window holds a pass more or less.
        let error = (report.figures.output_throughput - expected).abs();
        assert!(error <= devices as f64 / 60.0, "{} {expected}", report.figures.output_throughput);
        assert_eq!(report.figures.mean_batch, devices as f64);
    }
}

#[test]
fn a_seed_decides_every_byte() {
    let text = r#"
        window_s = 30
        [server]
        cost = { fixed_ms = 29, row_ms = 0.2, context_ms = 0.075 }
        sequences = 6
        [load]
        poisson = 0.2
        answer_tokens = [4, 60]
        [[devices]]
        name = "drafting"
        count = 6
        draft_ms = 12
        acceptance = 0.7
        knowledge = 0.2
        link = { rtt_ms = 40, jitter_ms = 10, loss = 0.02, bandwidth_mbit = 1 }
        [[devices]]
        name = "thin"
        count = 3
        policy = "none"
        [[faults]]
        kind = "offline"
        every_s = 20
        lasts_s = 3
        class = "drafting"
        [[faults]]
        kind = "crash"
        at_s = 25
        lasts_s = 2
    "#;
    let scenario = Scenario::parse(text).unwrap();
    let bytes = |seed| serde_json::to_string(&scenario::run(&scenario, seed).unwrap()).unwrap();
    assert_eq!(bytes(3), bytes(3));
    assert_ne!(bytes(3), bytes(4));
    let on_threads = |threads| {
        serde_json::to_string(&scenario::run_seeds(&scenario, &SEEDS, threads, &|_| {}).unwrap().runs).unwrap()
    };
    assert_eq!(on_threads(1), on_threads(3));
}

#[test]
fn capacity_is_what_the_passes_allow() {
    // 20 + 0.5 n ms for n tokens: 25 tokens/s each for up to 40 devices.
    let load = Load { prompt_tokens: Some(Range::One(1)), answer_tokens: Range::One(100_000), ..Load::default() };
    let mut scenario = scenario(Cost::line(20.0, 0.5), load, thin(1));
    scenario.window_s = 20.0;
    let capacity = scenario::capacity(&scenario, 25.0, 0.95, 1).unwrap();
    assert!((39..=40).contains(&capacity.devices), "{capacity:?}");
    assert_eq!(scenario::capacity(&scenario, 60.0, 0.95, 1).unwrap().devices, 0);
}
