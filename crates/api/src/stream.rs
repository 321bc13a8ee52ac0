//! Answers in pieces: server-sent events, and readers that are slow or gone.

use std::convert::Infallible;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tokio::sync::mpsc::{self, Sender};
use tokio_stream::wrappers::ReceiverStream;

use crate::error::Error;
use crate::generation::{End, Generation, Shown, Step};

/// Chunks that wait for a slow reader.
const BUFFER: usize = 16;
/// A reader that takes nothing for so long has gone.
const STALLED: Duration = Duration::from_secs(60);
/// Proxies close connections that are silent.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How the parts of an answer become chunks.
pub(crate) trait Chunks: Send + 'static {
    /// What a chunk is.
    type Chunk: Serialize + Send + Sync;

    /// What comes before anything else.
    fn first(&mut self) -> Option<Self::Chunk>;

    /// Some text; the tokens it is from.
    fn text(&mut self, tokens: Vec<Shown>) -> Vec<Self::Chunk>;

    /// A sentence for the user.
    fn notice(&mut self, sentence: String) -> Option<Self::Chunk>;

    /// The end of the answer.
    fn end(&mut self, end: &End) -> Vec<Self::Chunk>;
}

/// Streams an answer. When the reader goes, the generation is cancelled.
pub(crate) fn stream(generation: Generation, chunks: impl Chunks) -> Response {
    let (sender, receiver) = mpsc::channel(BUFFER);
    tokio::spawn(async move {
        tokio::select! {
            _written = write(generation, chunks, &sender) => {}
            () = sender.closed() => {}
        }
    });
    let events = Sse::new(ReceiverStream::new(receiver));
    events.keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response()
}

/// The reader has gone.
struct Gone;

async fn write(
    mut generation: Generation,
    mut chunks: impl Chunks,
    to: &Sender<Result<Event, Infallible>>,
) -> Result<(), Gone> {
    if let Some(chunk) = chunks.first() {
        send(to, json(&chunk)).await?;
    }
    loop {
        let (parts, last) = match generation.next().await {
            Ok(Step::Text(tokens)) => (chunks.text(tokens), false),
            Ok(Step::Notice(sentence)) => (chunks.notice(sentence).into_iter().collect(), false),
            Ok(Step::End(end)) => (chunks.end(&end), true),
            Err(error) => {
                send(to, json(&error.body())).await?;
                return send(to, Event::default().data("[DONE]")).await;
            }
        };
        for chunk in parts {
            send(to, json(&chunk)).await?;
        }
        if last {
            return send(to, Event::default().data("[DONE]")).await;
        }
    }
}

async fn send(to: &Sender<Result<Event, Infallible>>, event: Event) -> Result<(), Gone> {
    to.send_timeout(Ok(event), STALLED).await.map_err(|_gone| Gone)
}

fn json(chunk: &impl Serialize) -> Event {
    match serde_json::to_string(chunk) {
        Ok(json) => Event::default().data(json),
        Err(error) => {
            let error = Error::Failed(format!("the answer cannot be written ({error})"));
            Event::default().data(serde_json::to_string(&error.body()).unwrap_or_default())
        }
    }
}
