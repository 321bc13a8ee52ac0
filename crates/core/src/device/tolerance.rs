//! How many replies of no use a server may send.

use crate::Position;

/// How often a server may ask for what it should have, or answer what does not fit, without committing anything between.
const MAX_MISFITS: u32 = 32;

/// How many replies a server may send without a token in any of them: hours of [`Reply::Pending`](crate::message::Reply::Pending),
/// if it sends no more of them than it is asked for.
const MAX_REPLIES: u32 = 1 << 16;

/// Counts the replies since the last one that brought a token.
#[derive(Debug, Default)]
pub(super) struct Tolerance {
    replies: u32,
    /// Those that do not fit what this device has and sent.
    misfits: u32,
    /// From where on the text was sent again, of which nothing has been heard yet.
    resent: Option<Position>,
}

impl Tolerance {
    /// Why the answer ends, if there are too many.
    pub(super) const EXCEEDED: &str =
        "the server's answers do not fit this session; check that device and server run the same version";

    /// Counts a reply of any kind, before it is looked at; false if there were too many.
    pub(super) fn allows_reply(&mut self) -> bool {
        self.replies += 1;
        self.replies <= MAX_REPLIES
    }

    /// Whether the server asks for the text from `from` on for the first time. Whatever comes before the text that was sent makes it
    /// ask again, and to answer each time would make more of that each time. If the answer is lost, the timeout repeats it.
    pub(super) fn asks_anew(&mut self, from: Position) -> bool {
        self.resent.replace(from) != Some(from)
    }

    /// What was sent again may be lost.
    pub(super) fn forget_resent(&mut self) {
        self.resent = None;
    }

    /// Counts a reply that does not fit; false if there were too many.
    pub(super) fn allows_misfit(&mut self) -> bool {
        self.misfits += 1;
        self.misfits <= MAX_MISFITS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_replies_of_no_use_are_borne_and_not_one_more() {
        let mut tolerance = Tolerance::default();
        assert!((0..MAX_REPLIES).all(|_| tolerance.allows_reply()));
        assert!(!tolerance.allows_reply());
        assert!((0..MAX_MISFITS).all(|_| tolerance.allows_misfit()), "replies and misfits are counted apart");
        assert!(!tolerance.allows_misfit());
    }

    #[test]
    fn a_text_is_sent_again_once_until_something_is_heard_of_it() {
        let mut tolerance = Tolerance::default();
        assert!(tolerance.asks_anew(5));
        assert!(!tolerance.asks_anew(5));
        assert!(tolerance.asks_anew(0), "from another place on, it is another text");
        tolerance.forget_resent();
        assert!(tolerance.asks_anew(0));
    }
}
