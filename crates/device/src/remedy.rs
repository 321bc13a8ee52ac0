//! What is to be done about a failure of a server: the one place where that is decided.

use std::time::Duration;

use tonic::{Code, Status};

use crate::Error;

/// What is to be done about a failure of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// Nothing: elsewhere and later it would be the same. It ends the answer.
    End,
    /// To look at the next server: this one is of no use.
    Elsewhere,
    /// To look at the next server, or at this one again: it is there no more, or not yet.
    Reconnect,
    /// To leave it alone for so long, and look at the others.
    Later(Duration),
}

/// What was under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The server was asked what it is, or for a session.
    Opening,
    /// It had a session.
    Open,
}

impl Remedy {
    /// What is to be done about what the server, or the transport in its place, said.
    pub(crate) fn of(status: &Status, phase: Phase) -> Self {
        if let Some(after) = sled_wire::retry_after(status) {
            return Self::Later(after);
        }
        // The transport speaks of the connection, whatever its code.
        if std::error::Error::source(status).is_some() {
            return Self::Reconnect;
        }
        match status.code() {
            // About a text, another server would say the same; about a device that wants in, it need not.
            Code::FailedPrecondition | Code::InvalidArgument | Code::OutOfRange => match phase {
                Phase::Open => Self::End,
                Phase::Opening => Self::Elsewhere,
            },
            Code::Unimplemented
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::Unauthenticated => Self::Elsewhere,
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss => Self::Reconnect,
        }
    }
}

impl Error {
    /// What is to be done about it.
    pub(crate) fn remedy(&self) -> Remedy {
        match self {
            Self::Unreachable { .. } | Self::NoServer(_) | Self::Broken(_) | Self::SlowVocabulary => Remedy::Reconnect,
            Self::Busy { after, .. } => Remedy::Later(*after),
            Self::Refused(_) | Self::Wire(_) | Self::VocabularyMismatch { .. } => Remedy::Elsewhere,
            Self::Address(_)
            | Self::VocabularyFile { .. }
            | Self::UnreadableVocabulary(_)
            | Self::Interrupted
            | Self::DrafterGone
            | Self::Thread(_)
            | Self::Model(_)
            | Self::Sampling(_) => Remedy::End,
        }
    }

    /// Whether it is about servers that are not there, or busy, and may pass.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        matches!(self.remedy(), Remedy::Reconnect | Remedy::Later(_))
    }

    /// What is to be said of several servers, each of which failed for one of these reasons.
    pub(crate) fn of_all(errors: Vec<Self>) -> Self {
        let said = || errors.iter().map(Self::in_brief).collect::<Vec<_>>().join("; ");
        let passing = errors.iter().any(Self::is_passing);
        match errors.as_slice() {
            [_one] => errors.into_iter().next().unwrap_or(Self::Interrupted),
            _ if passing => Self::NoServer(said().into()),
            _ => Self::Refused(said().into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_has_its_remedy() {
        use Remedy::{Elsewhere, End, Reconnect};
        let table = [
            (Code::Cancelled, Reconnect, Reconnect),
            (Code::Unknown, Reconnect, Reconnect),
            (Code::InvalidArgument, Elsewhere, End),
            (Code::DeadlineExceeded, Reconnect, Reconnect),
            (Code::NotFound, Elsewhere, Elsewhere),
            (Code::AlreadyExists, Elsewhere, Elsewhere),
            (Code::PermissionDenied, Elsewhere, Elsewhere),
            (Code::ResourceExhausted, Reconnect, Reconnect),
            (Code::FailedPrecondition, Elsewhere, End),
            (Code::Aborted, Reconnect, Reconnect),
            (Code::OutOfRange, Elsewhere, End),
            (Code::Unimplemented, Elsewhere, Elsewhere),
            (Code::Internal, Reconnect, Reconnect),
            // A server that stops, or starts again.
            (Code::Unavailable, Reconnect, Reconnect),
            (Code::DataLoss, Reconnect, Reconnect),
            (Code::Unauthenticated, Elsewhere, Elsewhere),
        ];
        for (code, opening, open) in table {
            let status = Status::new(code, "a reason");
            assert_eq!(Remedy::of(&status, Phase::Opening), opening, "{code:?}, before there is a session");
            assert_eq!(Remedy::of(&status, Phase::Open), open, "{code:?}, in a session");
            assert_eq!(Error::from(status).remedy(), opening, "{code:?}, as an error");
        }
    }

    #[test]
    fn a_busy_server_is_left_alone_and_the_transport_is_tried_again() {
        let after = Duration::from_secs(7);
        for phase in [Phase::Opening, Phase::Open] {
            assert_eq!(Remedy::of(&sled_wire::busy("busy", after), phase), Remedy::Later(after));
            for code in [Code::InvalidArgument, Code::Unknown, Code::Internal] {
                let mut status = Status::new(code, "h2");
                status.set_source(std::sync::Arc::new(std::io::Error::other("connection reset")));
                assert_eq!(Remedy::of(&status, phase), Remedy::Reconnect);
            }
        }
        assert_eq!(Error::from(sled_wire::busy("busy", after)).remedy(), Remedy::Later(after));
    }

    #[test]
    fn of_several_servers_one_that_may_come_back_is_worth_waiting_for() {
        let refused = || Error::Refused("another model".into());
        let away = || Error::Unreachable { url: "http://x:1".to_owned(), reason: "refused".into() };
        assert!(!Error::of_all(vec![refused(), refused()]).is_passing());
        assert!(Error::of_all(vec![refused(), away()]).is_passing());
        assert!(matches!(Error::of_all(vec![refused()]), Error::Refused(_)));
        let sentence = Error::of_all(vec![refused(), away()]).to_string();
        assert!(sentence.contains("another model; http://x:1: refused"), "{sentence}");
    }
}
