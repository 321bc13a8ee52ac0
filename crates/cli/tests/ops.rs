//! What operators use, on a real server: `sled doctor`, and logs for machines. The files come from `make test`, which names
//! them in SLED_TEST_*.

#![allow(unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use sled_llama::{Format, requantize};
use support::{Server, file};

/// Runs `sled` with what the environment says of SLED left out: its exit code, and what it said.
fn sled(args: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sled"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("SLED_")) {
        command.env_remove(name);
    }
    let output = command.args(args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn marks(report: &Value) -> Vec<(&str, &str)> {
    let checks = report["checks"].as_array().unwrap();
    checks.iter().map(|check| (check["name"].as_str().unwrap(), check["mark"].as_str().unwrap())).collect()
}

#[test]
fn real_doctor_measures_a_device_and_its_server() {
    let model = file("SLED_TEST_SMOLLM2");
    let server = Server::start(&model, &["-c", "2048", "-np", "2"]);
    let draft = model.to_str().unwrap();
    let (code, stdout, stderr) = sled(&["doctor", "--server", &server.url, "--draft", draft, "-t", "1", "--json"]);
    assert_eq!(code, Some(0), "{stderr}{stdout}");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    for (name, mark) in marks(&report) {
        assert_ne!(mark, "problem", "{name}: {stdout}");
    }
    for name in ["processor", "memory", "drafter", "server", "link", "vocabulary", "load", "answer"] {
        assert!(marks(&report).iter().any(|(check, _)| *check == name), "{name}: {stdout}");
    }
    let facts = &report["facts"];
    assert!(facts["drafter"]["model"]["tokens_per_s"].as_f64().unwrap() > 0.0, "{facts}");
    // 30 layers of 3 heads with a key and a value of 64 numbers, 2 bytes each, for 2048 tokens.
    assert_eq!(facts["drafter"]["model"]["cache_bytes"].as_u64(), Some(30 * 3 * 128 * 2 * 2048));
    let found = &facts["server"]["found"];
    assert_eq!((found["context"].as_u64(), found["sessions"].as_u64()), (Some(2048), Some(0)));
    assert!(found["round_trip_ms"].as_f64().unwrap() > 0.0 && found["download_mbit_per_s"].as_f64().unwrap() > 0.0);
    // The same model drafts and verifies.
    let trial = &facts["trial"];
    assert!(trial["accepted"].as_u64().unwrap() * 10 > trial["drafted"].as_u64().unwrap() * 7, "{trial}");
    let alone = &report["expected"][0];
    for mode in ["sled", "plain", "device"] {
        assert!(alone[mode].as_f64().unwrap() > 0.0, "{alone}");
    }
    assert!(
        report["advice"]["command"].as_str().unwrap().starts_with("sled device --server http://127.0.0.1:"),
        "{report}"
    );
}

#[test]
fn real_copies_in_another_format_say_what_is_lost_and_can_be_served() {
    let model = file("SLED_TEST_SMOLLM2");
    let model = model.to_str().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy.gguf");
    let copy = copy.to_str().unwrap();
    let (code, stdout, stderr) = sled(&["quantize", model, copy, "bf16"]);
    assert_eq!((code, stdout.as_str()), (Some(0), format!("{copy}\n").as_str()), "{stderr}");
    assert!(stderr.contains("What Q4_1 has rounded away does not come back"), "{stderr}");
    assert!(stderr.trim_end().ends_with(&format!("serve it with: sled serve -m {copy}")), "{stderr}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no partial file is left");
    let server = Server::start(Path::new(copy), &["-c", "512", "-np", "1"]);
    let (code, answer, stderr) = sled(&["run", "--server", &server.url, "-n", "4", "hi"]);
    assert!(code == Some(0) && !answer.is_empty(), "{stderr}");

    let (code, _, stderr) = sled(&["quantize", copy, copy, "Q4_0"]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("the copy would take its place; name another file"), "{stderr}");
    let (code, _, stderr) = sled(&["quantize", copy, "other.gguf", "BF16"]);
    assert_eq!((code, stderr), (Some(2), format!("error: {copy} is BF16 already; choose another format\n")));
    let (code, _, stderr) = sled(&["quantize", model, "/nowhere/copy.gguf", "Q4_0"]);
    assert_eq!((code, stderr.as_str()), (Some(1), "error: there is no folder /nowhere; make it, or name another\n"));
}

#[test]
fn real_doctor_measures_a_server_to_be() {
    let model = file("SLED_TEST_SMOLLM2");
    let (code, stdout, stderr) = sled(&["doctor", "-m", model.to_str().unwrap(), "-c", "1024", "-np", "2", "-t", "2"]);
    assert_eq!(code, Some(0), "{stderr}{stdout}");
    assert!(stdout.contains("1024 tokens for 2 sessions at once: 512 for each"), "{stdout}");
    assert!(stdout.contains(" rows, on 2 threads") && stdout.contains("beside 1 other"), "{stdout}");
    assert!(stdout.trim_end().ends_with("-c 1024 -np 2 -t 2 --host 0.0.0.0"), "{stdout}");
}

#[test]
fn real_doctor_measures_the_formats_of_a_model_that_are_at_hand() {
    let model = file("SLED_TEST_SMOLLM2");
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy.gguf");
    requantize(&model, &copy, Format::Q8_0, |_| ()).unwrap();
    let (model, copy) = (model.to_str().unwrap(), copy.to_str().unwrap());
    let other = file("SLED_TEST_DRAFT");
    let args =
        ["doctor", "-m", model, "-m", copy, "-m", other.to_str().unwrap(), "--devices", "3", "-c", "1024", "--json"];
    let (code, stdout, stderr) = sled(&args);
    assert_eq!(code, Some(0), "{stderr}{stdout}");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    let formats = report["facts"]["formats"].as_array().unwrap();
    for (name, format) in [(model, "Q4_1"), (copy, "Q8_0")] {
        let found = formats.iter().find(|it| it["name"] == name).unwrap_or_else(|| panic!("{name}: {stdout}"));
        assert_eq!(found["format"], format);
        let rows: Vec<_> = found["points"].as_array().unwrap().iter().map(|point| point[0].as_f64().unwrap()).collect();
        assert_eq!(rows, [1.0, 2.0, 3.0, 4.0, 8.0]);
        assert!(found["sled"].as_f64().unwrap() > 0.0 && found["plain"].as_f64().unwrap() > 0.0, "{found}");
    }
    let checks: Vec<_> =
        report["checks"].as_array().unwrap().iter().filter(|check| check["name"] == "formats").collect();
    let facts: Vec<_> = checks.iter().map(|check| check["fact"].as_str().unwrap()).collect();
    assert!(facts[0].contains("for 3 devices"), "{facts:?}");
    assert!(facts[1].contains("was not measured: it is another model"), "{facts:?}");
}

#[test]
fn doctor_works_without_a_server_and_without_a_model() {
    let (code, stdout, stderr) = sled(&["doctor", "--server", "http://127.0.0.1:1", "--draft", "ngram", "--json"]);
    assert_eq!(code, Some(1));
    assert_eq!(stderr, "error: there is a problem; what to do is said below it\n");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert!(marks(&report).contains(&("server", "problem")), "{stdout}");
    assert!(report["advice"].is_null() && report["expected"].as_array().unwrap().is_empty(), "{stdout}");

    let (code, stdout, _) = sled(&["doctor", "--server", "none", "--draft", "/nowhere/model.gguf"]);
    assert_eq!(code, Some(1));
    assert!(stdout.contains("PROBLEM drafter     there is no model file at /nowhere/model.gguf"), "{stdout}");
    let (code, stdout, _) = sled(&["doctor", "-m", "/nowhere/model.gguf"]);
    assert_eq!(code, Some(1));
    assert!(stdout.contains("PROBLEM model       there is no model file at /nowhere/model.gguf"), "{stdout}");
}

#[test]
fn real_json_logs_are_objects_that_name_session_and_request() {
    let model = file("SLED_TEST_SMOLLM2");
    let server =
        Server::start(&model, &["-c", "1024", "-np", "2", "--log-format", "json", "--log", "sled_server=debug"]);
    let (code, _, stderr) =
        sled(&["run", "--server", &server.url, "-n", "8", "--log-format", "json", "--log", "sled_device=debug", "hi"]);
    assert_eq!(code, Some(0), "{stderr}");
    let log = server.terminate();
    // Beside the log there is what a person at the terminal is told.
    let objects = |text: &str| -> Vec<Value> {
        let lines = text.lines().filter(|line| line.starts_with('{'));
        lines.map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
    };
    let with = |lines: &[Value], message: &str| {
        let found = lines.iter().find(|line| line["message"] == message).cloned();
        found.unwrap_or_else(|| panic!("{message:?} is not in {lines:?}"))
    };
    let lines = objects(&log);
    for line in &lines {
        assert!(line["timestamp"].is_string() && line["level"].is_string(), "{line}");
    }
    let opened = with(&lines, "session opened");
    assert!(opened["session"].is_u64() && opened["device"].as_str().unwrap().ends_with("(ngram)"), "{opened}");
    let answered = with(&lines, "request answered");
    let span = &answered["span"];
    assert_eq!(span["session"], opened["session"]);
    assert_eq!((span["name"].as_str(), span["tokens"].as_u64()), (Some("request"), Some(8)), "{answered}");
    let on_device = with(&objects(&stderr), "request answered");
    assert_eq!(on_device["span"]["tokens"].as_u64(), Some(8), "{on_device}");
    assert_eq!(on_device["span"]["prompt_tokens"], span["prompt_tokens"]);
}
