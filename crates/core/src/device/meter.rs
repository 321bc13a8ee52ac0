//! What is measured by verdicts.

use std::time::Duration;

use super::blocks::Block;
use crate::message::{Commit, Load};
use crate::policy::DraftPolicy;

/// When verdicts came, and how busy the server was.
#[derive(Debug, Default)]
pub(super) struct Meter {
    /// When the last commit of this turn came, if the link held since.
    last_commit: Option<Duration>,
    /// How long the last verdict took, until it is told.
    round_trip: Option<Duration>,
    /// How busy the server last said it is.
    load: Option<Load>,
}

impl Meter {
    /// The time until the next commit tells nothing.
    pub(super) fn pause(&mut self) {
        self.last_commit = None;
    }

    pub(super) fn take_round_trip(&mut self) -> Option<Duration> {
        self.round_trip.take()
    }

    pub(super) fn load(&self) -> Option<Load> {
        self.load
    }

    /// A commit brought `tokens` tokens while `block` was the oldest without a verdict. How long the server took to answer, if this
    /// is an answer to a question that was asked once.
    pub(super) fn on_commit(
        &mut self,
        now: Duration,
        commit: &Commit,
        tokens: usize,
        block: Option<&Block>,
        mut policy: Option<&mut (dyn DraftPolicy + 'static)>,
    ) -> Option<Duration> {
        if commit.rows > 0 {
            self.load = Some(commit.load);
            if let Some(policy) = &mut policy {
                policy.on_load(commit.load, commit.rows);
            }
        }
        let last = self.last_commit.replace(now)?;
        if let Some(policy) = &mut policy {
            policy.on_commit(tokens, now.saturating_sub(last), block.is_some_and(Block::is_lease));
        }
        // What the server decodes by itself answers no block but one that told it to.
        let block =
            block.filter(|block| (block.is_lease() || !commit.unasked) && !block.is_repeated() && commit.rows > 0)?;
        if block.is_lease() {
            self.round_trip = None;
            return Some(now.saturating_sub(block.sent().max(last)));
        }
        let time = now.saturating_sub(block.sent());
        self.round_trip = Some(time);
        if block.was_alone()
            && let Some(policy) = policy
        {
            policy.on_round_trip(time.saturating_sub(commit.load.queue + commit.load.step));
        }
        Some(time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::blocks::Blocks;
    use crate::device::drafts::Drafts;
    use crate::device::{Ahead, Tuning};
    use crate::policy::NextBlock;
    use crate::sequence::Digest;

    /// A policy that remembers what it is told.
    #[derive(Debug, Default)]
    struct Told {
        commits: Vec<(usize, Duration, bool)>,
        ways: Vec<Duration>,
    }

    impl DraftPolicy for Told {
        fn takes(&self, _block: &NextBlock, _acceptance: f64) -> bool {
            false
        }

        fn waits_for(&self, _block: &NextBlock, _acceptance: f64) -> bool {
            false
        }

        fn on_commit(&mut self, tokens: usize, time: Duration, plainly: bool) {
            self.commits.push((tokens, time, plainly));
        }

        fn on_round_trip(&mut self, time: Duration) {
            self.ways.push(time);
        }
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn commit(rows: u32, unasked: bool) -> Commit {
        let load = Load { queue: ms(20), step: ms(30), ..Load::default() };
        let (tokens, logprobs) = (vec![1], Vec::new());
        Commit { turn: 1, from: 0, accepted: 0, tokens, digest: Digest::EMPTY, rows, unasked, logprobs, load }
    }

    fn blocks() -> Blocks {
        Blocks::new(Ahead::Blocks, &Tuning::DEFAULT)
    }

    /// A meter that has heard of a commit at this time.
    fn meter(last: Duration) -> Meter {
        let mut meter = Meter::default();
        assert_eq!(meter.on_commit(last, &commit(1, true), 1, None, None), None, "there is none to count from");
        meter
    }

    #[test]
    fn a_verdict_is_timed_from_its_block_and_the_way_is_what_the_server_did_not_take() {
        let (mut meter, mut told, mut blocks) = (meter(ms(50)), Told::default(), blocks());
        let (first, second) = (blocks.send(ms(100), 5, 2, None), blocks.send(ms(110), 5, 2, None));
        assert_eq!(meter.on_commit(ms(250), &commit(3, false), 2, Some(&first), Some(&mut told)), Some(ms(150)));
        assert_eq!((meter.take_round_trip(), meter.take_round_trip()), (Some(ms(150)), None));
        assert_eq!(meter.on_commit(ms(280), &commit(3, false), 3, Some(&second), Some(&mut told)), Some(ms(170)));
        assert_eq!(told.ways, [ms(150 - 20 - 30)], "the second had to wait for the first");
        assert_eq!(told.commits, [(2, ms(200), false), (3, ms(30), false)]);
    }

    #[test]
    fn what_is_no_answer_to_a_block_that_was_sent_once_times_nothing() {
        let mut blocks = blocks();
        let block = blocks.send(ms(100), 0, 0, None);
        let again = blocks.repeat(&Drafts::new(&Tuning::DEFAULT), 0, 8);
        let time = |commit: Commit, block| meter(ms(50)).on_commit(ms(250), &commit, 1, block, None);
        assert_eq!(time(commit(1, false), Some(&block)), Some(ms(150)));
        assert_eq!(time(commit(1, true), Some(&block)), None, "the server decoded by itself");
        assert_eq!(time(commit(0, false), Some(&block)), None, "it tells again what it told");
        assert_eq!(time(commit(1, false), again.as_ref()), None, "which of the two does it answer?");
        assert_eq!(time(commit(1, false), None), None);
        let mut paused = meter(ms(50));
        paused.pause();
        assert_eq!(paused.on_commit(ms(250), &commit(1, false), 1, Some(&block), None), None);
    }

    #[test]
    fn tokens_that_a_server_decodes_by_itself_are_timed_from_each_other() {
        let (mut meter, mut told) = (meter(ms(50)), Told::default());
        let lease = blocks().send(ms(100), 5, 0, Some(21));
        assert_eq!(meter.on_commit(ms(130), &commit(1, false), 1, Some(&lease), Some(&mut told)), Some(ms(30)));
        assert_eq!(meter.on_commit(ms(150), &commit(1, true), 1, Some(&lease), Some(&mut told)), Some(ms(20)));
        assert_eq!(told.commits, [(1, ms(80), true), (1, ms(20), true)]);
        assert_eq!((meter.take_round_trip(), told.ways.as_slice()), (None, &[][..]));
    }

    #[test]
    fn how_busy_the_server_is_is_told_by_passes_only() {
        let mut meter = Meter::default();
        let mut again = commit(0, false);
        again.load.queue = ms(99);
        meter.on_commit(ms(10), &again, 1, None, None);
        assert_eq!(meter.load(), None);
        meter.on_commit(ms(20), &commit(1, false), 1, None, None);
        meter.on_commit(ms(30), &again, 1, None, None);
        assert_eq!(meter.load(), Some(commit(1, false).load));
    }
}
