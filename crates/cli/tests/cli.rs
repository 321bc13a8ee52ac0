//! The command line as a user meets it: bad input is one sentence and an exit code, never a panic or a hang.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::TcpListener;

use assert_cmd::Command;

fn sled(args: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::cargo_bin("sled").unwrap();
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("SLED_")) {
        command.env_remove(name);
    }
    let output = command.args(args).timeout(std::time::Duration::from_secs(60)).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// Asserts that `args` fail with `code` and one sentence that has all of `words`.
fn refuses(args: &[&str], code: i32, words: &[&str]) {
    let (status, stdout, stderr) = sled(args);
    assert_eq!(status, Some(code), "{args:?}: {stderr}");
    assert_eq!(stdout, "", "{args:?}");
    for word in words {
        assert!(stderr.contains(word), "{args:?}: {word:?} is not in {stderr:?}");
    }
    assert!(!stderr.contains("panicked") && !stderr.contains("backtrace"), "{stderr}");
    if code == 1 {
        assert_eq!(stderr.trim_end().lines().count(), 1, "one sentence: {stderr}");
        assert!(stderr.starts_with("error: "), "{stderr}");
    }
}

#[test]
fn a_server_that_is_not_there_has_no_sessions_to_list() {
    refuses(&["ps", "--server", "http://127.0.0.1:1"], 1, &["cannot reach the server", "sled serve"]);
}

#[test]
fn usage_errors_exit_with_2() {
    refuses(&["run", "--policy", "fixed:0", "hi"], 2, &["draft length of 0", "1 to 64"]);
    refuses(&["run", "--policy", "fixed:65", "hi"], 2, &["draft length of 65"]);
    refuses(&["run", "--policy", "confidence:2:8", "hi"], 2, &["threshold of 2", "0 to 1"]);
    refuses(&["run", "--policy", "greedy", "hi"], 2, &["fixed:K"]);
    refuses(&["run", "--temperature", "200", "hi"], 2, &["from 0 to 100"]);
    refuses(&["run", "--temperature", "NaN", "hi"], 2, &["from 0 to 100"]);
    refuses(&["run", "--top-p", "1.5", "hi"], 2, &["from 0 to 1"]);
    refuses(&["run", "--max-tokens", "0", "hi"], 2, &["--max-tokens"]);
    refuses(&["run", ""], 2, &["the prompt is empty"]);
    refuses(&["run", " \n"], 2, &["the prompt is empty"]);
    refuses(&["run", "--server", "none", "hi"], 2, &["--draft"]);
    refuses(&["run", "--server", "none", "--server", "http://127.0.0.1:1", "hi"], 2, &["leave one of them out"]);
    refuses(&["run", "--timeout", "0", "hi"], 2, &["0.1 to 3600"]);
    refuses(&["run", "--timeout", "-1", "hi"], 2, &["0.1 to 3600"]);
    refuses(&["run", "--timeout", "NaN", "hi"], 2, &["0.1 to 3600"]);
    refuses(&["run", "--timeout", "1e99", "hi"], 2, &["0.1 to 3600"]);
    refuses(&["run", "--fallback", "panic", "hi"], 2, &["release, wait or error"]);
    refuses(&["run", "--fallback-after", "0", "hi"], 2, &["--fallback-after"]);
    refuses(&["run", "--policy", "goodput:4", "hi"], 2, &["goodput"]);
    refuses(&["bench", "attack", "--attacks", "magic"], 2, &["no attack `magic`", "long prompts", "rapid resets"]);
    refuses(&["profile", "-m", "x.gguf", "--rows", "4", "--out", "x.toml"], 2, &["--rows needs two"]);
    refuses(&["serve", "-m", "x.gguf", "-np", "0"], 2, &["--parallel"]);
    refuses(&["serve", "-m", "x.gguf", "-np", "257"], 2, &["256"]);
    refuses(&["serve", "-m", "x.gguf", "--batching", "static:0:5"], 2, &["static:SIZE:MS"]);
    refuses(&["serve", "-m", "x.gguf", "--assist", "maybe"], 2, &["auto, never or always"]);
    refuses(&["serve", "-m", "x.gguf", "--rate-goal", "0"], 2, &["above 0"]);
    refuses(&["serve", "-m", "x.gguf", "--cache-type", "q4_0"], 2, &["f16 or q8_0"]);
    refuses(&["serve", "-m", "x.gguf", "--max-draft", "65"], 2, &["64"]);
    refuses(&["serve", "-m", "x.gguf", "--max-sessions", "0"], 2, &["--max-sessions"]);
    refuses(&["bench", "serve", "--modes", "vllm"], 2, &["sled, central, llama-server"]);
    refuses(&["bench", "serve", "--leave", "1.5"], 2, &["from 0 to 1"]);
    refuses(&["bench", "serve", "--draft-rate", "0"], 2, &["--draft-rate", "above 0"]);
    refuses(&["bench", "capacity", "--rate", "0"], 2, &["above 0"]);
    refuses(&["quantize", "x.gguf", "y.gguf", "q5_k_m"], 2, &["q5_k_m", "F32, F16, BF16, Q8_0, Q4_0, Q4_K_M, IQ4_NL"]);
    refuses(&["quantize", "x.gguf", "y", "q4_0"], 2, &["call the copy y.gguf"]);
    refuses(&["serve"], 2, &["--model"]);
    refuses(&["frobnicate"], 2, &["frobnicate"]);
}

