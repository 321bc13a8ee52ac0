//! Emulated devices: real sessions over real sockets, with recorded drafts.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sled_core::Token;
use sled_core::device::{Fallback, Prompt, Resilience};
use sled_core::policy::Policy;
use sled_core::sampler::{Context, Draft, Sampler};
use sled_device::{Drafts, RemoteServer, Session, SessionOptions};
use sled_model::Error;
use sled_model::drafter::Drafter;
use sled_sim::figures::Answer;
use sled_sim::load::{Arrivals, Schedule};
use sled_sim::recording::Output;
use tokio::sync::mpsc::UnboundedSender;

use super::seen::{Seen, Stop};

/// A prompt, and what was recorded of its answer.
pub struct Task {
    pub prompt: Vec<Token>,
    /// The prompt as its user wrote it.
    pub text: String,
    pub output: Output,
}

/// What all devices have in common.
#[derive(Clone)]
pub struct Fleet {
    pub tasks: Arc<Vec<Task>>,
    /// `None` for thin clients.
    pub policy: Option<Policy>,
    /// What a draft takes.
    pub draft_time: Duration,
    pub arrivals: Arrivals,
    pub url: String,
    pub began: Instant,
    pub seed: u64,
    /// Is told when a device has its first token.
    pub started: UnboundedSender<()>,
}

/// What a device asks for in a turn: each goes through the recording from another place on.
pub fn task(tasks: &[Task], index: usize, turn: usize) -> &Task {
    &tasks[(index * 7 + turn) % tasks.len()]
}

/// One device asks until it is told to stop.
pub async fn device(fleet: Fleet, index: usize, mut stop: Stop) -> anyhow::Result<Seen> {
    let track = Track::default();
    let drafter = RecordedDrafter { track: Arc::clone(&track), time: fleet.draft_time };
    let remote = RemoteServer::connect(&fleet.url).await?;
    let fingerprint = remote.description().vocabulary_fingerprint;
    let options = SessionOptions {
        drafter: match fleet.policy {
            Some(policy) => Some((Drafts::own(Box::new(drafter))?, policy)),
            None => None,
        },
        resilience: Resilience {
            fallback: Fallback::Wait,
            // A server on few cores may take long to read many prompts at once.
            timeout: Duration::from_secs(120),
            ..Resilience::default()
        },
        ..SessionOptions::new(&format!("device {index}"), fingerprint, &[])
    };
    let mut session = Session::open(&remote, options).await?;
    let mut schedule = Schedule::new(fleet.arrivals, fleet.seed, index);
    let mut seen = Seen::default();
    for turn in 0.. {
        let arrived = schedule.next(fleet.began.elapsed());
        tokio::select! {
            () = tokio::time::sleep_until((fleet.began + arrived).into()) => {}
            () = stop.wait() => break,
        }
        let tasks = Arc::clone(&fleet.tasks);
        let task = task(&tasks, index, turn);
        // Who leaves hangs up in the middle of whatever it does.
        tokio::select! {
            answered = answer(&fleet, &mut session, &track, task, arrived, &mut seen) => answered?,
            () = stop.wait() => break,
        }
    }
    Ok(seen)
}

/// Generates one answer. Where the server chooses another token than was recorded, which near-ties in another batch can cause,
/// the recorded one is taken for the text to go on with, so that the recorded drafts still fit.
async fn answer(
    fleet: &Fleet,
    session: &mut Session,
    track: &Track,
    task: &Task,
    arrived: Duration,
    seen: &mut Seen,
) -> anyhow::Result<()> {
    let expected = &task.output.tokens;
    *track.lock().unwrap_or_else(PoisonError::into_inner) = Some((task.prompt.len(), task.output.clone()));
    let mut done = 0;
    let mut answer = Answer { arrived, first: None, last: None, tokens: 0 };
    seen.asked(arrived);
    while done < expected.len() {
        let mut tokens = task.prompt.clone();
        tokens.extend(expected.iter().take(done));
        let prompt = Prompt { tokens, max_tokens: expected.len() - done, ..Prompt::default() };
        let mut differs = false;
        let generation = session
            .generate(prompt, |emitted| {
                let now = fleet.began.elapsed();
                if seen.token(now) {
                    // Nobody may wait for it any more.
                    let _gone = fleet.started.send(());
                }
                answer.first.get_or_insert(now);
                answer.last = Some(now);
                answer.tokens += 1;
                differs = expected.get(done) != Some(&emitted.token);
                done += 1;
                if differs { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
            .await?;
        let log = &mut seen.log;
        log.differing += u64::from(differs);
        log.generated += generation.tokens.len() as u64;
        log.add(&generation.stats);
    }
    seen.log.answers.push(answer);
    Ok(())
}

/// The answer that a device is at, and where it begins.
type Track = Arc<Mutex<Option<(usize, Output)>>>;

/// Proposes what was recorded, in the time that a draft takes.
struct RecordedDrafter {
    track: Track,
    time: Duration,
}

impl Drafter for RecordedDrafter {
    fn draft(&mut self, context: Context<'_>, _sampler: &Sampler) -> Result<Option<Draft>, Error> {
        let end = Instant::now() + self.time;
        let track = self.track.lock().unwrap_or_else(PoisonError::into_inner);
        let draft = track.as_ref().and_then(|(prompt_len, output)| output.draft(context.tokens.get(*prompt_len..)?));
        drop(track);
        std::thread::sleep(end.saturating_duration_since(Instant::now()));
        Ok(draft)
    }
}
