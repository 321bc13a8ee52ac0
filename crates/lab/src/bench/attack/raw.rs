//! What attackers send by hand: HTTP/1.1 requests and HTTP/2 frames, from addresses of their own.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

const CANCEL: u32 = 8;
/// The largest payload of a frame that a peer must take.
const FRAME: usize = 16 << 10;

/// The address of an attacker: 127.0.0.`last`.
pub fn address(last: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 0, last).into()
}

/// A connection from [`address`].
pub async fn connect(port: SocketAddr, last: u8) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((address(last), 0).into())?;
    socket.connect(port).await
}

/// A connection that says `bytes`.
pub async fn say(port: SocketAddr, last: u8, bytes: &[u8]) -> io::Result<TcpStream> {
    let mut stream = connect(port, last).await?;
    stream.write_all(bytes).await?;
    Ok(stream)
}

/// Sends JSON and reads the answer to its end.
pub async fn post(port: SocketAddr, last: u8, path: &str, body: &[u8]) -> io::Result<()> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    let mut stream = say(port, last, head.as_bytes()).await?;
    stream.write_all(body).await?;
    until_it_hangs_up(&mut stream).await
}

/// Reads, and forgets, whatever comes.
pub async fn until_it_hangs_up(stream: &mut TcpStream) -> io::Result<()> {
    let mut said = [0; 4096];
    while stream.read(&mut said).await? > 0 {}
    Ok(())
}

/// The first bytes of an HTTP/2 connection; `window` is what each stream may be sent.
pub fn hello(window: u32) -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let settings = [&4_u16.to_be_bytes()[..], &window.to_be_bytes()].concat();
    bytes.extend(frame(4, 0, 0, &settings));
    bytes
}

/// Lets the connection as a whole be sent this much more.
pub fn widen(by: u32) -> Vec<u8> {
    frame(8, 0, 0, &by.to_be_bytes())
}

/// The headers of a call of `method`; the call goes on.
pub fn call(stream: u32, method: &str) -> Vec<u8> {
    frame(1, 4, stream, &header_block(method))
}

/// Ends a call with an empty message.
pub fn end(stream: u32) -> Vec<u8> {
    frame(0, 1, stream, &[0; 5])
}

/// Takes a call back.
pub fn reset(stream: u32) -> Vec<u8> {
    frame(3, 0, stream, &CANCEL.to_be_bytes())
}

/// The beginning of headers that have no end.
pub fn endless_call(stream: u32) -> Vec<u8> {
    frame(1, 0, stream, &header_block("Describe"))
}

/// More of headers that have no end: one name and value many times.
pub fn more_headers(stream: u32) -> Vec<u8> {
    let header = [&[0][..], &text("x-a"), &text("1")].concat();
    frame(9, 0, stream, &header.repeat(FRAME / header.len()))
}

/// Methods and schemes by their numbers, the rest as it is.
fn header_block(method: &str) -> Vec<u8> {
    let mut block = vec![0x83, 0x86];
    for (index, value) in [(4, format!("/sled.v1.Sled/{method}")), (1, "sled".to_owned())] {
        block.push(index);
        block.extend(text(&value));
    }
    for (name, value) in [("content-type", "application/grpc"), ("te", "trailers")] {
        block.push(0);
        block.extend(text(name));
        block.extend(text(value));
    }
    block
}

/// A short text, as HPACK has it.
fn text(text: &str) -> Vec<u8> {
    let len = u8::try_from(text.len()).unwrap_or(126).min(126);
    let mut bytes = vec![len];
    bytes.extend(text.bytes().take(len.into()));
    bytes
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap_or(0);
    let mut bytes = len.to_be_bytes().into_iter().skip(1).collect::<Vec<_>>();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}
