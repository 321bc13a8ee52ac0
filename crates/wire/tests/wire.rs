//! What one side encodes the other side decodes; bytes of any kind do no harm; and a round is small.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::{option, prop_oneof};
use prost::Message;
use sled_core::device::Prompt;
use sled_core::message::{Commit, ContextUpdate, DraftBlock, Load, Reply, Request};
use sled_core::names::Fingerprint;
use sled_core::sampler::{Grammar, GrammarText, Logprobs, SamplingParams};
use sled_core::sequence::Digest;
use sled_core::server::{Activity, SessionId, SessionStatus, Tally};
use sled_wire::pb::{self, device_message};
use sled_wire::*;
use tonic::Code;

const BOUNDS: Bounds = Bounds { vocabulary_size: 151_936, context: 131_072, max_draft: 64 };

fn token() -> impl Strategy<Value = u32> {
    0..151_936u32
}

fn sampling() -> impl Strategy<Value = SamplingParams> {
    let unit = || prop_oneof![Just(0.0f32), Just(1.0), 0.0..=1.0f32];
    let penalty = || prop_oneof![Just(0.0f32), -100.0..=100.0f32];
    (
        (prop_oneof![Just(0.0f32), 0.0..100.0f32], any::<u32>(), unit(), unit()),
        (prop_oneof![Just(1.0f32), 0.01..100.0f32], penalty(), penalty()),
        vec((token(), -100.0..=100.0f32), 0..4),
        any::<u64>(),
        option::of(grammar()),
    )
        .prop_map(
            |((temperature, top_k, top_p, min_p), (repetition, presence, frequency), logit_bias, seed, grammar)| {
                SamplingParams {
                    temperature,
                    top_k,
                    top_p,
                    min_p,
                    repetition_penalty: repetition,
                    presence_penalty: presence,
                    frequency_penalty: frequency,
                    logit_bias,
                    grammar,
                    seed,
                }
            },
        )
}

fn grammar() -> impl Strategy<Value = Grammar> {
    prop_oneof![
        Just(Grammar::json_object()),
        ".{0,60}".prop_map(|schema| Grammar::json_schema(&schema)),
        ".{0,60}".prop_map(|source| Grammar::lark(&source)),
        ".{0,60}".prop_map(|expression| Grammar::regex(&expression)),
    ]
}

fn logprobs() -> impl Strategy<Value = Logprobs> {
    let value = || prop_oneof![Just(f32::MIN), -200.0..=0.0f32];
    (value(), vec((token(), value()), 0..=20)).prop_map(|(chosen, top)| Logprobs { chosen, top })
}

fn request() -> impl Strategy<Value = Request> {
    let asked = (option::of(0..=20u8), option::of("[a-zA-Z0-9_ -]{1,40}"));
    let context =
        (any::<u32>(), 0..131_000usize, any::<u64>(), vec(token(), 0..72), 0..131_000usize, sampling(), asked)
            .prop_map(|(turn, from, digest, tokens, prompt_len, sampling, (logprobs, request_id))| {
                let prompt_len = prompt_len.min(from + tokens.len());
                Request::Context(ContextUpdate {
                    turn,
                    from,
                    built_on: Digest(digest),
                    tokens,
                    prompt_len,
                    limit: prompt_len + 7,
                    sampling,
                    logprobs,
                    request_id,
                })
            });
    let draft = (any::<u32>(), 0..=131_008usize, any::<u64>(), vec(token(), 0..=64), 0..=131_072usize).prop_map(
        |(turn, from, digest, tokens, until)| {
            Request::Draft(DraftBlock { turn, from, built_on: Digest(digest), tokens, until })
        },
    );
    let stop = any::<u32>().prop_map(Request::Stop);
    prop_oneof![context, draft, stop]
}

