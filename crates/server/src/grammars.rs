//! Compiles the grammars of requests: where a session's own task waits for it, and never on the engine's thread.

use std::sync::Arc;
use std::time::Duration;

use sled_core::message::Request;
use sled_model::grammar::Compiler;
use tokio::sync::Semaphore;

/// How long a request may wait for its grammar. Those before it, which it waits for too, are bounded by their size.
const PATIENCE: Duration = Duration::from_secs(10);

/// What compiles grammars; clones share it.
#[derive(Clone)]
pub(crate) struct Grammars {
    compiler: Option<Arc<Compiler>>,
    /// One at a time: the cores are the engine's.
    turn: Arc<Semaphore>,
}

impl Grammars {
    /// Without a compiler, requests with a grammar fail.
    pub(crate) fn new(compiler: Option<Arc<Compiler>>) -> Self {
        Self { compiler, turn: Arc::new(Semaphore::new(1)) }
    }

    /// The request with its grammar compiled, if it has one; the error is one sentence for the user.
    pub(crate) async fn prepare(&self, mut request: Request) -> Result<Request, String> {
        if let Request::Context(update) = &mut request
            && let Some(grammar) = &mut update.sampling.grammar
            && let Some(compiler) = self.compiler.clone()
        {
            let (turn, source) = (Arc::clone(&self.turn), grammar.clone());
            let compiling = async move {
                let turn = turn.acquire_owned().await;
                let compile = move || {
                    let compiled = compiler.compile(&source);
                    drop(turn);
                    compiled
                };
                tokio::task::spawn_blocking(compile).await
            };
            *grammar = match tokio::time::timeout(PATIENCE, compiling).await {
                Ok(Ok(compiled)) => compiled.map_err(|error| error.to_string())?,
                Ok(Err(_panicked)) => return Err("the grammar cannot be compiled; make it simpler".to_owned()),
                Err(_elapsed) => return Err("the grammar takes too long to compile; make it simpler".to_owned()),
            };
        }
        Ok(request)
    }
}
