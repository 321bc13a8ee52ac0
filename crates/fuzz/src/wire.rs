//! Messages of either side.

use prost::Message;
use sled_core::message::{Commit, Load, Reply, Request};
use sled_wire::{
    Bounds, FromDevice, FromServer, decode_description, decode_device, decode_server, decode_sessions,
    encode_description, encode_reply, encode_request, pb,
};

const BOUNDS: Bounds = Bounds { vocabulary_size: 1000, context: 512, max_draft: 16 };

/// Reads `data` as each kind of message.
///
/// # Panics
/// If what is taken is outside the bounds, or not the same after it was encoded and read again.
pub fn wire(data: &[u8]) {
    if let Ok(message) = pb::DeviceMessage::decode(data)
        && let Ok(FromDevice::Request(request)) = decode_device(message, &BOUNDS)
    {
        check_request(&request, &BOUNDS);
    }
    if let Ok(message) = pb::ServerMessage::decode(data)
        && let Ok(FromServer::Reply(reply)) = decode_server(message, &BOUNDS)
    {
        check_reply(&reply, &BOUNDS);
    }
    if let Ok(message) = pb::ServerDescription::decode(data)
        && let Ok(description) = decode_description(message)
    {
        let again = decode_description(encode_description(description.clone()));
        assert_eq!(again.ok().as_ref(), Some(&description));
    }
    if let Ok(message) = pb::SessionList::decode(data) {
        let _taken = decode_sessions(message);
    }
}

/// What a device sends must be taken by a server with these bounds; to ask for more tokens than there may be is to ask for all.
pub(crate) fn check_request(request: &Request, bounds: &Bounds) {
    let mut taken = request.clone();
    match &mut taken {
        Request::Context(update) => {
            assert!(
                update.from + update.tokens.len() <= bounds.context && update.prompt_len <= bounds.context,
                "{request:?}"
            );
            update.limit = update.limit.min(bounds.context);
        }
        Request::Draft(block) => {
            assert!(block.tokens.len() <= bounds.max_draft, "{request:?}");
            assert!(block.from + block.tokens.len() <= bounds.context, "{request:?}");
            block.until = block.until.min(bounds.context);
        }
        Request::Stop(_) => {}
    }
    // Numbers that are none are not equal to themselves, but they are written alike.
    let written = format!("{taken:?}");
    match decode_device(encode_request(request.clone()), bounds) {
        Ok(FromDevice::Request(again)) => assert_eq!(format!("{again:?}"), written),
        other => panic!("{written} became {other:?}"),
    }
}

/// What a server sends must be taken by a device with these bounds; times arrive in whole microseconds, and a last word ends the
/// stream.
pub(crate) fn check_reply(reply: &Reply, bounds: &Bounds) {
    let Ok(message) = encode_reply(reply.clone()) else {
        assert!(matches!(reply, Reply::Closing(_) | Reply::Failed(_)), "{reply:?}");
        return;
    };
    let timeless = |reply: &Reply| match reply.clone() {
        Reply::Commit(commit) => Reply::Commit(Commit { load: Load::default(), ..commit }),
        other => other,
    };
    match decode_server(message, bounds) {
        Ok(FromServer::Reply(again)) => assert_eq!(timeless(&again), timeless(reply)),
        other => panic!("{reply:?} became {other:?}"),
    }
}
