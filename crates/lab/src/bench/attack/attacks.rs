//! What a stranger can do over sockets. Each attack goes on, from addresses other than those of honest clients, until the runtime
//! that it was started on ends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use sled_core::Token;
use sled_core::device::Prompt;
use sled_core::message::{DraftBlock, Reply, Request};
use sled_core::names::Fingerprint;
use sled_core::sequence::Digest;
use sled_wire::{Bounds, FromServer, Open, SledClient, pb};
use tokio::io::AsyncWriteExt;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use super::raw;

/// What attackers know of a server.
#[derive(Clone)]
pub struct Target {
    pub grpc: SocketAddr,
    pub http: SocketAddr,
    pub bounds: Bounds,
    pub vocabulary: Fingerprint,
    /// The most bytes that a token stands for.
    pub longest_piece: usize,
}

/// A kind of attack.
pub struct Attack {
    pub name: &'static str,
    /// What is done, in a few words.
    pub what: &'static str,
    start: fn(&Attackers),
}

impl Attack {
    /// Attacks `target` until the runtime ends.
    pub fn start(&self, runtime: &Handle, target: &Target) {
        (self.start)(&Attackers { runtime: runtime.clone(), target: target.clone() });
    }
}

/// The control goes through the same as an attack: it is what a ratio is when nothing is done.
pub const ATTACKS: [Attack; 12] = [
    Attack { name: "nothing", what: "the control against itself", start: |_| {} },
    Attack { name: "grammars", what: "8 clients ask for deep and expensive grammars", start: grammars },
    Attack {
        name: "long runs",
        what: "8 clients send the longest run of one character that is taken",
        start: long_runs,
    },
    Attack { name: "messages", what: "4 sessions send messages at full speed", start: messages },
    Attack { name: "long prompts", what: "8 sessions have prompts of thousands of tokens read", start: long_prompts },
    Attack { name: "unread repeats", what: "4 sessions ask again and again, and read nothing", start: unread_repeats },
    Attack { name: "heavy bodies", what: "64 clients send JSON of 4 MiB", start: heavy_bodies },
    Attack { name: "silent connections", what: "2,000 connections say nothing", start: silent_connections },
    Attack { name: "rapid resets", what: "4 connections take requests back at once", start: rapid_resets },
    Attack { name: "endless headers", what: "32 connections send headers without end", start: endless_headers },
    Attack {
        name: "unread vocabularies",
        what: "16 connections ask for 250 vocabularies each, and read none",
        start: unread_vocabularies,
    },
    Attack { name: "all sessions", what: "8 addresses open as many sessions as they are let", start: all_sessions },
];

/// From one attempt of an attacker to its next.
const PAUSE: Duration = Duration::from_millis(10);

/// Who attacks, and whom.
struct Attackers {
    runtime: Handle,
    target: Target,
}

impl Attackers {
    /// `count` attackers each do `attack` again and again, whatever comes of it; each is given its number, from 0.
    fn each<F, A>(&self, count: usize, attack: F)
    where
        F: Fn(Target, usize) -> A + Clone + Send + 'static,
        A: Future<Output = anyhow::Result<()>> + Send,
    {
        for i in 0..count {
            let (attack, target) = (attack.clone(), self.target.clone());
            self.runtime.spawn(async move {
                loop {
                    let _hung_up_on = attack(target.clone(), i).await;
                    tokio::time::sleep(PAUSE).await;
                }
            });
        }
    }
}

/// Which address the attacker of this number has.
fn last(i: usize) -> u8 {
    2 + u8::try_from(i % 8).unwrap_or(0)
}

fn chat(schema: &Value) -> Vec<u8> {
    let body = json!({
        "messages": [{ "role": "user", "content": "Hello" }],
        "max_tokens": 8,
        "response_format": { "type": "json_schema", "json_schema": { "name": "s", "schema": schema } },
    });
    body.to_string().into_bytes()
}

/// Definitions each of which refers to the next.
fn chain(links: usize) -> Value {
    let mut definitions = serde_json::Map::new();
    for i in 0..links {
        let next = json!({ "$ref": format!("#/$defs/d{}", i + 1) });
        definitions.insert(format!("d{i}"), json!({ "properties": { "a": next } }));
    }
    definitions.insert(format!("d{links}"), json!({ "type": "null" }));
    json!({ "$defs": definitions, "$ref": "#/$defs/d0" })
}

