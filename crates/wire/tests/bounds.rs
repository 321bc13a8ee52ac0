//! What is out of bounds is refused, and what is just inside is not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use prost::Message;
use sled_core::message::{DraftBlock, Request};
use sled_core::names::Fingerprint;
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
    let open =
        Open { device: "x".repeat(257).into(), vocabulary_fingerprint: Fingerprint::new(1), model_fingerprint: None };
    let refusal = Err(WireError::NameTooLong { what: "device's name", len: 257, max: 256 });
    assert_eq!(decode_device(encode_open(open), &BOUNDS), refusal);
}

/// A description with nothing wrong in it.
fn described() -> pb::ServerDescription {
    encode_description(Description {
        version: "0.1.0".into(),
        name: "big".into(),
        model: "Big 7B".into(),
        model_fingerprint: Fingerprint::new(1),
        vocabulary_fingerprint: Fingerprint::new(2),
        vocabulary_file: VocabularyFile::of(b"a vocabulary"),
        bounds: BOUNDS,
    })
}

const NO_FINGERPRINTS: [&str; 6] =
    ["", "../../etc/passwd", "/tmp/0123456789a", "0123456789ABCDEF", "0123456789abcde", "0123456789abcdef0"];

#[test]
fn fingerprints_that_are_none_are_refused_in_both_directions() {
    let model = Err(WireError::WrongFingerprint { what: "model's fingerprint" });
    let vocabulary = Err(WireError::WrongFingerprint { what: "vocabulary's fingerprint" });
    for none in NO_FINGERPRINTS.map(str::to_owned) {
        let server = pb::ServerDescription { model_fingerprint: none.clone(), ..described() };
        assert_eq!(decode_description(server).map(|_read| ()), model, "{none}");
        let server = pb::ServerDescription { vocabulary_fingerprint: none.clone(), ..described() };
        assert_eq!(decode_description(server).map(|_read| ()), vocabulary, "{none}");

        let good = pb::Open {
            protocol: PROTOCOL,
            vocabulary_fingerprint: Fingerprint::new(2).to_string(),
            ..Default::default()
        };
        let open = |open| from_device(device_message::Body::Open(open)).map(|_opened| ());
        assert_eq!(open(good.clone()), Ok(()));
        assert_eq!(open(pb::Open { vocabulary_fingerprint: none.clone(), ..good.clone() }), vocabulary, "{none}");
        let expected = if none.is_empty() { Ok(()) } else { model.clone() };
        assert_eq!(open(pb::Open { model_fingerprint: none.clone(), ..good }), expected, "{none}");
    }
}

#[test]
fn descriptions_that_cannot_be_are_refused() {
    let refusal = |change: &dyn Fn(&mut pb::ServerDescription)| {
        let mut message = described();
        change(&mut message);
        decode_description(message).err()
    };
    let max = MAX_VOCABULARY_BYTES;
    assert_eq!(refusal(&|message| message.vocabulary_bytes = max), None);
    let too_large = WireError::VocabularyTooLarge { bytes: max + 1 };
    assert_eq!(refusal(&|message| message.vocabulary_bytes = max + 1), Some(too_large));
    assert_eq!(refusal(&|message| message.vocabulary_sha256.truncate(31)), Some(WireError::WrongChecksum));
    assert_eq!(refusal(&|message| message.vocabulary_sha256.push(0)), Some(WireError::WrongChecksum));
    let what = "a vocabulary";
    let implausible = WireError::Implausible { what, value: u32::MAX as usize, max: 1 << 24 };
    assert_eq!(refusal(&|message| message.vocabulary_size = u32::MAX), Some(implausible));
    let implausible = WireError::Implausible { what: "a context", value: u32::MAX as usize, max: 1 << 28 };
    assert_eq!(refusal(&|message| message.context = u32::MAX), Some(implausible));
}

#[test]
fn names_from_the_other_side_cannot_speak_to_a_terminal() {
    let evil = "\u{1b}[2J\u{202e}pi\u{9b}\n";
    let shown = "\u{fffd}[2J\u{fffd}pi\u{fffd}\u{fffd}";
    let server = decode_description(pb::ServerDescription {
        version: evil.to_owned(),
        name: evil.to_owned(),
        model: evil.to_owned(),
        ..described()
    })
    .unwrap();
    assert_eq!([&*server.version, &*server.name, &*server.model], [shown; 3]);
    let session = pb::SessionStatus { device: evil.to_owned(), ..Default::default() };
    let sessions = decode_sessions(pb::SessionList { sessions: vec![session], ..Default::default() }).unwrap();
    assert_eq!(&*sessions.sessions[0].device, shown);
    let vocabulary_fingerprint = Fingerprint::new(2).to_string();
    let open = pb::Open { protocol: PROTOCOL, device: evil.to_owned(), vocabulary_fingerprint, ..Default::default() };
    let FromDevice::Open(open) = from_device(device_message::Body::Open(open)).unwrap() else { panic!("it opens") };
    assert_eq!(&*open.device, shown);
}

#[test]
fn a_vocabulary_is_believed_only_as_it_was_announced() {
    let file: Vec<u8> = (0..=255).cycle().take(600_000).collect();
    let announced = VocabularyFile::of(&file);
    let receive = |chunks: Vec<Vec<u8>>| {
        let mut pieces = VocabularyPieces::of(announced);
        chunks.into_iter().try_for_each(|data| pieces.take(&pb::VocabularyChunk { data: data.into() }))?;
        pieces.finish()
    };
    assert_eq!(receive(file.chunks(1000).map(<[u8]>::to_vec).collect()), Ok(file.clone()));
    let mut other = file.clone();
    other[5] ^= 1;
    let cases =
        [vec![other], vec![file[1..].to_vec()], vec![file.clone(), vec![7]], vec![vec![], file.clone()], vec![]];
    for chunks in cases {
        assert_eq!(receive(chunks), Err(WireError::OtherVocabularyFile));
    }
    let written = announced.checksum.to_string();
    assert_eq!(written.parse(), Ok(announced.checksum));
    for none in ["", "../../x", &written.to_uppercase(), &written[1..], &format!("{written}0"), &"+f".repeat(32)] {
        assert_eq!(none.parse::<Checksum>(), Err(WireError::WrongChecksum), "{none}");
    }
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
