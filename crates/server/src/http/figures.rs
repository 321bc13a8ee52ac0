//! How the server is doing, as one stream of JSON for everybody who wants to watch: `GET /events`.
//!
//! A frame is made once a second, by one task, as long as somebody listens. Whoever reads slowly misses frames.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::response::IntoResponse;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::stream;
use sled_core::server::SessionStatus;
use sled_wire::ListedSession;
use tokio::sync::{Notify, oneshot, watch};

use super::frame::{Frame, ServerFacts, Snapshot};
use crate::engine::Engine;
use crate::roster::Roster;
use crate::traffic::Traffic;

/// From one frame to the next.
const PERIOD: Duration = Duration::from_secs(1);

/// How long a frame waits for the engine to tell of its sessions. It answers between two passes; when one takes longer, the frame
/// has the sessions of the one before.
const PATIENCE: Duration = Duration::from_millis(400);

/// The stream, for as many listeners as come.
#[derive(Clone)]
pub(crate) struct Figures(Arc<Channel>);

struct Channel {
    /// The latest frame; `None` when there are to be no more.
    frames: watch::Sender<Option<Arc<str>>>,
    listener: Notify,
}

impl Figures {
    /// Starts the task, which ends with the engine.
    pub(crate) fn start(about: ServerFacts, engine: Engine, roster: Roster, traffic: Traffic) -> Self {
        let channel = Arc::new(Channel { frames: watch::Sender::new(Some("".into())), listener: Notify::new() });
        let source =
            Source { about, engine, roster, traffic, began: Instant::now(), pending: None, sessions: Vec::new() };
        let figures = Self(Arc::clone(&channel));
        tokio::spawn(async move {
            source.run(&channel).await;
            channel.frames.send_replace(None);
        });
        figures
    }

    /// The frames from now on.
    pub(crate) fn stream(&self) -> impl IntoResponse + use<> {
        let frames = self.0.frames.subscribe();
        self.0.listener.notify_one();
        let frames = stream::unfold(frames, |mut frames| async move {
            if frames.borrow().is_some() {
                frames.changed().await.ok()?;
            }
            let frame = frames.borrow_and_update().clone()?;
            Some((Ok::<_, Infallible>(Event::default().data(frame)), frames))
        });
        Sse::new(frames).keep_alive(KeepAlive::default())
    }
}

/// Where frames come from.
struct Source {
    about: ServerFacts,
    engine: Engine,
    roster: Roster,
    traffic: Traffic,
    began: Instant,
    /// What the engine was asked and has not answered.
    pending: Option<oneshot::Receiver<Vec<SessionStatus>>>,
    sessions: Vec<ListedSession>,
}

impl Source {
    async fn run(mut self, channel: &Channel) {
        loop {
            channel.listener.notified().await;
            let Some(mut before) = self.snapshot().await else { return };
            let mut second = tokio::time::interval_at((before.at + PERIOD).into(), PERIOD);
            second.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            while channel.frames.receiver_count() > 0 {
                second.tick().await;
                let Some(now) = self.snapshot().await else { return };
                let frame = Frame::between(&before, &now, &self.about, self.began.elapsed());
                if let Ok(json) = serde_json::to_string(&frame) {
                    channel.frames.send_replace(Some(json.into()));
                }
                before = now;
            }
        }
    }

    /// How things stand; `None` if the engine has stopped.
    async fn snapshot(&mut self) -> Option<Snapshot> {
        let mut pending = match self.pending.take() {
            Some(pending) => pending,
            None => self.engine.report().await,
        };
        match tokio::time::timeout(PATIENCE, &mut pending).await {
            Ok(report) => self.sessions = self.roster.describe(&report.ok()?),
            Err(_elapsed) => self.pending = Some(pending),
        }
        Some(Snapshot {
            at: Instant::now(),
            record: self.engine.record().clone(),
            received: self.traffic.received(),
            sent: self.traffic.sent(),
            sessions: self.sessions.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use sled_core::server::ServerConfig;
    use sled_model::Model;
    use sled_model::synthetic::{SyntheticConfig, SyntheticModel};

    use super::*;
    use crate::engine::Seating;

    fn engine() -> Engine {
        let (vocab_size, cells, sequences, rows, context) = (64, 100, 2, 32, 50);
        let model =
            SyntheticModel::new(SyntheticConfig { seed: 1, vocab_size, order: 3, cells, sequences, rows, context });
        let config = ServerConfig { sessions: 4, queue: 4, ..model.limits().server_config(vec![0]) };
        let seating = Seating { most_per_client: 4, idle: Duration::from_secs(1800) };
        Engine::start(Box::new(model), config, seating, Vec::new()).unwrap().0
    }

    fn facts() -> ServerFacts {
        ServerFacts {
            model: "synthetic".to_owned(),
            version: "0".to_owned(),
            context: 50,
            sequences: 2,
            threads: 1,
            batching: "continuous".to_owned(),
            assist: "auto".to_owned(),
            rate_goal: None,
        }
    }

    #[tokio::test]
    async fn frames_are_made_while_somebody_listens_and_end_with_the_engine() {
        let engine = engine();
        let figures = Figures::start(facts(), engine.clone(), Roster::default(), Traffic::default());
        let latest = || figures.0.frames.borrow().clone();
        tokio::time::sleep(PERIOD + PERIOD / 2).await;
        assert_eq!(latest().as_deref(), Some(""), "a frame was made for nobody");
        let mut listener = figures.0.frames.subscribe();
        figures.0.listener.notify_one();
        listener.changed().await.unwrap();
        drop(listener);
        // One more may be under way.
        tokio::time::sleep(PERIOD + PERIOD / 2).await;
        let last = latest().unwrap();
        assert!(last.starts_with("{\"time_s\":"), "{last}");
        tokio::time::sleep(2 * PERIOD).await;
        assert_eq!(latest().unwrap(), last, "a frame was made for nobody");

        let mut listener = figures.0.frames.subscribe();
        figures.0.listener.notify_one();
        listener.changed().await.unwrap();
        engine.shutdown();
        while listener.borrow_and_update().is_some() {
            listener.changed().await.unwrap();
        }
    }
}
