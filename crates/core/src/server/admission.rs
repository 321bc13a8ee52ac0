//! Who is let in: the most sessions, and the most prompts that wait to be read.

use std::collections::BTreeSet;
use std::time::Duration;

use super::costs::Costs;
use super::session::Wants;
use super::sessions::Sessions;
use super::{Owner, ServerConfig, SessionId};

/// The least and the most that a refused device is told to wait.
const SOONEST: Duration = Duration::from_secs(1);
const LATEST: Duration = Duration::from_secs(30);

/// Why a session is not opened now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Busy {
    /// There are as many sessions as may be.
    #[error("the server is busy: it has {0} sessions, and takes no more")]
    Sessions(usize),
    /// Too many texts wait to be read.
    #[error("the server is busy: {0} prompts wait to be read")]
    Queue(usize),
}

/// Whether another session may be opened, of `owner` if it is known; if not, for how long.
pub(super) fn session(
    config: &ServerConfig,
    sessions: &Sessions,
    costs: &Costs,
    owner: Option<Owner>,
) -> Result<(), (Busy, Duration)> {
    if sessions.len() >= config.sessions {
        return Err((Busy::Sessions(sessions.len()), SOONEST));
    }
    prompt(config, sessions, costs, owner, None)
}

/// Whether another text of `owner` may wait to be read beside those of other sessions than `id`. Where too many wait, whoever has
/// less than its share of them is let in all the same.
pub(super) fn prompt(
    config: &ServerConfig,
    sessions: &Sessions,
    costs: &Costs,
    owner: Option<Owner>,
    id: Option<SessionId>,
) -> Result<(), (Busy, Duration)> {
    if sessions.len() < config.queue {
        return Ok(());
    }
    let (mut prompts, mut rows, mut own) = (0, 0, 0);
    let mut owners = BTreeSet::new();
    for (_, session) in sessions.iter().filter(|&(other, _)| id != Some(other)) {
        if session.wants() == Wants::Reading {
            prompts += 1;
            rows += session.unread();
            own += usize::from(owner == Some(session.owner));
            owners.insert(session.owner);
        }
    }
    let share = (config.queue / owners.len().max(1)).max(1);
    if prompts >= config.queue && owner.is_none_or(|_| own >= share) {
        let time = Duration::try_from_secs_f64(costs.pass(rows)).unwrap_or(LATEST);
        return Err((Busy::Queue(prompts), time.clamp(SOONEST, LATEST)));
    }
    Ok(())
}
