//! One connection, from its first byte to its last.

use std::convert::Infallible;
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::Instant;
use tower::ServiceExt;

use super::pulse::{Answer, Pulse, Verdict, Watched};
use super::{Limits, Protocol};
use crate::backend::Client;

/// The most bytes that the headers of a request may have.
const HEADERS: usize = 32 << 10;

/// The most requests that one HTTP/2 connection may have under way: the sessions of a device, and a few questions.
const STREAMS: u32 = 256;

/// What one stream of an HTTP/2 connection may have waiting to be sent before no more is made for it, in bytes.
const SEND_BUFFER: usize = 64 << 10;

/// The most streams of an HTTP/2 connection that are taken back before they were looked at.
const TAKEN_BACK: usize = 32;

/// Whoever vanished without closing an HTTP/2 connection is noticed after this long, twice.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// How long the beginning of an answer over HTTP/2 may take: a request that does not come to its end is not waited for.
const BEGINNING: Duration = Duration::from_secs(60);

/// How long a connection without requests has to end when the port is closed.
const FAREWELL: Duration = Duration::from_millis(500);

/// What all connections of a port have in common.
#[derive(Clone)]
pub(super) struct Terms {
    pub(super) router: Router,
    pub(super) protocol: Protocol,
    pub(super) limits: Limits,
    pub(super) stop: watch::Receiver<()>,
}

/// Serves `client` until it leaves, is of no use any more, or the port is closed.
pub(super) async fn serve<S>(stream: S, client: Client, terms: Terms)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Terms { router, protocol, limits, stop } = terms;
    let pulse = Pulse::start();
    let stream = TokioIo::new(Watched::new(stream, pulse.clone()));
    let asked = pulse.clone();
    let service = service_fn(move |request| answer(router.clone(), protocol, client, asked.clone(), request));
    match protocol {
        Protocol::Http1 => {
            let connection = http1::Builder::new()
                .max_buf_size(HEADERS)
                // The pulse says how long headers may take.
                .header_read_timeout(None)
                .serve_connection(stream, service);
            attend(connection, &pulse, &limits, stop).await;
        }
        Protocol::Http2 => {
            let connection = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .max_concurrent_streams(STREAMS)
                .max_header_list_size(u32::try_from(HEADERS).unwrap_or(u32::MAX))
                .max_pending_accept_reset_streams(TAKEN_BACK)
                .max_send_buf_size(SEND_BUFFER)
                .keep_alive_interval(KEEPALIVE)
                .keep_alive_timeout(KEEPALIVE)
                .serve_connection(stream, service);
            attend(connection, &pulse, &limits, stop).await;
        }
    }
}

/// Answers a request, and keeps account of it until its answer is sent.
async fn answer(
    router: Router,
    protocol: Protocol,
    client: Client,
    pulse: Pulse,
    request: Request<Incoming>,
) -> Result<Response<Answer>, Infallible> {
    let underway = pulse.begin();
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(client);
    let answering = router.oneshot(request);
    let answer = match protocol {
        Protocol::Http1 => answering.await?,
        Protocol::Http2 => match tokio::time::timeout(BEGINNING, answering).await {
            Ok(answer) => answer?,
            Err(_elapsed) => {
                let mut late = Response::new(Body::empty());
                *late.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                late
            }
        },
    };
    Ok(answer.map(|body| underway.answered_with(body)))
}

/// Drives a connection to its end.
async fn attend<C: GracefulConnection>(connection: C, pulse: &Pulse, limits: &Limits, mut stop: watch::Receiver<()>) {
    let mut connection = pin!(connection);
    let mut check = pin!(tokio::time::sleep_until(Instant::now()));
    // Whether it was asked to end, and whether that was because the port is closed.
    let (mut resting, mut closing) = (false, false);
    loop {
        tokio::select! {
            _ended = &mut connection => return,
            _stop = stop.changed(), if !closing => {
                (resting, closing) = (true, true);
                connection.as_mut().graceful_shutdown();
                check.as_mut().reset(Instant::now() + FAREWELL);
            }
            () = &mut check => match pulse.judge(limits, Instant::now()) {
                Verdict::End => return,
                _ if resting && pulse.is_quiet() => return,
                Verdict::Wait(until) if !closing => check.as_mut().reset(until),
                Verdict::Wait(_) => check.as_mut().reset(Instant::now() + FAREWELL),
                Verdict::Rest => {
                    resting = true;
                    connection.as_mut().graceful_shutdown();
                    check.as_mut().reset(Instant::now() + limits.opening);
                }
            },
        }
    }
}
