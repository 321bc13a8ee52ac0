//! Long prompts over real sockets, and somebody with a short one beside them.

#![allow(unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sled_core::device::Prompt;
use sled_core::server::Activity;
use sled_core::step::{CacheOp, Row};
use sled_device::{RemoteServer, Session, SessionOptions};
use sled_model::synthetic::{SyntheticConfig, SyntheticModel};
use sled_model::{Error, Limits, Model};
use sled_server::Settings;
use support::{END, answer, config, expected, job, serve, vocabulary};

const LONG: usize = 8_000;
const SESSIONS: usize = 8;

/// The synthetic model with room for long texts and passes that take their time, and how many long texts it has read to the end.
struct Reader {
    model: SyntheticModel,
    read: Arc<AtomicUsize>,
}

impl Reader {
    fn new(read: &Arc<AtomicUsize>) -> Self {
        let context = LONG + 100;
        let cells = context * (SESSIONS + 2);
        let config = SyntheticConfig { context, cells, sequences: SESSIONS + 2, rows: 512, ..config(1) };
        Self { model: SyntheticModel::new(config), read: Arc::clone(read) }
    }
}

impl Model for Reader {
    fn limits(&self) -> Limits {
        self.model.limits()
    }

    fn apply(&mut self, op: CacheOp) -> Result<(), Error> {
        self.model.apply(op)
    }

    fn forward(&mut self, rows: &[Row]) -> Result<(), Error> {
        std::thread::sleep(Duration::from_millis(10));
        self.read.fetch_add(rows.iter().filter(|row| row.position == LONG - 1).count(), Ordering::SeqCst);
        self.model.forward(rows)
    }

    fn logits(&self, row: usize) -> Result<&[f32], Error> {
        self.model.logits(row)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_asks_briefly_is_answered_before_long_prompts_are_read() {
    let read = Arc::new(AtomicUsize::new(0));
    let server = serve(Reader::new(&read), Settings::default()).await;
    let options = || SessionOptions::new("a device", vocabulary::vocabulary(true).fingerprint(), &[END]);
    let mut healthy =
        Session::open(&RemoteServer::connect(&server.grpc.to_string()).await.unwrap(), options()).await.unwrap();
    // Each over a connection of its own: an owner's prompts stand behind each other anyway.
    let mut long = Vec::new();
    for i in 0..SESSIONS {
        let remote = RemoteServer::connect(&server.grpc.to_string()).await.unwrap();
        let mut session = Session::open(&remote, options()).await.unwrap();
        let tokens = (0..LONG).map(|t| u32::try_from((t * 7 + i * 13 + t / 250) % 250).unwrap()).collect();
        let prompt = Prompt { tokens, max_tokens: 2, ..Prompt::default() };
        long.push(tokio::spawn(async move {
            session.generate(prompt, |_| ControlFlow::Continue(())).await.unwrap().tokens.len()
        }));
    }
    let remote = RemoteServer::connect(&server.grpc.to_string()).await.unwrap();
    loop {
        let sessions = remote.sessions().await.unwrap().sessions;
        if sessions.iter().filter(|session| matches!(session.status.activity, Activity::Reading(_))).count() == SESSIONS
        {
            break;
        }
    }
    let read_before = read.load(Ordering::SeqCst);

    let asked = job(0, 4);
    let prompt =
        Prompt { tokens: asked.prompt.clone(), max_tokens: 4, sampling: asked.sampling.clone(), ..Prompt::default() };
    let mut read_at_first = None;
    let on_token = |_| {
        read_at_first.get_or_insert_with(|| read.load(Ordering::SeqCst));
        ControlFlow::Continue(())
    };
    assert_eq!(healthy.generate(prompt, on_token).await.unwrap().tokens, expected(&asked));
    let over_http = job(2, 4);
    assert_eq!(answer(&server.backend, over_http.clone()).await.0, expected(&over_http));
    let read_at_last = read.load(Ordering::SeqCst);
    assert!(
        read_before == 0 && read_at_first <= Some(1) && read_at_last <= 2,
        "{read_before} {read_at_first:?} {read_at_last}"
    );
    for long in long {
        assert!(long.await.unwrap() >= 1);
    }
    assert_eq!(read.load(Ordering::SeqCst), SESSIONS);
}
