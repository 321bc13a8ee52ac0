//! The paper's results, from the shipped state machines.
//!
//! Each is made twice: under the paper's assumptions (a server as slow as the paper's that serves one request at a time or in
//! static batches, devices that draft a fixed number of tokens and wait), and against a strong baseline (continuous batching of
//! the same target at published speed, and the product's own defaults).
//!
//! | file | what it is |
//! |---|---|
//! | `published.rs` | what the paper reports |
//! | `inputs.rs` | what goes in, and where it is from |
//! | `lab.rs` | what the experiments share: profiles, devices, servers, many runs |
//! | `fig3.rs` | confidence against acceptance |
//! | `table1.rs` | capacity by device |
//! | `fig4.rs` | tokens a second over batch size, and over devices |
//! | `fig5.rs` | draft length against device speed and capacity |
//! | `fig6.rs` | cost against tokens a second |
//! | `conclusions.rs` | what the page says of them, as assertions |

mod conclusions;
mod fig3;
mod fig4;
mod fig5;
mod fig6;
mod inputs;
mod lab;
pub mod published;
mod table1;

use std::path::Path;

pub use conclusions::{About, Conclusion, conclusions};
pub use fig3::{Bin, Reliability};
pub use fig4::{BatchPoint, Fig4, LoadPoint};
pub use fig5::{Fig5, GoalPoint, LengthPoint};
pub use fig6::{CostPoint, Fig6, Setting, Strategy};
pub use inputs::Input;
use lab::Lab;
pub use lab::{ACCEPTANCE, LENGTH, RTT_MS};
use serde::{Deserialize, Serialize};
pub use table1::{AtRate, Capacities, Table1};

use crate::Error;

/// All results.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Paper {
    /// The seeds of the simulations.
    pub seeds: Vec<u64>,
    /// What went in.
    pub inputs: Vec<Input>,
    /// Fig. 3, by recording.
    pub fig3: Vec<Reliability>,
    /// Table I.
    pub table1: Table1,
    /// Fig. 4.
    pub fig4: Fig4,
    /// Fig. 5.
    pub fig5: Fig5,
    /// Fig. 6.
    pub fig6: Fig6,
}

/// How much is simulated.
#[derive(Clone, Debug)]
pub struct Effort {
    /// Every simulation is run with each of these.
    pub seeds: Vec<u64>,
    /// The share of the whole virtual time that each run has.
    pub time: f64,
}

/// Who is told how far it is.
pub trait Progress: Sync {
    /// So many runs follow.
    fn begin(&self, what: &str, runs: usize);
    /// One of them is done.
    fn done(&self);
}

/// Makes all results; `root` is the folder with `profiles` and `data`.
///
/// # Errors
/// If a profile or a recording cannot be used, or a simulation asks for what cannot be.
pub fn reproduce(root: &Path, effort: &Effort, progress: &dyn Progress) -> Result<Paper, Error> {
    let lab = Lab::new(root, effort, progress)?;
    Ok(Paper {
        seeds: effort.seeds.clone(),
        inputs: inputs::inputs(&lab)?,
        fig3: fig3::reliability(&lab)?,
        table1: table1::capacities(&lab)?,
        fig4: fig4::batches(&lab)?,
        fig5: fig5::lengths(&lab)?,
        fig6: fig6::costs(&lab)?,
    })
}
