//! Threads for work on what strangers send: compiling grammars, tokenising texts, rendering chat templates.
//!
//! The libraries that do it recurse as deep as their input says, and take as long. So it is done on a few threads with large
//! stacks, which commit memory only as deep as they get; what waits for them is bounded and taken in turn from those who sent
//! it; and whoever waits is told after a while. Work that has begun keeps its thread until it ends, whoever has left.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::Error;

/// How many bytes a thread may go deep. They are reserved, and become memory only where they are touched.
pub const STACK: usize = 512 << 20;

/// A thread that worked this long may have been deep: another takes its place, so that its memory goes back.
const LONG: Duration = Duration::from_millis(50);

/// How many threads there are, what may wait for them, and how long anybody waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkersConfig {
    /// How many threads.
    pub threads: usize,
    /// How many pieces of work may wait, of everybody together.
    pub queue: usize,
    /// How long whoever sent it waits for a piece of work, those before it included.
    pub patience: Duration,
}

impl Default for WorkersConfig {
    fn default() -> Self {
        Self { threads: 2, queue: 512, patience: Duration::from_secs(10) }
    }
}

/// Who sends work. Those who wait take turns, however much each of them sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller(u64);

impl Caller {
    /// Whoever is known by `name`: a session, an address.
    pub fn new(name: impl Hash) -> Self {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        Self(hasher.finish())
    }
}

/// The threads; clones share them. They end when the last clone is dropped and nothing waits.
#[derive(Clone)]
pub struct Workers {
    config: WorkersConfig,
    owner: Arc<Owner>,
}

type Work = Box<dyn FnOnce() + Send>;

struct Owner(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// What waits, by who sent it; the first in turn is at the front.
    lines: VecDeque<(Caller, VecDeque<Work>)>,
    waiting: usize,
    /// How many threads there are.
    threads: usize,
    closed: bool,
}

impl Workers {
    /// Workers that start with the first work.
    #[must_use]
    pub fn new(config: WorkersConfig) -> Self {
        let shared = Shared { state: Mutex::default(), changed: Condvar::new() };
        Self { config, owner: Arc::new(Owner(Arc::new(shared))) }
    }

    /// Those of this process: everything in it that serves strangers shares them.
    #[must_use]
    pub fn shared() -> &'static Self {
        static SHARED: LazyLock<Workers> = LazyLock::new(|| Workers::new(WorkersConfig::default()));
        &SHARED
    }

    /// Has `work` done for `caller`, and waits for it. Needs a tokio runtime with time. If the returned future is dropped, work
    /// that has not begun is not done.
    ///
    /// # Errors
    /// [`Error::WorkersBusy`] if too much waits, [`Error::WorkTooLong`] if it is not done in time,
    /// [`Error::WorkFailed`] if it panics, [`Error::Workers`] if no thread can be started.
    pub async fn run<T: Send + 'static>(
        &self,
        caller: Caller,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        let done = self.submit(caller, work)?;
        match tokio::time::timeout(self.config.patience, done).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(_panicked)) => Err(Error::WorkFailed),
            Err(_elapsed) => Err(Error::WorkTooLong),
        }
    }

    /// Has `work` done and waits for it, on a thread without a runtime, however long it takes.
    ///
    /// # Errors
    /// [`Error::WorkersBusy`], [`Error::WorkFailed`] or [`Error::Workers`], as [`Self::run`].
    pub fn run_blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
        let (sender, receiver) = std::sync::mpsc::channel();
        let send = move || {
            let _gone = sender.send(work());
        };
        self.push(Caller::new("blocking"), Box::new(send))?;
        receiver.recv().map_err(|_panicked| Error::WorkFailed)
    }

    fn submit<T: Send + 'static>(
        &self,
        caller: Caller,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<oneshot::Receiver<T>, Error> {
        let (sender, receiver) = oneshot::channel();
        let work = move || {
            if !sender.is_closed() {
                let _gone = sender.send(work());
            }
        };
        self.push(caller, Box::new(work))?;
        Ok(receiver)
    }

    fn push(&self, caller: Caller, work: Work) -> Result<(), Error> {
        let shared = &self.owner.0;
        let mut state = shared.lock();
        if state.waiting >= self.config.queue {
            return Err(Error::WorkersBusy);
        }
        while state.threads < self.config.threads.max(1) {
            match start(shared, state.threads + 1) {
                Ok(()) => state.threads += 1,
                // The others do it.
                Err(_) if state.threads > 0 => break,
                Err(error) => return Err(Error::Workers(error)),
            }
        }
        state.waiting += 1;
        match state.lines.iter_mut().find(|(known, _)| *known == caller) {
            Some((_, line)) => line.push_back(work),
            None => state.lines.push_back((caller, VecDeque::from([work]))),
        }
        drop(state);
        shared.changed.notify_one();
        Ok(())
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next work in turn; `None` when there will be none.
    fn next(&self) -> Option<Work> {
        let mut state = self.lock();
        loop {
            if let Some((caller, mut line)) = state.lines.pop_front() {
                let work = line.pop_front();
                if !line.is_empty() {
                    state.lines.push_back((caller, line));
                }
                state.waiting -= 1;
                return work;
            }
            if state.closed {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Starts thread `number`.
fn start(shared: &Arc<Shared>, number: usize) -> std::io::Result<()> {
    let shared = Arc::clone(shared);
    let builder = thread::Builder::new().name(format!("sled-worker-{number}")).stack_size(STACK);
    builder.spawn(move || serve(&shared, number)).map(drop)
}

fn serve(shared: &Arc<Shared>, number: usize) {
    while let Some(work) = shared.next() {
        let began = Instant::now();
        // Whoever waits notices that the sender is gone.
        let _panicked = catch_unwind(AssertUnwindSafe(work));
        if began.elapsed() >= LONG && start(shared, number).is_ok() {
            return;
        }
    }
}
