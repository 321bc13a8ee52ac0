//! Compiles the grammars of requests: where a session's own task waits for it, and never on the engine's thread.

use std::sync::Arc;
use std::time::Duration;

use sled_core::message::Request;
use sled_model::grammar::Compiler;
use sled_model::workers::{Caller, Workers};
use tonic::Status;

/// When a device is to come again that found too many others before it.
const AGAIN: Duration = Duration::from_secs(1);

/// What compiles grammars; clones share it.
#[derive(Clone)]
pub(crate) struct Grammars {
    compiler: Option<Arc<Compiler>>,
}

impl Grammars {
    /// Without a compiler, requests with a grammar fail.
    pub(crate) fn new(compiler: Option<Arc<Compiler>>) -> Self {
        Self { compiler }
    }

    /// The request of `caller` with its grammar compiled, if it has one; else one sentence for the user.
    pub(crate) async fn prepare(&self, caller: Caller, mut request: Request) -> Result<Request, Status> {
        if let Request::Context(update) = &mut request
            && let Some(grammar) = &mut update.sampling.grammar
            && let Some(compiler) = self.compiler.clone()
        {
            let source = grammar.clone();
            let compiling = Workers::shared().run(caller, move || compiler.compile(&source)).await;
            *grammar = match compiling.and_then(|compiled| compiled) {
                Ok(compiled) => compiled,
                Err(busy @ sled_model::Error::WorkersBusy) => return Err(sled_wire::busy(&busy.to_string(), AGAIN)),
                Err(error) => return Err(Status::invalid_argument(error.to_string())),
            };
        }
        Ok(request)
    }
}
