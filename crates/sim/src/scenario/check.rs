//! What a scenario may not say. Every message is one sentence that names the key.

use super::{Cost, DeviceClass, FaultKind, FaultPlan, Range, Scenario};
use crate::Error;

/// Longer texts and more devices than these are a slip of the pen, and would not fit in memory.
const MOST_TOKENS: usize = 1_000_000;
const MOST_DEVICES: usize = 10_000_000;

impl Scenario {
    /// Checks every value.
    ///
    /// # Errors
    /// The first that cannot be.
    pub fn check(&self) -> Result<(), Error> {
        not_negative("warmup_s", self.warmup_s)?;
        positive("window_s", self.window_s)?;
        self.check_server()?;
        self.check_load()?;
        if self.devices.is_empty() {
            return refuse("there are no devices; add a `[[devices]]` table");
        }
        let count: usize = self.devices.iter().fold(0, |sum, class| sum.saturating_add(class.count));
        if !(1..=MOST_DEVICES).contains(&count) {
            return refuse(&format!("there are {count} devices; use 1 to {MOST_DEVICES}, see `devices.count`"));
        }
        for (index, class) in self.devices.iter().enumerate() {
            self.check_class(&format!("devices[{index}]"), class)?;
        }
        for (index, fault) in self.faults.iter().enumerate() {
            self.check_fault(&format!("faults[{index}]"), fault)?;
        }
        Ok(())
    }

    fn check_server(&self) -> Result<(), Error> {
        let server = &self.server;
        match (&server.profile, &server.cost) {
            (None, None) => {
                return refuse("the server costs nothing; say `server.cost` or `server.profile`");
            }
            (Some(_), Some(_)) => {
                return refuse("`server.cost` and `server.profile` exclude each other; leave one out");
            }
            (None, Some(cost)) => check_cost("server.cost", cost)?,
            (Some(_), None) => {}
        }
        if let Some(cost) = &server.drafter {
            check_cost("server.drafter", cost)?;
            if cost.points.is_some() || cost.context_ms != 0.0 {
                return refuse("`server.drafter` is a line; say `fixed_ms` and `row_ms`, and nothing else");
            }
            if self.devices.iter().any(|class| class.draft_ms.is_some() || class.profile.is_some()) {
                return refuse(
                    "the server drafts (`server.drafter`), so `devices.draft_ms` and `devices.profile` mean nothing",
                );
            }
        }
        if let Some(goal) = server.rate_goal {
            positive("server.rate_goal", goal)?;
        }
        for (key, value) in [("sequences", server.sequences), ("cells", server.cells), ("rows", Some(server.rows))] {
            if value == Some(0) {
                return refuse(&format!("`server.{key}` is 0; use at least 1"));
            }
        }
        not_negative("server.power_w", server.power_w.unwrap_or(0.0))?;
        not_negative("server.idle_w", server.idle_w)
    }

    fn check_load(&self) -> Result<(), Error> {
        let load = &self.load;
        not_negative("load.think_s", load.think_s)?;
        if let Some(rate) = load.poisson {
            positive("load.poisson", rate)?;
            if load.think_s > 0.0 {
                return refuse("`load.think_s` and `load.poisson` exclude each other; leave one out");
            }
        }
        check_range("load.prompt_tokens", load.prompt_tokens.unwrap_or(Range::One(64)))?;
        check_range("load.answer_tokens", load.answer_tokens)?;
        if load.shared_tokens > MOST_TOKENS {
            return refuse(&format!("`load.shared_tokens` is {}; use at most {MOST_TOKENS}", load.shared_tokens));
        }
        Ok(())
    }

