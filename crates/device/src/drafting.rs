//! The thread that the drafter runs on, so that the device hears its server while it drafts.

use std::sync::{Arc, mpsc};

use sled_core::Token;
use sled_core::sampler::{Context, Draft, Sampler};
use sled_model::drafter::Drafter;
use tokio::sync::oneshot;

use crate::Error;

struct Task {
    tokens: Vec<Token>,
    prompt_len: usize,
    sampler: Arc<Sampler>,
    answer: oneshot::Sender<Result<Option<Draft>, sled_model::Error>>,
}

/// A draft that is being made.
pub(crate) type Drafting = oneshot::Receiver<Result<Option<Draft>, sled_model::Error>>;

/// A drafter on its own thread, which ends when this is dropped.
pub(crate) struct DraftThread {
    tasks: mpsc::Sender<Task>,
}

impl DraftThread {
    pub(crate) fn start(mut drafter: Box<dyn Drafter>) -> Result<Self, Error> {
        let (tasks, inbox) = mpsc::channel::<Task>();
        let work = move || {
            for Task { tokens, prompt_len, sampler, answer } in inbox {
                let draft = drafter.draft(Context { tokens: &tokens, prompt_len }, &sampler);
                // Without its grammar, a drafter has nothing to propose.
                let draft = draft.map(|draft| draft.filter(|_| sampler.failure().is_none()));
                // Whoever asked may have stopped caring.
                let _unwanted = answer.send(draft);
            }
        };
        std::thread::Builder::new().name("sled-draft".to_owned()).spawn(work).map_err(Error::Thread)?;
        Ok(Self { tasks })
    }

    pub(crate) fn draft(&self, context: Context<'_>, sampler: Arc<Sampler>) -> Result<Drafting, Error> {
        let (answer, drafting) = oneshot::channel();
        let task = Task { tokens: context.tokens.to_vec(), prompt_len: context.prompt_len, sampler, answer };
        self.tasks.send(task).map_err(|_gone| Error::DrafterGone)?;
        Ok(drafting)
    }
}
