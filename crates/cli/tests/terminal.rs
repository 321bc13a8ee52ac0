//! What a hostile server, device or model says does not command the terminal that it is shown on.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::pin::Pin;
use std::process::Stdio;

use sled_core::names::Fingerprint;
use sled_llama::load_vocabulary;
use sled_model::synthetic::{SyntheticConfig, SyntheticModel};
use sled_server::{Identity, Settings};
use sled_wire::{Bounds, VocabularyFile, pb};
use tokio::process::Command;
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

const TOKENS: usize = 64;

/// Sets the title, clears the screen, and turns what follows around.
const EVIL: &str = "\u{1b}]0;pwned\u{7}\u{1b}[2J\u{9b}31m\u{202e}pi";

type Outbound<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A server whose every text is evil.
#[derive(Clone)]
struct Evil {
    refuses: bool,
}

#[tonic::async_trait]
impl sled_wire::Sled for Evil {
    type VocabularyStream = Outbound<pb::VocabularyChunk>;
    type SessionStream = Outbound<pb::ServerMessage>;

    async fn describe(&self, _: Request<pb::DescribeRequest>) -> Result<Response<pb::ServerDescription>, Status> {
        if self.refuses {
            return Err(Status::failed_precondition(format!("{EVIL}\nanother line")));
        }
        let message = sled_wire::encode_description(sled_wire::Description {
            version: "0".into(),
            name: "evil".into(),
            model: "evil".into(),
            model_fingerprint: Fingerprint::new(1),
            vocabulary_fingerprint: Fingerprint::new(2),
            vocabulary_file: VocabularyFile::of(b"none"),
            bounds: Bounds { vocabulary_size: TOKENS, context: 200, max_draft: 64 },
        });
        Ok(Response::new(pb::ServerDescription { version: EVIL.to_owned(), model: EVIL.to_owned(), ..message }))
    }

    async fn vocabulary(&self, _: Request<pb::VocabularyRequest>) -> Result<Response<Self::VocabularyStream>, Status> {
        Err(Status::not_found(EVIL))
    }

    async fn sessions(&self, _: Request<pb::SessionsRequest>) -> Result<Response<pb::SessionList>, Status> {
        let session = pb::SessionStatus { device: EVIL.to_owned(), ..Default::default() };
        Ok(Response::new(pb::SessionList { sessions: vec![session], ..Default::default() }))
    }

    async fn session(&self, _: Request<Streaming<pb::DeviceMessage>>) -> Result<Response<Self::SessionStream>, Status> {
        Err(Status::not_found(EVIL))
    }
}

async fn serve(evil: Evil) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    tokio::spawn(
        tonic::transport::Server::builder().add_service(sled_wire::server(evil)).serve_with_incoming(incoming),
    );
    format!("http://{address}")
}

/// What the command says: on stdout, and on stderr.
async fn sled(args: &[&str]) -> [String; 2] {
    let cache = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_sled"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("SLED_")) {
        command.env_remove(name);
    }
    let output = command.args(args).env("XDG_CACHE_HOME", cache.path()).stdin(Stdio::null()).output().await.unwrap();
    [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap())
}

fn commands(text: &str) -> Vec<char> {
    let obeyed = |c: &char| (c.is_control() && !matches!(c, '\n' | '\t')) || *c == '\u{202e}';
    text.chars().filter(obeyed).collect()
}

#[tokio::test]
async fn names_and_refusals_of_a_server_are_shown_without_their_commands() {
    let url = serve(Evil { refuses: false }).await;
    let [table, _] = sled(&["ps", "--server", &url]).await;
    assert!(table.contains("]0;pwned") && commands(&table).is_empty(), "{table:?}");
    let [json, _] = sled(&["ps", "--json", "--server", &url]).await;
    assert!(json.contains("]0;pwned") && commands(&json).is_empty(), "{json:?}");
    let [_, error] = sled(&["run", "--server", &url, "--fallback", "error", "hello"]).await;
    assert!(error.contains("pwned") && commands(&error).is_empty(), "{error:?}");
    let url = serve(Evil { refuses: true }).await;
    let [_, error] = sled(&["ps", "--server", &url]).await;
    assert!(error.contains("pwned") && error.trim_end().lines().count() == 1, "{error:?}");
    assert_eq!(commands(&error), []);
}

/// Figures in which every text is evil, a line of the stream of events each time somebody asks.
async fn evil_figures() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let figures = serde_json::json!({ "server": { "model": EVIL }, "sessions": [{ "device": EVIL }] }).to_string();
    // In JSON they are escapes, but for whoever does not keep to it.
    let bare = figures.replace("\\u001b", "\u{1b}").replace("\\u0007", "\u{7}");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _request = tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 1024]).await;
            let answer = format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\ndata: {figures}\n\ndata: {bare}\n\n");
            let _gone = tokio::io::AsyncWriteExt::write_all(&mut stream, answer.as_bytes()).await;
        }
    });
    url
}

