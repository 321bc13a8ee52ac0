//! What was measured, in the words of `vllm bench serve` where it has them: of a real server and of a simulated one alike.

use std::borrow::Borrow;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sled_core::device::Stats;

/// What one device saw.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// When each token came.
    pub tokens: Vec<Duration>,
    /// The answers that are complete, in the order in which they were asked for.
    pub answers: Vec<Answer>,
    /// Tokens of the generations that came to their end, which what follows is about.
    pub generated: u64,
    /// Verdicts.
    pub rounds: u64,
    /// Rows that the server spent on its verdicts.
    pub rows: u64,
    /// Draft tokens sent.
    pub drafted: u64,
    /// Draft tokens that became committed tokens.
    pub accepted: u64,
    /// Tokens that were not as recorded.
    pub differing: u64,
}

impl Log {
    /// Counts what a generation took.
    pub fn add(&mut self, stats: &Stats) {
        self.rounds += stats.rounds;
        self.rows += stats.server_rows;
        self.drafted += stats.draft_tokens;
        self.accepted += stats.accepted_tokens;
    }
}

/// One answer.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// When its prompt came.
    pub arrived: Duration,
    /// When its first token came.
    pub first: Option<Duration>,
    /// When its last token came.
    pub last: Option<Duration>,
    /// How many tokens it has.
    pub tokens: usize,
}

/// What the server did in the window.
#[derive(Clone, Debug, Default)]
pub struct ServerSide {
    /// Processor time of the server's process; 0 of a simulated one.
    pub cpu_seconds: f64,
    /// Forward passes.
    pub steps: u64,
    /// Time in them.
    pub forward: Duration,
    /// Time of the engine thread beside them; 0 of a simulated one.
    pub overhead: Duration,
    /// How many passes had rows of one session, of two, and so on.
    pub batch_sizes: Vec<u64>,
}

/// The figures of one run. Where there is nothing to take a figure from it is no number, which is `null` in JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Figures {
    /// Who was measured.
    pub mode: String,
    /// How many devices there were until the end.
    pub devices: usize,
    /// The length of the window, in seconds.
    pub duration: f64,
    /// Answers that began in the window and are complete.
    pub completed: usize,
    /// Committed tokens.
    pub total_output_tokens: usize,
    /// WSTGR: tokens a second of all devices together.
    pub output_throughput: f64,
    /// The same, in the first and in the second half of the window.
    pub output_throughput_halves: [f64; 2],
    /// Tokens a second of a device: the mean over devices.
    pub device_throughput_mean: f64,
    /// The rate that 95 % of the devices exceed.
    pub device_throughput_p5: f64,
    /// From the prompt to the first token: mean.
    #[serde(deserialize_with = "number_or_null")]
    pub mean_ttft_ms: f64,
    /// The same: median.
    #[serde(deserialize_with = "number_or_null")]
    pub median_ttft_ms: f64,
    /// The same: 99th percentile.
    #[serde(deserialize_with = "number_or_null")]
    pub p99_ttft_ms: f64,
    /// Time for each token after the first, of an answer: mean over answers of at least 9 tokens.
    #[serde(deserialize_with = "number_or_null")]
    pub mean_tpot_ms: f64,
    /// The same: median.
    #[serde(deserialize_with = "number_or_null")]
    pub median_tpot_ms: f64,
    /// The same: 99th percentile.
    #[serde(deserialize_with = "number_or_null")]
    pub p99_tpot_ms: f64,
    /// Between chunks (tokens of one verdict arrive together): median.
    #[serde(deserialize_with = "number_or_null")]
    pub median_chunk_ms: f64,
    /// The same: 99th percentile.
    #[serde(deserialize_with = "number_or_null")]
    pub p99_chunk_ms: f64,
    /// Verdicts a second, of all devices.
    pub rounds_per_s: f64,
    /// Rows of forward passes for each committed token, prompts not counted.
    pub rows_per_token: f64,
    /// Drafts that became committed tokens, of those sent.
    pub accepted_share: f64,
    /// Tokens that were not as recorded, of all.
    pub differing_share: f64,
    /// Processor seconds of the server for each token.
    pub server_cpu_s_per_token: f64,
    /// Time of the engine thread beside forward passes, over time in them.
    pub server_overhead: f64,
    /// Forward passes a second.
    pub steps_per_s: f64,
    /// The mean time of a forward pass.
    pub mean_step_ms: f64,
    /// The mean number of sessions in a pass.
    pub mean_batch: f64,
    /// How many passes had rows of one session, of two, and so on.
    pub batch_sizes: Vec<u64>,
}

