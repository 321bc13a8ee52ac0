//! `sled`: serve a large language model to many small devices.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool prints")]
#![allow(unreachable_pub, reason = "nothing of a binary is reachable")]

mod agent;
mod args;
mod chat;
mod demo;
mod disk;
mod doctor;
mod environment;
mod logging;
mod models;
mod ps;
mod quantize;
mod run;
mod serve;
mod show;
mod top;

use std::ffi::OsString;
use std::process::ExitCode;

use args::{Cli, Command};
use clap::{CommandFactory, Parser};
use sled_core::names::for_terminal;
use sled_launch::{Usage, templates};

fn main() -> ExitCode {
    if templates::is_renderer() {
        return templates::render();
    }
    let cli = Cli::parse_from(std::env::args_os().map(long_form));
    let computes = cli.command.computes();
    if computes {
        environment::complete();
    }
    let status = match start(cli) {
        Ok(()) => 0,
        Err(error) => {
            // The messages below the binary are whole sentences that name their cause.
            eprintln!("error: {}", for_terminal(&error.to_string()));
            if error.is::<Usage>() { 2 } else { 1 }
        }
    };
    if computes {
        // An engine that was told to stop in the middle of a pass is not waited for.
        sled_llama::leave(status);
    }
    ExitCode::from(status)
}

/// llama.cpp's two- and three-letter flags, which users' fingers know, in the form that clap knows.
fn long_form(arg: OsString) -> OsString {
    match arg.to_str() {
        Some("-np") => "--parallel".into(),
        Some("-ngl") => "--gpu-layers".into(),
        _ => arg,
    }
}

fn start(cli: Cli) -> anyhow::Result<()> {
    let _log = logging::start(&cli)?;
    match cli.command {
        Command::Pull(args) => models::pull(&args),
        Command::Quantize(args) => quantize::quantize(&args),
        Command::List(args) => models::list(&args),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "sled", &mut std::io::stdout());
            Ok(())
        }
        Command::Doctor(args) => block_on(doctor::run(&args)),
        Command::Serve(args) => block_on(serve::serve(args)),
        Command::Device(args) => block_on(agent::agent(args)),
        Command::Ps(args) => block_on(ps::ps(&args)),
        Command::Top(args) => top::top(&args),
        Command::Run(args) => block_on(run::run(args)),
        Command::Chat(args) => block_on(chat::chat(args)),
        Command::Demo(args) => block_on(demo::demo(args)),
        #[cfg(feature = "lab")]
        Command::Lab(command) => block_on(sled_lab::run(command)),
    }
}

fn block_on(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let outcome = runtime.block_on(work);
    // A thread that waits for the terminal must not keep the process alive.
    runtime.shutdown_background();
    outcome
}
