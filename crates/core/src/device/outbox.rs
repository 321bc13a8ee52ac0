//! What the shell is still to do.

use std::collections::VecDeque;

use super::Action;

/// The actions that were not handed out yet, in order.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    actions: VecDeque<Action>,
}

impl Outbox {
    pub(super) fn push(&mut self, action: Action) {
        self.actions.push_back(action);
    }

    pub(super) fn pop(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.actions.is_empty()
    }

    /// Whether the shell is still to be told that the answer is over.
    pub(super) fn has_finish(&self) -> bool {
        self.actions.iter().any(|action| matches!(action, Action::Finish(_)))
    }

    /// Drops what concerns the answer: what concerns the connection is still to be done. Whether a draft was to be asked for.
    pub(super) fn drop_answer(&mut self) -> bool {
        let mut draft_dropped = false;
        self.actions.retain(|action| {
            draft_dropped |= matches!(action, Action::Draft(_));
            matches!(action, Action::Connect(_) | Action::Disconnect | Action::Notify(_))
        });
        draft_dropped
    }

    /// Drops what was for a server that is lost: it is not for the next.
    pub(super) fn drop_server(&mut self) {
        self.actions.retain(|action| !matches!(action, Action::Send(_) | Action::Connect(_)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{FinishReason, Notice, Ticket};
    use crate::message::Request;
    use crate::sequence::Digest;

    fn all() -> [Action; 6] {
        [
            Action::Connect(1),
            Action::Send(Request::Stop(1)),
            Action::Draft(Ticket { turn: 1, digest: Digest::EMPTY }),
            Action::Notify(Notice::Back { server: 1 }),
            Action::Finish(FinishReason::Stop),
            Action::Disconnect,
        ]
    }

    fn full() -> Outbox {
        let mut outbox = Outbox::default();
        all().into_iter().for_each(|action| outbox.push(action));
        outbox
    }

    fn left(mut outbox: Outbox) -> Vec<Action> {
        std::iter::from_fn(|| outbox.pop()).collect()
    }

    #[test]
    fn actions_are_handed_out_in_order() {
        assert_eq!(left(full()), all());
        assert!(Outbox::default().is_empty() && !full().is_empty());
    }

    #[test]
    fn an_answer_that_is_dropped_leaves_what_concerns_the_connection() {
        let mut outbox = full();
        assert!(outbox.has_finish());
        assert!(outbox.drop_answer(), "a draft was to be asked for");
        assert!(!outbox.has_finish() && !outbox.drop_answer());
        assert_eq!(left(outbox), [Action::Connect(1), Action::Notify(Notice::Back { server: 1 }), Action::Disconnect]);
    }

    #[test]
    fn what_was_for_a_lost_server_is_not_for_the_next() {
        let mut outbox = full();
        outbox.drop_server();
        let [_connect, _send, others @ ..] = all();
        assert_eq!(left(outbox), others);
    }
}
