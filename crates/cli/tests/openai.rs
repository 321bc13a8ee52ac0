//! The official `openai` client for Python against what the HTTP API serves.

#![allow(unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

#[path = "../../api/tests/support/mod.rs"]
mod api;
mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use sled_api::backend::Backend;
use sled_api::{Api, Settings};

/// A Python with the client, in the folder for caches; `None`, and why, where it cannot be had.
fn python() -> Result<PathBuf, String> {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home).ok_or("there is no HOME")?;
    let folder = cache.join("sled").join("openai-client");
    let python = folder.join("bin").join("python");
    // Two tests may want it at once.
    std::fs::create_dir_all(cache.join("sled")).map_err(|error| error.to_string())?;
    let lock = std::fs::File::create(folder.with_extension("lock")).map_err(|error| error.to_string())?;
    lock.lock().map_err(|error| error.to_string())?;
    let run = |command: &mut Command| -> Result<(), String> {
        let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
        let said = String::from_utf8_lossy(&output.stderr);
        if output.status.success() { Ok(()) } else { Err(format!("{command:?}: {said}")) }
    };
    if run(Command::new(&python).args(["-c", "import openai"])).is_err() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
        run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "openai>=2"]))?;
    }
    Ok(python)
}

/// Runs the client's checks against an endpoint.
#[allow(clippy::print_stderr, reason = "a skipped test says so")]
fn check(url: &str, key: Option<&str>) {
    let python = match python() {
        Ok(python) => python,
        Err(why) => {
            eprintln!("SKIPPED: the openai client for Python cannot be had ({why})");
            return;
        }
    };
    let script = Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("tests").join("openai_client.py");
    let output = Command::new(python).arg(script).arg(url).args(key).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("checks passed"), "{said}");
}

#[test]
fn the_openai_client_understands_the_api() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let api = Api::new(Settings { api_key: Some("secret".to_owned()), ..Settings::default() });
    api.serve(Arc::new(api::parrot::parrot()) as Arc<dyn Backend>).unwrap();
    let address = runtime.block_on(api::listen(&api));
    check(&format!("http://{address}"), Some("secret"));
}

/// A port that nobody listens on.
fn free_port() -> String {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port().to_string()
}

#[test]
fn real_the_openai_client_understands_server_and_device() {
    let (http, port) = (free_port(), free_port());
    // It has a chat template that teaches to call tools.
    let model = support::file("SLED_TEST_DRAFT");
    let server =
        support::Server::start(&model, &["-c", "8192", "-np", "8", "--http-port", &http, "--api-key", "secret"]);
    check(&format!("http://127.0.0.1:{http}"), Some("secret"));

    let mut device = Command::new(env!("CARGO_BIN_EXE_sled"))
        .args(["device", "--port", &port, "--draft", "ngram", "--server", &server.url])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(device.stdout.take().unwrap()), &mut line).unwrap();
    assert!(line.starts_with("listening on"), "{line}");
    let checked = std::panic::catch_unwind(|| check(&format!("http://127.0.0.1:{port}"), None));
    device.kill().unwrap();
    device.wait().unwrap();
    checked.unwrap();
}
