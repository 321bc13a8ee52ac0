//! Pages of other sites: what a browser sends for them is refused, unless they are named.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::routing::get as at;
use serde_json::json;
use sled_api::backend::Backend;
use sled_api::{Api, Settings, router};
use support::Fake;
use support::client::{Answer, ask};

const CHAT: &str = "/v1/chat/completions";
const JSON: (&str, &str) = ("content-type", "application/json");

/// The API with a page beside it, and the backend.
async fn serve(settings: Settings) -> (SocketAddr, Arc<Fake>) {
    let api = Api::new(settings);
    let fake = Arc::new(Fake::saying("ok"));
    api.serve(Arc::clone(&fake) as Arc<dyn Backend>).unwrap();
    let routes =
        router(&api, Router::new().route("/", at(|| async { "page" })).route("/events", at(|| async { "figures" })));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, routes).await });
    (address, fake)
}

fn question() -> String {
    json!({ "messages": [{ "role": "user", "content": "Hi" }] }).to_string()
}

fn told(answer: &Answer) -> (u16, Option<String>) {
    let code = serde_json::from_str::<serde_json::Value>(&answer.body).ok();
    (answer.status, code.and_then(|body| Some(body["error"]["code"].as_str()?.to_owned())))
}

fn refused(status: u16, code: &str) -> (u16, Option<String>) {
    (status, Some(code.to_owned()))
}

#[tokio::test]
async fn a_name_that_is_not_this_machines_is_refused_at_every_route_but_the_open_ones() {
    let (address, fake) = serve(Settings { hosts: vec!["box".to_owned()], ..Settings::default() }).await;
    let port = address.port();
    let evil = format!("evil.example:{port}");
    for host in [evil.as_str(), "localhost.evil.example", "127.0.0.1.evil.example", "boxes", "a b"] {
        for (method, path) in
            [("POST", CHAT), ("GET", "/v1/models"), ("GET", "/"), ("GET", "/events"), ("GET", "/nothing")]
        {
            let answer = ask(address, method, path, &[("host", host), JSON], question().as_bytes()).await;
            assert!(answer.status == 403 || host == "a b" && answer.status == 400, "{host} {path}: {answer:?}");
            assert_eq!(answer.header("access-control-allow-origin"), None);
        }
    }
    let answer = ask(address, "POST", CHAT, &[("host", &evil), JSON], question().as_bytes()).await;
    assert_eq!(told(&answer), refused(403, "foreign_host"));
    assert!(answer.body.contains("`evil.example` is not known to be this machine's"), "{}", answer.body);
    // The page of a site whose name leads here has the right origin for it.
    let origin = format!("http://{evil}");
    let rebound =
        ask(address, "POST", CHAT, &[("host", &evil), ("origin", &origin), JSON], question().as_bytes()).await;
    assert_eq!(told(&rebound), refused(403, "foreign_host"));
    assert!(fake.jobs.lock().unwrap().is_empty());
    for path in ["/health", "/metrics"] {
        assert_eq!(ask(address, "GET", path, &[("host", "sled.monitoring.svc")], b"").await.status, 200, "{path}");
    }
    for host in
        ["localhost", "LOCALHOST:1", "127.0.0.1", "192.168.1.5:80", "[::1]:9", "sled.localhost", "box", "Box:7700"]
    {
        let answer = ask(address, "POST", CHAT, &[("host", host), JSON], question().as_bytes()).await;
        assert_eq!(answer.status, 200, "{host}: {answer:?}");
    }
}

