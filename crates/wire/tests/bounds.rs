//! What is out of bounds is refused, and what is just inside is not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use prost::Message;
use sled_core::message::{DraftBlock, Request};
use sled_core::sequence::Digest;
use sled_wire::pb::{self, device_message, server_message};
use sled_wire::*;
use tonic::Code;

const BOUNDS: Bounds = Bounds { vocabulary_size: 151_936, context: 131_072, max_draft: 64 };
const PAST_VOCABULARY: WireError = WireError::UnknownToken { token: 151_936, vocabulary_size: 151_936 };

fn from_device(body: device_message::Body) -> Result<FromDevice, WireError> {
    decode_device(pb::DeviceMessage { body: Some(body) }, &BOUNDS)
}

fn from_server(body: server_message::Body) -> Result<FromServer, WireError> {
    decode_server(pb::ServerMessage { body: Some(body) }, &BOUNDS)
}

#[test]
fn other_protocols_are_refused() {
    let theirs = PROTOCOL + 1;
    let description = pb::ServerDescription { protocol: theirs, ..Default::default() };
    assert_eq!(decode_description(description), Err(WireError::Protocol { theirs }));
    let open = device_message::Body::Open(pb::Open { protocol: theirs, ..Default::default() });
    assert_eq!(from_device(open), Err(WireError::Protocol { theirs }));
    assert_eq!(tonic::Status::from(WireError::Protocol { theirs }).code(), Code::FailedPrecondition);
}

#[test]
fn empty_messages_are_refused() {
    assert_eq!(decode_device(pb::DeviceMessage::default(), &BOUNDS), Err(WireError::Empty));
    assert_eq!(decode_server(pb::ServerMessage::default(), &BOUNDS), Err(WireError::Empty));
    // What a newer version might send: a field that this one does not know.
    let newer = pb::DeviceMessage::decode(&[0x7a, 0x00][..]).unwrap();
    assert_eq!(decode_device(newer, &BOUNDS), Err(WireError::Empty));
}

#[test]
fn long_names_are_refused() {
    let open = Open { device: "x".repeat(257), vocabulary_fingerprint: String::new(), model_fingerprint: None };
    let refusal = Err(WireError::NameTooLong { what: "device's name", len: 257, max: 256 });
    assert_eq!(decode_device(encode_open(open), &BOUNDS), refusal);
}

#[test]
fn context_updates_out_of_bounds_are_refused() {
    let context = |update| from_device(device_message::Body::Context(update));
    let prompt = |tokens: Vec<u32>| pb::ContextUpdate { prompt_len: 1, tokens, ..Default::default() };
    assert!(context(prompt(vec![151_935; 131_072])).is_ok());
    assert_eq!(context(prompt(vec![1, 151_936])), Err(PAST_VOCABULARY));
    let too_long = WireError::BeyondContext { len: 131_073, context: 131_072 };
    assert_eq!(context(prompt(vec![1; 131_073])), Err(too_long.clone()));
    assert_eq!(context(pb::ContextUpdate { from: 131_072, ..prompt(vec![1]) }), Err(too_long));
    assert!(matches!(
        context(pb::ContextUpdate { from: u32::MAX, ..prompt(vec![1]) }),
        Err(WireError::BeyondContext { .. })
    ));
    assert!(context(pb::ContextUpdate { from: 5, prompt_len: 6, ..prompt(vec![1]) }).is_ok());
    assert_eq!(
        context(pb::ContextUpdate { from: 5, prompt_len: 7, ..prompt(vec![1]) }),
        Err(WireError::PromptBeyondText { prompt_len: 7, len: 6 })
    );
}

#[test]
fn grammars_logprobs_and_names_out_of_bounds_are_refused() {
    let context = |update| from_device(device_message::Body::Context(update));
    let plain = pb::ContextUpdate { tokens: vec![1], prompt_len: 1, ..Default::default() };
    let asked = |logprobs| context(pb::ContextUpdate { logprobs: Some(logprobs), ..plain.clone() });
    assert!(asked(0).is_ok() && asked(20).is_ok());
    assert_eq!(asked(21), Err(WireError::TooManyLogprobs { len: 21, max: 20 }));
    assert!(matches!(asked(u32::MAX), Err(WireError::TooManyLogprobs { .. })));

    let named = |name: &str| context(pb::ContextUpdate { request_id: name.to_owned(), ..plain.clone() });
    assert!(named(&"x".repeat(256)).is_ok() && named("ünïcode").is_ok());
    let too_long = WireError::NameTooLong { what: "request's id", len: 257, max: 256 };
    assert_eq!(named(&"x".repeat(257)), Err(too_long));
    assert_eq!(named("a\nb"), Err(WireError::Unprintable { what: "request's id" }));

    let grammar = |text| {
        let sampling = pb::SamplingParams { grammar: Some(pb::Grammar { text }), ..Default::default() };
        context(pb::ContextUpdate { sampling: Some(sampling), ..plain.clone() })
    };
    let regex = |len| Some(pb::grammar::Text::Regex("a".repeat(len)));
    assert!(grammar(regex(64 << 10)).is_ok());
    assert_eq!(grammar(regex((64 << 10) + 1)), Err(WireError::GrammarTooLong { len: 65_537, max: 65_536 }));
    assert_eq!(grammar(None), Err(WireError::Empty));
}

