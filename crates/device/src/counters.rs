//! What the sessions of a device have done, for its metrics.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use sled_core::device::Stats;

/// Counts, since the device was started; clones share them.
#[derive(Clone, Debug)]
pub struct Counters {
    /// Draft tokens made while a verdict was under way that came to stand in a text.
    pub ahead_kept: Counter,
    /// Those that did not.
    pub ahead_discarded: Counter,
    /// From a block to its verdict, in seconds.
    pub round_trip: Histogram,
    /// Bytes of messages to servers, with gRPC's prefix and without HTTP/2's frames.
    pub bytes_sent: Counter,
    /// Bytes of messages from servers.
    pub bytes_received: Counter,
    /// Connections that took the place of a lost one.
    pub reconnections: Counter,
    /// `bytes_sent` and `bytes_received` together.
    round_bytes: Family<Way, Counter>,
}

/// Which way bytes went.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Way {
    direction: &'static str,
}

impl Default for Counters {
    fn default() -> Self {
        let round_bytes = Family::<Way, Counter>::default();
        let bytes = |direction| Counter::clone(&round_bytes.get_or_create(&Way { direction }));
        Self {
            ahead_kept: Counter::default(),
            ahead_discarded: Counter::default(),
            // From a millisecond to half a minute.
            round_trip: Histogram::new(exponential_buckets(0.001, 2.0, 16)),
            bytes_sent: bytes("sent"),
            bytes_received: bytes("received"),
            reconnections: Counter::default(),
            round_bytes,
        }
    }
}

impl Counters {
    /// Lists them in `registry`.
    pub fn register(&self, registry: &mut Registry) {
        let Self { ahead_kept, ahead_discarded, round_trip, reconnections, round_bytes, .. } = self.clone();
        let kept = "Tokens drafted while a verdict was under way that came to stand in a text";
        registry.register("sled:draft_ahead_tokens_kept", kept, ahead_kept);
        let discarded = "Tokens drafted while a verdict was under way in vain";
        registry.register("sled:draft_ahead_tokens_discarded", discarded, ahead_discarded);
        registry.register("sled:round_trip_seconds", "From a block to its verdict", round_trip);
        registry.register("sled:reconnections", "Connections that took the place of a lost one", reconnections);
        let bytes = "Bytes of messages to and from servers, without HTTP/2's frames";
        registry.register("sled:round_bytes", bytes, round_bytes);
    }

    pub(crate) fn add_round_trip(&self, time: Duration) {
        self.round_trip.observe(time.as_secs_f64());
    }

    /// A turn is over.
    pub(crate) fn add_turn(&self, stats: &Stats) {
        self.ahead_kept.inc_by(stats.ahead_kept);
        self.ahead_discarded.inc_by(stats.ahead_discarded);
    }
}
