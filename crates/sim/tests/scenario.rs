//! What scenarios may say, and what they are told if they may not.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

use sled_core::device::Tuning;
use sled_sim::scenario::{self, FaultKind, Scenario};

const GOOD: &str = r#"
    [server]
    cost = { fixed_ms = 20, row_ms = 0.5 }
    [[devices]]
    name = "pi"
    draft_ms = 70
    acceptance = 0.7
"#;

#[test]
fn every_value_that_cannot_be_is_named_in_one_sentence() {
    let cases = [
        ("window_s = 0", "window_s"),
        ("warmup_s = -1", "warmup_s"),
        ("windows = 3", "windows"),
        ("server.cost.fixed_ms = -1", "server.cost.fixed_ms"),
        ("server.cost = { points = [[2, 3], [1, 4]] }", "server.cost.points"),
        ("server.cost = { fixed_ms = 3 }", "server.cost"),
        ("server.profile = \"a100x4/70b-16bit\"", "server.profile"),
        ("server.batching = \"dynamic\"", "dynamic"),
        ("server.assist = \"sometimes\"", "sometimes"),
        ("server.rate_goal = 0", "server.rate_goal"),
        ("server.sequences = 0", "server.sequences"),
        ("server.drafter = { fixed_ms = 1, row_ms = 0 }", "server.drafter"),
        ("load.poisson = -1", "load.poisson"),
        ("load = { poisson = 1, think_s = 1 }", "load.think_s"),
        ("load.answer_tokens = [9, 3]", "load.answer_tokens"),
        ("load.answer_tokens = \"many\"", "[32, 256]"),
        ("device.count = 0", "devices.count"),
        ("device.policy = \"greedy\"", "greedy"),
        ("device.ahead = \"never\"", "never"),
        ("device.acceptance = 1.5", "devices[0].acceptance"),
        ("device.knowledge = -0.1", "devices[0].knowledge"),
        ("device.recording = \"x.json\"", "devices[0].recording"),
        ("device.profile = \"pi-5/1b-4bit\"", "devices[0].profile"),
        ("device.draft_ms = -1", "devices[0].draft_ms"),
        ("device.link.loss = 2", "devices[0].link.loss"),
        ("device.link.rtt_ms = -1", "devices[0].link.rtt_ms"),
        ("device.timeout_s = 0", "devices[0].timeout_s"),
        ("fault = { kind = \"crash\" }", "faults[0]"),
        ("fault = { kind = \"flood\", at_s = 1 }", "flood"),
        ("fault = { kind = \"offline\", every_s = 0 }", "faults[0].every_s"),
        ("fault = { kind = \"offline\", at_s = 1, class = \"phone\" }", "phone"),
        ("fault = { kind = \"crash\", at_s = 1, class = \"pi\" }", "faults[0].class"),
    ];
    for (change, named) in cases {
        let message = Scenario::parse(&changed(change)).expect_err(change).to_string();
        assert!(message.contains(named), "{change}: {message}");
        assert!(!message.contains('\n') && message.len() > 20, "{change}: {message}");
    }
}

/// The good scenario with one key changed or added.
fn changed(change: &str) -> String {
    let mut table: toml::Table = toml::from_str(GOOD).unwrap();
    let (path, value) = change.split_once(" = ").unwrap();
    let value: toml::Value = toml::from_str::<toml::Table>(&format!("x = {value}")).unwrap()["x"].clone();
    let mut keys: Vec<&str> = path.split('.').collect();
    if keys[0] == "fault" {
        table.insert("faults".to_owned(), toml::Value::Array(vec![value]));
        return table.to_string();
    }
    let mut at = &mut table;
    if keys[0] == "device" {
        at = at["devices"].as_array_mut().unwrap()[0].as_table_mut().unwrap();
        keys.remove(0);
    }
    let last = keys.pop().unwrap();
    for key in keys {
        at = at.entry(key).or_insert_with(|| toml::Table::new().into()).as_table_mut().unwrap();
    }
    at.insert(last.to_owned(), value);
    table.to_string()
}

