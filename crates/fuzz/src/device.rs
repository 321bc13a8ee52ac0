//! A server that says anything at all, against the device's state machine.

use std::time::Duration;

use sled_core::Token;
use sled_core::device::{Action, Ahead, Device, DeviceConfig, Fallback, Prompt, Resilience, Terms, Ticket, Tuning};
use sled_core::message::{Commit, Load, Reply};
use sled_core::policy::Policy;
use sled_core::sampler::Draft;
use sled_core::sequence::Digest;
use sled_wire::Bounds;

use crate::bytes::Bytes;
use crate::wire::check_request;

const BOUNDS: Bounds = Bounds { vocabulary_size: 12, context: 48, max_draft: 5 };

/// More actions than this at once are no coming to rest.
const RESTLESS: usize = 2000;

/// Lets a server, a drafter and a clock do what `data` says.
///
/// # Panics
/// If a token is shown out of order, or after the end; if a message is outside the bounds; or if the device does not come to rest.
pub fn device(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let mut bench = Bench::new(&mut bytes);
    bench.act();
    while let Some(what) = bytes.next() {
        bench.now += Duration::from_millis(u64::from(what >> 4).pow(3));
        bench.happen(what % 16, &mut bytes);
        bench.act();
        bench.device.check_invariants();
    }
}

struct Bench {
    device: Device,
    now: Duration,
    turn: u32,
    /// Where the next token must stand; `None` while there is no answer.
    next: Option<usize>,
    asked: Option<Ticket>,
    connecting: Option<usize>,
    /// Those of the server that it is connected to.
    bounds: Bounds,
}

impl Bench {
    fn new(bytes: &mut Bytes<'_>) -> Self {
        let policies = ["goodput", "fixed:3", "confidence:0.5:8"];
        let policy: Option<Policy> = policies.get(bytes.below(4)).and_then(|policy| policy.parse().ok());
        let ahead = [Ahead::Blocks, Ahead::Drafts, Ahead::Nothing][bytes.below(3)];
        let fallback = [Fallback::Release, Fallback::Wait, Fallback::Error][bytes.below(3)];
        let resilience = Resilience { servers: bytes.below(3), fallback, ..Resilience::default() };
        let device = Device::new(DeviceConfig {
            policy,
            ahead,
            context: BOUNDS.context,
            max_draft: BOUNDS.max_draft,
            end_of_generation: [11].into(),
            resilience,
            tuning: Tuning::DEFAULT,
        });
        Self { device, now: Duration::ZERO, turn: 0, next: None, asked: None, connecting: None, bounds: BOUNDS }
    }

    fn happen(&mut self, what: u8, bytes: &mut Bytes<'_>) {
        match what {
            0 => self.prompt(bytes),
            1 => self.device.on_disconnected(self.now, "a test".to_owned()),
            2 => self.device.on_busy(self.now, "a test".to_owned(), Duration::from_secs(bytes.below(60) as u64)),
            3 | 4 => {
                if let Some(server) = self.connecting.take() {
                    let (context, max_draft) = (8 + bytes.below(BOUNDS.context - 7), bytes.below(BOUNDS.max_draft + 1));
                    self.bounds = Bounds { context, max_draft, ..BOUNDS };
                    self.device.on_connected(self.now, server, Terms { context, max_draft });
                }
            }
            5 => self.device.stop_at(self.device.settled().len().saturating_sub(bytes.below(3))),
            6 => {
                if let Some(deadline) = self.device.deadline() {
                    self.now = self.now.max(deadline);
                }
                self.device.on_timer(self.now);
            }
            7..=10 => {
                if let Some(ticket) = self.asked.take() {
                    let draft = (bytes.below(8) > 0).then(|| Draft {
                        token: bytes.below(12) as Token,
                        confidence: bytes.below(256) as f32 / 255.0,
                    });
                    self.device.on_draft(self.now, ticket, draft);
                }
            }
            _ => {
                let reply = self.reply(bytes);
                self.device.on_reply(self.now, reply);
            }
        }
    }

    fn prompt(&mut self, bytes: &mut Bytes<'_>) {
        let mut tokens = self.device.settled().to_vec();
        tokens.truncate(bytes.below(50));
        tokens.extend(bytes.list(6, 12));
        if tokens.is_empty() || tokens.len() > BOUNDS.context {
            return;
        }
        self.turn += 1;
        self.asked = None;
        self.next = Some(tokens.len());
        self.device.prompt(self.now, Prompt { tokens, max_tokens: bytes.below(24), ..Prompt::default() });
    }

    /// What a server may say, right or wrong.
    fn reply(&mut self, bytes: &mut Bytes<'_>) -> Reply {
        let turn = self.turn.saturating_sub(u32::from(bytes.below(8) == 0));
        match bytes.below(8) {
            0 => Reply::Resend { turn, from: bytes.below(BOUNDS.context) },
            1 => Reply::Pending { turn },
            2 => Reply::Closing("a test".to_owned()),
            _ => {
                let settled = self.device.settled().len();
                let from = if bytes.below(3) > 0 { settled } else { bytes.below(BOUNDS.context) };
                let all = self.device.context().tokens.to_vec();
                let accepted = bytes.below(4);
                let tokens = bytes.list(3, 12);
                let mut text = all.get(..(from + accepted).min(all.len())).unwrap_or_default().to_vec();
                text.extend(&tokens);
                let digest = if bytes.below(8) == 0 { Digest(bytes.wide()) } else { Digest::EMPTY.then_all(&text) };
                let load = Load { sharing: bytes.below(9) as u32, price: bytes.wide() as u32, ..Load::default() };
                let (rows, unasked) = (bytes.below(9) as u32, bytes.below(2) > 0);
                Reply::Commit(Commit {
                    turn,
                    from,
                    accepted,
                    tokens,
                    digest,
                    rows,
                    unasked,
                    logprobs: Vec::new(),
                    load,
                })
            }
        }
    }

    /// Carries out what the device wants, until it wants nothing.
    fn act(&mut self) {
        for _ in 0..RESTLESS {
            match self.device.poll() {
                None => return,
                Some(Action::Connect(server)) => self.connecting = Some(server),
                Some(Action::Disconnect) => self.connecting = None,
                Some(Action::Send(request)) => check_request(&request, &self.bounds),
                Some(Action::Draft(ticket)) => self.asked = Some(ticket),
                Some(Action::Emit(emitted)) => {
                    assert_eq!(Some(emitted.position), self.next, "tokens come in order");
                    assert!(emitted.position < BOUNDS.context);
                    self.next = Some(emitted.position + 1);
                }
                Some(Action::Finish(_)) => self.next = None,
                Some(Action::Notify(_)) => {}
            }
        }
        panic!("it does not come to rest: {:?}", self.device);
    }
}
