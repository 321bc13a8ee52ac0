//! Compiles the grammars that requests bring, where that holds up nobody else.

use std::sync::Arc;

use sled_core::sampler::SamplingParams;

use super::Compiler;
use crate::Error;
use crate::workers::{Caller, Workers};

impl Compiler {
    /// What a request of `caller` asks of a sampler, with its grammar compiled, if it has one. The workers compile it, so that this
    /// needs a tokio runtime with time.
    ///
    /// # Errors
    /// [`Error::Grammar`], as [`Compiler::compile`]; or why the workers did not do it, as [`Workers::run`].
    pub async fn compile_sampling(
        self: &Arc<Self>,
        caller: Caller,
        mut sampling: SamplingParams,
    ) -> Result<SamplingParams, Error> {
        if let Some(grammar) = sampling.grammar.take_if(|grammar| !grammar.is_compiled()) {
            let compiler = Arc::clone(self);
            let compiling = Workers::shared().run(caller, move || compiler.compile(&grammar));
            sampling.grammar = Some(compiling.await??);
        }
        Ok(sampling)
    }
}
