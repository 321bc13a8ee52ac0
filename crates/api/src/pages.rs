//! The pages that people look at: the chat on a device, the dashboard on a server. All that they load is in the binary.

use axum::Router;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

/// Nothing but our own files is loaded, nobody but us is talked to, and nobody puts us into a frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const IMAGE: &str = "image/svg+xml";

/// A file that a page consists of.
#[derive(Clone, Copy, Debug)]
struct File {
    path: &'static str,
    content_type: &'static str,
    text: &'static str,
}

macro_rules! asset {
    ($name:literal, $content_type:expr) => {
        File {
            path: concat!("/assets/", $name),
            content_type: $content_type,
            text: include_str!(concat!("pages/", $name)),
        }
    };
}

const SHARED: [File; 3] = [asset!("icon.svg", IMAGE), asset!("theme.css", STYLE), asset!("theme.js", SCRIPT)];

const CHAT: [File; 7] = [
    File { path: "/", content_type: HTML, text: include_str!("pages/chat.html") },
    asset!("chat.css", STYLE),
    asset!("chat.js", SCRIPT),
    asset!("answer.js", SCRIPT),
    asset!("markdown.js", SCRIPT),
    asset!("settings.js", SCRIPT),
    asset!("stream.js", SCRIPT),
];

const DASHBOARD: [File; 6] = [
    File { path: "/", content_type: HTML, text: include_str!("pages/dashboard.html") },
    asset!("dashboard.css", STYLE),
    asset!("dashboard.js", SCRIPT),
    asset!("chart.js", SCRIPT),
    asset!("feed.js", SCRIPT),
    asset!("sessions.js", SCRIPT),
];

/// The chat page at `/`. It talks to `v1/models` and `v1/chat/completions` beside it.
pub fn chat<S: Clone + Send + Sync + 'static>() -> Router<S> {
    router(&CHAT)
}

/// The dashboard at `/`. It listens to `events` beside it.
pub fn dashboard<S: Clone + Send + Sync + 'static>() -> Router<S> {
    router(&DASHBOARD)
}

fn router<S: Clone + Send + Sync + 'static>(page: &'static [File]) -> Router<S> {
    SHARED.iter().chain(page).fold(Router::new(), |router, file| {
        let tag = tag(file.text);
        router.route(file.path, get(async move |headers: HeaderMap| serve(file, &tag, &headers)))
    })
}

/// The file, or word that the browser has it already: it asks each time, so that a new binary shows at once.
fn serve(file: &File, tag: &str, headers: &HeaderMap) -> Response {
    let known = headers.get(IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes());
    let about = [(ETAG, tag), (CACHE_CONTROL, "no-cache"), (CONTENT_SECURITY_POLICY, POLICY)];
    if known {
        return (StatusCode::NOT_MODIFIED, about).into_response();
    }
    let content =
        [(CONTENT_TYPE, file.content_type), (X_CONTENT_TYPE_OPTIONS, "nosniff"), (REFERRER_POLICY, "no-referrer")];
    (about, content, file.text).into_response()
}

/// Names a text by its hash (FNV-1a, 64 bits).
fn tag(text: &str) -> String {
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    format!("\"{hash:016x}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The quoted words of a text that are paths of files, without what is before `start`.
    fn references<'a>(text: &'a str, start: &'a str) -> impl Iterator<Item = &'a str> {
        text.split('"').filter_map(move |word| word.strip_prefix(start))
    }

    #[test]
    fn pages_load_what_is_embedded_and_nothing_else() {
        for page in [CHAT.as_slice(), DASHBOARD.as_slice()] {
            let files: Vec<&File> = SHARED.iter().chain(page).collect();
            let mut loaded = vec!["/".to_owned()];
            for file in &files {
                assert!(!file.text.contains("src=\"http") && !file.text.contains("url(http"), "{}", file.path);
                let start = if file.content_type == HTML { "assets/" } else { "./" };
                loaded.extend(references(file.text, start).map(|name| format!("/assets/{name}")));
            }
            let mut served: Vec<&str> = files.iter().map(|file| file.path).collect();
            loaded.sort_unstable();
            loaded.dedup();
            served.sort_unstable();
            assert_eq!(loaded, served);
        }
    }

    #[test]
    fn nothing_in_a_page_needs_an_inline_script_or_style() {
        for File { path, text, .. } in [CHAT[0], DASHBOARD[0]] {
            assert!(!text.contains("<style") && !text.contains("style=\""), "{path}");
            assert!(!text.contains(" onclick="), "{path}");
            assert!(text.split("<script").skip(1).all(|script| script.contains("src=")), "{path}");
        }
    }

    #[test]
    fn text_of_a_model_is_never_taken_for_markup() {
        for File { path, text, .. } in SHARED.iter().chain(&CHAT).chain(&DASHBOARD) {
            for way in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"] {
                assert!(!text.contains(way), "{path}: {way}");
            }
        }
    }

    #[test]
    fn a_file_is_sent_once_until_it_changes() {
        let file = &CHAT[0];
        let first = serve(file, &tag(file.text), &HeaderMap::new());
        assert_eq!(first.status(), StatusCode::OK);
        assert_eq!(first.headers()[CONTENT_SECURITY_POLICY], POLICY);
        let mut headers = HeaderMap::new();
        headers.insert(IF_NONE_MATCH, first.headers()[ETAG].clone());
        assert_eq!(serve(file, &tag(file.text), &headers).status(), StatusCode::NOT_MODIFIED);
        assert_eq!(serve(file, &tag("another"), &headers).status(), StatusCode::OK);
    }
}
