//! A server with the synthetic model, and a proxy in front of it that breaks things.

#![allow(dead_code, reason = "each test uses a part of it")]

pub mod stub;
pub mod vocabulary;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sled_core::Token;
use sled_core::device::Prompt;
use sled_core::names::Fingerprint;
use sled_core::sampler::{Sampler, SamplingParams};
use sled_core::step::{CacheOp, Row};
use sled_model::drafter::Drafter;
use sled_model::grammar::Compiler;
use sled_model::ngram::NgramDrafter;
use sled_model::synthetic::{SyntheticConfig, SyntheticDrafter, SyntheticModel};
use sled_model::{Limits, Model};
use sled_server::{EngineStats, Identity, Server, Settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

pub const VOCAB: usize = 64;
pub const CONTEXT: usize = 200;
pub const VOCABULARY: Fingerprint = Fingerprint::new(0x0123_4567_89ab_cdef);
pub const MODEL: Fingerprint = Fingerprint::new(0xfeed_feed_feed_feed);

pub fn config(sequences: usize) -> SyntheticConfig {
    SyntheticConfig { seed: 11, vocab_size: VOCAB, order: 3, cells: CONTEXT * 8, sequences, rows: 96, context: CONTEXT }
}

pub struct Running {
    pub address: SocketAddr,
    pub stop: oneshot::Sender<()>,
    pub served: tokio::task::JoinHandle<Result<EngineStats, sled_server::Error>>,
}

/// A server whose passes take no time.
pub async fn serve(sequences: usize) -> Running {
    serve_at(([127, 0, 0, 1], 0).into(), SyntheticModel::new(config(sequences))).await
}

/// A server with so many cells, that takes so many sessions.
pub async fn serve_with(sequences: usize, cells: usize, sessions: usize) -> Running {
    let model = SyntheticModel::new(SyntheticConfig { cells, ..config(sequences) });
    start(([127, 0, 0, 1], 0).into(), model, Settings { sessions, ..Settings::default() }).await
}

/// The synthetic model with passes of a millisecond: an answer takes long enough for something to happen in the middle of it.
pub struct Slow {
    model: SyntheticModel,
    passes: u32,
    /// The one pass that takes [`LONG`].
    long: Option<u32>,
}

/// Longer than a device waits before it takes its server for lost.
const LONG: Duration = Duration::from_secs(2);

impl Slow {
    pub fn new() -> Self {
        Self { model: SyntheticModel::new(config(4)), passes: 0, long: None }
    }

    /// For texts of at most `context` tokens.
    pub fn with_context(context: usize) -> Self {
        Self { model: SyntheticModel::new(SyntheticConfig { context, ..config(4) }), ..Self::new() }
    }

    pub fn with_a_long_pass(at: u32) -> Self {
        Self { long: Some(at), ..Self::new() }
    }
}

impl Model for Slow {
    fn limits(&self) -> Limits {
        self.model.limits()
    }

    fn apply(&mut self, op: CacheOp) -> Result<(), sled_model::Error> {
        self.model.apply(op)
    }

    fn forward(&mut self, rows: &[Row]) -> Result<(), sled_model::Error> {
        self.passes += 1;
        std::thread::sleep(if self.long == Some(self.passes) { LONG } else { Duration::from_millis(1) });
        self.model.forward(rows)
    }

    fn logits(&self, row: usize) -> Result<&[f32], sled_model::Error> {
        self.model.logits(row)
    }
}

pub async fn serve_slowly() -> Running {
    serve_at(([127, 0, 0, 1], 0).into(), Slow::new()).await
}

pub async fn serve_at(address: SocketAddr, model: impl Model + 'static) -> Running {
    let settings = Settings { sessions: model.limits().sequences, ..Settings::default() };
    start(address, model, settings).await
}

/// A server with the bounds of `model` and `settings`, and a vocabulary to send.
pub async fn serve_with_bounds(model: impl Model + 'static, settings: Settings) -> Running {
    let identity = Identity {
        vocabulary_fingerprint: vocabulary::vocab().fingerprint(),
        vocabulary: vocabulary::file().into(),
        ..identity()
    };
    start_as(([127, 0, 0, 1], 0).into(), model, settings, identity).await
}

fn identity() -> Identity {
    Identity {
        name: "synthetic".to_owned(),
        model: "a synthetic model (of nothing)".to_owned(),
        model_fingerprint: MODEL,
        vocabulary_fingerprint: VOCABULARY,
        vocabulary: b"no file".as_slice().into(),
        end_of_generation: vec![0],
    }
}

async fn start(address: SocketAddr, model: impl Model + 'static, settings: Settings) -> Running {
    start_as(address, model, settings, identity()).await
}

/// A server that has a vocabulary to send.
pub async fn serve_with_vocabulary(address: SocketAddr, model: impl Model + 'static) -> Running {
    let identity = Identity {
        vocabulary_fingerprint: vocabulary::vocab().fingerprint(),
        vocabulary: vocabulary::file().into(),
        ..identity()
    };
    start_as(address, model, Settings { sessions: 64, ..Settings::default() }, identity).await
}

async fn start_as(address: SocketAddr, model: impl Model + 'static, settings: Settings, identity: Identity) -> Running {
    let server = Server::bind(address, Box::new(model), settings, identity).await.unwrap().with_grammars(compiler());
    let address = server.address().unwrap();
    let (stop, stopped) = oneshot::channel();
    let served = tokio::spawn(server.run(async {
        let _dropped = stopped.await;
    }));
    Running { address, stop, served }
}

pub fn prompt(i: u32, max_tokens: usize) -> Prompt {
    let sampling = SamplingParams {
        temperature: if i.is_multiple_of(2) { 0.0 } else { 0.9 },
        seed: i.into(),
        ..Default::default()
    };
    Prompt { tokens: (0..5 + i).map(|t| 1 + (t * 7 + i) % 63).collect(), max_tokens, sampling, ..Prompt::default() }
}

/// Token 0 is the end, and each of the others a sign: `!` is token 1, and `_` is token 63.
pub fn compiler() -> Arc<Compiler> {
    let pieces = || (b' '..b' ' + VOCAB as u8).map(|byte| if byte == b' ' { vec![] } else { vec![byte] }).collect();
    Arc::new(Compiler::with_pieces(&[0], pieces))
}

pub fn expected(prompt: &Prompt) -> Vec<Token> {
    let sampler = Sampler::new(prompt.sampling.clone(), VOCAB).unwrap();
    SyntheticModel::new(config(1)).generate(&sampler, &prompt.tokens, prompt.max_tokens, &[0])
}

pub fn drafter(i: u32) -> Option<Box<dyn Drafter>> {
    match i % 4 {
        0 => None,
        1 => Some(Box::new(NgramDrafter::default())),
        _ => Some(Box::new(SyntheticDrafter::new(&SyntheticModel::new(config(1)), 0.7, i.into()))),
    }
}

/// What the proxy does with what it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Carry,
    /// Holds everything back.
    Stall,
    /// Both ends are open and nothing gets through, for good.
    Swallow,
    /// Both ends are closed.
    Cut,
}

