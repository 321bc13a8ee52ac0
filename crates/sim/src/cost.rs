//! What things take in virtual time.

use std::time::Duration;

use sled_core::cost::CostTable;
use sled_core::step::Row;

/// The time of a pass of a draft model: `fixed + row * rows`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DrafterCost {
    /// Everything that does not depend on the rows.
    pub fixed: Duration,
    /// What each row adds.
    pub row: Duration,
}

/// What a server spends on a pass.
#[derive(Clone, Debug, PartialEq)]
pub struct PassCost {
    /// The target's pass.
    pub target: CostTable,
    /// What attention to one cached token adds, once for each sequence that has it, in seconds.
    pub context: f64,
    /// What a row that reads a prompt adds, as a share of what one adds that decides a token: it needs no logits.
    pub prompt_row: f64,
    /// A pass of a draft model on the server's own hardware, if drafts are made there.
    pub drafter: Option<DrafterCost>,
}

impl From<CostTable> for PassCost {
    fn from(target: CostTable) -> Self {
        Self { target, context: 0.0, prompt_row: 1.0, drafter: None }
    }
}

impl PassCost {
    /// How long a pass with these rows takes. Where the server drafts, that is before it: the first drafts of all sequences in
    /// one pass of the draft model, then all second ones, and so on; it also reads what the target reads of prompts.
    #[must_use]
    pub fn of(&self, rows: &[Row]) -> Duration {
        if self.context == 0.0 && self.prompt_row == 1.0 && self.drafter.is_none() {
            return self.target.time(rows.len());
        }
        let (mut cached, mut drafts, mut longest, mut unread) = (0, 0, 0, 0);
        for rows in rows.chunk_by(|a, b| a.sequence == b.sequence) {
            cached += rows.last().map_or(0, |row| row.position + 1);
            let chosen = rows.iter().filter(|row| row.wants_logits).count();
            unread += rows.len() - chosen;
            drafts += chosen.saturating_sub(1);
            longest = longest.max(chosen.saturating_sub(1));
        }
        let as_deciding = (unread as f64 * self.prompt_row).round() as usize;
        let mut time = self.target.time(rows.len() - unread + as_deciding);
        time += Duration::from_secs_f64(self.context * cached as f64);
        if let Some(drafter) = self.drafter {
            let passes = u32::try_from(longest).unwrap_or(u32::MAX);
            time += drafter.fixed * passes + drafter.row * u32::try_from(drafts + unread).unwrap_or(u32::MAX);
        }
        time
    }
}

/// A time in milliseconds; none if it is negative or too long to be one.
pub(crate) fn millis(ms: f64) -> Duration {
    Duration::try_from_secs_f64(ms / 1e3).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_drafter_on_the_server_takes_a_pass_for_each_of_the_longest_block() {
        let row = |sequence, position, wants_logits| Row { sequence, position, token: 0, wants_logits };
        // Two drafts of one session, none of another, and three rows of a prompt.
        let rows = [
            row(0, 7, true),
            row(0, 8, true),
            row(0, 9, true),
            row(1, 4, true),
            row(2, 0, false),
            row(2, 1, false),
            row(2, 2, false),
        ];
        let line = CostTable::line(0.020, 0.001);
        let alone = PassCost::from(line);
        let with =
            PassCost { context: 1e-3, drafter: Some(DrafterCost { fixed: 5 * MS, row: MS / 2 }), ..alone.clone() };
        assert_eq!(alone.of(&rows), 27 * MS);
        assert_eq!(with.of(&rows), 27 * MS + (10 + 5 + 3) * MS + 10 * MS + 5 * MS / 2);
        // The three rows of the prompt as one.
        let cheap = PassCost { prompt_row: 0.4, ..alone };
        assert_eq!(cheap.of(&rows), 25 * MS);
    }
}
