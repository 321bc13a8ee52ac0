//! Decoding with the draft model alone, without a server: the `edge` baseline.

use std::ops::ControlFlow;
use std::time::Instant;

use sled_core::Token;
use sled_core::device::{FinishReason, Prompt, Provenance, Stats};
use sled_core::sampler::{Context, Sampler};
use sled_model::drafter::Drafter;

use crate::{Error, Generation};

/// Decodes `prompt` with `drafter` alone. `on_token` sees every token, and ends the generation by `Break`. A grammar must be
/// compiled.
///
/// # Errors
/// If a sampling parameter is out of range, the grammar is not compiled or becomes too complex, or the model fails.
pub fn decode_locally(
    drafter: &mut dyn Drafter,
    prompt: Prompt,
    vocab_size: usize,
    end_of_generation: &[Token],
    mut on_token: impl FnMut(Token) -> ControlFlow<()>,
) -> Result<Generation, Error> {
    let began = Instant::now();
    let sampler = Sampler::new(prompt.sampling, vocab_size)?;
    let failed = || sampler.failure().map_or(Ok(()), |failure| Err(Error::Refused(failure)));
    let prompt_len = prompt.tokens.len();
    let mut tokens = prompt.tokens;
    let mut stats = Stats::default();
    let mut reason = FinishReason::Length;
    while tokens.len() - prompt_len < prompt.max_tokens {
        let Some(draft) = drafter.draft(Context { tokens: &tokens, prompt_len }, &sampler)? else { break };
        failed()?;
        tokens.push(draft.token);
        stats.provisional_tokens += 1;
        stats.time_to_first_token.get_or_insert(began.elapsed());
        if on_token(draft.token).is_break() || end_of_generation.contains(&draft.token) {
            reason = FinishReason::Stop;
            break;
        }
    }
    let tokens = tokens.split_off(prompt_len);
    let provenance = vec![Provenance::Provisional; tokens.len()];
    Ok(Generation { tokens, provenance, reason, stats, elapsed: began.elapsed() })
}