/// `null` stands for no number: JSON has none.
fn number_or_null<'de, D: serde::Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or(f64::NAN))
}

/// Tokens that come within this time are one chunk.
const CHUNK: Duration = Duration::from_millis(1);

impl Figures {
    /// The figures of what happened from `begin` to `end`; `logs` are of the devices that stay.
    #[must_use]
    pub fn new<L: Borrow<Log>>(mode: &str, logs: &[L], server: ServerSide, begin: Duration, end: Duration) -> Self {
        let logs: Vec<&Log> = logs.iter().map(Borrow::borrow).collect();
        let window = end.saturating_sub(begin).as_secs_f64();
        let within = |time: &&Duration| (begin..end).contains(*time);
        let count = |log: &Log| log.tokens.iter().filter(within).count();
        let tokens: usize = logs.iter().map(|log| count(log)).sum();
        let middle = begin + end.saturating_sub(begin) / 2;
        let first_half: usize =
            logs.iter().map(|log| log.tokens.iter().filter(|t| (begin..middle).contains(*t)).count()).sum();
        let rates = sorted(logs.iter().map(|log| count(log) as f64 / window).collect());
        let answers: Vec<&Answer> = logs
            .iter()
            .flat_map(|log| &log.answers)
            .filter(|answer| answer.first.is_some_and(|time| within(&&time)))
            .collect();
        let ms = |time: Duration| 1e3 * time.as_secs_f64();
        let ttft = sorted(answers.iter().filter_map(|a| Some(ms(a.first?.saturating_sub(a.arrived)))).collect());
        let tpot = |a: &&Answer| {
            Some(ms(a.last?.saturating_sub(a.first?)) / (a.tokens.checked_sub(1).filter(|&n| n >= 8)? as f64))
        };
        let tpot = sorted(answers.iter().filter_map(tpot).collect());
        let mut chunks = Vec::new();
        for log in &logs {
            // A pause between answers is no gap between chunks: only gaps within an answer count.
            let mut last: Option<Duration> = None;
            for &time in log.tokens.iter().filter(within) {
                if let Some(last) = last.filter(|&last| time.saturating_sub(last) > CHUNK) {
                    let next = log.answers.partition_point(|answer| answer.arrived <= last);
                    if log.answers.get(next).is_none_or(|answer| answer.arrived > time) {
                        chunks.push(ms(time.saturating_sub(last)));
                    }
                }
                last = Some(time);
            }
        }
        let chunks = sorted(chunks);
        let sum = |of: fn(&Log) -> u64| logs.iter().map(|log| of(log)).sum::<u64>() as f64;
        let generated = sum(|log| log.generated).max(1.0);
        let all_time = end.as_secs_f64();
        let batches: u64 = server.batch_sizes.iter().sum();
        let members: u64 = (1..).zip(&server.batch_sizes).map(|(size, count)| size * count).sum();
        Self {
            mode: mode.to_owned(),
            devices: logs.len(),
            duration: window,
            completed: answers.len(),
            total_output_tokens: tokens,
            output_throughput: tokens as f64 / window,
            output_throughput_halves: [2.0 * first_half as f64 / window, 2.0 * (tokens - first_half) as f64 / window],
            device_throughput_mean: rates.iter().sum::<f64>() / rates.len().max(1) as f64,
            device_throughput_p5: quantile(&rates, 0.05),
            mean_ttft_ms: mean(&ttft),
            median_ttft_ms: quantile(&ttft, 0.5),
            p99_ttft_ms: quantile(&ttft, 0.99),
            mean_tpot_ms: mean(&tpot),
            median_tpot_ms: quantile(&tpot, 0.5),
            p99_tpot_ms: quantile(&tpot, 0.99),
            median_chunk_ms: quantile(&chunks, 0.5),
            p99_chunk_ms: quantile(&chunks, 0.99),
            rounds_per_s: sum(|log| log.rounds) / all_time,
            rows_per_token: sum(|log| log.rows) / generated,
            accepted_share: sum(|log| log.accepted) / sum(|log| log.drafted).max(1.0),
            differing_share: sum(|log| log.differing) / generated,
            server_cpu_s_per_token: server.cpu_seconds / tokens.max(1) as f64,
            server_overhead: server.overhead.as_secs_f64() / server.forward.as_secs_f64().max(f64::MIN_POSITIVE),
            steps_per_s: server.steps as f64 / window,
            mean_step_ms: ms(server.forward) / server.steps.max(1) as f64,
            mean_batch: members as f64 / batches.max(1) as f64,
            batch_sizes: server.batch_sizes,
        }
    }

