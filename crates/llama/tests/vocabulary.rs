//! Vocabularies whose texts are split in several ways.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/vocabulary.rs"]
#[allow(dead_code, unreachable_pub)]
mod vocabulary;

use sled_model::workers::Workers;

#[test]
fn a_long_run_of_one_character_is_tokenised_on_a_worker() {
    for pre in ["tekken", "gpt-4o", "viking", "falcon", "qwen2", "bloom", "exaone-moe"] {
        for sign in ["a", "1", " ", "!", "\n", "é", "語"] {
            let bytes = 40_000 / sign.len() * sign.len();
            let tokenise = move || vocabulary::made(pre).tokenize(&sign.repeat(bytes / sign.len()), false, false);
            let tokens = Workers::shared().run_blocking(tokenise).unwrap().unwrap();
            assert_eq!(tokens.len(), bytes, "{pre}, {sign:?}");
        }
    }
}
