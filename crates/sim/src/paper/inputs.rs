//! What the simulations are fed with, and where each number is from.

use serde::{Deserialize, Serialize};

use super::lab::{ACCEPTANCE, LENGTH, Lab, RTT_MS};
use super::table1::slow_server;
use crate::Error;

/// A number that goes in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Input {
    /// What it is: its place in a profile, or words.
    pub name: String,
    /// The number.
    pub value: String,
    /// `measured`, `published`, `assumed`, or `calibrated`: chosen so that something that the paper reports comes out.
    pub mark: String,
    /// A reference, a command, or the arithmetic.
    pub source: String,
}

/// What is used of each profile: beginnings of keys.
const USED: [(&str, &[&str]); 4] = [
    ("pi-4b", &["drafters.3b-4bit"]),
    ("pi-5", &["drafters.1b-4bit", "drafters.3b", "watts", "price_usd"]),
    ("orin-nano", &["drafters.1b-4bit", "drafters.3b-4bit"]),
    ("a100x4", &["rent", "targets.11b-16bit.", "targets.70b"]),
];

/// Keys that no pass depends on.
const UNUSED: [&str; 2] = ["weights_gib", "kv_kib"];

pub(super) fn inputs(lab: &Lab<'_>) -> Result<Vec<Input>, Error> {
    let calibrated = |name: &str, value: String, source: &str| Input {
        name: name.to_owned(),
        value,
        mark: "calibrated".to_owned(),
        source: source.to_owned(),
    };
    let slow = slow_server(lab)?;
    let mut inputs = vec![
        calibrated(
            "acceptance of each draft",
            ACCEPTANCE.to_string(),
            "with 4 drafts 2.77 tokens a round, the paper's middle gain in Table I",
        ),
        calibrated("drafts in a round", LENGTH.to_string(), "with the acceptance above"),
        calibrated(
            "the paper's server: a pass, ms",
            format!("{:.1} + {:.2} n", 1e3 * slow.fixed, 1e3 * slow.row),
            "centralised serving then carries 1.83 Pi 5, as in the paper's Table I; the row is the 70B's",
        ),
        Input {
            name: "round trip, ms".to_owned(),
            value: RTT_MS.to_string(),
            mark: "assumed".to_owned(),
            source: "an edge server nearby; the paper does not say".to_owned(),
        },
    ];
    for (machine, keys) in USED {
        for entry in lab.profiles.machine(machine)?.entries() {
            let used = keys.iter().any(|key| entry.key.starts_with(key));
            if used && !UNUSED.iter().any(|key| entry.key.ends_with(key)) {
                inputs.push(Input {
                    name: format!("{machine}: {}", entry.key),
                    value: entry.value,
                    mark: entry.mark.name().to_owned(),
                    source: entry.source.to_owned(),
                });
            }
        }
    }
    Ok(inputs)
}