    /// The share of devices that get at least `rate` tokens a second.
    #[must_use]
    pub fn share_at<L: Borrow<Log>>(logs: &[L], rate: f64, begin: Duration, end: Duration) -> f64 {
        Self::share_of(&Self::rates(logs, begin, end), rate)
    }

    /// The share of these rates that is at least `rate`.
    #[must_use]
    pub fn share_of(rates: &[f64], rate: f64) -> f64 {
        rates.iter().filter(|&&each| each >= rate).count() as f64 / rates.len().max(1) as f64
    }

    /// How many tokens a second each device got from `begin` to `end`.
    #[must_use]
    pub fn rates<L: Borrow<Log>>(logs: &[L], begin: Duration, end: Duration) -> Vec<f64> {
        let window = end.saturating_sub(begin).as_secs_f64();
        let tokens = |log: &Log| log.tokens.iter().filter(|time| (begin..end).contains(*time)).count();
        logs.iter().map(|log| tokens(log.borrow()) as f64 / window).collect()
    }
}

fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

/// No number, which becomes `null`, if there are no values.
fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The value below which the share `q` of the sorted `values` is (nearest rank); no number if there are none.
fn quantile(values: &[f64], q: f64) -> f64 {
    let at = (q * values.len() as f64).ceil() as usize;
    values.get(at.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_a_regular_device() {
        let ms = Duration::from_millis;
        // Two tokens each 100 ms from 1 s to 2 s.
        let tokens = (0..20).map(|i| ms(1000 + 100 * (i / 2))).collect();
        let answers = vec![Answer { arrived: ms(800), first: Some(ms(1000)), last: Some(ms(1900)), tokens: 20 }];
        let log = Log { tokens, answers, generated: 20, rounds: 10, rows: 30, drafted: 20, accepted: 10, differing: 1 };
        let server = ServerSide { cpu_seconds: 2.0, batch_sizes: vec![5, 5], ..ServerSide::default() };
        let figures = Figures::new("sled", std::slice::from_ref(&log), server, ms(1000), ms(2000));
        assert_eq!((figures.output_throughput, figures.median_ttft_ms, figures.median_chunk_ms), (20.0, 200.0, 100.0));
        assert_eq!((figures.rows_per_token, figures.server_cpu_s_per_token, figures.mean_batch), (1.5, 0.1, 1.5));
        assert!((figures.mean_tpot_ms - 900.0 / 19.0).abs() < 1e-9);
        assert_eq!(Figures::share_at(&[log, Log::default()], 20.0, ms(1000), ms(2000)), 0.5);
        assert_eq!(quantile(&[1.0, 2.0, 3.0, 4.0], 0.5), 2.0);
    }
}
