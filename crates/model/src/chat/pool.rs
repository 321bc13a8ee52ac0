//! Processes that render, and what becomes of those that do not answer.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::protocol::{Answer, Request};
use super::{ChatTemplate, TOO_LONG};
use crate::Error;

/// How long a process may take for an answer: less than whoever waits for [workers](crate::workers) does.
const PATIENCE: Duration = Duration::from_secs(5);

/// The most bytes of an answer: JSON spells a byte with six characters at most.
const LONGEST_ANSWER: u64 = 6 * ChatTemplate::LONGEST_PROMPT as u64 + 1024;

/// Processes that wait to be asked.
#[derive(Debug)]
pub(super) struct Pool {
    command: fn() -> io::Result<Command>,
    idle: Mutex<Vec<Process>>,
}

impl Pool {
    pub(super) fn new(command: fn() -> io::Result<Command>) -> Self {
        Self { command, idle: Mutex::default() }
    }

    /// Has a process answer `request`. One that is late or dies is gone, and the next request gets another.
    pub(super) fn ask(&self, request: &Request) -> Result<String, Error> {
        let request = serde_json::to_string(request).map_err(|error| Error::Renderer(error.into()))?;
        let process = self.process().map_err(Error::Renderer)?;
        let reason = match process.ask(request, PATIENCE) {
            Ok(answer) => {
                self.idle().push(process);
                return answer.map_err(Error::ChatTemplate);
            }
            Err(Failure::Late) => TOO_LONG,
            Err(Failure::Dead) => "it takes too much memory; shorten the messages",
        };
        tracing::info!("a process that rendered the chat template was killed: {reason}");
        Err(Error::ChatTemplate(reason.to_owned()))
    }

    /// One that lives.
    fn process(&self) -> io::Result<Process> {
        loop {
            // The lock is not held while a process ends.
            let Some(mut process) = self.idle().pop() else { break };
            if process.child.is_alive() {
                return Ok(process);
            }
        }
        Process::start(&mut (self.command)()?)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Process>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why there is no answer.
enum Failure {
    Late,
    Dead,
}

/// A process, and the thread that talks to it: pipes know no timeouts.
#[derive(Debug)]
struct Process {
    child: Killed,
    requests: Sender<String>,
    answers: Receiver<io::Result<Answer>>,
}

impl Process {
    fn start(command: &mut Command) -> io::Result<Self> {
        // What a template makes it say is for nobody's terminal.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = Killed(command.spawn()?);
        let pipes = child.0.stdin.take().zip(child.0.stdout.take());
        let (mut stdin, stdout) = pipes.ok_or(io::ErrorKind::BrokenPipe)?;
        let mut stdout = BufReader::new(stdout);
        let (requests, asked) = mpsc::channel();
        let (answered, answers) = mpsc::channel();
        let talk = move || {
            for request in asked {
                if answered.send(exchange(&mut stdin, &mut stdout, request)).is_err() {
                    return;
                }
            }
        };
        thread::Builder::new().name("sled-renderer".to_owned()).spawn(talk)?;
        Ok(Self { child, requests, answers })
    }

    fn ask(&self, request: String, patience: Duration) -> Result<Answer, Failure> {
        self.requests.send(request).map_err(|_ended| Failure::Dead)?;
        match self.answers.recv_timeout(patience) {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) | Err(RecvTimeoutError::Disconnected) => Err(Failure::Dead),
            Err(RecvTimeoutError::Timeout) => Err(Failure::Late),
        }
    }
}

fn exchange(stdin: &mut ChildStdin, stdout: &mut BufReader<ChildStdout>, mut request: String) -> io::Result<Answer> {
    request.push('\n');
    stdin.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stdout.by_ref().take(LONGEST_ANSWER).read_until(b'\n', &mut answer)?;
    Ok(serde_json::from_slice(&answer)?)
}

/// A child process that does not outlive this, and is waited for.
#[derive(Debug)]
struct Killed(Child);

impl Killed {
    fn is_alive(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(None))
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        let _ended_already = self.0.kill();
        let _waited_for_already = self.0.wait();
    }
}

#[cfg(all(test, unix))]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::borrow::Cow;
    use std::path::Path;

    use super::*;
    use crate::chat::{Renderer, TemplateSource};

    /// Answers with its number, or does what the template is called.
    #[allow(clippy::unnecessary_wraps)]
    fn stand_in() -> io::Result<Command> {
        let script = r#"while read -r line; do case "$line" in
            *stays-silent*) exec sleep 600;;
            *dies*) exit 1;;
            *never-ends*) exec cat /dev/zero;;
            *refuses*) echo '{"Err":"no"}';;
            *) echo "{\"Ok\":\"$$\"}";;
            esac; done"#;
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Ok(command)
    }

    fn ask(pool: &Pool, source: &str) -> Result<String, String> {
        let template = TemplateSource { source: source.to_owned(), bos: String::new(), eos: String::new() };
        pool.ask(&Request { template: Cow::Borrowed(&template), chat: None }).map_err(|error| error.to_string())
    }

    fn exists(process: &str) -> bool {
        Path::new("/proc").join(process).exists()
    }

    #[test]
    fn a_process_that_does_not_answer_is_gone_and_the_next_request_gets_another() {
        let pool = Pool::new(stand_in);
        let first = ask(&pool, "").unwrap();
        assert_eq!(ask(&pool, "").unwrap(), first);
        assert_eq!(ask(&pool, "refuses").unwrap_err(), "the model's chat template cannot be used: no");
        let mut last = first;
        for (source, reason) in [
            ("dies", "it takes too much memory; shorten the messages"),
            ("never-ends", "it takes too much memory; shorten the messages"),
            ("stays-silent", "it takes too long; shorten the messages"),
        ] {
            assert_eq!(ask(&pool, "").unwrap(), last);
            let refusal = ask(&pool, source).unwrap_err();
            assert_eq!(refusal, format!("the model's chat template cannot be used: {reason}"));
            let next = ask(&pool, "").unwrap();
            assert_ne!(next, last);
            assert!(!exists(&last), "{last} has been waited for");
            last = next;
        }
        drop(pool);
        assert!(!exists(&last), "{last} ends with the pool");
    }

    #[test]
    fn a_process_that_was_killed_from_outside_is_not_asked() {
        let pool = Pool::new(stand_in);
        let first = ask(&pool, "").unwrap();
        assert!(Command::new("kill").args(["-KILL", &first]).status().unwrap().success());
        while pool.idle()[0].child.is_alive() {
            thread::yield_now();
        }
        assert_ne!(ask(&pool, "").unwrap(), first);
    }

    #[test]
    fn as_many_are_rendered_at_once_as_are_asked_for() {
        let pool = Pool::new(stand_in);
        let both = thread::scope(|scope| {
            let late = scope.spawn(|| ask(&pool, "stays-silent"));
            let swift = scope.spawn(|| ask(&pool, ""));
            [swift.join().unwrap().is_ok(), late.join().unwrap().is_ok()]
        });
        assert_eq!(both, [true, false]);
    }

    #[test]
    fn a_program_that_is_not_there_is_named_as_the_cause() {
        let renderer = Renderer::in_processes(|| Ok(Command::new("/nonexistent/sled")));
        let source = TemplateSource { source: String::new(), bos: String::new(), eos: String::new() };
        let error = renderer.compile(source).unwrap_err().to_string();
        assert!(error.starts_with("cannot start a process to render chats: "), "{error}");
    }
}
