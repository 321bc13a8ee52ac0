//! Table II: what the paper says SLED has, and the tests that show that this system has it.

use serde::Serialize;

/// A column of the table.
#[derive(Serialize)]
pub struct Claim {
    /// The column.
    pub column: &'static str,
    /// What this system does there.
    pub does: &'static str,
    /// The tests: a file, from the root of the repository, and a function in it.
    pub tests: &'static [(&'static str, &'static str)],
}

/// The columns, in the paper's order.
pub const CLAIMS: [Claim; 4] = [
    Claim {
        column: "Edge-serving",
        does: "Devices draft, a server nearby verifies; when it is lost, another one takes over, or the device goes on alone and \
               marks what it shows",
        tests: &[
            ("crates/device/tests/sockets.rs", "sixteen_devices_at_once_each_get_the_targets_own_output"),
            ("crates/device/tests/network.rs", "another_server_takes_over"),
            ("crates/device/tests/network.rs", "without_a_server_drafts_are_released_and_marked_until_one_is_back"),
        ],
    },
    Claim {
        column: "Heterogeneity",
        does: "Any drafter in one batch: models, n-grams, none, and devices that have no model file; a drafter with another \
               vocabulary is refused by name, not yet translated",
        tests: &[
            ("crates/cli/tests/real.rs", "real_sixteen_sessions_at_once_and_one_that_is_killed"),
            ("crates/cli/tests/real.rs", "real_devices_without_a_model_file_get_the_vocabulary_from_the_server"),
            ("crates/device/tests/sockets.rs", "a_device_with_another_vocabulary_is_refused_with_both_fingerprints"),
        ],
    },
    Claim {
        column: "Lossless",
        does: "The output is the target's own, by equality, whatever drafts, batches, network and faults do; on real models up to \
               near-ties of floating point",
        tests: &[
            ("crates/core/tests/law.rs", "output_is_the_targets_own_whatever_drafts_batches_and_network_do"),
            ("crates/core/tests/law.rs", "sampling_through_drafts_follows_the_targets_distribution"),
            ("crates/sim/tests/faults.rs", "whatever_fails_no_committed_token_is_wrong_and_every_session_ends"),
            ("crates/cli/tests/real.rs", "real_qwen_pair_stays_within_a_near_tie_of_the_target_alone"),
        ],
    },
    Claim {
        column: "Scalable model",
        does: "The target is the server's affair alone: the scheduler knows nothing of it but what a pass costs, which it measures; \
               devices take its vocabulary from the server, and more of them than its cache holds take turns",
        tests: &[
            ("crates/core/tests/places.rs", "more_sessions_than_sequences_all_come_to_their_turn"),
            ("crates/sim/tests/policy.rs", "where_the_server_is_saturated_it_is_as_fast_as_plain_decoding"),
            ("crates/cli/tests/real.rs", "real_sessions_are_listed_and_more_than_sequences_take_turns"),
        ],
    },
];
