//! Emulated devices: real sessions over real sockets, with recorded drafts.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sled_core::Token;
use sled_core::device::{Fallback, Prompt, Resilience, Stats};
use sled_core::policy::Policy;
use sled_core::sampler::{Context, Draft, Sampler, SamplingParams};
use sled_core::sequence::common_prefix;
use sled_device::{Link, Session, SessionOptions};
use sled_model::Error;
use sled_model::drafter::Drafter;
use sled_sim::recording::Output;
use sled_sim::rng::Rng;

use super::figures::{Answer, Log};

/// A prompt, and what was recorded of its answer.
pub struct Task {
    pub prompt: Vec<Token>,
    /// The prompt as its user wrote it.
    pub text: String,
    pub output: Output,
}

/// When devices ask for what.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arrivals {
    /// The next prompt comes when the last is answered, and a pause of this mean is over.
    Closed { think: Duration },
    /// Prompts come independently of the answers, so many a second for each device.
    Poisson { rate: f64 },
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
}

/// One device asks until `until`, or until it leaves.
pub async fn device(fleet: Fleet, index: usize, until: Duration) -> anyhow::Result<Log> {
    let track = Track::default();
    let drafter = RecordedDrafter { track: Arc::clone(&track), time: fleet.draft_time };
    let link = Link::connect(&fleet.url).await?;
    let fingerprint = link.description().vocabulary_fingerprint.clone();
    let options = SessionOptions {
        drafter: fleet.policy.map(|policy| (Box::new(drafter) as Box<dyn Drafter>, policy)),
        resilience: Resilience {
            fallback: Fallback::Wait,
            // A server on few cores may take long to read many prompts at once.
            timeout: Duration::from_secs(120),
            ..Resilience::default()
        },
        ..SessionOptions::new(&format!("device {index}"), &fingerprint, &[])
    };
    let mut session = Session::open(&link, options).await?;
    let mut schedule = Schedule::new(&fleet, index);
    let mut log = Log::default();
    for turn in 0.. {
        let arrived = schedule.next(fleet.began).await;
        if fleet.began.elapsed() >= until {
            break;
        }
        let task = Arc::clone(&fleet.tasks);
        // Every device goes through the recording from another place on.
        let task = &task[(index * 7 + turn) % fleet.tasks.len()];
        let answered = answer(&fleet, &mut session, &track, task, arrived, until, &mut log);
        // Who leaves hangs up in the middle of whatever it does.
        let Ok(answered) = tokio::time::timeout_at((fleet.began + until).into(), answered).await else { break };
        answered?;
    }
    Ok(log)
}

/// Generates one answer. Where the server chooses another token than was recorded, which near-ties in another batch can cause,
/// the recorded one is taken for the text to go on with, so that the recorded drafts still fit.
async fn answer(
    fleet: &Fleet,
    session: &mut Session,
    track: &Track,
    task: &Task,
    arrived: Duration,
    until: Duration,
    log: &mut Log,
) -> anyhow::Result<()> {
    let expected = &task.output.tokens;
    *track.lock().unwrap_or_else(PoisonError::into_inner) = Some((task.prompt.len(), task.output.clone()));
    let mut done = 0;
    let mut answer = Answer { arrived, first: None, last: None, tokens: 0 };
    while done < expected.len() && fleet.began.elapsed() < until {
        let mut tokens = task.prompt.clone();
        tokens.extend(expected.iter().take(done));
        let prompt = Prompt { tokens, max_tokens: expected.len() - done, sampling: SamplingParams::default() };
        let mut differs = false;
        let generation = session
            .generate(prompt, |emitted| {
                let now = fleet.began.elapsed();
                log.tokens.push(now);
                answer.first.get_or_insert(now);
                answer.last = Some(now);
                answer.tokens += 1;
                differs = expected.get(done) != Some(&emitted.token);
                done += 1;
                if differs { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
            .await?;
        log.differing += u64::from(differs);
        log.generated += generation.tokens.len() as u64;
        log.add(&generation.stats);
    }
    log.answers.push(answer);
    Ok(())
}

impl Log {
    fn add(&mut self, stats: &Stats) {
        self.rounds += stats.rounds;
        self.rows += stats.server_rows;
        self.drafted += stats.draft_tokens;
        self.accepted += stats.accepted_tokens;
    }
}

/// When the next prompt comes.
pub struct Schedule {
    arrivals: Arrivals,
    rng: Rng,
    next: Duration,
}

impl Schedule {
    pub fn new(fleet: &Fleet, index: usize) -> Self {
        let mut rng = Rng(fleet.seed.wrapping_add(index as u64));
        // Devices do not begin in step.
        let next = rng.time(Duration::from_millis(500));
        Self { arrivals: fleet.arrivals, rng, next }
    }

    /// Waits for the next prompt; when it came, since `began`.
    pub async fn next(&mut self, began: Instant) -> Duration {
        // Inverse transform: the pauses of a Poisson process are exponential.
        let exponential = -(1.0 - self.rng.unit()).ln();
        match self.arrivals {
            Arrivals::Closed { think } => {
                tokio::time::sleep_until((began + self.next).into()).await;
                tokio::time::sleep(think.mul_f64(exponential)).await;
                began.elapsed()
            }
            Arrivals::Poisson { rate } => {
                self.next += Duration::from_secs_f64(exponential / rate);
                tokio::time::sleep_until((began + self.next).into()).await;
                self.next
            }
        }
    }
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
        let draft = track.as_ref().and_then(|(prompt_len, output)| {
            let text = context.tokens.get(*prompt_len..)?;
            let right = common_prefix(text, &output.tokens);
            if right == text.len() {
                return output
                    .drafts
                    .get(right)
                    .map(|draft| Draft { token: draft.token, confidence: draft.confidence });
            }
            // After the first wrong token, which the detour follows.
            let &(token, confidence) = output.detours.get(right)?.get(text.len() - right - 1)?;
            Some(Draft { token, confidence })
        });
        drop(track);
        std::thread::sleep(end.saturating_duration_since(Instant::now()));
        Ok(draft)
    }
}
