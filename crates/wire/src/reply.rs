//! What the server sends.

use std::time::Duration;

use sled_core::message::{Commit, Load, Reply};
use sled_core::sampler::Logprobs;
use sled_core::sequence::Digest;
use tonic::Status;

use crate::bounds::{narrow, widen};
use crate::handshake::decode_opened;
use crate::pb::server_message::Body;
use crate::{Bounds, Opened, WireError, pb};

/// The server's message.
#[derive(Clone, Debug, PartialEq)]
pub enum FromServer {
    /// The first one of a session.
    Opened(Opened),
    /// Any later one; never [`Reply::Failed`] or [`Reply::Closing`], which come as the status that ends the stream.
    Reply(Reply),
}

/// A reply as what the session's stream yields next.
///
/// # Errors
/// [`Reply::Failed`] and [`Reply::Closing`] become the status that ends the stream, with the reason as its message.
pub fn encode_reply(reply: Reply) -> Result<pb::ServerMessage, Status> {
    let body = match reply {
        Reply::Commit(commit) => Body::Commit(encode_commit(commit)),
        Reply::Resend { turn, from } => Body::Resend(pb::Resend { turn, from: narrow(from) }),
        Reply::Pending { turn } => Body::Pending(pb::Pending { turn }),
        Reply::Closing(reason) => return Err(Status::unavailable(reason)),
        Reply::Failed(reason) => return Err(Status::failed_precondition(reason)),
    };
    Ok(pb::ServerMessage { body: Some(body) })
}

/// Reads the server's message.
///
/// # Errors
/// If anything in it is outside `bounds`, or it is of no known kind.
pub fn decode_server(message: pb::ServerMessage, bounds: &Bounds) -> Result<FromServer, WireError> {
    match message.body.ok_or(WireError::Empty)? {
        Body::Opened(opened) => Ok(FromServer::Opened(decode_opened(opened))),
        Body::Commit(commit) => Ok(FromServer::Reply(Reply::Commit(decode_commit(commit, bounds)?))),
        Body::Pending(pb::Pending { turn }) => Ok(FromServer::Reply(Reply::Pending { turn })),
        Body::Resend(pb::Resend { turn, from }) => {
            let from = widen(from);
            bounds.check_len(from)?;
            Ok(FromServer::Reply(Reply::Resend { turn, from }))
        }
    }
}

fn encode_commit(commit: Commit) -> pb::Commit {
    pb::Commit {
        turn: commit.turn,
        from: narrow(commit.from),
        accepted: narrow(commit.accepted),
        tokens: commit.tokens,
        digest: commit.digest.0,
        rows: commit.rows,
        queue_us: micros(commit.load.queue),
        row_us: micros(commit.load.row),
        step_us: micros(commit.load.step),
        sharing: commit.load.sharing,
        unasked: commit.unasked,
        price: commit.load.price,
        logprobs: commit.logprobs.into_iter().map(encode_logprobs).collect(),
    }
}

fn decode_commit(commit: pb::Commit, bounds: &Bounds) -> Result<Commit, WireError> {
    let time = |micros: u32| Duration::from_micros(micros.into());
    let load = Load {
        queue: time(commit.queue_us),
        step: time(commit.step_us),
        row: time(commit.row_us),
        sharing: commit.sharing,
        price: commit.price,
    };
    let commit = Commit {
        turn: commit.turn,
        from: widen(commit.from),
        accepted: widen(commit.accepted),
        tokens: commit.tokens,
        digest: Digest(commit.digest),
        rows: commit.rows,
        unasked: commit.unasked,
        logprobs: commit
            .logprobs
            .into_iter()
            .map(|logprobs| decode_logprobs(logprobs, bounds))
            .collect::<Result<_, _>>()?,
        load,
    };
    // Neither part is bound by the longest draft: the answer to a repeated block has all that was committed meanwhile.
    bounds.check_len(commit.end())?;
    bounds.check_tokens(&commit.tokens)?;
    if commit.logprobs.len() > commit.accepted.saturating_add(commit.tokens.len()) {
        return Err(WireError::WrongLogprobs);
    }
    Ok(commit)
}

fn encode_logprobs(logprobs: Logprobs) -> pb::Logprobs {
    let (top_tokens, top_values) = logprobs.top.into_iter().unzip();
    pb::Logprobs { chosen: logprobs.chosen, top_tokens, top_values }
}

fn decode_logprobs(logprobs: pb::Logprobs, bounds: &Bounds) -> Result<Logprobs, WireError> {
    let pb::Logprobs { chosen, top_tokens, top_values } = logprobs;
    let (len, max) = (top_tokens.len(), Logprobs::MAX_TOP);
    if len > max.into() {
        return Err(WireError::TooManyLogprobs { len, max });
    }
    if top_values.len() != len || !top_values.iter().chain([&chosen]).all(|value| value.is_finite()) {
        return Err(WireError::WrongLogprobs);
    }
    bounds.check_tokens(&top_tokens)?;
    Ok(Logprobs { chosen, top: top_tokens.into_iter().zip(top_values).collect() })
}

fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}
