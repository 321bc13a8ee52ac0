//! The stream of figures, as long as anybody wants it: when the server is away, it is tried again.

use std::io::{BufRead, BufReader};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use sled_launch::Usage;

/// Frames that may wait to be drawn; more wait at the server, which skips them.
const QUEUE: usize = 4;

/// From one attempt to reach a server to the next.
const RETRY: Duration = Duration::from_secs(1);

/// How long a server may take to answer at all.
const ANSWER: Duration = Duration::from_secs(5);

/// What comes of the stream.
pub enum News {
    /// A frame, as JSON.
    Frame(String),
    /// The server cannot be listened to; one sentence.
    Away(String),
}

/// Where a server's figures are.
pub fn url(server: &str) -> anyhow::Result<String> {
    let server = server.trim_end_matches('/');
    let server = if server.contains("://") { server.to_owned() } else { format!("http://{server}") };
    if !server.starts_with("http://") {
        let message = format!("`{server}` is not the address of a server; use say http://gpu-box:7601");
        return Err(Usage(message).into());
    }
    Ok(format!("{server}/events"))
}

/// Listens on a thread of its own, until nobody takes the news.
pub fn follow(url: String) -> Receiver<News> {
    let (sender, news) = sync_channel(QUEUE);
    std::thread::spawn(move || {
        let agent = ureq::Agent::new_with_config(
            ureq::Agent::config_builder()
                .timeout_connect(Some(ANSWER))
                .timeout_recv_response(Some(ANSWER))
                .http_status_as_error(false)
                .build(),
        );
        let mut heard = false;
        while let Some(why) = listen(&agent, &url, &sender, &mut heard) {
            if sender.send(News::Away(why)).is_err() {
                return;
            }
            std::thread::sleep(RETRY);
        }
    });
    news
}

/// Passes the frames on until the stream ends, and says why it did: briefly where the server was `heard` before. `None` if nobody
/// takes them any more.
fn listen(agent: &ureq::Agent, url: &str, news: &SyncSender<News>, heard: &mut bool) -> Option<String> {
    let server = url.trim_end_matches("/events");
    let away = || format!("{server} is away; trying again");
    let response = match agent.get(url).call() {
        Ok(response) => response,
        Err(_) if *heard => return Some(away()),
        Err(error) => {
            return Some(format!(
                "nothing answers at {server} ({error}); start the server with --http-port, or name it with --server"
            ));
        }
    };
    match response.status().as_u16() {
        200 => {}
        503 => return Some(format!("{server} is loading its model")),
        status => {
            return Some(format!("{server} has no figures (HTTP {status}); give the --http-port of a sled server"));
        }
    }
    for line in BufReader::new(response.into_body().into_reader()).lines() {
        let Ok(line) = line else { break };
        let Some(json) = line.strip_prefix("data:") else { continue };
        *heard = true;
        if news.send(News::Frame(json.trim_start().to_owned())).is_err() {
            return None;
        }
    }
    Some(away())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use super::*;

    #[test]
    fn a_server_that_goes_is_said_to_be_away_in_a_line_of_80_columns() {
        use std::io::{Read, Write};

        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = url(&listener.local_addr().unwrap().to_string()).unwrap();
        let news = follow(url);
        let (mut stream, _) = listener.accept().unwrap();
        let _request = stream.read(&mut [0; 1024]).unwrap();
        write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\ndata: {{}}\n\n").unwrap();
        drop((stream, listener));
        assert!(matches!(news.recv().unwrap(), News::Frame(json) if json == "{}"));
        // When its stream ends, and when it is tried again.
        for _ in 0..2 {
            let News::Away(why) = news.recv().unwrap() else { panic!("it is not there") };
            assert!(why.ends_with(" is away; trying again") && why.len() < 60, "{why}");
        }
    }

    #[test]
    fn a_server_may_be_named_briefly() {
        assert_eq!(url("http://gpu-box:7601/").unwrap(), "http://gpu-box:7601/events");
        assert_eq!(url("gpu-box:7601").unwrap(), "http://gpu-box:7601/events");
        assert!(url("ftp://gpu-box").is_err());
    }
}