#[test]
fn an_unknown_model_name_suggests_the_nearest() {
    refuses(&["serve", "-m", "qwen2.5-coder-1.5"], 2, &["qwen2.5-coder-1.5b"]);
    refuses(&["pull", "smolm2-135m"], 2, &["smollm2-135m"]);
}

#[test]
fn a_model_file_that_is_missing_or_no_model_is_refused() {
    refuses(&["serve", "-m", "/nowhere/model.gguf"], 1, &["/nowhere/model.gguf"]);
    let file = tempfile::NamedTempFile::with_suffix(".gguf").unwrap();
    std::fs::write(file.path(), "this is no model").unwrap();
    refuses(&["serve", "-m", file.path().to_str().unwrap()], 1, &["not a GGUF"]);
}

#[test]
fn a_folder_without_profiles_is_refused() {
    refuses(&["paper", "--root", "/nowhere"], 1, &["/nowhere/profiles", "as a profile"]);
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}");
    refuses(&["run", "--server", &url, "hi"], 1, &["cannot reach the server", &url, "sled serve"]);
    refuses(&["run", "--server", "::not a url::", "hi"], 1, &["is not a server address"]);
    let two = ["run", "--server", &url, "--server", "http://127.0.0.1:1", "hi"];
    refuses(&two, 1, &["no server can be used", &url, "http://127.0.0.1:1", "sled serve"]);
}

#[test]
fn flags_have_environment_variables_and_beat_them() {
    let mut command = Command::cargo_bin("sled").unwrap();
    let output = command.env("SLED_SERVER", "not a url").args(["run", "hi"]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("`not a url` is not a server address"));
    let mut command = Command::cargo_bin("sled").unwrap();
    let output = command.env("SLED_SERVER", "not a url").args(["run", "--server", "nor this", "hi"]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("`nor this` is not a server address"));
}

#[test]
fn help_version_and_completions_are_there() {
    let (code, stdout, _) = sled(&["--version"]);
    assert_eq!((code, stdout.trim()), (Some(0), concat!("sled ", env!("CARGO_PKG_VERSION"))));
    for command in ["serve", "run", "chat", "pull", "list", "demo", "bench"] {
        let (code, stdout, _) = sled(&[command, "--help"]);
        assert_eq!(code, Some(0));
        assert!(stdout.contains("Usage: sled"), "{stdout}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let (code, stdout, _) = sled(&["completions", shell]);
        assert!(code == Some(0) && stdout.contains("max-tokens"));
    }
}

#[test]
fn the_list_names_the_catalogue() {
    let (code, stdout, _) = sled(&["list"]);
    assert_eq!(code, Some(0));
    for name in ["qwen2.5-coder-1.5b", "qwen2.5-coder-0.5b", "smollm2-135m", "gemma3-270m"] {
        assert!(stdout.contains(name), "{stdout}");
    }
}
