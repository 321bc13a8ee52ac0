//! What there is in a world, what it does, and what became of it.

use std::time::Duration;

use sled_core::Token;
use sled_core::device::{DeviceConfig, Emitted, FinishReason, Notice, Stats};
use sled_core::server::ServerConfig;
use sled_model::Model;
use sled_model::drafter::Drafter;

use crate::cost::StepCost;
use crate::network::Path;

/// What a simulated server is.
pub struct ServerSetup {
    /// How the state machine is set up.
    pub config: ServerConfig,
    /// Makes the model, empty; called again when the server restarts.
    pub model: Box<dyn Fn() -> Box<dyn Model>>,
    /// What a step takes.
    pub cost: StepCost,
}

/// What a simulated device is, and what it does.
pub struct DeviceSetup {
    /// How the state machine is set up.
    pub config: DeviceConfig,
    /// Who drafts.
    pub drafter: Option<Box<dyn Drafter>>,
    /// The time that a draft takes.
    pub draft_time: Duration,
    /// The way to its servers, and back.
    pub up: Path,
    /// The way back.
    pub down: Path,
    /// When it begins.
    pub begins: Duration,
    /// What it asks, one after the other.
    pub turns: Vec<Turn>,
}

/// One prompt.
#[derive(Clone, Debug)]
pub struct Turn {
    /// Appended to the text so far.
    pub text: Vec<Token>,
    /// Whether it begins a new text.
    pub anew: bool,
    /// The most tokens to generate.
    pub max_tokens: usize,
    /// How tokens are chosen.
    pub sampling: sled_core::sampler::SamplingParams,
}

/// What became of a turn.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The whole prompt.
    pub prompt: Vec<Token>,
    /// What was asked.
    pub turn: Turn,
    /// The tokens, as they were shown, and when.
    pub emitted: Vec<(Duration, Emitted)>,
    /// What the user was told.
    pub notices: Vec<Notice>,
    /// Why it ended.
    pub reason: FinishReason,
    /// What it took.
    pub stats: Stats,
    /// When it began, and when it ended.
    pub time: (Duration, Duration),
}

/// Something that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The server of this index dies, and is back, empty, after a time.
    Crash {
        /// Which server.
        server: usize,
        /// How long it is gone.
        lasts: Duration,
    },
    /// It does nothing for a time, and then goes on.
    Stall {
        /// Which server.
        server: usize,
        /// How long it stands still.
        lasts: Duration,
    },
    /// It forgets the session of a device, without a word.
    Forget {
        /// Whose session.
        device: usize,
    },
    /// Nothing that a device or its servers send arrives, for a time.
    Partition {
        /// Which device.
        device: usize,
        /// How long.
        lasts: Duration,
    },
    /// The device dies, and begins its turn anew after a time.
    Reboot {
        /// Which device.
        device: usize,
        /// How long it is gone.
        lasts: Duration,
    },
    /// The device's connection is cut, and it notices.
    Cut {
        /// Which device.
        device: usize,
    },
    /// From now on nothing is lost, repeated or reordered any more.
    Heal,
    /// The device's clock jumps ahead (it slept), or back.
    ClockJump {
        /// Which device.
        device: usize,
        /// How far.
        by: Duration,
        /// Whether back.
        back: bool,
    },
}