#[tokio::test]
async fn figures_of_a_server_are_printed_without_its_commands() {
    let url = evil_figures().await;
    let mut top = Command::new(env!("CARGO_BIN_EXE_sled"))
        .args(["top", "--json", "--server", &url])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(top.stdout.take().unwrap()));
    for _ in 0..2 {
        let line = lines.next_line().await.unwrap().unwrap();
        assert!(line.contains("pwned") && !line.contains(char::is_control), "{line:?}");
    }
    top.kill().await.unwrap();
    // Where no figures are, what stands there instead is not shown.
    let [_, error] = sled(&["top", "--server", &url]).await;
    assert!(commands(&error).is_empty(), "{error:?}");
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

/// A vocabulary file whose tokens are commands to a terminal, all but one that can be typed. (A byte that cannot be printed stands
/// for itself as a letter from U+0100 on, in vocabularies of this kind.)
fn vocabulary() -> Vec<u8> {
    const U32: u32 = 4;
    const I32: u32 = 5;
    const STRING: u32 = 8;
    const ARRAY: u32 = 9;
    let value = |key: &str, kind: u32, value: Vec<u8>| [string(key), kind.to_le_bytes().to_vec(), value].concat();
    let array = |key: &str, kind: u32, items: Vec<Vec<u8>>| {
        let len = (items.len() as u64).to_le_bytes();
        value(key, ARRAY, [&kind.to_le_bytes()[..], &len, &items.concat()].concat())
    };
    // ESC, and U+009B in UTF-8.
    let name = |i: usize| match i {
        0 => "end".to_owned(),
        1 => "t".to_owned(),
        i if i % 2 == 0 => format!("ě[{i}m"),
        i => format!("ÂĽ{i}m"),
    };
    let kinds = (0..TOKENS).map(|i| i32::to_le_bytes(if i == 0 { 3 } else { 1 }).to_vec()).collect();
    let values = [
        value("general.architecture", STRING, string("llama")),
        value("tokenizer.ggml.model", STRING, string("gpt2")),
        value("tokenizer.ggml.pre", STRING, string("default")),
        array("tokenizer.ggml.tokens", STRING, (0..TOKENS).map(|i| string(&name(i))).collect()),
        array("tokenizer.ggml.token_type", I32, kinds),
        array("tokenizer.ggml.merges", STRING, vec![string("a b")]),
        value("tokenizer.ggml.bos_token_id", U32, 0u32.to_le_bytes().to_vec()),
        value("tokenizer.ggml.eos_token_id", U32, 0u32.to_le_bytes().to_vec()),
    ];
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3u32.to_le_bytes());
    bytes.extend(0u64.to_le_bytes());
    bytes.extend((values.len() as u64).to_le_bytes());
    bytes.extend(values.concat());
    // Tensors, of which there are none, begin at a multiple of 32.
    bytes.resize(bytes.len().next_multiple_of(32), 0);
    bytes
}

#[tokio::test]
async fn tokens_are_shown_without_their_commands_and_piped_as_they_are() {
    let file = vocabulary();
    let kept = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(kept.path(), &file).unwrap();
    let config =
        SyntheticConfig { seed: 1, vocab_size: TOKENS, order: 3, cells: 400, sequences: 4, rows: 64, context: 200 };
    let identity = Identity {
        name: "evil".to_owned(),
        model: "evil".to_owned(),
        model_fingerprint: Fingerprint::new(1),
        vocabulary_fingerprint: load_vocabulary(kept.path()).unwrap().fingerprint(),
        vocabulary: file.into(),
        end_of_generation: vec![0],
    };
    let model = Box::new(SyntheticModel::new(config));
    let address = ([127, 0, 0, 1], 0).into();
    let server = sled_server::Server::bind(address, model, Settings::default(), identity).await.unwrap();
    let url = format!("http://{}", server.address().unwrap());
    tokio::spawn(server.run(std::future::pending()));
    let run = ["run", "--server", &url, "--draft", "none", "--raw", "--max-tokens", "12", "--temperature", "1"];
    let with = |more: &[&'static str]| [&run[..], more, &["ttt"]].concat();

    let [piped, said] = sled(&with(&[])).await;
    assert!(piped.contains('\u{1b}') && piped.contains('\u{9b}'), "a pipe is given the text: {piped:?} {said}");
    // Colours are for a terminal, wherever it is.
    let [coloured, _] = sled(&with(&["--show-drafts"])).await;
    let ours = ["\u{1b}[32m", "\u{1b}[31m", "\u{1b}[34m", "\u{1b}[0m"];
    let shown = ours.iter().fold(coloured.clone(), |text, colour| text.replace(colour, ""));
    assert_eq!((commands(&shown), shown.contains('\u{fffd}')), (vec![], true), "{coloured:?}");
    // JSON has neither, and the text is in it.
    let [json, _] = sled(&with(&["--json"])).await;
    assert_eq!(commands(&json), [], "{json:?}");
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(report["text"].as_str().unwrap(), piped.trim_end_matches('\n'));
}
