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