/// A TCP proxy that delays, stalls, cuts, or leaves connections half-open.
pub struct Proxy {
    pub address: SocketAddr,
    /// Where new connections go.
    target: Arc<std::sync::Mutex<SocketAddr>>,
    /// The mode of the connections that are open now; new ones begin with another.
    current: std::sync::Mutex<watch::Sender<Mode>>,
    next: Arc<std::sync::Mutex<watch::Receiver<Mode>>>,
    refuses: Arc<AtomicBool>,
    pub accepted: Arc<std::sync::atomic::AtomicUsize>,
}

impl Proxy {
    pub async fn start(server: SocketAddr, delay: Duration) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (current, mode) = watch::channel(Mode::Carry);
        let next = Arc::new(std::sync::Mutex::new(mode));
        let refuses = Arc::new(AtomicBool::new(false));
        let accepted = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let target = Arc::new(std::sync::Mutex::new(server));
        let towards = Arc::clone(&target);
        let (modes, refusing, count) = (Arc::clone(&next), Arc::clone(&refuses), Arc::clone(&accepted));
        tokio::spawn(async move {
            while let Ok((device, _)) = listener.accept().await {
                if refusing.load(Ordering::SeqCst) {
                    continue;
                }
                count.fetch_add(1, Ordering::SeqCst);
                let server = *towards.lock().unwrap();
                let Ok(server) = TcpStream::connect(server).await else { continue };
                device.set_nodelay(true).unwrap();
                server.set_nodelay(true).unwrap();
                let mode = modes.lock().unwrap().clone();
                let (from_device, to_device) = device.into_split();
                let (from_server, to_server) = server.into_split();
                carry(from_device, to_server, delay, mode.clone());
                carry(from_server, to_device, delay, mode);
            }
        });
        Self { address, target, current: std::sync::Mutex::new(current), next, refuses, accepted }
    }

    /// Changes what happens to the open connections; later ones are carried.
    fn change(&self, mode: Mode) {
        let (sender, receiver) = watch::channel(Mode::Carry);
        *self.next.lock().unwrap() = receiver;
        let old = std::mem::replace(&mut *self.current.lock().unwrap(), sender);
        old.send_replace(mode);
        // The open connections keep the mode.
        std::mem::forget(old);
    }

    pub fn cut(&self) {
        self.change(Mode::Cut);
    }

    pub fn leave_half_open(&self) {
        self.change(Mode::Swallow);
    }

    /// Holds back what the open connections carry, until [`Proxy::go_on`].
    pub fn stall(&self) {
        self.current.lock().unwrap().send_replace(Mode::Stall);
    }

    pub fn go_on(&self) {
        self.current.lock().unwrap().send_replace(Mode::Carry);
    }

    /// Carries new connections to another server.
    pub fn to(&self, server: SocketAddr) {
        *self.target.lock().unwrap() = server;
    }

    /// Closes every new connection at once, or not any more.
    pub fn refuse(&self, refuse: bool) {
        self.refuses.store(refuse, Ordering::SeqCst);
    }
}

fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: Duration, mut mode: watch::Receiver<Mode>) {
    let (line, mut waiting) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    let mut reading = mode.clone();
    tokio::spawn(async move {
        let mut bytes = vec![0; 16 << 10];
        loop {
            tokio::select! {
                read = from.read(&mut bytes) => match read {
                    Ok(len @ 1..) => {
                        let _closed = line.send((Instant::now() + delay, bytes[..len].to_vec()));
                    }
                    _ => return,
                },
                _ = reading.wait_for(|mode| *mode == Mode::Cut) => return,
            }
        }
    });
    tokio::spawn(async move {
        while let Some((arrival, bytes)) = waiting.recv().await {
            tokio::time::sleep_until(arrival).await;
            let Ok(now) = mode.wait_for(|mode| *mode != Mode::Stall).await.map(|mode| *mode) else { return };
            match now {
                Mode::Swallow => continue,
                Mode::Cut => return,
                Mode::Carry | Mode::Stall => {}
            }
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
}
