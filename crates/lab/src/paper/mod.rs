//! `sled paper`: the paper's tables and figures, as data, plots and one page.

mod chart;
mod csv;
mod page;
mod plots;
mod table2;

use std::path::Path;

use indicatif::ProgressBar;
use sled_sim::paper::{Effort, Paper, Progress, reproduce};

use crate::args::PaperArgs;
use crate::output::{write_json, write_text};
use sled_launch::progress::bar;

/// Simulates, and writes what came of it.
pub fn paper(args: &PaperArgs) -> anyhow::Result<()> {
    let effort = Effort { seeds: args.seeds.clone(), time: 1.0 };
    let bar = Bar(bar(0, String::new()));
    let paper = reproduce(&args.root, &effort, &bar)?;
    bar.0.finish_and_clear();
    write_json(&args.out.join("paper.json"), &paper)?;
    write(&paper, &args.out, &args.page)?;
    println!("written to {} and {}", args.page.display(), args.out.display());
    Ok(())
}

/// Writes all that is made of the data.
fn write(paper: &Paper, out: &Path, page: &Path) -> anyhow::Result<()> {
    for (name, text) in tables(paper)? {
        write_text(&out.join(name), &text)?;
    }
    plots::plots(paper, out)?;
    write_text(page, &page::page(paper)?)
}

/// The data of each table and figure, by file.
fn tables(paper: &Paper) -> anyhow::Result<Vec<(&'static str, String)>> {
    Ok(vec![
        ("fig3.csv", csv::csv(&paper.fig3)?),
        ("table1.csv", csv::csv(&paper.table1.slow)?),
        ("table1-continuous.csv", csv::csv(&paper.table1.strong)?),
        ("fig4.csv", csv::csv(&paper.fig4.batches)?),
        ("fig4-continuous.csv", csv::csv(&paper.fig4.loads)?),
        ("fig5.csv", csv::csv(&paper.fig5.lengths)?),
        ("fig5-continuous.csv", csv::csv(&paper.fig5.at_goal)?),
        ("fig6.csv", csv::csv(&paper.fig6.points)?),
    ])
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn root() -> std::path::PathBuf {
        Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("../..")
    }

    fn committed() -> Paper {
        serde_json::from_str(&std::fs::read_to_string(root().join("results/paper/paper.json")).unwrap()).unwrap()
    }

    #[test]
    fn the_page_the_tables_and_the_plots_are_what_the_data_say() {
        let folder = tempfile::tempdir().unwrap();
        write(&committed(), folder.path(), &folder.path().join("paper.md")).unwrap();
        for entry in std::fs::read_dir(folder.path()).unwrap() {
            let made = entry.unwrap().path();
            let name = made.file_name().unwrap();
            let place = if name == "paper.md" { "docs" } else { "results/paper" };
            let committed = std::fs::read_to_string(root().join(place).join(name)).unwrap();
            assert!(std::fs::read_to_string(&made).unwrap() == committed, "{}: run `make paper`", name.display());
        }
    }

    #[test]
    fn what_the_page_concludes_holds() {
        let all = sled_sim::paper::conclusions(&committed());
        let broken: Vec<_> = all.iter().filter(|conclusion| !conclusion.holds).collect();
        assert!(broken.is_empty(), "{broken:#?}");
    }

    #[test]
    fn the_tests_that_table_2_names_exist() {
        for claim in &table2::CLAIMS {
            assert!(!claim.tests.is_empty(), "{}", claim.column);
            for (file, name) in claim.tests {
                let text = std::fs::read_to_string(root().join(file)).unwrap();
                let is_test = text.split("#[").any(|part| {
                    let (attribute, rest) = part.split_once(']').unwrap_or_default();
                    let function = rest.trim_start().trim_start_matches("async ");
                    attribute.contains("test") && function.starts_with(&format!("fn {name}("))
                });
                assert!(is_test, "{file} has no test {name}");
            }
        }
    }
}