fn reply() -> impl Strategy<Value = Reply> {
    let micros = || any::<u32>().prop_map(|us| Duration::from_micros(us.into()));
    let commit = (
        (any::<u32>(), 0..130_000usize, 0..900usize, vec(token(), 0..172), vec(logprobs(), 0..4)),
        (any::<u64>(), any::<u32>(), micros(), micros(), micros(), any::<u32>(), any::<u32>()),
    )
        .prop_map(
            |((turn, from, accepted, tokens, mut logprobs), (digest, rows, queue, step, row, sharing, price))| {
                let load = Load { queue, step, row, sharing, price };
                logprobs.truncate(accepted + tokens.len());
                Reply::Commit(Commit {
                    turn,
                    from,
                    accepted,
                    tokens,
                    digest: Digest(digest),
                    rows,
                    unasked: rows == 1,
                    logprobs,
                    load,
                })
            },
        );
    let resend = (any::<u32>(), 0..=131_072usize).prop_map(|(turn, from)| Reply::Resend { turn, from });
    let pending = any::<u32>().prop_map(|turn| Reply::Pending { turn });
    prop_oneof![commit, resend, pending]
}

fn open() -> impl Strategy<Value = Open> {
    (".{0,60}", any::<u64>(), option::of(any::<u64>())).prop_map(|(device, vocabulary, model)| Open {
        device: device.into(),
        vocabulary_fingerprint: Fingerprint::new(vocabulary),
        model_fingerprint: model.map(Fingerprint::new),
    })
}

fn over_the_wire<M: Message + Default>(message: &M) -> M {
    M::decode(&message.encode_to_vec()[..]).unwrap()
}

/// Bytes with a few of them changed, so that most are still a message, and often an unreasonable one.
fn damaged(bytes: Vec<u8>, damage: &[(prop::sample::Index, u8)]) -> Vec<u8> {
    let mut bytes = bytes;
    for (place, value) in damage {
        if !bytes.is_empty() {
            let place = place.index(bytes.len());
            bytes[place] = *value;
        }
    }
    bytes
}

fn assert_in_bounds(tokens: &[u32], end: usize) {
    assert!(tokens.iter().all(|&token| (token as usize) < BOUNDS.vocabulary_size));
    assert!(end <= BOUNDS.context);
}

fn check_device_bytes(bytes: &[u8]) {
    let Ok(message) = pb::DeviceMessage::decode(bytes) else {
        return;
    };
    match decode_device(message, &BOUNDS) {
        Ok(FromDevice::Request(Request::Context(update))) => {
            assert_in_bounds(&update.tokens, update.from + update.tokens.len());
            assert!(update.prompt_len <= update.from + update.tokens.len());
            assert!(update.sampling.logit_bias.iter().all(|bias| bias.0 < 151_936));
            assert!(update.logprobs.is_none_or(|top| top <= 20) && update.request_id.is_none_or(|id| id.len() <= 256));
            let grammar = update.sampling.grammar;
            assert!(grammar.is_none_or(|grammar| grammar.text().len() <= GrammarText::MAX_BYTES));
        }
        Ok(FromDevice::Request(Request::Draft(block))) => {
            assert_in_bounds(&block.tokens, block.from + block.tokens.len());
            assert!(block.tokens.len() <= BOUNDS.max_draft && block.until <= BOUNDS.context);
        }
        Ok(FromDevice::Open(_) | FromDevice::Request(Request::Stop(_))) | Err(_) => {}
    }
}

fn check_server_bytes(bytes: &[u8]) {
    let Ok(message) = pb::ServerMessage::decode(bytes) else {
        return;
    };
    match decode_server(message, &BOUNDS) {
        Ok(FromServer::Reply(Reply::Commit(commit))) => {
            assert_in_bounds(&commit.tokens, commit.from + commit.accepted + commit.tokens.len());
            assert!(commit.logprobs.len() <= commit.accepted + commit.tokens.len());
            for Logprobs { chosen, top } in commit.logprobs {
                assert!(chosen.is_finite() && top.len() <= 20 && top.iter().all(|entry| entry.1.is_finite()));
            }
        }
        Ok(FromServer::Reply(Reply::Resend { from, .. })) => assert!(from <= BOUNDS.context),
        Ok(FromServer::Reply(Reply::Closing(_) | Reply::Failed(_))) => panic!("failures are no messages"),
        Ok(FromServer::Opened(_) | FromServer::Reply(Reply::Pending { .. })) | Err(_) => {}
    }
}

