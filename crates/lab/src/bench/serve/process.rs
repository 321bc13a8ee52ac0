//! Servers as processes of their own, and what they use.

use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// Clock ticks a second in /proc/PID/stat: fixed by the Linux kernel's interface to programs.
const TICKS: f64 = 100.0;

/// A server that is killed when this is dropped.
pub struct ServerProcess {
    child: Child,
    /// Where it listens.
    pub url: String,
    /// Where it listens for HTTP, if it was told to.
    pub http: Option<String>,
}

impl ServerProcess {
    /// Starts this program's `serve` and waits until it listens.
    pub async fn sled(arguments: &[String]) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let mut child = Command::new(program)
            .arg("serve")
            .args(arguments)
            .args(["--port", "0"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start `sled serve`")?;
        let stdout = child.stdout.take().context("the server has no output")?;
        let mut lines = BufReader::new(stdout).lines();
        let line = lines.next_line().await?;
        let url = line.as_deref().and_then(|line| line.strip_prefix("listening on ")).map(str::to_owned);
        let url =
            url.with_context(|| format!("the server did not start; see why with: sled serve {}", arguments.join(" ")))?;
        let http = match arguments.iter().any(|argument| argument == "--http-port") {
            true => lines.next_line().await?.and_then(|line| line.split(" on ").nth(1).map(str::to_owned)),
            false => None,
        };
        Ok(Self { child, url, http })
    }

    /// Starts a llama-server and waits until it is healthy.
    pub async fn llama_server(program: &Path, arguments: &[String]) -> anyhow::Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut child = Command::new(program)
            .args(arguments)
            .args(["--host", "127.0.0.1", "--port", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}; check --llama-server", program.display()))?;
        let url = format!("http://127.0.0.1:{port}");
        let health = format!("{url}/health");
        loop {
            if let Some(status) = child.try_wait()? {
                anyhow::bail!("{} ended before it was ready ({status}); check its options", program.display());
            }
            let health = health.clone();
            if tokio::task::spawn_blocking(move || ureq::get(&health).call().is_ok()).await? {
                return Ok(Self { child, url, http: None });
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The id of the process; `None` once it has ended.
    pub fn id(&mut self) -> Option<u32> {
        self.child.try_wait().is_ok_and(|status| status.is_none()).then(|| self.child.id()).flatten()
    }

    /// Ends it, so that what is measured next has the machine for itself.
    pub async fn end(mut self) -> anyhow::Result<()> {
        Ok(self.child.kill().await?)
    }

    /// CPU seconds that the process has used; 0 where the system does not tell.
    pub fn cpu_seconds(&self) -> f64 {
        self.child.id().map_or(0.0, |id| cpu_seconds(&id.to_string()))
    }
}

/// CPU seconds that a process has used, which `/proc` knows by this name; 0 where the system does not tell.
pub fn cpu_seconds(process: &str) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok();
    // After the name, which is in parentheses and may have spaces in it: the 12th and 13th fields are user and system time.
    let fields = stat.as_deref().and_then(|stat| stat.rsplit_once(')')).map(|(_, rest)| rest.split_whitespace());
    fields.map_or(0.0, |fields| {
        let ticks = fields.skip(11).take(2).filter_map(|field| field.parse::<f64>().ok());
        ticks.sum::<f64>() / TICKS
    })
}

/// What a llama-server says of its version.
pub fn llama_server_version(program: &Path) -> String {
    let output = std::process::Command::new(program).arg("--version").output();
    let text = output.map(|output| [output.stderr, output.stdout].concat()).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    text.lines().find(|line| line.starts_with("version")).unwrap_or("unknown").to_owned()
}
