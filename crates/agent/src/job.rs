//! One request, from its place to its last event.

use std::sync::Arc;
use std::time::Duration;

use sled_api::backend::{Event, Generated, Job, Outcome};
use sled_core::device::{Emitted, FinishReason, Prompt, Stats};
use sled_device::{Error, Progress, Session};
use tokio::sync::mpsc;

use crate::Inner;
use crate::places::Ticket;

/// A reader that takes nothing for so long gives its place to another.
const STALLED: Duration = Duration::from_secs(60);

/// How an answer ended.
enum Ending {
    /// As it should.
    Complete(FinishReason),
    /// Its reader has enough, has gone, or takes nothing any more.
    Unwanted,
    /// The agent closes.
    Closing,
    /// It cannot go on.
    Failed(Error),
}

/// Does `job`; what becomes of it goes to `events`, and at the end to `last`.
pub(super) async fn run(
    agent: Arc<Inner>,
    job: Job,
    ticket: Ticket,
    events: mpsc::Sender<Event>,
    last: mpsc::OwnedPermit<Event>,
) {
    let request = job.request_id.clone();
    tracing::debug!(request, prompt = job.prompt.len(), mode = ?job.mode, "queued");
    let event = answer(&agent, job, &ticket, &events).await;
    match &event {
        Event::Failed(sentence) => tracing::warn!(request, "failed: {sentence}"),
        Event::Done(outcome) => tracing::info!(
            request,
            reason = ?outcome.reason,
            rounds = outcome.stats.rounds,
            drafted = outcome.stats.draft_tokens,
            accepted = outcome.stats.accepted_tokens,
            provisional = outcome.stats.provisional_tokens,
            cached = outcome.cached,
            "answered"
        ),
        _ => {}
    }
    drop(ticket);
    last.send(event);
}

/// Does `job` up to its last event.
async fn answer(agent: &Arc<Inner>, job: Job, ticket: &Ticket, events: &mpsc::Sender<Event>) -> Event {
    let closing = || Event::Failed("this device is shutting down; send the request again later".to_owned());
    let unwanted = || {
        Event::Done(Box::new(Outcome {
            reason: FinishReason::Stop,
            stats: Stats::default(),
            cached: 0,
            round_trip: None,
            load: None,
        }))
    };
    let _place = tokio::select! {
        () = events.closed() => return unwanted(),
        place = ticket.place() => match place {
            Some(place) => place,
            None => return closing(),
        },
    };
    let _gone = events.try_send(Event::Started);
    let mut stopped = agent.stop.subscribe();
    let session = tokio::select! {
        () = events.closed() => return unwanted(),
        _ = stopped.wait_for(|stop| *stop) => return closing(),
        session = agent.session(&job) => session,
    };
    let mut pooled = match session {
        Ok(pooled) => pooled,
        Err(error) => return Event::Failed(error.to_string()),
    };
    let session = &mut pooled.session;
    // The last token is evaluated in any case.
    let cached = session.known(&job.prompt).min(job.prompt.len() - 1);
    let Job { request_id, prompt: tokens, max_tokens, sampling, logprobs, .. } = job;
    let prompt = Prompt { tokens, max_tokens, sampling, logprobs, request_id: Some(request_id) };
    let ending = tokio::select! {
        () = events.closed() => Ending::Unwanted,
        _ = stopped.wait_for(|stop| *stop) => Ending::Closing,
        ending = stream(session, prompt, events) => ending,
    };
    let reason = match ending {
        Ending::Complete(reason) => reason,
        Ending::Unwanted => match session.cancel() {
            Ok(()) => FinishReason::Stop,
            Err(error) => return Event::Failed(error.to_string()),
        },
        Ending::Closing => return closing(),
        Ending::Failed(error) => return Event::Failed(error.to_string()),
    };
    let (stats, round_trip, load) = (session.stats(), session.round_trip(), session.load());
    // Before the reader knows of the end, so that the next turn of its chat finds the session.
    agent.pool.put(pooled);
    Event::Done(Box::new(Outcome { reason, stats, cached, round_trip, load }))
}

/// Brings forth the answer as fast as its reader takes it.
async fn stream(session: &mut Session, prompt: Prompt, events: &mpsc::Sender<Event>) -> Ending {
    if let Err(error) = session.begin(prompt).await {
        return Ending::Failed(error);
    }
    loop {
        let Ok(Ok(room)) = tokio::time::timeout(STALLED, events.reserve()).await else { return Ending::Unwanted };
        match session.next().await {
            Ok(Progress::Token(emitted)) => room.send(Event::Token(generated(emitted))),
            Ok(Progress::Notice(sentence)) => room.send(Event::Notice(sentence)),
            Ok(Progress::Done(reason)) => return Ending::Complete(reason),
            Err(error) => return Ending::Failed(error),
        }
    }
}

fn generated(emitted: Emitted) -> Generated {
    let Emitted { position, token, provenance, opens_verdict, logprobs } = emitted;
    Generated { token, position, provenance, opens_verdict, logprobs }
}
