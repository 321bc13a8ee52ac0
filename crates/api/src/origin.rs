//! Who may ask: pages of other sites that a browser shows may not, unless they are named.
//!
//! A browser lets any page send requests to any address, this machine's own included. Without an API key nothing but the
//! headers that a browser writes by itself tells such a request from one of a program here: `Origin`, the site of the page, and
//! `Host`, the name that the page asked for. A site whose name leads to this machine (DNS rebinding) has an `Origin` that
//! agrees with its `Host`; its `Host` is not one of ours.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;
use tower_http::cors::{AllowHeaders, AllowMethods, AllowPrivateNetwork, CorsLayer};

use crate::error::Error;

/// What is told to everybody, whatever name it is asked by: Prometheus and load balancers have names of their own for us.
const OPEN: [&str; 2] = ["/health", "/metrics"];

/// The site that a page is from, such as `https://app.example.com`: a scheme, a host, and a port unless it is the scheme's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    scheme: String,
    authority: Authority,
}

impl Origin {
    /// Whether a request that asked for `host` is for this site.
    fn is(&self, host: &Authority) -> bool {
        let own = match self.scheme.as_str() {
            "http" => Some(80),
            "https" => Some(443),
            _ => None,
        };
        let port = |authority: &Authority| authority.port_u16().or(own);
        self.authority.host().eq_ignore_ascii_case(host.host()) && port(&self.authority) == port(host)
    }

    /// As a browser writes it.
    fn header(&self) -> Option<HeaderValue> {
        HeaderValue::try_from(format!("{}://{}", self.scheme, self.authority)).ok()
    }
}

/// Why a text names no site; one sentence for the user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not the origin of a page; give its scheme, host and port, as in https://app.example.com:8443")]
pub struct NotAnOrigin(String);

impl FromStr for Origin {
    type Err = NotAnOrigin;

    fn from_str(text: &str) -> Result<Self, NotAnOrigin> {
        let refused = || NotAnOrigin(text.to_owned());
        let (scheme, rest) = text.split_once("://").ok_or_else(refused)?;
        let named = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
        let authority: Authority = rest.to_ascii_lowercase().parse().map_err(|_invalid| refused())?;
        let whole = !authority.host().is_empty() && !rest.contains('@') && !rest.contains('*') && !rest.ends_with(':');
        if !named || !whole {
            return Err(refused());
        }
        Ok(Self { scheme: scheme.to_ascii_lowercase(), authority })
    }
}

/// Lets the pages of `origins` read the answers of `routes`, and their header `name`.
pub(crate) fn open(routes: Router, origins: &[Origin], name: &HeaderName) -> Router {
    if origins.is_empty() {
        return routes;
    }
    let layer = CorsLayer::new()
        .allow_origin(origins.iter().filter_map(Origin::header).collect::<Vec<_>>())
        .allow_methods(AllowMethods::mirror_request())
        .allow_headers(AllowHeaders::mirror_request())
        .allow_private_network(AllowPrivateNetwork::yes())
        .expose_headers([name.clone()]);
    routes.layer(layer)
}

/// Who may ask without an API key. A clone shares it.
#[derive(Clone)]
pub(crate) struct Guard {
    /// The names that this machine may be asked by, beside its addresses and `localhost`.
    hosts: Arc<[String]>,
    /// Pages of other sites that may ask.
    origins: Arc<[Origin]>,
}

impl Guard {
    pub(crate) fn new(hosts: &[String], origins: &[Origin]) -> Self {
        Self { hosts: hosts.into(), origins: origins.into() }
    }
}

/// Middleware: refuses what a page of another site asks.
pub(crate) async fn check(State(guard): State<Guard>, request: Request, next: Next) -> Result<Response, Error> {
    if !OPEN.contains(&request.uri().path()) {
        let hosts = hosts(&request)?;
        if let Some(host) = hosts.iter().find(|host| !is_ours(host.host(), &guard.hosts, &guard.origins)) {
            return Err(Error::ForeignHost(host.host().to_owned()));
        }
        if let Some(origin) = foreign_origin(request.headers(), &hosts, &guard.origins) {
            return Err(Error::ForeignOrigin(origin));
        }
    }
    Ok(next.run(request).await)
}

