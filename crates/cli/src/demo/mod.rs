//! `sled demo`: one server and three devices, real processes on this machine, and a check of what they said.

mod table;

use std::process::Stdio;
use std::sync::Arc;

use anyhow::Context;
use sled_core::Token;
use sled_core::sampler::{Sampler, SamplingParams};
use sled_llama::{CacheType, EngineOptions, LlamaEngine, LlamaModel};
use sled_model::Model;
use sled_model::reference;
use sled_model::vocabulary::Vocab;
use table::{Deviation, Outcome};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStderr, Command};
use tokio::sync::Mutex;

use crate::args::DemoArgs;
use crate::run::Report;
use sled_launch::threads::{Threads, Work};
use sled_launch::{device, models};

/// Where the lines of a stream are broken, in characters.
const WIDTH: usize = 88;

/// A near-tie that floating point may decide either way is at most this many logits wide: batches move a quantised model's
/// logits by up to 0.5, and a tie is between two of them.
pub const NEAR_TIE: f32 = 1.0;

/// One of the demo's devices.
struct Script {
    name: &'static str,
    draft: String,
    prompt: &'static str,
    colour: u8,
}

/// Runs the demo.
pub async fn demo(args: DemoArgs) -> anyhow::Result<()> {
    for model in [&args.pair.target, &args.pair.draft] {
        models::locate(model)?;
    }
    let program = std::env::current_exe().context("cannot find the sled program itself; start it by its full path")?;
    println!("Starting a server with {} …", args.pair.target);
    let mut server = Command::new(&program)
        .args(["serve", "--port", "0", "--log", "error", "-c", "4096", "-np", "3", "-m", &args.pair.target])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("cannot start the server process; the system may be out of memory")?;
    let url = server_url(&mut server).await?;
    println!("It listens on {url}. Three devices join it:\n");

    let scripts = scripts(&args);
    let screen = Arc::new(Mutex::new(()));
    let mut devices = Vec::new();
    for script in &scripts {
        println!(
            "\x1b[{}m{:>7} │\x1b[0m {}",
            script.colour,
            script.name,
            script.prompt.lines().next().unwrap_or_default()
        );
        let mut device = Command::new(&program)
            .args(["run", "--server", &url, "--draft", &script.draft, "-t", "1", "--json", "--show-drafts", "-n"])
            .arg(args.max_tokens.to_string())
            .arg(script.prompt)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start a device process; the system may be out of memory")?;
        let stream = device.stderr.take().context("the device has no output")?;
        let prefix = format!("\x1b[{}m{:>7} │\x1b[0m ", script.colour, script.name);
        let shown = tokio::spawn(show(stream, prefix, Arc::clone(&screen)));
        devices.push((device, shown));
    }
    println!();
    let mut reports = Vec::new();
    for (device, shown) in devices {
        let output = device.wait_with_output().await?;
        shown.await?;
        anyhow::ensure!(output.status.success(), "a device failed; what it says is above");
        reports.push(serde_json::from_slice::<Report>(&output.stdout).context("a device's report cannot be read")?);
    }
    drop(server);

    println!("\nEvaluating each output again, token by token, with the target alone …");
    let checks = tokio::task::spawn_blocking({
        let target = args.pair.target.clone();
        let outputs: Vec<_> =
            reports.iter().map(|report| (report.prompt_token_ids.clone(), report.token_ids.clone())).collect();
        move || check(&target, &outputs)
    })
    .await??;
    let outcomes: Vec<Outcome> = scripts
        .iter()
        .zip(reports)
        .zip(checks)
        .map(|((script, report), deviations)| Outcome::new(script.name, &script.draft, report, deviations))
        .collect();
    println!("\n{}", table::header());
    outcomes.iter().for_each(|outcome| println!("{outcome}"));
    table::conclude(&outcomes)
}

fn scripts(args: &DemoArgs) -> [Script; 3] {
    [
        Script {
            name: "model",
            draft: args.pair.draft.clone(),
            prompt: "Write a Python function that returns the n-th Fibonacci number, with a docstring.",
            colour: 36,
        },
        Script {
            name: "n-gram",
            draft: "ngram".to_owned(),
            prompt: "Rename the variable `a` to `total` and print the whole function again, nothing else:\n\
                     def add_all(numbers):\n    a = 0\n    for number in numbers:\n        a = a + number\n    return a",
            colour: 35,
        },
        Script { name: "none", draft: "none".to_owned(), prompt: "In two sentences, why is the sky blue?", colour: 33 },
    ]
}

/// The address that a server process says it listens on.
pub async fn server_url(server: &mut Child) -> anyhow::Result<String> {
    let stdout = server.stdout.take().context("the server has no output")?;
    let line = BufReader::new(stdout).lines().next_line().await?;
    line.as_deref()
        .and_then(|line| line.strip_prefix("listening on "))
        .map(str::to_owned)
        .context("the server did not start; what it says is above")
}

/// Prints a device's stream line by line, so that the lines of several devices do not mix.
async fn show(mut stream: ChildStderr, prefix: String, screen: Arc<Mutex<()>>) {
    let mut bytes = [0; 1024];
    let mut partial = Vec::new();
    let mut line = String::new();
    let mut width = 0;
    let mut escape = false;
    loop {
        let len = stream.read(&mut bytes).await.unwrap_or(0);
        partial.extend_from_slice(&bytes[..len]);
        let whole = partial.len() - std::str::from_utf8(&partial).err().map_or(0, |e| partial.len() - e.valid_up_to());
        let text: String = String::from_utf8_lossy(&partial.drain(..whole).collect::<Vec<_>>()).into_owned();
        for char in text.chars() {
            escape = (escape && char != 'm') || char == '\x1b';
            if char == '\n' || (char == ' ' && width >= WIDTH) {
                let _printing = screen.lock().await;
                println!("{prefix}{line}\x1b[0m");
                line.clear();
                width = 0;
            } else {
                line.push(char);
                width += usize::from(!escape && char != 'm');
            }
        }
        if len == 0 {
            break;
        }
    }
    if !line.is_empty() {
        println!("{prefix}{line}");
    }
}

/// Where each output differs from what the target alone chooses.
fn check(target: &str, outputs: &[(Vec<Token>, Vec<Token>)]) -> anyhow::Result<Vec<Vec<Deviation>>> {
    let model = LlamaModel::load(&models::locate(target)?, &device::load_options(None))?;
    let options = EngineOptions {
        context: 4096,
        sequences: 1,
        rows: 256,
        threads: Threads::Auto.count(Work::Serving).threads,
        cache: CacheType::F16,
    };
    let mut engine = LlamaEngine::new(&model, &options)?;
    let sampler = Sampler::new(SamplingParams::default(), engine.limits().vocab_size)?;
    let vocab: Vocab = model.vocab();
    let text = |token| String::from_utf8_lossy(&vocab.piece(token, true)).into_owned();
    outputs
        .iter()
        .map(|(prompt, output)| {
            let differences = reference::compare(&mut engine, &sampler, prompt, output)?;
            Ok(differences
                .into_iter()
                .map(|d| Deviation { index: d.index, expected: text(d.expected), gap: d.gap })
                .collect())
        })
        .collect()
}
