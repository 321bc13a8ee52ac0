//! Connections that do not keep to what is decent: HTTP/2 by hand, from addresses of their own.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

pub const CANCEL: u32 = 8;
pub const ENHANCE_YOUR_CALM: u32 = 11;

/// The first bytes of a connection: the preface, and settings that give each stream this much to send.
pub fn hello(window: u32) -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let mut settings = 4_u16.to_be_bytes().to_vec();
    settings.extend(window.to_be_bytes());
    bytes.extend(frame(4, 0, 0, &settings));
    bytes
}

/// Gives the connection this much more to send.
pub fn widen(by: u32) -> Vec<u8> {
    frame(8, 0, 0, &by.to_be_bytes())
}

/// A call of a method of the service with an empty message.
pub fn call(stream: u32, method: &str) -> Vec<u8> {
    let mut bytes = headers(stream, method, &[]);
    bytes.extend(frame(0, 1, stream, &[0; 5]));
    bytes
}

/// The headers of a call, with more of them; the call goes on.
pub fn headers(stream: u32, method: &str, more: &[(String, String)]) -> Vec<u8> {
    // Methods and schemes by their numbers, the rest as it is.
    let mut block = vec![0x83, 0x86];
    for (index, value) in [(4, format!("/sled.v1.Sled/{method}")), (1, "sled".to_owned())] {
        block.push(index);
        block.extend(text(&value));
    }
    let grpc = [("content-type", "application/grpc"), ("te", "trailers")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
    for (name, value) in grpc.iter().chain(more) {
        block.push(0);
        block.extend(text(name));
        block.extend(text(value));
    }
    let mut pieces = block.chunks(16 << 10).peekable();
    let mut bytes = Vec::new();
    while let Some(piece) = pieces.next() {
        let kind = if bytes.is_empty() { 1 } else { 9 };
        let flags = if pieces.peek().is_none() { 4 } else { 0 };
        bytes.extend(frame(kind, flags, stream, piece));
    }
    bytes
}

/// Takes a call back.
pub fn reset(stream: u32) -> Vec<u8> {
    frame(3, 0, stream, &CANCEL.to_be_bytes())
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

fn text(text: &str) -> Vec<u8> {
    // Lengths of 127 and more take more bytes.
    let mut bytes = match text.len() {
        len @ 0..=126 => vec![u8::try_from(len).unwrap()],
        len => {
            let mut rest = len - 127;
            let mut bytes = vec![127];
            while rest >= 128 {
                bytes.push(u8::try_from(rest % 128).unwrap() | 128);
                rest /= 128;
            }
            bytes.push(u8::try_from(rest).unwrap());
            bytes
        }
    };
    bytes.extend(text.as_bytes());
    bytes
}

/// A connection to `port` from 127.0.0.`last`.
pub async fn connect(port: SocketAddr, last: u8) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((IpAddr::V4(Ipv4Addr::new(127, 0, 0, last)), 0).into()).unwrap();
    socket.connect(port).await.unwrap()
}

/// A connection that says `bytes` and hears nothing.
pub async fn say(port: SocketAddr, last: u8, bytes: &[u8]) -> TcpStream {
    let mut stream = connect(port, last).await;
    let _hung_up = stream.write_all(bytes).await;
    stream
}

/// All that is said until the other side hangs up.
pub async fn until_it_hangs_up(stream: &mut TcpStream) -> Vec<u8> {
    let mut said = Vec::new();
    let _reset = stream.read_to_end(&mut said).await;
    said
}

/// The frames in `bytes`: kind, flags, stream, payload.
pub fn frames(mut bytes: &[u8]) -> Vec<(u8, u8, u32, Vec<u8>)> {
    let mut frames = Vec::new();
    while let Some((&[a, b, c, kind, flags, s, t, u, v], rest)) = bytes.split_first_chunk::<9>() {
        let len = u32::from_be_bytes([0, a, b, c]) as usize;
        let payload = rest[..len.min(rest.len())].to_vec();
        bytes = &rest[payload.len()..];
        frames.push((kind, flags, u32::from_be_bytes([s, t, u, v]), payload));
    }
    frames
}
