//! How fast a device could be that knew beforehand which drafts are right.
//!
//! A rejection costs one round trip and one step whatever one does: the correction is not known earlier. Between rejections
//! drafting or stepping is the limit. An oracle drafts exactly the tokens that will be accepted, and cuts them into the blocks
//! with which the server is done soonest; the verdict on the last brings the correction.

use std::time::Duration;

use sled_core::cost::CostTable;

use crate::recording::Output;

/// The least time that `output` takes with these drafts: for each run of accepted drafts and the correction after it, a round
/// trip `rtt`, and the time until the server is done that gets each draft when it is made.
#[must_use]
pub fn least_time(output: &Output, draft_time: Duration, rtt: Duration, cost: &CostTable) -> Duration {
    let mut time = Duration::ZERO;
    let mut run = 0;
    let mut begun = false;
    for (token, draft) in output.tokens.iter().zip(&output.drafts) {
        begun = draft.token == *token;
        if begun {
            run += 1;
        } else {
            time += rtt + least_run(run, draft_time, cost);
            run = 0;
        }
    }
    if begun {
        // The last token is the bonus of a verdict, and need not be drafted.
        time += rtt + least_run(run - 1, draft_time, cost);
    }
    time
}

/// When a server can be done that is to verify `run` drafts, of which draft `i` is there at `i * draft_time`.
fn least_run(run: usize, draft_time: Duration, cost: &CostTable) -> Duration {
    // `done[j]`: the earliest end of a step that verifies draft `j` as its last; the steps before it verify the others.
    let mut done = vec![Duration::ZERO];
    for j in 1..=run {
        let there = draft_time * u32::try_from(j).unwrap_or(u32::MAX);
        let best = (0..j).map(|i| done[i].max(there) + cost.time(j - i + 1)).min();
        done.extend(best);
    }
    if run == 0 { cost.time(1) } else { done[run] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::Proposal;

    #[test]
    fn every_rejection_costs_a_round_trip_and_a_step() {
        let draft = |token| Proposal { token, confidence: 1.0, second: 0, entropy: 0.0, margin: 1.0 };
        let output = Output {
            kind: String::new(),
            prompt_len: 1,
            tokens: vec![1, 2, 3, 4, 5],
            drafts: [1, 2, 9, 4, 5].into_iter().map(draft).collect(),
            detours: vec![Vec::new(); 5],
        };
        let ms = Duration::from_millis;
        let cost = &CostTable::line(0.010, 0.001);
        // Two drafts in one step and a correction; one draft and a bonus.
        assert_eq!(least_time(&output, ms(5), ms(100), cost), (ms(10) + ms(100) + ms(13)) + (ms(5) + ms(100) + ms(12)));
    }

    #[test]
    fn a_long_run_is_verified_while_it_is_drafted() {
        let ms = Duration::from_millis;
        let cost = &CostTable::line(0.010, 0.001);
        // Steps end soon after each draft, and the last has one draft only.
        assert_eq!(least_run(3, ms(20), cost), ms(60 + 12));
        // Where drafts are made at once, one step does it.
        assert_eq!(least_run(3, ms(0), cost), ms(14));
        assert_eq!(least_run(0, ms(20), cost), ms(11));
    }
}
