//! Runs of characters that take llama.cpp quadratic time.
//!
//! It splits a text by regular expressions before it tokenises it. Those of a few vocabularies look, from each character of a run,
//! through the rest of it, and the work of hours fits into a text of a megabyte.

/// The steps that all runs of a text may take together: a second or two, at 60 to 90 ns each. A single run may have 4,000 characters.
const STEPS: u64 = 16_000_000;

/// The runs that a vocabulary looks through again and again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Runs {
    holds: fn(char) -> bool,
    /// How many characters are taken before the rest is looked through again.
    stride: u64,
}

impl Runs {
    /// Those of the vocabularies that are split as `pre` says.
    pub(super) fn of(pre: &str) -> Option<Self> {
        let blank = |character: char| character.is_whitespace() && !matches!(character, '\r' | '\n');
        match pre {
            // (?=(\d{3})+(?!\d))
            "superbpe" => Some(Self { holds: |character| character.is_ascii_digit(), stride: 1 }),
            // \s+$, after line breaks were taken out
            "deepseek-llm" => Some(Self { holds: blank, stride: 1 }),
            // \s*[\r\n]+, tried again after each \s{512}(?!\S)
            "jais-2" => Some(Self { holds: blank, stride: 512 }),
            _ => None,
        }
    }

    /// How many characters the longest run of `text` has, if its runs take too many steps.
    pub(super) fn too_long(self, text: &str) -> Option<usize> {
        let runs = text.split(|character| !(self.holds)(character)).map(|run| run.chars().count());
        let steps = |run: usize| (run as u64).saturating_pow(2) / self.stride;
        let (longest, steps) = runs.fold((0, 0u64), |(longest, all), run| (run.max(longest), all + steps(run)));
        (steps > STEPS).then_some(longest)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use sled_model::workers::Workers;

    use super::*;
    use crate::vocabulary;

    /// How many tokens of a byte each a text has, or why it is refused.
    fn tokens(pre: &'static str, text: String) -> Result<usize, String> {
        let tokenize = move || vocabulary::made(pre).tokenize(&text, false, true).map(|tokens| tokens.len());
        Workers::shared().run_blocking(tokenize).unwrap().map_err(|error| error.to_string())
    }

    #[test]
    fn runs_that_take_quadratic_time_are_refused_and_all_others_are_tokenised() {
        let most = sled_model::vocabulary::Vocab::LONGEST_TEXT;
        for (pre, run, end, refused) in
            [("superbpe", "7", "", 40_000), ("deepseek-llm", " ", "1", 40_000), ("jais-2", " ", "a", most - 1)]
        {
            let text = |characters| run.repeat(characters) + end;
            let sentence = format!(
                "{refused} digits or blanks in a row take this model's tokeniser too long; put something else between them"
            );
            assert_eq!(tokens(pre, text(refused)), Err(sentence), "{pre}");
            assert_eq!(tokens(pre, text(3_000)), Ok(3_000 + end.len()), "{pre}");
            assert_eq!(tokens("qwen2", text(refused)), Ok(refused + end.len()));
        }
        // What others look through again has an end, or is something else.
        assert_eq!(tokens("superbpe", " ".repeat(40_000)), Ok(40_000));
        assert_eq!(tokens("deepseek-llm", "7".repeat(40_000)), Ok(40_000));
        assert_eq!(tokens("tiny_aya", "7".repeat(40_000)), Ok(40_000));
        assert_eq!(tokens("afmoe", "7".repeat(40_000)), Ok(40_000));
    }

    #[test]
    fn many_runs_count_together() {
        let runs = Runs::of("superbpe").unwrap();
        let text = |run: usize, times| format!("{} ", "7".repeat(run)).repeat(times);
        assert_eq!(runs.too_long(&text(4_000, 1)), None);
        assert_eq!(runs.too_long(&text(4_000, 2)), Some(4_000));
        assert_eq!(runs.too_long(&text(100, 1_000)), None);
        assert_eq!(runs.too_long(&text(1_000, 20)), Some(1_000));
    }
}