    fn check_class(&self, at: &str, class: &DeviceClass) -> Result<(), Error> {
        let key = |key: &str| format!("{at}.{key}");
        share(&key("knowledge"), class.knowledge)?;
        share(&key("link.loss"), class.link.loss)?;
        not_negative(&key("link.rtt_ms"), class.link.rtt_ms)?;
        not_negative(&key("link.jitter_ms"), class.link.jitter_ms)?;
        if let Some(bandwidth) = class.link.bandwidth_mbit {
            positive(&key("link.bandwidth_mbit"), bandwidth)?;
        }
        positive(&key("timeout_s"), class.timeout_s)?;
        not_negative(&key("power_w"), class.power_w.unwrap_or(0.0))?;
        not_negative(&key("idle_w"), class.idle_w)?;
        not_negative(&key("draft_ms"), class.draft_ms.unwrap_or(0.0))?;
        if class.recording.is_some() && class.acceptance.is_some() {
            return refuse(&format!("`{at}.recording` and `{at}.acceptance` exclude each other; leave one out"));
        }
        if let Some(acceptance) = class.acceptance {
            share(&key("acceptance"), acceptance)?;
        }
        if class.profile.is_some() && class.draft_ms.is_some() {
            return refuse(&format!("`{at}.profile` and `{at}.draft_ms` exclude each other; leave one out"));
        }
        if class.policy.is_some() {
            if class.recording.is_none() && class.acceptance.is_none() {
                return refuse(&format!(
                    "`{at}` drafts, but nothing says how well; say `recording` or `acceptance`, or `policy = \"none\"`"
                ));
            }
            if class.profile.is_none() && class.draft_ms.is_none() && self.server.drafter.is_none() {
                return refuse(&format!("`{at}` drafts, but nothing says how fast; say `draft_ms` or `profile`"));
            }
        }
        Ok(())
    }

    fn check_fault(&self, at: &str, fault: &FaultPlan) -> Result<(), Error> {
        match (fault.at_s, fault.every_s) {
            (Some(time), None) => not_negative(&format!("{at}.at_s"), time)?,
            (None, Some(interval)) => positive(&format!("{at}.every_s"), interval)?,
            _ => return refuse(&format!("`{at}` needs either `at_s` or `every_s`")),
        }
        not_negative(&format!("{at}.lasts_s"), fault.lasts_s)?;
        share(&format!("{at}.share"), fault.share)?;
        let of_server = matches!(fault.kind, FaultKind::Crash | FaultKind::Stall);
        match &fault.class {
            Some(_) if of_server => {
                refuse(&format!("`{at}` strikes the server, so `{at}.class` means nothing; leave it out"))
            }
            Some(name) if !self.devices.iter().any(|class| class.name == *name) => {
                let known: Vec<&str> = self.devices.iter().map(|class| class.name.as_str()).collect();
                refuse(&format!(
                    "`{at}.class` is `{name}`, which no devices are called; use one of {}",
                    known.join(", ")
                ))
            }
            _ => Ok(()),
        }
    }
}

fn check_cost(at: &str, cost: &Cost) -> Result<(), Error> {
    not_negative(&format!("{at}.context_ms"), cost.context_ms)?;
    not_negative(&format!("{at}.prompt_row"), cost.prompt_row.unwrap_or(1.0))?;
    match (cost.fixed_ms, cost.row_ms, &cost.points) {
        (Some(fixed), Some(row), None) => {
            not_negative(&format!("{at}.fixed_ms"), fixed)?;
            not_negative(&format!("{at}.row_ms"), row)?;
            if fixed + row == 0.0 {
                return refuse(&format!("`{at}` is 0; a pass must take some time"));
            }
            Ok(())
        }
        (None, None, Some(points)) => {
            if points.len() < 2 || points.windows(2).any(|pair| pair[0][0] >= pair[1][0]) {
                return refuse(&format!("`{at}.points` needs two points `[rows, ms]` at least, with rising rows"));
            }
            points.iter().try_for_each(|&[rows, ms]| {
                positive(&format!("a number of rows in `{at}.points`"), rows)?;
                positive(&format!("a time in `{at}.points`"), ms)
            })
        }
        _ => refuse(&format!("`{at}` needs either `fixed_ms` and `row_ms`, or `points`")),
    }
}

fn check_range(key: &str, range: Range) -> Result<(), Error> {
    let (least, most) = range.ends();
    if least == 0 || least > most || most > MOST_TOKENS {
        return refuse(&format!(
            "`{key}` is {least} to {most} tokens; use 1 to {MOST_TOKENS}, the smaller number first"
        ));
    }
    Ok(())
}

fn refuse(reason: &str) -> Result<(), Error> {
    Err(Error::Scenario(reason.to_owned()))
}

fn share(key: &str, value: f64) -> Result<(), Error> {
    if (0.0..=1.0).contains(&value) { Ok(()) } else { refuse(&format!("`{key}` is {value}; use a number from 0 to 1")) }
}

fn not_negative(key: &str, value: f64) -> Result<(), Error> {
    let fits = value >= 0.0 && value.is_finite();
    if fits { Ok(()) } else { refuse(&format!("`{key}` is {value}; use a number of at least 0")) }
}

fn positive(key: &str, value: f64) -> Result<(), Error> {
    let fits = value > 0.0 && value.is_finite();
    if fits { Ok(()) } else { refuse(&format!("`{key}` is {value}; use a number above 0")) }
}
