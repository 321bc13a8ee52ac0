//! What the core's device decides, carried out; what happens, told to it.

use std::sync::Arc;

use sled_core::device::{Action, Fallback, FinishReason, Notice, Stats, Terms};
use sled_wire::Bounds;

use super::{Connecting, Progress, Session};
use crate::connection::{Connection, Incoming};
use crate::{Error, RemoteServer};

impl Session {
    /// Does what the device decided; returns what the user sees of it.
    pub(super) fn carry_out(&mut self, action: Action) -> Result<Option<Progress>, Error> {
        match action {
            Action::Connect(server) => self.connecting = Some((server, self.connect(server))),
            Action::Disconnect => {
                self.connection = None;
                self.connecting = None;
            }
            Action::Send(request) => {
                if let Some(connection) = &self.connection {
                    connection.send(request);
                }
            }
            Action::Draft(ticket) => {
                let (Some(drafts), Some(sampler)) = (&self.drafts, &self.sampler) else {
                    return Err(Error::DrafterGone);
                };
                self.drafting = Some((ticket, drafts.draft(self.device.context(), Arc::clone(sampler))?));
            }
            Action::Emit(emitted) => return Ok(Some(Progress::Token(emitted))),
            Action::Notify(notice) => return Ok(Some(Progress::Notice(self.sentence(&notice)))),
            Action::Finish(reason) => {
                self.counters.add_turn(&self.device.stats());
                self.log_answer();
                return match reason {
                    FinishReason::Failed(reason) => Err(Error::Refused(reason.into())),
                    reason => Ok(Some(Progress::Done(reason))),
                };
            }
        }
        Ok(None)
    }

    /// Tells the log, and the request's span, of an answer that has ended.
    fn log_answer(&mut self) {
        let Stats { rounds, draft_tokens, accepted_tokens, provisional_tokens, .. } = self.device.stats();
        let tokens = self.tokens().len().saturating_sub(self.device.prompt_len());
        let span = tracing::Span::current();
        span.record("tokens", tokens).record("rounds", rounds);
        span.record("drafts", draft_tokens).record("accepted", accepted_tokens);
        tracing::debug!("request answered");
        if let Some((request, began)) = self.request.take() {
            let ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
            tracing::info!(
                request,
                tokens,
                rounds,
                draft_tokens,
                accepted_tokens,
                provisional_tokens,
                ms,
                "answer complete"
            );
        }
    }

    /// Waits for the next thing to happen and lets the device know.
    pub(super) async fn wait(&mut self) -> Result<(), Error> {
        let drafting = async {
            match &mut self.drafting {
                Some((ticket, drafting)) => (*ticket, drafting.await),
                None => std::future::pending().await,
            }
        };
        let incoming = async {
            match &mut self.connection {
                Some(connection) => connection.receive().await,
                None => std::future::pending().await,
            }
        };
        let connected = async {
            match &mut self.connecting {
                Some((server, connecting)) => (*server, connecting.await),
                None => std::future::pending().await,
            }
        };
        let timer = async {
            match self.device.deadline() {
                Some(deadline) => tokio::time::sleep_until((self.began + deadline).into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // What is there has come in time, also where its reader was slow to come for it.
            biased;
            incoming = incoming => match incoming {
                Incoming::Reply(reply) => {
                    self.device.on_reply(self.began.elapsed(), reply);
                    // Where messages come without end, it would never be its turn.
                    self.device.on_timer(self.began.elapsed());
                    if let Some(time) = self.device.take_round_trip() {
                        self.round_trip = Some(time);
                        self.counters.add_round_trip(time);
                    }
                }
                Incoming::Ended(reason) => {
                    self.connection = None;
                    self.device.on_disconnected(self.began.elapsed(), reason.into());
                }
                Incoming::Busy(reason, after) => {
                    self.connection = None;
                    self.device.on_busy(self.began.elapsed(), reason.into(), after);
                }
            },
            (server, connection) = connected => {
                self.connecting = None;
                self.on_connection(server, connection);
            }
            (ticket, draft) = drafting => {
                self.drafting = None;
                let draft = draft.map_err(|_gone| Error::DrafterGone)??;
                let failure = self.sampler.as_ref().and_then(|sampler| sampler.failure());
                if let Some(failure) = failure.filter(|_| self.servers.is_empty()) {
                    return Err(Error::Refused(failure.into()));
                }
                self.device.on_draft(self.began.elapsed(), ticket, draft);
            }
            () = timer => self.device.on_timer(self.began.elapsed()),
        }
        Ok(())
    }

    fn connect(&self, server: usize) -> Connecting {
        let (servers, open, counters) = (Arc::clone(&self.servers), self.open.clone(), self.counters.clone());
        Box::pin(async move {
            let address = servers.get(server).map(String::as_str).unwrap_or_default();
            Connection::open(&RemoteServer::connect(address).await?, open, &counters).await
        })
    }

    fn on_connection(&mut self, server: usize, connection: Result<Connection, Error>) {
        let now = self.began.elapsed();
        match connection {
            Ok(connection) if connection.bounds.vocabulary_size != self.bounds.vocabulary_size => {
                self.device.on_disconnected(now, "its vocabulary has another size".to_owned());
            }
            Ok(connection) => self.connected(server, connection),
            Err(Error::Busy { reason, after }) => self.device.on_busy(now, reason.into(), after),
            Err(error) => self.device.on_disconnected(now, error.in_brief()),
        }
    }

    pub(super) fn connected(&mut self, server: usize, connection: Connection) {
        if std::mem::replace(&mut self.met, true) {
            self.counters.reconnections.inc();
        }
        let Bounds { context, max_draft, .. } = connection.bounds;
        self.connection = Some(connection);
        self.device.on_connected(self.began.elapsed(), server, Terms { context, max_draft });
    }

    fn sentence(&self, notice: &Notice) -> String {
        match notice {
            Notice::Lost(reason) => {
                let then = match self.fallback {
                    Fallback::Release => "trying again; until then the answer goes on with unverified drafts",
                    Fallback::Wait | Fallback::Error => "trying again",
                };
                format!("the server is lost ({reason}); {then}")
            }
            Notice::Busy(reason) => format!("{reason}; trying again"),
            Notice::Back { server } => {
                let address = self.servers.get(*server).map(String::as_str).unwrap_or_default();
                format!("the server at {address} answers; drafts are verified again")
            }
        }
    }
}