#[test]
fn log_probabilities_out_of_bounds_are_refused() {
    let commit = |accepted, logprobs| {
        let commit = pb::Commit { accepted, tokens: vec![1], logprobs, ..Default::default() };
        from_server(server_message::Body::Commit(commit))
    };
    let entry = |chosen, top_tokens, top_values| pb::Logprobs { chosen, top_tokens, top_values };
    let good = entry(-1.0, vec![151_935; 20], vec![f32::MIN; 20]);
    assert!(commit(0, vec![good.clone()]).is_ok() && commit(1, vec![good.clone(); 2]).is_ok());
    assert_eq!(commit(0, vec![good.clone(); 2]), Err(WireError::WrongLogprobs));
    assert_eq!(commit(0, vec![entry(-1.0, vec![151_936], vec![-1.0])]), Err(PAST_VOCABULARY));
    let too_many = WireError::TooManyLogprobs { len: 21, max: 20 };
    assert_eq!(commit(0, vec![entry(-1.0, vec![1; 21], vec![-1.0; 21])]), Err(too_many));
    assert_eq!(commit(0, vec![entry(-1.0, vec![1, 2], vec![-1.0])]), Err(WireError::WrongLogprobs));
    for odd in [f32::NAN, f32::NEG_INFINITY, f32::INFINITY] {
        assert_eq!(commit(0, vec![entry(odd, vec![], vec![])]), Err(WireError::WrongLogprobs));
        assert_eq!(commit(0, vec![entry(-1.0, vec![1], vec![odd])]), Err(WireError::WrongLogprobs));
    }
}

#[test]
fn logit_biases_out_of_bounds_are_refused() {
    let biased = |logit_bias_tokens, logit_bias_values| {
        let sampling = Some(pb::SamplingParams { logit_bias_tokens, logit_bias_values, ..Default::default() });
        from_device(device_message::Body::Context(pb::ContextUpdate { sampling, ..Default::default() }))
    };
    assert!(biased(vec![1, 2], vec![0.5, -0.5]).is_ok());
    assert_eq!(biased(vec![1, 2], vec![0.5]), Err(WireError::UnpairedLogitBias { tokens: 2, values: 1 }));
    assert_eq!(biased(vec![151_936], vec![0.5]), Err(PAST_VOCABULARY));
}

#[test]
fn draft_blocks_out_of_bounds_are_refused() {
    let draft = |from, tokens: Vec<u32>| {
        from_device(device_message::Body::Draft(pb::DraftBlock { from, tokens, ..Default::default() }))
    };
    assert!(draft(131_008, vec![151_935; 64]).is_ok());
    assert_eq!(draft(0, vec![1; 65]), Err(WireError::DraftTooLong { len: 65, max_draft: 64 }));
    assert_eq!(draft(131_009, vec![1; 64]), Err(WireError::BeyondContext { len: 131_073, context: 131_072 }));
    assert_eq!(draft(131_073, vec![]), Err(WireError::BeyondContext { len: 131_073, context: 131_072 }));
    assert_eq!(draft(0, vec![151_936]), Err(PAST_VOCABULARY));
}

#[test]
fn asking_for_more_than_the_context_asks_for_all_of_it() {
    let block = DraftBlock { turn: 1, from: 9, built_on: Digest(7), tokens: vec![], until: usize::MAX };
    let expected = DraftBlock { until: 131_072, ..block.clone() };
    let decoded = decode_device(encode_request(Request::Draft(block)), &BOUNDS);
    assert_eq!(decoded, Ok(FromDevice::Request(Request::Draft(expected))));
}

#[test]
fn replies_out_of_bounds_are_refused() {
    let commit = |from, accepted, tokens: Vec<u32>| {
        from_server(server_message::Body::Commit(pb::Commit { from, accepted, tokens, ..Default::default() }))
    };
    let resend = |from| from_server(server_message::Body::Resend(pb::Resend { turn: 1, from }));
    // More than a block has: the answer to one that was repeated after much was committed.
    assert!(commit(1_000, 30_000, vec![1; 100_072]).is_ok());
    let too_long = WireError::BeyondContext { len: 131_073, context: 131_072 };
    assert_eq!(commit(1_000, 30_000, vec![1; 100_073]), Err(too_long.clone()));
    assert!(matches!(commit(u32::MAX, u32::MAX, vec![1]), Err(WireError::BeyondContext { .. })));
    assert_eq!(commit(0, 0, vec![151_936]), Err(PAST_VOCABULARY));
    assert!(resend(131_072).is_ok());
    assert_eq!(resend(131_073), Err(too_long));
}
