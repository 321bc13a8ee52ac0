//! How many threads an engine computes with.
//!
//! | file | what it does |
//! |---|---|
//! | `processor.rs` | what this process may compute on, as Linux tells it |
//! | `cgroup.rs` | the CPU quota of its control groups |

#[cfg(any(target_os = "linux", test))]
mod cgroup;
mod processor;

use std::fmt;
use std::str::FromStr;

pub use processor::Processor;
use sled_llama::EngineOptions;

/// What `-t` may be.
const MOST: u32 = 1024;

/// How many threads are asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Threads {
    /// As many as suit the machine.
    #[default]
    Auto,
    /// So many.
    Exactly(u32),
}

/// What the threads are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// A target model: the machine is there for it.
    Serving,
    /// A draft model on a device, beside the apps that want its drafts.
    Drafting,
}

/// How many threads an engine gets, and why; shown as in `2 threads (one for each core)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Count {
    /// From 1 to [`EngineOptions::MAX_THREADS`].
    pub threads: u32,
    /// In a few words; empty where as many were asked for.
    pub why: String,
}

impl Threads {
    /// Threads for `work` on this machine.
    pub fn count(self, work: Work) -> Count {
        self.on(&Processor::read(), work)
    }

    /// Threads for `work` on `processor`.
    ///
    /// A core computes no faster for two threads of one engine, and a thread beyond the quota stops all of them for a part of each
    /// period. In a pass every thread waits for the slowest: a device that has more than two cores leaves one to its apps, because
    /// an app on a core that drafts would delay all others. Of two cores it takes both, as one alone would be half as fast.
    fn on(self, processor: &Processor, work: Work) -> Count {
        let &Processor { online, cpus, cores, quota } = processor;
        if let Self::Exactly(asked) = self {
            let threads = asked.clamp(1, cpus.saturating_mul(2)).min(EngineOptions::MAX_THREADS);
            let waiting = || format!("{asked} would only wait for each other on {}", named(cpus, "CPU"));
            return Count { threads, why: if threads < asked { waiting() } else { String::new() } };
        }
        let granted = quota.map(|quota| (quota as u32).max(1)).filter(|&granted| granted < cores);
        let most = granted.unwrap_or(cores);
        let mut why = match quota.filter(|_| granted.is_some()) {
            Some(quota) => format!("its control group has a quota of {quota} CPUs"),
            None if cpus < online => "one for each core that its affinity allows".to_owned(),
            None if cores < cpus => format!("one for each core, of {cpus} hardware threads"),
            None => "one for each core".to_owned(),
        };
        let spared = u32::from(work == Work::Drafting && most > 2);
        if spared > 0 {
            why += ", less one for the apps";
        }
        Count { threads: (most - spared).clamp(1, EngineOptions::MAX_THREADS), why }
    }
}

impl FromStr for Threads {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(threads @ 1..=MOST) => Ok(Self::Exactly(threads)),
            _ if text == "auto" => Ok(Self::Auto),
            _ => Err(format!("use auto, or a number from 1 to {MOST}")),
        }
    }
}

impl fmt::Display for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Exactly(threads) => write!(f, "{threads}"),
        }
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&named(self.threads, "thread"))?;
        if self.why.is_empty() { Ok(()) } else { write!(f, " ({})", self.why) }
    }
}

fn named(count: u32, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn processor(online: u32, cpus: u32, cores: u32, quota: Option<f64>) -> Processor {
        Processor { online, cpus, cores, quota }
    }

    fn said(processor: &Processor, work: Work) -> String {
        Threads::Auto.on(processor, work).to_string()
    }

    #[test]
    fn a_server_computes_on_every_physical_core_that_it_may_use() {
        let serving = |online, cpus, cores, quota| said(&processor(online, cpus, cores, quota), Work::Serving);
        assert_eq!(serving(4, 4, 4, None), "4 threads (one for each core)");
        assert_eq!(serving(8, 8, 4, None), "4 threads (one for each core, of 8 hardware threads)");
        assert_eq!(serving(8, 3, 3, None), "3 threads (one for each core that its affinity allows)");
        assert_eq!(serving(8, 8, 8, Some(2.5)), "2 threads (its control group has a quota of 2.5 CPUs)");
        assert_eq!(serving(8, 8, 4, Some(6.0)), "4 threads (one for each core, of 8 hardware threads)");
        assert_eq!(serving(2, 2, 2, Some(0.5)), "1 thread (its control group has a quota of 0.5 CPUs)");
        assert_eq!(serving(2048, 2048, 1024, None), "512 threads (one for each core, of 2048 hardware threads)");
    }

    #[test]
    fn a_device_of_more_than_two_cores_leaves_one_to_its_apps() {
        let drafting = |cpus, cores, quota| said(&processor(cpus, cpus, cores, quota), Work::Drafting);
        assert_eq!(drafting(4, 4, None), "3 threads (one for each core, less one for the apps)");
        assert_eq!(drafting(3, 3, None), "2 threads (one for each core, less one for the apps)");
        assert_eq!(drafting(2, 2, None), "2 threads (one for each core)");
        assert_eq!(drafting(1, 1, None), "1 thread (one for each core)");
        assert_eq!(drafting(4, 2, None), "2 threads (one for each core, of 4 hardware threads)");
        assert_eq!(
            drafting(8, 8, Some(4.0)),
            "3 threads (its control group has a quota of 4 CPUs, less one for the apps)"
        );
    }

    #[test]
    fn what_is_asked_for_is_given_up_to_two_threads_a_cpu() {
        let four = processor(4, 4, 2, Some(1.0));
        let given = |asked| Threads::Exactly(asked).on(&four, Work::Drafting).to_string();
        assert_eq!((given(1), given(8)), ("1 thread".to_owned(), "8 threads".to_owned()));
        assert_eq!(given(9), "8 threads (9 would only wait for each other on 4 CPUs)");
    }

    #[test]
    fn a_flag_is_a_number_or_auto() {
        assert_eq!(Threads::from_str("auto"), Ok(Threads::Auto));
        assert_eq!(Threads::from_str("1024"), Ok(Threads::Exactly(1024)));
        let refusal = Err("use auto, or a number from 1 to 1024".to_owned());
        for odd in ["0", "1025", "", "-1", "all", "2.5"] {
            assert_eq!(Threads::from_str(odd), refusal, "{odd}");
        }
        for threads in [Threads::Auto, Threads::Exactly(7)] {
            assert_eq!(threads.to_string().parse(), Ok(threads));
        }
    }
}