#[test]
fn what_files_cannot_be_used_is_said() {
    assert!(Scenario::load(Path::new("no/such.toml")).unwrap_err().to_string().contains("no/such.toml"));
    let missing = changed("device.recording = \"no/such.json\"").replace("acceptance = 0.7", "");
    let message = scenario::run(&Scenario::parse(&missing).unwrap(), 1).unwrap_err().to_string();
    assert!(message.contains("no/such.json") && message.contains("sled bench record"), "{message}");
}

#[test]
fn the_committed_scenarios_can_be_read() {
    let folder = Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("../../scenarios");
    let files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() >= 2);
    for file in files {
        Scenario::load(&file).unwrap_or_else(|error| panic!("{error}"));
    }
}

#[test]
fn devices_are_scaled_in_proportion() {
    let mut scenario = Scenario::parse(GOOD).unwrap();
    scenario.devices[0].count = 3;
    scenario.devices.push(scenario.devices[0].clone());
    scenario.devices[1].count = 1;
    for (devices, counts) in [(4, [3, 1]), (8, [6, 2]), (100, [75, 25]), (1, [1, 0])] {
        let scaled = scenario.with_devices(devices);
        assert_eq!(scaled.devices.iter().map(|class| class.count).collect::<Vec<_>>(), counts);
    }
}

#[test]
fn devices_that_are_offline_release_their_drafts_and_go_on() {
    let mut scenario = Scenario::parse(&changed("fault = { kind = \"offline\", every_s = 30, lasts_s = 15 }")).unwrap();
    assert_eq!(scenario.faults[0].kind, FaultKind::Offline);
    scenario.devices[0].count = 8;
    scenario.window_s = 300.0;
    let report = scenario::run(&scenario, 1).unwrap();
    assert!((0.02..0.6).contains(&report.provisional_share), "{}", report.provisional_share);
    scenario.faults.clear();
    let whole = scenario::run(&scenario, 1).unwrap();
    assert_eq!(whole.provisional_share, 0.0);
    let share = report.figures.output_throughput / whole.figures.output_throughput;
    assert!((0.3..0.9).contains(&share), "{share}");
}

#[test]
fn a_drafter_on_the_server_takes_the_servers_time() {
    let on_server = changed("server.drafter = { fixed_ms = 2, row_ms = 0 }").replace("draft_ms = 70", "");
    let mut scenario = Scenario::parse(&on_server.replace("acceptance = 0.7", "acceptance = 1.0")).unwrap();
    scenario.devices[0].policy = Some("fixed:4".parse().unwrap());
    scenario.devices[0].ahead = sled_core::device::Ahead::Nothing;
    scenario.load.answer_tokens = sled_sim::scenario::Range::One(100_000);
    let report = scenario::run(&scenario, 1).unwrap();
    // Four passes of the draft model, then five rows: 8 + 22.5 ms for five tokens.
    let expected = 5.0 / 0.0305;
    assert!((report.figures.output_throughput / expected - 1.0).abs() < 0.01, "{}", report.figures.output_throughput);
}

#[test]
fn the_numbers_of_devices_can_be_swept() {
    let mut scenario = Scenario::parse(&GOOD.replace("draft_ms = 70", "draft_ms = 2")).unwrap();
    let throughput = |tuning: Tuning, scenario: &mut Scenario| {
        scenario.devices[0].tuning = tuning;
        scenario::run(scenario, 1).unwrap().figures.output_throughput
    };
    let shipped = throughput(Tuning::DEFAULT, &mut scenario);
    let one_at_a_time = throughput(Tuning { max_blocks: 1, max_drafts: 1, ..Tuning::DEFAULT }, &mut scenario);
    assert!(one_at_a_time < shipped, "{one_at_a_time} is not below {shipped}");
    assert_eq!(shipped, throughput(Tuning::DEFAULT, &mut scenario));
}
