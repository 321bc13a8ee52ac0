//! `sled bench page`: docs/serving.md and what the README says of it, written from the results.
//!
//! | file | what it is |
//! |---|---|
//! | `findings.rs` | the results that there are |
//! | `rows.rs` | a row for each number of devices, and what is judged of all of them |
//! | `page.md.jinja`, `readme.md.jinja` | the texts |

mod findings;
mod rows;

use anyhow::Context;

use super::serve::plot;
use crate::args::PageArgs;
use crate::output::write_text;
use crate::template;
use findings::Findings;

/// The part of the README that is written.
const BEGIN: &str = "<!-- written by `sled bench page` -->\n";
const END: &str = "<!-- until here -->\n";

/// Writes the page, the part of the README, and the pictures of what is measured in several files.
pub fn run(args: &PageArgs) -> anyhow::Result<()> {
    let findings = Findings::load(&args.root)?;
    for measured in [&findings.f16, &findings.q4].into_iter().flatten() {
        let picture = args.root.join("results").join(measured.picture);
        plot::draw(&picture, std::slice::from_ref(&measured.format))
            .with_context(|| format!("cannot draw {}; check --root", picture.display()))?;
    }
    let readme = args.root.join("README.md");
    let text =
        std::fs::read_to_string(&readme).with_context(|| format!("cannot read {}; check --root", readme.display()))?;
    let page = args.root.join("docs/serving.md");
    write_text(&page, &render(&findings)?)?;
    write_text(&readme, &in_readme(&text, &findings)?)?;
    println!("written to {} and {}", page.display(), readme.display());
    Ok(())
}

/// The page.
fn render(findings: &Findings) -> anyhow::Result<String> {
    template::render(include_str!("page.md.jinja"), findings)
}

/// The README with what it says of the results.
fn in_readme(text: &str, findings: &Findings) -> anyhow::Result<String> {
    let parts = text.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let (before, after) =
        parts.with_context(|| format!("the README has no `{}` and `{}`", BEGIN.trim(), END.trim()))?;
    let part = template::render(include_str!("readme.md.jinja"), findings)?;
    Ok([before, BEGIN, &part, END, after].concat())
}

/// The folder with `results`, `profiles` and `docs`, for tests.
#[cfg(test)]
#[allow(clippy::unwrap_used)]
fn root() -> std::path::PathBuf {
    std::path::Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("../..")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::findings::Formats;
    use super::*;
    use crate::bench::serve::made_up;
    use crate::bench::serve::results::Results;

    #[test]
    fn page_and_readme_say_what_the_results_say() {
        let findings = Findings::load(&root()).unwrap();
        let page = std::fs::read_to_string(root().join("docs/serving.md")).unwrap();
        assert!(page == render(&findings).unwrap(), "docs/serving.md is not what `sled bench page` writes; run it");
        let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
        assert!(
            readme == in_readme(&readme, &findings).unwrap(),
            "README.md is not what `sled bench page` writes; run it"
        );
    }

    #[test]
    fn only_the_part_between_the_marks_is_written() {
        let findings = Findings::load(&root()).unwrap();
        let written = in_readme(&format!("before\n{BEGIN}old\n{END}after\n"), &findings).unwrap();
        assert!(written.starts_with(&format!("before\n{BEGIN}")) && written.ends_with(&format!("{END}after\n")));
        assert!(!written.contains("old\n"));
        assert!(in_readme("nothing", &findings).is_err());
    }

    #[test]
    fn several_formats_are_told_with_bound_noise_and_verdicts() {
        let run = Results {
            command: "sled bench serve -m a-q4_0.gguf,a-f16.gguf".to_owned(),
            machine: "a processor, 2 threads".to_owned(),
            draft_rate: 50.0,
            rtt_ms: 0.0,
            warmup_s: 1.0,
            window_s: 2.0,
            seed: 0,
            peer: None,
            formats: made_up::formats(),
        };
        let findings = Findings { formats: Some(Formats::new(run)), ..Findings::load(&root()).unwrap() };
        let page = render(&findings).unwrap();
        assert!(page.contains("5 repetitions, on a processor, 2 threads.\nThe machine's noise: thin clients over thin clients are 0.97 to 1.03."));
        // The bound is 1.34, and the median 1 + 0.85 * 0.34; repetitions wobble by 0.06 to both sides.
        let of_two = "| 25.7 | 1.29 (1.23–1.35) | 1.29 (1.23–1.35) | 1.34 | 96 % | 1.00 (0.97–1.03) |";
        assert!(page.contains(of_two), "{page}");
        assert!(page.contains("| rows | 1 | 2 | 3 |") && page.contains("| ms | 54 | 68 | 82 |"), "{page}");
        assert!(page.contains("Of 20 places, by the median:"));
        assert!(page.contains(
            "thin clients are never slower than a llama-server's by more than they differ from themselves | none |"
        ));
        let readme = in_readme(&format!("{BEGIN}{END}"), &findings).unwrap();
        assert!(
            readme.contains("| devices | a-q4_0 | bound | a-f16 | bound |\n|---|---|---|---|---|\n| 1 | "),
            "{readme}"
        );
    }

    #[test]
    fn what_has_no_results_is_left_out() {
        let findings = Findings { f16: None, q4: None, formats: None, ..Findings::load(&root()).unwrap() };
        let page = render(&findings).unwrap();
        assert!(
            page.contains("### Assist") && !page.contains("### Formats") && !page.contains("The compute-bound target")
        );
    }
}
