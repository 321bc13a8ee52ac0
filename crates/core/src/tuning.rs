//! The numbers that a device's decisions rest on, in one place, each with where it comes from.
//!
//! What is a bound of the protocol or of safety is not here. *Chosen* is said of a number that was set by judgement and kept because
//! the comparisons of `sled bench policy` came out well with it, not because other values were ruled out.

use std::time::Duration;

use crate::message::MAX_BLOCK;

/// The numbers that a device's decisions rest on. A simulation may try others: they are part of
/// [`DeviceConfig`](crate::device::DeviceConfig).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tuning {
    /// How many blocks may wait for their verdicts. Chosen: a round trip of 16 passes is longer than any that was measured.
    pub max_blocks: usize,
    /// How many drafts may stand behind the settled tokens. Derived: [`MAX_BLOCK`], the longest block that a server takes.
    pub max_drafts: usize,
    /// Drafting stops where all drafts are right with a lower probability. Chosen.
    pub hopeless: f64,
    /// With at least this probability of being looked at, the policy `fixed` sends a block behind another. Derived: an even bet.
    pub even: f64,

    /// The policy `goodput`: by how many drafts the longest block may differ from what the last one turned out. Cost models are
    /// noisy, and lengths that follow them freely run away. Chosen.
    pub max_change: usize,
    /// The same: the longest block to begin with. Chosen.
    pub first_longest: usize,
    /// The same: how much of the past rate is kept for each committed token. Chosen: the mean is over some 25 tokens.
    pub rate_kept: f64,
    /// The same: the gain of the running means of times. Chosen: the mean is over some 5 verdicts.
    pub time_gain: f64,
    /// The same: drafting is to be so many times as fast as plain decoding, since it drains the device. Chosen.
    pub margin: f64,
    /// The same: from this mean number of sessions in a pass on, a server is shared. Derived: nearer to two than to one.
    pub shared: f64,
    /// The same: a trial of drafting is so many verdicts long, or fewer if drafting is less than half as fast. Chosen.
    pub trial: u32,
    /// The same: so many tokens are decoded plainly between the first trials. Chosen.
    pub first_pause: usize,
    /// The same: and so many at most, as trials go on failing. Chosen.
    pub longest_pause: usize,
    /// The same: the fewest tokens that the server decodes by itself before it is told to go on. Chosen.
    pub shortest_lease: usize,

    /// Calibration: how many observations the first guess, that a drafter is right as often as it thinks, counts for in each bin.
    /// Chosen.
    pub prior: f64,
    /// Calibration: how much of what was learned is kept from one observation of a bin to its next, so that another kind of text is
    /// noticed. Chosen: the memory is of some 100 observations.
    pub calibration_kept: f64,
    /// Calibration: how fast the mean acceptance rate follows. Chosen.
    pub mean_gain: f64,
    /// Calibration: the acceptance rate before anything is known. Measured: between those of the pairs in `data/` (`sled bench pair`).
    pub first_mean: f64,

    /// After so many timeouts in a row a connection is taken for dead, however open it looks. Chosen.
    pub max_timeouts: u32,
    /// How long an attempt to connect may take. Chosen.
    pub connecting: Duration,
    /// The time that a server is given to answer before anything is known of it. Chosen; RFC 6298 has one second, but a first pass
    /// reads a prompt.
    pub first_timeout: Duration,
    /// The least time that a server is given to answer. Chosen: below the second of RFC 6298, since a session waits for it.
    pub least_timeout: Duration,
    /// The longest that a timeout is doubled to. One that could not grow would give up on a slow server again and again, always
    /// before it answers. Chosen.
    pub longest_timeout: Duration,
    /// The first delay before a reconnection. Chosen.
    pub first_delay: Duration,
    /// The longest delay before a reconnection. Chosen: what a user waits who has just restarted a server.
    pub longest_delay: Duration,
}

impl Tuning {
    /// What devices use.
    pub const DEFAULT: Self = Self {
        max_blocks: 16,
        max_drafts: MAX_BLOCK,
        hopeless: 0.02,
        even: 0.5,
        max_change: 2,
        first_longest: 4,
        rate_kept: 0.96,
        time_gain: 0.2,
        margin: 1.02,
        shared: 1.5,
        trial: 6,
        first_pause: 48,
        longest_pause: 4096,
        shortest_lease: 16,
        prior: 4.0,
        calibration_kept: 0.99,
        mean_gain: 0.05,
        first_mean: 0.6,
        max_timeouts: 3,
        connecting: Duration::from_secs(5),
        first_timeout: Duration::from_secs(3),
        least_timeout: Duration::from_millis(300),
        longest_timeout: Duration::from_secs(20),
        first_delay: Duration::from_millis(100),
        longest_delay: Duration::from_secs(5),
    };
}

impl Default for Tuning {
    fn default() -> Self {
        Self::DEFAULT
    }
}
