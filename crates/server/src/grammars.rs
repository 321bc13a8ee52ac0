//! Has the grammars of requests compiled while their session's own task waits, and never on the engine's thread.

use std::sync::Arc;
use std::time::Duration;

use sled_core::message::Request;
use sled_model::grammar::Compiler;
use sled_model::workers::Caller;
use tonic::Status;

/// When a device is to come again that found too many others before it.
const AGAIN: Duration = Duration::from_secs(1);

/// What has grammars compiled; clones share the compiler.
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
            && let Some(compiler) = &self.compiler
        {
            let sampling = std::mem::take(&mut update.sampling);
            update.sampling = compiler.compile_sampling(caller, sampling).await.map_err(refusal)?;
        }
        Ok(request)
    }
}

fn refusal(error: sled_model::Error) -> Status {
    match error {
        sled_model::Error::WorkersBusy => sled_wire::busy(&error.to_string(), AGAIN),
        error => Status::invalid_argument(error.to_string()),
    }
}