fn grammars(attackers: &Attackers) {
    let words: Vec<_> = (0..2000).map(|i| format!("w{}", i * 7919)).collect();
    let wide: serde_json::Map<_, _> = (0..400).map(|i| (format!("p{i}"), json!({ "type": "number" }))).collect();
    let schemas = [
        chain(1000),
        chain(120),
        json!({ "type": "string", "pattern": "^(a|b)*a(a|b){14}$" }),
        json!({ "type": "string", "pattern": "^([a-z]{1,200}[0-9]{1,200}){1,200}$" }),
        json!({ "enum": words }),
        json!({ "type": "object", "properties": wide, "additionalProperties": false }),
    ];
    let bodies: Arc<Vec<_>> = Arc::new(schemas.iter().map(chat).collect());
    attackers.each(8, move |target, i| {
        let bodies = Arc::clone(&bodies);
        async move {
            for at in 0..bodies.len() {
                let body = &bodies[(at + i) % bodies.len()];
                raw::post(target.http, last(i), "/v1/chat/completions", body).await?;
            }
            Ok(())
        }
    });
}

fn long_runs(attackers: &Attackers) {
    let most = attackers.target.bounds.context * attackers.target.longest_piece;
    let bodies: Vec<_> = ["a", "1", " ", "!"]
        .iter()
        .map(|sign| {
            let run = sign.repeat(most);
            let texts = [("/tokenize", json!({ "content": run })), ("/v1/completions", json!({ "prompt": run }))];
            texts.map(|(path, body)| (path, body.to_string().into_bytes()))
        })
        .collect();
    let bodies = Arc::new(bodies.concat());
    attackers.each(8, move |target, i| {
        let bodies = Arc::clone(&bodies);
        async move {
            for at in 0..bodies.len() {
                let (path, body) = &bodies[(at + i) % bodies.len()];
                raw::post(target.http, last(i), path, body).await?;
            }
            Ok(())
        }
    });
}

/// A session by hand.
struct Session {
    requests: mpsc::Sender<pb::DeviceMessage>,
    replies: Streaming<pb::ServerMessage>,
    bounds: Bounds,
}

impl Session {
    async fn open(target: &Target, channel: Channel) -> anyhow::Result<Self> {
        let (requests, outbox) = mpsc::channel(16);
        let open =
            Open { device: "attacker".into(), vocabulary_fingerprint: target.vocabulary, model_fingerprint: None };
        requests.send(sled_wire::encode_open(open)).await?;
        let mut replies = SledClient::new(channel).session(ReceiverStream::new(outbox)).await?.into_inner();
        replies.message().await?;
        Ok(Self { requests, replies, bounds: target.bounds })
    }

    async fn send(&self, request: Request) -> anyhow::Result<()> {
        Ok(self.requests.send(sled_wire::encode_request(request)).await?)
    }

    /// Reads until this many tokens are committed.
    async fn until(&mut self, end: usize) -> anyhow::Result<()> {
        while let Some(message) = self.replies.message().await? {
            if let FromServer::Reply(Reply::Commit(commit)) = sled_wire::decode_server(message, &self.bounds)?
                && commit.end() >= end
            {
                break;
            }
        }
        Ok(())
    }
}

async fn channel(target: &Target, i: usize) -> anyhow::Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{}", target.grpc))?;
    Ok(endpoint.local_address(Some(raw::address(last(i)))).connect().await?)
}

/// A text that no other has the beginning of.
fn text(len: usize, seed: usize) -> Vec<Token> {
    (0..len).map(|i| u32::try_from(300 + (i * 31 + seed * 7919) % 5000).unwrap_or(300)).collect()
}

fn messages(attackers: &Attackers) {
    attackers.each(4, |target, i| async move {
        let session = Session::open(&target, channel(&target, i).await?).await?;
        loop {
            session.send(Request::Stop(7)).await?;
        }
    });
}

fn long_prompts(attackers: &Attackers) {
    attackers.each(8, |target, i| async move {
        let mut session = Session::open(&target, channel(&target, i).await?).await?;
        let len = target.bounds.context.saturating_sub(64).min(6000);
        for turn in 1.. {
            let tokens = text(len, i * 1000 + usize::try_from(turn)?);
            let prompt = Prompt { tokens, max_tokens: 4, ..Prompt::default() };
            session.send(Request::Context(prompt.into_context(turn))).await?;
            session.until(len + 1).await?;
        }
        Ok(())
    });
}

