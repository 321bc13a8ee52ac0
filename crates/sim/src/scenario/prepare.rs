//! From a scenario to a simulation that is ready to run: files are read, profiles are looked up.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use sled_core::cost::CostTable;

use super::{Cost, DeviceClass, Range, Scenario};
use crate::Error;
use crate::cost::{DrafterCost, PassCost, millis};
use crate::profile::Profiles;
use crate::recording::{Outputs, Recording};
use crate::texts::{Family, Source};

/// Tokens of a prompt where neither a recording nor the scenario says how many.
const PROMPT: Range = Range::One(64);

/// A scenario with all that it names. It can be run again and again, with any seed.
#[derive(Clone, Debug)]
pub struct Simulation {
    pub(super) scenario: Scenario,
    pub(super) cost: PassCost,
    /// What the server draws while a pass runs, in watts.
    pub(super) server_w: Option<f64>,
    pub(super) families: Vec<Family>,
    /// The time of a draft, and what a device draws meanwhile, by class.
    pub(super) drafters: Vec<(Duration, Option<f64>)>,
}

impl Simulation {
    /// Checks a scenario and reads what it names.
    ///
    /// # Errors
    /// If it says what cannot be, or names a file that cannot be used.
    pub fn new(scenario: &Scenario) -> Result<Self, Error> {
        scenario.check()?;
        let named = scenario.server.profile.is_some() || scenario.devices.iter().any(|class| class.profile.is_some());
        let profiles = if named { Some(Profiles::load(&scenario.profiles)?) } else { None };
        let (cost, server_w) = server(scenario, profiles.as_ref())?;
        let mut recordings = BTreeMap::new();
        let families = scenario.devices.iter().map(|class| family(scenario, class, &mut recordings));
        let families = families.collect::<Result<_, Error>>()?;
        let drafters = scenario.devices.iter().map(|class| drafter(class, profiles.as_ref()));
        let drafters = drafters.collect::<Result<_, Error>>()?;
        Ok(Self { scenario: scenario.clone(), cost, server_w, families, drafters })
    }

    /// What is simulated.
    #[must_use]
    pub fn scenario(&self) -> &Scenario {
        &self.scenario
    }

    /// The same with `devices` devices altogether, see [`Scenario::with_devices`].
    #[must_use]
    pub fn with_devices(&self, devices: usize) -> Self {
        Self { scenario: self.scenario.with_devices(devices), ..self.clone() }
    }
}

fn server(scenario: &Scenario, profiles: Option<&Profiles>) -> Result<(PassCost, Option<f64>), Error> {
    let server = &scenario.server;
    let (mut cost, watts) = match (&server.profile, profiles, &server.cost) {
        (Some(name), Some(profiles), _) => {
            let (machine, target) = profiles.target(name)?;
            (target.cost(), machine.watts.as_ref().map(|number| number.value))
        }
        (_, _, Some(cost)) => (pass(cost)?, None),
        _ => (PassCost::from(CostTable::line(0.0, 0.0)), None),
    };
    cost.drafter = server.drafter.as_ref().map(drafter_pass);
    Ok((cost, server.power_w.or(watts)))
}

fn drafter_pass(cost: &Cost) -> DrafterCost {
    DrafterCost { fixed: millis(cost.fixed_ms.unwrap_or(0.0)), row: millis(cost.row_ms.unwrap_or(0.0)) }
}

fn pass(cost: &Cost) -> Result<PassCost, Error> {
    let target = match &cost.points {
        Some(points) => CostTable::new(points.iter().map(|&[rows, ms]| (rows, ms / 1e3)).collect())
            .ok_or_else(|| Error::Scenario("the rows of `points` must rise from one to the next".to_owned()))?,
        None => CostTable::line(cost.fixed_ms.unwrap_or(0.0) / 1e3, cost.row_ms.unwrap_or(0.0) / 1e3),
    };
    let prompt_row = cost.prompt_row.unwrap_or(1.0);
    Ok(PassCost { target, context: cost.context_ms / 1e6, prompt_row, drafter: None })
}

fn drafter(class: &DeviceClass, profiles: Option<&Profiles>) -> Result<(Duration, Option<f64>), Error> {
    let (Some(name), Some(profiles)) = (&class.profile, profiles) else {
        return Ok((millis(class.draft_ms.unwrap_or(0.0)), class.power_w));
    };
    let (machine, drafter) = profiles.drafter(name)?;
    Ok((drafter.draft_time(), class.power_w.or(machine.watts.as_ref().map(|number| number.value))))
}

fn family(
    scenario: &Scenario,
    class: &DeviceClass,
    recordings: &mut BTreeMap<PathBuf, Outputs>,
) -> Result<Family, Error> {
    let load = &scenario.load;
    let Some(path) = &class.recording else {
        let source = Source::Drawn { acceptance: class.acceptance.unwrap_or(0.0), answer: load.answer_tokens.ends() };
        let prompt = load.prompt_tokens.unwrap_or(PROMPT);
        return Ok(Family { source, knowledge: class.knowledge, prompt: Some(prompt.ends()) });
    };
    let outputs = match recordings.get(path) {
        Some(outputs) => outputs.clone(),
        None => {
            let outputs = Outputs::of(&Recording::load(path)?);
            if outputs.all().is_empty() {
                return Err(Error::Recording { path: path.clone(), reason: "it has no outputs".to_owned() });
            }
            recordings.insert(path.clone(), outputs.clone());
            outputs
        }
    };
    let prompt = load.prompt_tokens.map(Range::ends);
    Ok(Family { source: Source::Recorded(outputs), knowledge: class.knowledge, prompt })
}
