//! What the engine has done, as Prometheus reads it. The names are those of vLLM and llama-server where they have one, with the
//! prefix `sled:`. Nothing is labelled by device: there is no bound on those.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::engine::{Engine, Histogram, Record};
use crate::traffic::Traffic;

/// Reads the engine's record at each scrape.
pub(crate) struct Metrics {
    engine: Engine,
    traffic: Traffic,
}

impl Metrics {
    pub(crate) fn new(engine: Engine, traffic: Traffic) -> Self {
        Self { engine, traffic }
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Collector for Metrics {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let record = self.engine.record().clone();
        let mut to = Page(encoder);
        drafts(&mut to, &record)?;
        sessions(&mut to, &record)?;
        passes(&mut to, &record)?;
        to.counter("sled:received_bytes", "Bytes from devices, all of their TCP streams", self.traffic.received())?;
        to.counter("sled:sent_bytes", "Bytes to devices, all of their TCP streams", self.traffic.sent())
    }
}

fn drafts(to: &mut Page<'_>, record: &Record) -> fmt::Result {
    let totals = &record.stats.totals;
    to.counter("sled:spec_decode_num_drafts", "Verdicts on at least one draft token", totals.drafts)?;
    to.counter("sled:spec_decode_num_draft_tokens", "Draft tokens verified", totals.drafted)?;
    to.counter("sled:spec_decode_num_accepted_tokens", "Draft tokens accepted", totals.accepted)?;
    let positions = totals.accepted_at.counts().iter().enumerate();
    to.counters(
        "sled:spec_decode_num_accepted_tokens_per_pos",
        "Draft tokens accepted, by their place among those verified together",
        positions.map(|(position, &count)| ([("position", position.to_string())], count)),
    )?;
    to.counter("sled:generation_tokens", "Tokens committed", totals.committed)
}

fn sessions(to: &mut Page<'_>, record: &Record) -> fmt::Result {
    let demand = record.demand;
    let running = demand.waiting + demand.drafting;
    to.gauge("sled:num_requests_running", "Sessions whose answer is being generated", running as f64)?;
    to.gauge("sled:num_requests_waiting", "Sessions whose text is being read, or waits to be", demand.reading as f64)?;
    let idle = record.sessions.saturating_sub(running + demand.reading);
    let states =
        [("idle", idle), ("reading", demand.reading), ("waiting", demand.waiting), ("drafting", demand.drafting)];
    to.gauges(
        "sled:sessions",
        "Open sessions, by what they do",
        states.into_iter().map(|(state, count)| ([("state", state)], count as f64)),
    )?;
    to.counter("sled:sessions_opened", "Sessions opened", record.stats.opened)?;
    to.counter("sled:sessions_refused", "Sessions not opened because the server was busy", record.stats.refused)?;
    to.counter("sled:evictions", "Times that a session gave way to another in the KV cache", record.stats.evictions)?;
    let (used, cells) = record.cells;
    let usage = if cells == 0 { 0.0 } else { used as f64 / cells as f64 };
    to.gauge("sled:kv_cache_usage_perc", "Share of the KV cache in use, 1 is full", usage)
}

fn passes(to: &mut Page<'_>, record: &Record) -> fmt::Result {
    let stats = &record.stats;
    to.counter("sled:steps", "Forward passes", stats.steps)?;
    to.counter("sled:rows", "Rows of forward passes", stats.rows)?;
    to.counter("sled:commits", "Commits sent to devices", stats.commits)?;
    to.seconds_counter("sled:forward_seconds", "Time in forward passes", stats.forward.as_secs_f64())?;
    to.seconds_counter(
        "sled:overhead_seconds",
        "Time of the engine beside them, waiting for work not included",
        stats.overhead.as_secs_f64(),
    )?;
    to.histogram("sled:verify_batch_size", "Sessions in a forward pass", Observed::of_sizes(&stats.batch_sizes))?;
    to.histogram("sled:verify_batch_rows", "Rows in a forward pass", Observed::of(&stats.rows_per_step, 1.0))?;
    to.histogram(
        "sled:step_time_seconds",
        "Time of a forward pass, its tokens chosen",
        Observed::of(&stats.step_times, 1e6),
    )?;
    to.histogram(
        "sled:queue_delay_seconds",
        "Time that a request for tokens waited for its pass",
        Observed::of(&stats.verdict_waits, 1e6),
    )?;
    to.histogram(
        "sled:request_queue_time_seconds",
        "Time that a prompt waited for its first pass",
        Observed::of(&stats.prompt_waits, 1e6),
    )?;
    to.gauge("sled:step_cost_fixed_seconds", "What a forward pass takes without rows, fitted", record.cost.0)?;
    to.gauge("sled:step_cost_row_seconds", "What each row adds to a forward pass, fitted", record.cost.1)
}

/// Where metrics are written.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        ConstCounter::new(value).encode(self.0.encode_descriptor(name, help, None, MetricType::Counter)?)
    }

    fn seconds_counter(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        ConstCounter::new(value).encode(self.0.encode_descriptor(name, help, None, MetricType::Counter)?)
    }

    fn counters<S: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        values: impl Iterator<Item = (S, u64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in values {
            ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        ConstGauge::new(value).encode(self.0.encode_descriptor(name, help, None, MetricType::Gauge)?)
    }

    fn gauges<S: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        values: impl Iterator<Item = (S, f64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in values {
            ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn histogram(&mut self, name: &str, help: &str, observed: Observed) -> fmt::Result {
        observed.encode(self.0.encode_descriptor(name, help, None, MetricType::Histogram)?)
    }
}

/// A histogram as Prometheus has it.
struct Observed {
    sum: f64,
    buckets: Vec<(f64, u64)>,
}

impl Observed {
    /// A histogram of numbers of which `per_unit` make one of those to be written.
    fn of(histogram: &Histogram, per_unit: f64) -> Self {
        let bound = |bound: Option<u64>| bound.map_or(f64::INFINITY, |bound| bound as f64 / per_unit);
        let buckets = histogram.buckets().map(|(upper, count)| (bound(upper), count)).collect();
        Self { sum: histogram.sum() as f64 / per_unit, buckets }
    }

    /// How many passes had how many sessions, from the count for each number.
    fn of_sizes(sizes: &[u64]) -> Self {
        let mut buckets: Vec<_> = (0..9).map(|power| (f64::from(1 << power), 0)).chain([(f64::INFINITY, 0)]).collect();
        let mut sum = 0;
        for (size, &count) in (1..).zip(sizes) {
            sum += size * count;
            if let Some((_, passes)) = buckets.iter_mut().find(|(bound, _)| size as f64 <= *bound) {
                *passes += count;
            }
        }
        Self { sum: sum as f64, buckets }
    }

    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let count = self.buckets.iter().map(|(_, count)| count).sum();
        encoder.encode_histogram::<NoLabelSet>(self.sum, count, &self.buckets, None)
    }
}
