//! Who has the sessions, how many each client may have, and whose session gives way.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use sled_core::server::{Activity, SessionId, SessionStatus};

/// A session that has been idle for less is not made to give way: its user may be about to go on.
const RESTING: Duration = Duration::from_secs(10);

/// A device that has an answer to draft for and is silent for so long has forgotten it.
const DRAFTING: Duration = Duration::from_secs(60);

/// Whom a session is counted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Party {
    /// Devices at one address; for IPv6 at one network of 64 bits, of which one customer has all addresses.
    Address(IpAddr),
    /// The HTTP port, which bounds its requests itself.
    Http,
}

impl Party {
    /// Whoever connects from `address`; those whose address is not known are one client.
    pub(crate) fn at(address: Option<SocketAddr>) -> Self {
        let address = address.map_or(Ipv6Addr::UNSPECIFIED.into(), |address| address.ip().to_canonical());
        Self::Address(match address {
            IpAddr::V4(_) => address,
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        })
    }
}

struct Seat {
    client: Party,
    /// When the session last said or was told anything.
    active: Duration,
}

/// The sessions that are open, by whom.
pub(super) struct Seats {
    seats: HashMap<SessionId, Seat>,
    most_per_client: usize,
}

impl Seats {
    pub(super) fn new(most_per_client: usize) -> Self {
        Self { seats: HashMap::new(), most_per_client }
    }

    pub(super) fn enter(&mut self, now: Duration, id: SessionId, client: Party) {
        self.seats.insert(id, Seat { client, active: now });
    }

    pub(super) fn leave(&mut self, id: SessionId) {
        self.seats.remove(&id);
    }

    /// The session has said or been told something.
    pub(super) fn is_active(&mut self, now: Duration, id: SessionId) {
        if let Some(seat) = self.seats.get_mut(&id) {
            seat.active = now;
        }
    }

    /// How many sessions the client has, if it may have no more.
    pub(super) fn all_of(&self, client: Party) -> Option<usize> {
        let count = self.seats.values().filter(|seat| seat.client == client).count();
        (client != Party::Http && count >= self.most_per_client).then_some(count)
    }

    /// For how long a device's session has been idle, if it is. One over HTTP never is: it ends with its answer.
    fn idle(&self, now: Duration, status: &SessionStatus) -> Option<(Party, Duration)> {
        let seat = self.seats.get(&status.id).filter(|seat| seat.client != Party::Http)?;
        let silent = now.saturating_sub(seat.active);
        match status.activity {
            Activity::Idle(_) => Some((seat.client, silent)),
            Activity::Drafting => Some((seat.client, silent.checked_sub(DRAFTING)?)),
            Activity::Reading(_) | Activity::Waiting(_) => None,
        }
    }

    /// The sessions that have been idle for `time`.
    pub(super) fn idle_for(
        &self,
        now: Duration,
        time: Duration,
        sessions: impl Iterator<Item = SessionStatus>,
    ) -> Vec<SessionId> {
        let idle = |status: &SessionStatus| self.idle(now, status).is_some_and(|(_, since)| since >= time);
        sessions.filter(idle).map(|status| status.id).collect()
    }

    /// The sessions that may have to give way to another.
    pub(super) fn resting(&self, now: Duration, sessions: impl Iterator<Item = SessionStatus>) -> usize {
        self.idle_for(now, RESTING, sessions).len()
    }

    /// The session that gives way to a newcomer: the idlest of `client`, or of whoever has most.
    pub(super) fn gives_way(
        &self,
        now: Duration,
        client: Option<Party>,
        sessions: impl Iterator<Item = SessionStatus>,
    ) -> Option<SessionId> {
        let mut counts: HashMap<Party, usize> = HashMap::new();
        self.seats.values().for_each(|seat| *counts.entry(seat.client).or_default() += 1);
        let resting = sessions.filter_map(|status| {
            let (of, since) = self.idle(now, &status).filter(|&(_, since)| since >= RESTING)?;
            client.is_none_or(|client| client == of).then(|| ((counts.get(&of).copied(), since), status.id))
        });
        resting.max_by_key(|&(rank, _)| rank).map(|(_, id)| id)
    }
}

#[cfg(test)]
mod tests {
    use sled_core::server::Tally;

    use super::*;

    fn at(text: &str) -> Party {
        Party::at(text.parse().ok())
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn status(id: u64, activity: Activity) -> SessionStatus {
        SessionStatus { id: SessionId(id), tokens: 0, cached: 0, tally: Tally::default(), activity }
    }

    fn idle(ids: impl IntoIterator<Item = u64>) -> impl Iterator<Item = SessionStatus> {
        ids.into_iter().map(|id| status(id, Activity::Idle(Duration::ZERO)))
    }

    #[test]
    fn a_client_is_an_address_or_a_network_of_one_customer() {
        assert_eq!(at("10.0.0.1:5"), at("10.0.0.1:6"));
        assert_eq!(at("[::ffff:10.0.0.1]:5"), at("10.0.0.1:6"));
        assert_ne!(at("10.0.0.1:5"), at("10.0.0.2:5"));
        assert_eq!(at("[2001:db8:1:2::3]:5"), at("[2001:db8:1:2:ffff::4]:5"));
        assert_ne!(at("[2001:db8:1:2::3]:5"), at("[2001:db8:1:3::3]:5"));
    }

    #[test]
    fn the_idlest_session_of_whoever_has_most_gives_way() {
        let mut seats = Seats::new(4);
        let (many, few) = (at("10.0.0.1:1"), at("10.0.0.2:1"));
        seats.enter(seconds(0), SessionId(0), few);
        seats.enter(seconds(0), SessionId(1), Party::Http);
        for id in 2..6 {
            seats.enter(seconds(id), SessionId(id), many);
        }
        assert_eq!((seats.all_of(many), seats.all_of(few), seats.all_of(Party::Http)), (Some(4), None, None));
        let now = seconds(20);
        assert_eq!(seats.gives_way(now, None, idle(0..6)), Some(SessionId(2)));
        assert_eq!(seats.gives_way(now, Some(few), idle(0..6)), Some(SessionId(0)));
        seats.is_active(seconds(19), SessionId(2));
        assert_eq!(seats.gives_way(now, None, idle(0..6)), Some(SessionId(3)));
        seats.leave(SessionId(3));
        assert_eq!(seats.gives_way(now, None, idle([0, 1, 2, 4, 5])), Some(SessionId(4)));
        // Nobody gives way who has only just fallen silent, or whose answer is under way.
        assert_eq!(seats.gives_way(seconds(9), None, idle([0, 1, 2, 4, 5])), None);
        let busy = |id| status(id, Activity::Waiting(seconds(20)));
        assert_eq!(seats.gives_way(now, None, [busy(0), busy(4)].into_iter()), None);
        assert_eq!(seats.resting(now, idle([0, 1, 2, 4, 5])), 3);
    }

    #[test]
    fn sessions_are_idle_where_nothing_is_asked_and_nothing_said() {
        let mut seats = Seats::new(4);
        for id in 0..3 {
            seats.enter(seconds(0), SessionId(id), at("10.0.0.1:1"));
        }
        seats.is_active(seconds(50), SessionId(1));
        let all = || [status(0, Activity::Drafting), status(1, Activity::Idle(seconds(90)))].into_iter();
        assert_eq!(seats.idle_for(seconds(69), seconds(20), all()), []);
        assert_eq!(seats.idle_for(seconds(70), seconds(20), all()), [SessionId(1)]);
        assert_eq!(seats.idle_for(seconds(80), seconds(20), all()), [SessionId(0), SessionId(1)]);
    }
}
