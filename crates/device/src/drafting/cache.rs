//! The KV cache of a shared draft model: which session has which sequence, and what it holds.

use sled_core::Token;
use sled_core::sequence::common_prefix;
use sled_core::step::{CacheOp, SequenceId};
use sled_model::{Limits, Model};

use super::ClientId;

/// Copying a shorter prefix from another sequence is not worth it.
const MIN_SHARED_PREFIX: usize = 8;

/// A sequence of the cache.
#[derive(Default)]
struct Slot {
    client: Option<ClientId>,
    /// What it holds.
    tokens: Vec<Token>,
    /// The last pass that it had a part in.
    used: u64,
}

/// The model, and what its sequences hold.
pub(super) struct Cache<M> {
    pub(super) model: M,
    slots: Vec<Slot>,
    pass: u64,
}

impl<M: Model> Cache<M> {
    pub(super) fn new(model: M) -> Self {
        let slots = std::iter::repeat_with(Slot::default).take(model.limits().sequences).collect();
        Self { model, slots, pass: 0 }
    }

    pub(super) fn limits(&self) -> Limits {
        self.model.limits()
    }

    /// Another pass is planned.
    pub(super) fn begin_pass(&mut self) {
        self.pass += 1;
    }

    /// `client` has gone: what it leaves may serve another.
    pub(super) fn leave(&mut self, client: ClientId) {
        for slot in self.slots.iter_mut().filter(|slot| slot.client == Some(client)) {
            slot.client = None;
        }
    }

    /// How many tokens are to be evaluated for the logits after `tokens`: at least the last.
    pub(super) fn unread(&self, client: ClientId, tokens: &[Token]) -> usize {
        let own = self.slots.iter().find(|slot| slot.client == Some(client));
        tokens.len() - own.map_or(0, |slot| kept(&slot.tokens, tokens))
    }

    /// Gives `client` a sequence and a part in this pass; how many of `tokens` it holds. `None` if all are in the pass.
    pub(super) fn seat(&mut self, client: ClientId, tokens: &[Token]) -> Option<(usize, usize)> {
        let own = self.slots.iter().position(|slot| slot.client == Some(client));
        let seat = own.or_else(|| self.free_seat(tokens))?;
        let from = kept(&self.slots[seat].tokens, tokens);
        let slot = &mut self.slots[seat];
        slot.client = Some(client);
        slot.used = self.pass;
        self.cut(seat, from);
        if own.is_none() {
            self.share_prefix(seat, tokens);
        }
        Some((seat, self.slots[seat].tokens.len()))
    }

    /// A sequence for a newcomer: nobody's that holds the most of its text, else that of whoever drafted longest ago.
    fn free_seat(&self, tokens: &[Token]) -> Option<usize> {
        let idle = self.slots.iter().enumerate().filter(|(_, slot)| slot.used < self.pass);
        let seat = idle.max_by_key(|(_, slot)| {
            let is_free = slot.client.is_none();
            (is_free, if is_free { kept(&slot.tokens, tokens) } else { 0 }, self.pass - slot.used)
        });
        seat.map(|(seat, _)| seat)
    }

    /// Copies what another sequence holds of `tokens`, if that is more than is there.
    fn share_prefix(&mut self, seat: usize, tokens: &[Token]) {
        let have = self.slots[seat].tokens.len();
        let donors = self.slots.iter().enumerate().map(|(donor, slot)| (kept(&slot.tokens, tokens), donor));
        let Some((len, donor)) = donors.max() else { return };
        if len < have + MIN_SHARED_PREFIX || self.used() - have + len > self.limits().cells {
            return;
        }
        self.cut(seat, 0);
        let copy = CacheOp::CopyPrefix { from: sequence(donor), to: sequence(seat), len };
        if self.model.apply(copy).is_ok() {
            self.slots[seat].tokens = tokens[..len].to_vec();
        } else {
            self.cut(seat, 0);
        }
    }

    /// How many of `wanted` rows the cache has room for beside `planned` ones, if need be at the expense of whoever has no part
    /// in this pass and drafted longest ago.
    pub(super) fn make_room(&mut self, wanted: usize, planned: usize) -> usize {
        loop {
            let room = self.limits().cells.saturating_sub(self.used() + planned);
            if room >= wanted {
                return wanted;
            }
            let idle =
                self.slots.iter().enumerate().filter(|(_, slot)| slot.used < self.pass && !slot.tokens.is_empty());
            let Some((oldest, _)) = idle.min_by_key(|(_, slot)| slot.used) else { return room };
            self.cut(oldest, 0);
        }
    }

    /// The sequence of `seat` holds `tokens` now.
    pub(super) fn extend(&mut self, seat: usize, tokens: &[Token]) {
        self.slots[seat].tokens.extend(tokens);
    }

    /// Keeps the first `len` tokens of a sequence, or none if its model cannot go back so far.
    pub(super) fn cut(&mut self, seat: usize, len: usize) {
        let cut = |len| CacheOp::Truncate { sequence: sequence(seat), len };
        let len = if self.model.apply(cut(len)).is_ok() { len } else { 0 };
        if len == 0 {
            // A model that cannot even be emptied says so in the next pass.
            let _emptied = self.model.apply(cut(0));
        }
        self.slots[seat].tokens.truncate(len);
    }

    fn used(&self) -> usize {
        self.slots.iter().map(|slot| slot.tokens.len()).sum()
    }
}

pub(super) fn sequence(seat: usize) -> SequenceId {
    SequenceId::try_from(seat).unwrap_or(SequenceId::MAX)
}

/// How many of `tokens` need not be evaluated: the last one is in any case, since its logits are wanted.
fn kept(held: &[Token], tokens: &[Token]) -> usize {
    common_prefix(held, tokens).min(tokens.len().saturating_sub(1))
}
