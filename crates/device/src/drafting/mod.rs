//! Who drafts for a session: a drafter on a thread of its own, so that the device hears its server while it drafts, or a model
//! that many sessions share.

mod cache;
mod shared;

use std::sync::{Arc, mpsc};

use sled_core::Token;
use sled_core::sampler::{Context, Draft, Sampler};
use sled_model::drafter::Drafter;
use tokio::sync::oneshot;

pub use shared::SharedDrafter;

use crate::Error;

/// A draft that is to be made. Nobody wants it any more when its `answer` is closed.
struct Task {
    client: ClientId,
    tokens: Vec<Token>,
    prompt_len: usize,
    sampler: Arc<Sampler>,
    answer: oneshot::Sender<Answer>,
}

impl Task {
    fn context(&self) -> Context<'_> {
        Context { tokens: &self.tokens, prompt_len: self.prompt_len }
    }
}

/// What the thread is told.
enum Message {
    Draft(Task),
    /// The client has gone; what is kept for it may go too.
    Leave(ClientId),
}

/// Tells the sessions of a thread apart.
type ClientId = u64;

type Answer = Result<Option<Draft>, sled_model::Error>;

/// A draft that is being made; to drop it is to want it no more.
pub(crate) type Drafting = oneshot::Receiver<Answer>;

/// What drafts for one session.
pub struct Drafts {
    thread: mpsc::Sender<Message>,
    client: ClientId,
}

impl Drafts {
    /// Drafts with `drafter`, on a thread of its own, which ends when this is dropped.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn own(mut drafter: Box<dyn Drafter>) -> Result<Self, Error> {
        let thread = start(move |inbox| {
            for message in inbox {
                if let Message::Draft(task) = message
                    && !task.answer.is_closed()
                {
                    let draft = drafter.draft(task.context(), &task.sampler);
                    // Without its grammar, a drafter has nothing to propose.
                    let draft = draft.map(|draft| draft.filter(|_| task.sampler.failure().is_none()));
                    // Whoever asked may have stopped caring.
                    let _unwanted = task.answer.send(draft);
                }
            }
        })?;
        Ok(Self { thread, client: 0 })
    }

    pub(crate) fn draft(&self, context: Context<'_>, sampler: Arc<Sampler>) -> Result<Drafting, Error> {
        let (answer, drafting) = oneshot::channel();
        let Context { tokens, prompt_len } = context;
        let task = Task { client: self.client, tokens: tokens.to_vec(), prompt_len, sampler, answer };
        self.thread.send(Message::Draft(task)).map_err(|_gone| Error::DrafterGone)?;
        Ok(drafting)
    }
}

impl Drop for Drafts {
    fn drop(&mut self) {
        let _gone = self.thread.send(Message::Leave(self.client));
    }
}

/// Starts a thread that drafts.
fn start(work: impl FnOnce(mpsc::Receiver<Message>) + Send + 'static) -> Result<mpsc::Sender<Message>, Error> {
    let (thread, inbox) = mpsc::channel();
    std::thread::Builder::new().name("sled-draft".to_owned()).spawn(move || work(inbox)).map_err(Error::Thread)?;
    Ok(thread)
}
