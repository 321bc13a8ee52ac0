//! How fast a device could be that knew beforehand which drafts are right.
//!
//! A rejection costs one round trip and one step whatever one does: the correction is not known earlier. Between rejections
//! either drafting is the limit, or the longest block that a server takes. An oracle drafts exactly the tokens that will be
//! accepted and sends them at once; the verdict brings the correction with them.

use std::time::Duration;

use crate::cost::StepCost;
use crate::recording::Output;

/// The least time that `output` takes with these drafts: for each run of accepted drafts and the correction after it, the time
/// to draft the run, a round trip `rtt`, and a step of one row.
#[must_use]
pub fn least_time(output: &Output, draft_time: Duration, rtt: Duration, cost: StepCost) -> Duration {
    let mut time = Duration::ZERO;
    let mut run = 0;
    let mut pending = false;
    for (token, draft) in output.tokens.iter().zip(&output.drafts) {
        pending = true;
        if draft.token == *token {
            run += 1;
        } else {
            time += draft_time * run + rtt + cost.of(1);
            run = 0;
            pending = false;
        }
    }
    if pending {
        // The last token is the bonus of a verdict, and need not be drafted.
        time += draft_time * run.saturating_sub(1) + rtt + cost.of(1);
    }
    time
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::Proposal;

    #[test]
    fn every_rejection_costs_a_round_trip_and_a_step() {
        let draft = |token| Proposal { token, confidence: 1.0, entropy: 0.0, margin: 1.0 };
        let output = Output {
            kind: String::new(),
            prompt_len: 1,
            tokens: vec![1, 2, 3, 4, 5],
            drafts: [1, 2, 9, 4, 5].into_iter().map(draft).collect(),
            detours: vec![Vec::new(); 5],
        };
        let ms = Duration::from_millis;
        let cost = StepCost::from_millis(10.0, 1.0);
        // Two drafts and a correction; one draft and a bonus.
        assert_eq!(least_time(&output, ms(5), ms(100), cost), (ms(10) + ms(100) + ms(11)) + (ms(5) + ms(100) + ms(11)));
    }
}
