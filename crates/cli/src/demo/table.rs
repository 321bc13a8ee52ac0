//! The table that closes the demo: what each device said, and whether it is what the target says.

use std::fmt;

use super::NEAR_TIE;
use crate::run::Report;

/// A token of an output that the target alone would not have chosen there.
pub(super) struct Deviation {
    /// Its place in the output.
    pub(super) index: usize,
    /// How the target's token reads.
    pub(super) expected: String,
    /// By how many logits the target prefers its own.
    pub(super) gap: f32,
}

/// What became of a device.
pub(super) struct Outcome {
    name: &'static str,
    draft: String,
    report: Report,
    /// Of its verified tokens.
    deviations: Vec<Deviation>,
}

impl Outcome {
    /// Of the device `name`, which drafted with `draft`; what no server verified is not compared with the target.
    pub(super) fn new(name: &'static str, draft: &str, report: Report, mut deviations: Vec<Deviation>) -> Self {
        let is_verified = |index| report.provenance.get(index).is_some_and(|provenance| provenance != "provisional");
        deviations.retain(|deviation| is_verified(deviation.index));
        Self { name, draft: draft.to_owned(), report, deviations }
    }

    fn provisional(&self) -> usize {
        usize::try_from(self.report.provisional_tokens).unwrap_or(usize::MAX)
    }

    fn verified(&self) -> usize {
        self.report.completion_tokens.saturating_sub(self.provisional())
    }

    /// How what was verified compares with what the target alone says.
    fn verdict(&self) -> String {
        match self.deviations.first() {
            _ if self.verified() == 0 => "nothing was verified".to_owned(),
            None if self.provisional() > 0 => "equal as far as it was verified".to_owned(),
            None => "equal".to_owned(),
            Some(first) => format!(
                "{} differ; first token {} ({:?} there), a near-tie of {:.2} logits",
                self.deviations.len(),
                first.index,
                first.expected,
                first.gap
            ),
        }
    }
}

/// What the columns of an [`Outcome`] are.
pub(super) fn header() -> String {
    format!(
        "{:<8} {:<20} {:>8} {:>11} {:>9} {:>10} {:>12} {:>10}   against the target alone",
        "device", "drafter", "verified", "provisional", "tokens/s", "accepted", "tokens/round", "rows/token"
    )
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, draft, report, .. } = self;
        let verified = self.verified() as f64;
        let ratio =
            |of: f64, to: f64, decimals| if to > 0.0 { format!("{:.decimals$}", of / to) } else { "-".to_owned() };
        let accepted = match report.draft_tokens {
            0 => "-".to_owned(),
            drafted => format!("{:.0} %", 100.0 * report.accepted_tokens as f64 / drafted as f64),
        };
        write!(
            f,
            "{name:<8} {draft:<20} {:>8} {:>11} {:>9} {accepted:>10} {:>12} {:>10}   {}",
            self.verified(),
            self.provisional(),
            ratio(report.completion_tokens as f64, report.elapsed_s, 1),
            ratio(verified, report.rounds as f64, 2),
            ratio(report.server_rows as f64, verified, 2),
            self.verdict(),
        )
    }
}

/// Fails where a device said nothing that was verified, or something that is not the target's.
pub(super) fn conclude(outcomes: &[Outcome]) -> anyhow::Result<()> {
    let wrong = outcomes.iter().flat_map(|outcome| &outcome.deviations).filter(|d| d.gap > NEAR_TIE).count();
    anyhow::ensure!(wrong == 0, "{wrong} tokens are not the target's; this is a bug, please report it");
    if let Some(unverified) = outcomes.iter().find(|outcome| outcome.verified() == 0) {
        anyhow::bail!(
            "nothing that the device {} said was verified: the server did not answer it in time; run the demo again when this \
             machine is less busy",
            unverified.name
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    /// Of a device with so many verified tokens before so many provisional ones.
    fn report(verified: usize, provisional: usize, rounds: u64) -> Report {
        let provenance = [vec!["accepted".to_owned(); verified], vec!["provisional".to_owned(); provisional]].concat();
        Report {
            text: String::new(),
            token_ids: vec![0; verified + provisional],
            provenance,
            prompt_token_ids: vec![0],
            prompt_tokens: 1,
            completion_tokens: verified + provisional,
            rounds,
            draft_tokens: 40,
            accepted_tokens: 10,
            provisional_tokens: provisional as u64,
            server_rows: 2 * verified as u64,
            disconnections: 1,
            finish_reason: "length".to_owned(),
            ttft_s: None,
            elapsed_s: 2.0,
        }
    }

    fn deviation(index: usize, gap: f32) -> Deviation {
        Deviation { index, expected: "x".to_owned(), gap }
    }

    fn columns(outcome: &Outcome) -> String {
        outcome.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn tokens_that_nobody_verified_are_told_apart_and_never_called_equal() {
        let none = Outcome::new("n-gram", "ngram", report(0, 96, 0), vec![deviation(3, 9.0)]);
        assert_eq!(columns(&none), "n-gram ngram 0 96 48.0 25 % - - nothing was verified");
        let some = Outcome::new("model", "m", report(60, 36, 20), vec![deviation(60, 9.0)]);
        assert_eq!(columns(&some), "model m 60 36 48.0 25 % 3.00 2.00 equal as far as it was verified");
        let all = Outcome::new("none", "none", report(96, 0, 96), Vec::new());
        assert_eq!(columns(&all), "none none 96 0 48.0 25 % 1.00 2.00 equal");
        let near = Outcome::new("none", "none", report(96, 0, 96), vec![deviation(7, 0.25)]);
        let verdict = "1 differ; first token 7 (\"x\" there), a near-tie of 0.25 logits";
        assert_eq!(columns(&near), format!("none none 96 0 48.0 25 % 1.00 2.00 {verdict}"));
        assert_eq!(header().split_whitespace().count(), "device drafter".split(' ').count() + 6 + 4);
    }

    #[test]
    fn a_demo_fails_where_nothing_was_verified_or_a_verified_token_is_not_the_targets() {
        let outcome = |verified, gaps: &[f32]| {
            let deviations = gaps.iter().map(|&gap| deviation(0, gap)).collect();
            Outcome::new("model", "m", report(verified, 5, 1), deviations)
        };
        assert!(conclude(&[outcome(1, &[]), outcome(9, &[0.5])]).is_ok());
        let error = conclude(&[outcome(9, &[]), outcome(0, &[5.0])]).unwrap_err().to_string();
        assert!(error.starts_with("nothing that the device model said was verified"), "{error}");
        let error = conclude(&[outcome(9, &[5.0])]).unwrap_err().to_string();
        assert!(error.starts_with("1 tokens are not the target's"), "{error}");
    }
}