#[tokio::test]
async fn a_page_of_another_site_is_refused_before_anything_is_done_for_it() {
    let (address, fake) = serve(Settings::default()).await;
    let ours = format!("http://{address}");
    let port = address.port();
    let elsewhere = format!("http://127.0.0.1:{}", port.wrapping_add(1).max(1));
    for origin in ["https://evil.example", "null", elsewhere.as_str(), "file://", "http://localhost", ""] {
        for (method, path) in [("POST", CHAT), ("OPTIONS", CHAT), ("GET", "/v1/models"), ("GET", "/events")] {
            let headers = [
                ("origin", origin),
                ("access-control-request-method", "POST"),
                ("access-control-request-headers", "x"),
                JSON,
            ];
            let answer = ask(address, method, path, &headers, question().as_bytes()).await;
            assert_eq!(told(&answer), refused(403, "foreign_origin"), "{origin} {method} {path}");
            assert_eq!(answer.header("access-control-allow-origin"), None);
        }
    }
    assert!(fake.jobs.lock().unwrap().is_empty());
    let answer = ask(address, "POST", CHAT, &[("origin", &ours), JSON], question().as_bytes()).await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, None));
}

#[tokio::test]
async fn a_page_that_is_named_may_ask_and_read() {
    let page = "https://app.example.com";
    let origins = vec![page.parse().unwrap(), "http://localhost:3000".parse().unwrap()];
    let (address, fake) = serve(Settings { origins, ..Settings::default() }).await;
    for origin in [page, "http://localhost:3000"] {
        let preflight = [
            ("origin", origin),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "authorization,content-type"),
        ];
        let answer = ask(address, "OPTIONS", CHAT, &preflight, b"").await;
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, Some(origin)));
        assert_eq!(answer.header("access-control-allow-headers"), Some("authorization,content-type"));
        assert_eq!(answer.header("access-control-allow-methods"), Some("POST"));
        let answer = ask(address, "POST", CHAT, &[("origin", origin), JSON], question().as_bytes()).await;
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, Some(origin)));
        assert_eq!(answer.header("access-control-expose-headers"), Some("x-request-id"));
    }
    // Its name may be ours too, behind a proxy.
    let headers = [("host", "app.example.com"), ("origin", page), JSON];
    assert_eq!(ask(address, "POST", CHAT, &headers, question().as_bytes()).await.status, 200);
    assert_eq!(fake.jobs.lock().unwrap().len(), 3);
    let other = ask(address, "POST", CHAT, &[("origin", "https://evil.example"), JSON], question().as_bytes()).await;
    assert_eq!(told(&other), refused(403, "foreign_origin"));
}

#[tokio::test]
async fn with_a_key_any_name_will_do_and_pages_still_cannot_read() {
    let (address, _fake) = serve(Settings { api_key: Some("secret".to_owned()), ..Settings::default() }).await;
    let key = ("authorization", "Bearer secret");
    let headers = [("host", "gpu-box.example"), ("origin", "https://gpu-box.example"), key, JSON];
    let answer = ask(address, "POST", CHAT, &headers, question().as_bytes()).await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, None));
    let preflight = [("origin", "https://evil.example"), ("access-control-request-method", "POST")];
    let answer = ask(address, "OPTIONS", CHAT, &preflight, b"").await;
    assert_eq!(answer.header("access-control-allow-origin"), None);
    assert!(answer.status >= 400, "{answer:?}");
}

#[tokio::test]
async fn a_body_that_is_not_said_to_be_json_is_not_read() {
    let (address, fake) = serve(Settings::default()).await;
    for path in [CHAT, "/v1/completions", "/tokenize", "/detokenize"] {
        for kind in [
            "",
            "text/plain",
            "application/x-www-form-urlencoded",
            "text/plain; application/json",
            "multipart/form-data",
        ] {
            let answer = ask(address, "POST", path, &[("content-type", kind)], question().as_bytes()).await;
            assert_eq!(told(&answer), refused(415, "unsupported_media_type"), "{kind} {path}");
        }
    }
    assert!(fake.jobs.lock().unwrap().is_empty());
    let answer =
        ask(address, "POST", CHAT, &[("content-type", "Application/JSON; charset=utf-8")], question().as_bytes()).await;
    assert_eq!(answer.status, 200);
}
