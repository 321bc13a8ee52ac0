//! What there is in a world, what it does, and what became of it.

use std::time::Duration;

use sled_core::Token;
use sled_core::device::{DeviceConfig, Emitted, FinishReason, Notice, Stats, Terms};
use sled_core::message::MAX_BLOCK;
use sled_core::server::{CALIBRATION, Server, ServerConfig};
use sled_model::Model;
use sled_model::drafter::Drafter;

use crate::cost::PassCost;
use crate::network::Path;

/// What a simulated server is.
pub struct ServerSetup {
    /// How the state machine is set up.
    pub config: ServerConfig,
    /// Makes the model, empty; called again when the server restarts.
    pub model: Box<dyn Fn() -> Box<dyn Model>>,
    /// What a step takes.
    pub cost: PassCost,
    /// What prompts begin with that devices share: a public prefix, which is empty if there is none.
    pub shared: Vec<Token>,
}

impl ServerSetup {
    /// A server that has just started.
    pub(super) fn start(&self) -> Server {
        let mut core = Server::new(self.config.clone());
        core.share(self.shared.clone());
        for rows in CALIBRATION.into_iter().filter(|&rows| rows <= self.config.rows) {
            core.calibrate(rows, self.cost.target.time(rows));
        }
        core
    }

    /// What devices are told that it takes.
    pub(super) fn terms(&self) -> Terms {
        Terms { context: self.config.context, max_draft: MAX_BLOCK }
    }
}

/// What a simulated device is, and what it does.
pub struct DeviceSetup {
    /// How the state machine is set up.
    pub config: DeviceConfig,
    /// Who drafts.
    pub drafter: Option<Box<dyn Drafter>>,
    /// The time that a draft takes.
    pub draft_time: Duration,
    /// How that varies.
    pub drafting: Drafting,
    /// The way to its servers, and back.
    pub up: Path,
    /// The way back.
    pub down: Path,
    /// What it asks.
    pub turns: Turns,
}

/// How the time to draft varies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Drafting {
    /// Every draft takes the same time.
    #[default]
    Steady,
    /// The drafts of a block take the same time, and the blocks vary: their times are exponentially distributed, so that each
    /// device is a source of verification requests as in the paper.
    Exponential,
}

/// Says, at the time when a device is done with its last turn, what the next one is; `None` ends the device.
pub type Turns = Box<dyn FnMut(Duration) -> Option<Turn>>;

/// One prompt.
#[derive(Clone, Debug)]
pub struct Turn {
    /// When it comes. If the device is busy then, it waits.
    pub arrives: Duration,
    /// Appended to the text so far.
    pub text: Vec<Token>,
    /// Whether it begins a new text.
    pub anew: bool,
    /// The most tokens to generate.
    pub max_tokens: usize,
    /// How tokens are chosen.
    pub sampling: sled_core::sampler::SamplingParams,
}

impl Turn {
    /// These turns, one after the other.
    #[must_use]
    pub fn list(turns: Vec<Self>) -> Turns {
        let mut turns = turns.into_iter();
        Box::new(move |_now| turns.next())
    }
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
    /// When it began, which may be later than when its prompt came, and when it ended.
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
    /// The pass that a server is at fails.
    Engine {
        /// Which server.
        server: usize,
    },
    /// The user ends the answer that a device is at.
    Cancel {
        /// Which device.
        device: usize,
    },
    /// The attempt to connect that a device is at is broken off, and it notices; a server may have opened a session for it.
    CancelOpen {
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
