//! Chat templates are rendered in processes of their own, which are this program too, as `sled render-templates`.
//!
//! A template comes with a model or from a server, and is a program. Where it cannot be stopped, its process can be killed.

use std::io::{self, BufRead};
use std::process::{Command, ExitCode};
use std::sync::{LazyLock, mpsc};

use sled_model::chat::{Renderer, answer_requests};

/// The argument of a process that renders. It is no command for users, and nothing else is started for it.
const NAME: &str = "render-templates";

/// What renders all chat templates of this process.
pub fn renderer() -> Renderer {
    static SHARED: LazyLock<Renderer> = LazyLock::new(|| Renderer::in_processes(command));
    SHARED.clone()
}

/// This program, as it was started: an update may have replaced its file since.
fn command() -> io::Result<Command> {
    let program = if cfg!(target_os = "linux") { "/proc/self/exe".into() } else { std::env::current_exe()? };
    let mut command = Command::new(program);
    command.arg(NAME);
    #[cfg(unix)]
    {
        use std::os::unix::process::CommandExt;
        // Ctrl-C is for the process that renders for the user, which goes on until its answers are given.
        command.arg0("sled").process_group(0);
    }
    Ok(command)
}

/// Whether this process was started to render.
pub fn is_renderer() -> bool {
    std::env::args_os().nth(1).is_some_and(|argument| argument == NAME)
}

/// Renders until whoever started this process ends.
pub fn render() -> ExitCode {
    #[cfg(target_os = "linux")]
    bound_memory();
    // One request after the other; the end of the input is noticed whatever a template does.
    let (sender, requests) = mpsc::sync_channel(0);
    std::thread::spawn(move || {
        for request in io::stdin().lock().lines().map_while(Result::ok) {
            if sender.send(request).is_err() {
                return;
            }
        }
        std::process::exit(0);
    });
    match answer_requests(requests, io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Beyond what the process takes already, memory for a thread's stack and for values; what fails to get more ends the process,
/// without a core file.
#[cfg(target_os = "linux")]
fn bound_memory() {
    use rustix::process::{Resource, Rlimit, setrlimit};

    const VALUES: u64 = 1 << 30;
    let limit = |bytes| Rlimit { current: Some(bytes), maximum: Some(bytes) };
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let size =
        status.lines().find_map(|line| line.strip_prefix("VmSize:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    let most = (size.unwrap_or(0) << 10) + sled_model::workers::STACK as u64 + VALUES;
    let _refused = [setrlimit(Resource::As, limit(most)), setrlimit(Resource::Core, limit(0))];
}