fn unread_repeats(attackers: &Attackers) {
    attackers.each(4, |target, i| async move {
        const ANSWER: usize = 100;
        let mut session = Session::open(&target, channel(&target, i).await?).await?;
        let tokens = text(16, i);
        let built_on = Digest::EMPTY.then_all(&tokens);
        let end = tokens.len() + ANSWER;
        let repeat = |until| Request::Draft(DraftBlock { turn: 1, from: 16, built_on, tokens: Vec::new(), until });
        let prompt = Prompt { tokens, max_tokens: ANSWER, logprobs: Some(20), ..Prompt::default() };
        session.send(Request::Context(prompt.into_context(1))).await?;
        session.send(repeat(end)).await?;
        // The more is committed, the more each repeat weighs.
        session.until(end / 2).await?;
        loop {
            session.send(repeat(0)).await?;
        }
    });
}

fn heavy_bodies(attackers: &Attackers) {
    const LONGEST: usize = 4 << 20;
    let filled = |before: &str, part: &str, after: &str| {
        let room = LONGEST - before.len() - after.len();
        format!("{before}{}{after}", part.repeat(room / part.len())).into_bytes()
    };
    const USER: &str = r#"{"messages":[{"role":"user","content":"Hi"}]"#;
    let bodies = Arc::new([
        filled(r#"{"messages":[{"role":"user"}"#, r#",{"role":"user"}"#, "]}"),
        filled(
            &format!(r#"{USER},"tools":[{{"type":"function","function":{{"name":"f","parameters":{{"x":[0"#),
            ",{}",
            "]}}}]}",
        ),
        filled(&format!(r#"{USER},"chat_template_kwargs":{{"x":[0"#), ",[[]]", "]}}"),
        filled(&format!(r#"{USER},"metadata":[0"#), ",0", "]}"),
    ]);
    attackers.each(64, move |target, i| {
        let bodies = Arc::clone(&bodies);
        async move {
            let body = &bodies[i % bodies.len()];
            Ok(raw::post(target.http, last(i), "/v1/chat/completions", body).await?)
        }
    });
}

fn silent_connections(attackers: &Attackers) {
    attackers.each(2000, |target, i| async move {
        let port = if i.is_multiple_of(2) { target.http } else { target.grpc };
        // As many of each address as may be open at either port.
        let mut stream = raw::connect(port, last(i / 2)).await?;
        Ok(raw::until_it_hangs_up(&mut stream).await?)
    });
}

fn rapid_resets(attackers: &Attackers) {
    let mut flood = raw::hello(65_535);
    for stream in (1..40_000).step_by(2) {
        flood.extend(raw::call(stream, "Session"));
        flood.extend(raw::reset(stream));
    }
    let flood = Arc::new(flood);
    attackers.each(4, move |target, i| {
        let flood = Arc::clone(&flood);
        async move {
            let mut stream = raw::say(target.grpc, last(i), &flood).await?;
            Ok(raw::until_it_hangs_up(&mut stream).await?)
        }
    });
}

fn endless_headers(attackers: &Attackers) {
    attackers.each(32, |target, i| async move {
        let (mut stream, more) = if i.is_multiple_of(2) {
            let begin = b"GET /health HTTP/1.1\r\nhost: localhost\r\nx-a: ";
            (raw::say(target.http, last(i / 2), begin).await?, b"a".repeat(1024))
        } else {
            let begin = [raw::hello(65_535), raw::endless_call(1)].concat();
            (raw::say(target.grpc, last(i / 2), &begin).await?, raw::more_headers(1))
        };
        loop {
            stream.write_all(&more).await?;
        }
    });
}

fn unread_vocabularies(attackers: &Attackers) {
    attackers.each(16, |target, i| async move {
        // One half takes nothing on each stream; the other lets everything come and does not read it.
        let window = if i.is_multiple_of(2) { 0 } else { 0x7fff_ffff };
        let mut asked = [raw::hello(window), raw::widen(0x7fff_0000)].concat();
        for call in 0..250 {
            asked.extend(raw::call(1 + 2 * call, "Vocabulary"));
            asked.extend(raw::end(1 + 2 * call));
        }
        let mut stream = raw::say(target.grpc, last(i), &asked).await?;
        if window == 0 {
            return Ok(raw::until_it_hangs_up(&mut stream).await?);
        }
        // It learns of the end from what it writes only.
        let mut pace = tokio::time::interval(Duration::from_millis(100));
        loop {
            pace.tick().await;
            stream.write_all(&raw::widen(1)).await?;
        }
    });
}

fn all_sessions(attackers: &Attackers) {
    attackers.each(16, |target, i| async move {
        // A connection may have 256 calls under way, the one more that is refused among them.
        let channel = channel(&target, i).await?;
        let mut sessions = Vec::new();
        loop {
            match Session::open(&target, channel.clone()).await {
                Ok(session) if sessions.len() < 250 => sessions.push(session),
                _ => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    });
}
