//! An HTTP client that sees every byte.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    head: String,
    pub body: String,
}

impl Answer {
    /// A header, by its name in small letters.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            (key.to_ascii_lowercase() == name).then_some(value.trim())
        })
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// The data of a stream, `[DONE]` included.
    pub fn events(&self) -> Vec<&str> {
        self.body.lines().filter_map(|line| line.strip_prefix("data: ")).collect()
    }

    /// The chunks of a stream that ends as it must.
    pub fn chunks(&self) -> Vec<Value> {
        let mut events = self.events();
        assert_eq!(events.pop(), Some("[DONE]"), "{}", self.body);
        events.into_iter().map(|event| serde_json::from_str(event).unwrap()).collect()
    }
}

/// Sends a request and leaves the answer to be read. A body is JSON unless `headers` say otherwise.
pub async fn send(to: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(to).await.unwrap();
    let mut head = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\n");
    if !headers.iter().any(|(name, _)| *name == "host") {
        head.push_str(&format!("host: {to}\r\n"));
    }
    if method == "POST" && !headers.iter().any(|(name, _)| *name == "content-type") {
        head.push_str("content-type: application/json\r\n");
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
    stream.write_all(head.as_bytes()).await.unwrap();
    // The server may answer before it has read everything.
    let _refused = stream.write_all(body).await;
    stream
}

pub async fn ask(to: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let mut stream = send(to, method, path, headers, body).await;
    let mut bytes = Vec::new();
    let _reset = stream.read_to_end(&mut bytes).await;
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    Answer { status, head: head.to_owned(), body: if chunked { unchunked(body) } else { body.to_owned() } }
}

fn unchunked(mut body: &str) -> String {
    let mut whole = Vec::new();
    while let Some((length, rest)) = body.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).unwrap();
        whole.extend(&rest.as_bytes()[..length]);
        if length == 0 {
            break;
        }
        body = &rest[length + 2..];
    }
    String::from_utf8(whole).unwrap()
}

pub async fn get(to: SocketAddr, path: &str) -> Answer {
    ask(to, "GET", path, &[], b"").await
}

pub async fn post(to: SocketAddr, path: &str, body: &Value) -> Answer {
    ask(to, "POST", path, &[], body.to_string().as_bytes()).await
}

/// A figure of `/metrics`.
pub async fn figure(to: SocketAddr, name: &str) -> Option<f64> {
    let text = get(to, "/metrics").await.body;
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}