proptest! {
    #[test]
    fn requests_survive_the_wire(request in request()) {
        let message = over_the_wire(&encode_request(request.clone()));
        prop_assert_eq!(decode_device(message, &BOUNDS), Ok(FromDevice::Request(request)));
    }

    #[test]
    fn replies_survive_the_wire(reply in reply()) {
        let message = over_the_wire(&encode_reply(reply.clone()).unwrap());
        prop_assert_eq!(decode_server(message, &BOUNDS), Ok(FromServer::Reply(reply)));
    }

    #[test]
    fn opening_survives_the_wire(open in open(), context in any::<u32>(), max_draft in any::<u32>()) {
        let message = over_the_wire(&encode_open(open.clone()));
        prop_assert_eq!(decode_device(message, &BOUNDS), Ok(FromDevice::Open(open)));
        let opened = Opened { context: context as usize, max_draft: max_draft as usize };
        let message = over_the_wire(&encode_opened(opened));
        prop_assert_eq!(decode_server(message, &BOUNDS), Ok(FromServer::Opened(opened)));
    }

    #[test]
    fn arbitrary_bytes_are_refused_or_in_bounds(bytes in vec(any::<u8>(), 0..200)) {
        check_device_bytes(&bytes);
        check_server_bytes(&bytes);
    }

    #[test]
    fn damaged_messages_are_refused_or_in_bounds(
        request in request(),
        reply in reply(),
        damage in vec(any::<(prop::sample::Index, u8)>(), 1..6),
    ) {
        check_device_bytes(&damaged(encode_request(request).encode_to_vec(), &damage));
        check_server_bytes(&damaged(encode_reply(reply).unwrap().encode_to_vec(), &damage));
    }
}

fn description() -> Description {
    Description {
        name: "big-1".into(),
        version: "0.1.0".into(),
        model: "qwen2.5-7b".into(),
        model_fingerprint: Fingerprint::new(0x0123_4567_89ab_cdef),
        vocabulary_fingerprint: Fingerprint::new(0xfedc_ba98_7654_3210),
        vocabulary_file: VocabularyFile::of(b"a vocabulary"),
        bounds: BOUNDS,
    }
}

#[test]
fn descriptions_survive_the_wire() {
    let message = over_the_wire(&encode_description(description()));
    assert_eq!(decode_description(message), Ok(description()));
}

#[test]
fn failures_end_the_stream_with_their_reason() {
    let status = encode_reply(Reply::Failed("the session is full".into())).unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "the session is full"));
    let status = encode_reply(Reply::Closing("the server is shutting down".into())).unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "the server is shutting down"));
}

#[test]
fn loads_saturate() {
    let load =
        Load { queue: Duration::MAX, step: Duration::MAX, row: Duration::from_nanos(2_999), sharing: 3, price: 4 };
    let commit = Commit {
        turn: 1,
        from: 0,
        accepted: 0,
        tokens: vec![1],
        digest: Digest(1),
        rows: 1,
        unasked: false,
        logprobs: vec![],
        load,
    };
    let Ok(FromServer::Reply(Reply::Commit(decoded))) =
        decode_server(encode_reply(Reply::Commit(commit)).unwrap(), &BOUNDS)
    else {
        panic!("a commit was expected");
    };
    let most = Duration::from_micros(u32::MAX.into());
    let expected = Load { queue: most, step: most, row: Duration::from_micros(2), sharing: 3, price: 4 };
    assert_eq!(decoded.load, expected);
}