/// What the client calls this server.
fn hosts(request: &Request) -> Result<Vec<Authority>, Error> {
    let named = request.headers().get_all(header::HOST).iter().map(|host| {
        let host = host.to_str().ok().and_then(|host| host.parse().ok());
        host.ok_or_else(|| Error::ForeignHost("?".to_owned()))
    });
    named.chain(request.uri().authority().cloned().map(Ok)).collect()
}

/// Whether nobody else can have this server called `host`: numbers lead nowhere but to themselves.
fn is_ours(host: &str, hosts: &[String], origins: &[Origin]) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let number = host.parse::<Ipv4Addr>().is_ok()
        || host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .is_some_and(|host| host.parse::<Ipv6Addr>().is_ok());
    number
        || host == "localhost"
        || host.ends_with(".localhost")
        || hosts.iter().any(|ours| ours.eq_ignore_ascii_case(&host))
        // Who owns the name may ask anyway.
        || origins.iter().any(|origin| origin.authority.host() == host)
}

/// The site of the page that asks, if it is another.
fn foreign_origin(headers: &HeaderMap, hosts: &[Authority], origins: &[Origin]) -> Option<String> {
    headers.get_all(header::ORIGIN).iter().find_map(|text| {
        let text = String::from_utf8_lossy(text.as_bytes());
        let ours = text.parse::<Origin>().is_ok_and(|origin| {
            origins.contains(&origin)
                || matches!(origin.scheme.as_str(), "http" | "https") && hosts.iter().any(|host| origin.is(host))
        });
        (!ours).then(|| text.chars().take(100).collect())
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn an_origin_is_a_scheme_a_host_and_perhaps_a_port() {
        for right in
            ["http://localhost:3000", "https://App.Example.com", "chrome-extension://abcdef", "http://[::1]:80"]
        {
            assert!(right.parse::<Origin>().is_ok(), "{right}");
        }
        for wrong in
            ["", "*", "null", "localhost:3000", "http://", "http://a/b", "http://u@a", "http://*", "http://a:", "://a"]
        {
            assert_eq!(wrong.parse::<Origin>(), Err(NotAnOrigin(wrong.to_owned())));
        }
        let sentence = "*".parse::<Origin>().unwrap_err().to_string();
        assert_eq!(
            sentence,
            "`*` is not the origin of a page; give its scheme, host and port, as in https://app.example.com:8443"
        );
    }

    #[test]
    fn a_site_is_the_same_with_and_without_the_port_of_its_scheme() {
        let same = |origin: &str, host: &str| origin.parse::<Origin>().unwrap().is(&host.parse().unwrap());
        assert!(same("http://a", "a:80") && same("http://a:80", "A") && same("https://a", "a:443"));
        assert!(same("http://127.0.0.1:7700", "127.0.0.1:7700") && same("http://[::1]:1", "[::1]:1"));
        assert!(!same("http://a", "a:7700") && !same("http://a:1", "a:2") && !same("http://a", "b"));
    }

    #[test]
    fn numbers_and_names_of_this_machine_are_ours() {
        let (hosts, origins) = (["box".to_owned()], ["https://app.example.com".parse().unwrap()]);
        for ours in [
            "127.0.0.1",
            "10.0.0.7",
            "[::1]",
            "localhost",
            "LOCALHOST",
            "localhost.",
            "a.localhost",
            "Box",
            "app.example.com",
        ] {
            assert!(is_ours(ours, &hosts, &origins), "{ours}");
        }
        for foreign in
            ["", "evil.com", "localhost.evil.com", "127.0.0.1.evil.com", "notlocalhost", "box.evil.com", "[evil]"]
        {
            assert!(!is_ours(foreign, &hosts, &origins), "{foreign}");
        }
    }
}
