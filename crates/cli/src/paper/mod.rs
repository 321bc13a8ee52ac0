//! `sled paper`: the paper's tables and figures, as data, plots and one page.

use indicatif::ProgressBar;
use sled_sim::paper::{Effort, Progress, reproduce};

use crate::args::PaperArgs;
use crate::bench::{bar, write_json};

/// Simulates, and writes what came of it.
pub fn paper(args: &PaperArgs) -> anyhow::Result<()> {
    let effort = Effort { seeds: args.seeds.clone(), time: 1.0 };
    let bar = Bar(bar(0, String::new()));
    let paper = reproduce(&args.root, &effort, &bar)?;
    bar.0.finish_and_clear();
    write_json(&args.out.join("paper.json"), &paper)?;
    Ok(())
}

struct Bar(ProgressBar);

impl Progress for Bar {
    fn begin(&self, what: &str, runs: usize) {
        self.0.set_message(what.to_owned());
        self.0.set_length(runs as u64);
        self.0.reset();
    }

    fn done(&self) {
        self.0.inc(1);
    }
}