#[test]
fn a_round_costs_tens_of_bytes_each_way() {
    // Late in a long chat, with large token ids, and a server so busy that blocks wait for a second.
    let block =
        DraftBlock { turn: 1_000, from: 131_000, built_on: Digest(u64::MAX), tokens: vec![151_935; 5], until: 0 };
    let load = Load {
        queue: Duration::from_secs(1),
        step: Duration::from_millis(200),
        row: Duration::from_millis(10),
        sharing: 16,
        price: 700,
    };
    let digest = Digest(u64::MAX);
    let commit = Commit {
        turn: 1_000,
        from: 131_000,
        accepted: 5,
        tokens: vec![151_935],
        digest,
        rows: 6,
        unasked: false,
        logprobs: vec![],
        load,
    };
    let draft = encode_request(Request::Draft(block)).encoded_len();
    let verdict = encode_reply(Reply::Commit(commit)).unwrap().encoded_len();
    assert_eq!((draft, verdict), (35, 43));
}

#[test]
fn what_is_not_asked_for_costs_no_byte() {
    let plain = Prompt { tokens: vec![7; 5], max_tokens: 100, ..Prompt::default() };
    let size = |prompt: &Prompt| encode_request(Request::Context(prompt.clone().into_context(1))).encoded_len();
    // Turn, digest, five tokens, prompt, greedy sampling and limit, each with its tag; two more for the message in a message.
    assert_eq!(size(&plain), 26);
    let named = Prompt { request_id: Some("abc".into()), logprobs: Some(0), ..plain.clone() };
    assert_eq!(size(&named), 26 + 5 + 2);
    // Log probabilities of one token: its own, and twenty more.
    let verdict = |logprobs| {
        let (digest, load) = (Digest(u64::MAX), Load::default());
        let commit =
            Commit { turn: 1, from: 9, accepted: 0, tokens: vec![1], digest, rows: 1, unasked: false, logprobs, load };
        encode_reply(Reply::Commit(commit)).unwrap().encoded_len()
    };
    let top = vec![(151_935, -1.0); 20];
    assert_eq!(verdict(vec![Logprobs { chosen: -1.0, top: vec![] }]) - verdict(vec![]), 7);
    assert!(verdict(vec![Logprobs { chosen: -1.0, top }]) - verdict(vec![]) < 160);
}

#[test]
fn greedy_decoding_costs_nothing_and_long_prompts_fit() {
    let prompt = |tokens: Vec<u32>| ContextUpdate {
        turn: 1,
        from: 0,
        built_on: Digest::EMPTY,
        prompt_len: tokens.len(),
        limit: 131_072,
        tokens,
        sampling: SamplingParams::default(),
        logprobs: None,
        request_id: None,
    };
    let device_message::Body::Context(message) = encode_request(Request::Context(prompt(vec![1]))).body.unwrap() else {
        panic!("a context update was expected");
    };
    assert_eq!(message.sampling.unwrap().encoded_len(), 0);
    let longest = encode_request(Request::Context(prompt(vec![(1 << 21) - 1; 131_072]))).encoded_len();
    assert!(longest < 400_000, "{longest} bytes, of which {MAX_MESSAGE_BYTES} are allowed");
}

#[test]
fn a_list_of_sessions_arrives_as_it_was() {
    let session = |id, activity| ListedSession {
        device: "pi (ngram)".into(),
        age: Duration::from_secs(90),
        status: SessionStatus {
            id: SessionId(id),
            tokens: 120,
            cached: 119,
            tally: Tally { committed: 20, drafted: 25, accepted: 15 },
            activity,
        },
    };
    let totals = Totals {
        steps: 5,
        rows: 9,
        commits: 7,
        forward: Duration::from_secs(2),
        overhead: Duration::from_micros(3),
        evictions: 1,
        batch_sizes: vec![3, 2],
    };
    let since = Duration::from_millis(30);
    let kinds = [Activity::Idle(since), Activity::Reading(since), Activity::Waiting(since), Activity::Drafting];
    let sessions = (0..).zip(kinds).map(|(id, activity)| session(id, activity)).collect();
    let list = SessionList { sessions, cells_used: 500, cells: 8192, totals };
    assert_eq!(decode_sessions(encode_sessions(list.clone())), Ok(list));
}
