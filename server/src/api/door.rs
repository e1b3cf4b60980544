//! Who may come in: those who show a token, where there are any; no web page from elsewhere in somebody's browser; and
//! nobody with more than fits.

use std::net::IpAddr;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_LENGTH, EXPECT, HOST, ORIGIN, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use steadfast::{Clock, Storage};

use super::Api;
use super::parse::too_large;
use crate::wire::Problem;

/// How long a body is read only to be thrown away.
const DISCARD_MAX: Duration = Duration::from_secs(10);

/// Asks for `Authorization: Bearer TOKEN` where tokens are configured.
pub(super) async fn show_a_token<S: Storage, C: Clock>(
    State(api): State<Api<S, C>>,
    request: Request,
    next: Next,
) -> Response {
    let tokens = &api.0.settings.tokens;
    let shown = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let shown = shown.and_then(|value| value.strip_prefix("Bearer ")).map(str::trim);
    let knows = |shown: &str| tokens.iter().any(|token| is_same(token, shown));
    if tokens.is_empty() || shown.is_some_and(knows) {
        return next.run(request).await;
    }
    let detail = if shown.is_some() { "the token isn't one of this server's" } else { "a token is missing" };
    let problem = Problem::new(401, "unauthorized", "not authorized", detail)
        .help("send `Authorization: Bearer TOKEN`; with the command line, set --token or STEADFAST_TOKEN");
    let mut response = problem.into_response();
    response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

/// Whether both are the same, in a time that doesn't depend on where they differ.
fn is_same(token: &str, shown: &str) -> bool {
    let differing = token.bytes().zip(shown.bytes()).fold(0, |differing, (a, b)| differing | (a ^ b));
    token.len() == shown.len() && std::hint::black_box(differing) == 0
}

/// Refuses a body that is announced as larger than `max`; none of it is kept. (One that isn't announced is cut off on
/// its way.)
pub(super) async fn keep_large_bodies_out(
    State(max): State<usize>,
    request: Request,
    next: Next,
) -> Response {
    let announced = request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    let announced = announced.and_then(|text| text.parse::<u64>().ok()).unwrap_or_default();
    if announced <= max as u64 {
        return next.run(request).await;
    }
    // Who doesn't ask before sending reads the answer only when all is sent; cut off earlier, it sees a broken pipe.
    if !request.headers().contains_key(EXPECT) {
        let mut body = request.into_body().into_data_stream();
        let discard = async { while let Some(Ok(_)) = body.next().await {} };
        let _ = tokio::time::timeout(DISCARD_MAX, discard).await;
    }
    let detail = format!("the body has {announced} bytes, and this server accepts at most {max}");
    too_large(detail).into_response()
}

/// Refuses what a browser sends for a page from elsewhere. Without tokens anybody who reaches the port may submit, and
/// every web page that the operator opens reaches a port on loopback: by a form (it names its origin), or by a name of
/// its own that it points here (it is the host then).
pub(super) async fn keep_browsers_out<S: Storage, C: Clock>(
    State(api): State<Api<S, C>>,
    request: Request,
    next: Next,
) -> Response {
    if !comes_from_elsewhere(&request, api.0.settings.tokens.is_empty()) {
        return next.run(request).await;
    }
    let detail = "the request comes from a web page of another site";
    Problem::new(403, "foreign_page", "not from here", detail)
        .help(
            "pages of other sites can't use this server; address it as 127.0.0.1 or localhost, or set tokens",
        )
        .into_response()
}

fn comes_from_elsewhere(request: &Request, must_be_local: bool) -> bool {
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    let host = header(HOST).unwrap_or_default();
    let foreign_origin = header(ORIGIN).is_some_and(|origin| !is_origin_of(origin, host));
    foreign_origin || (must_be_local && !host.is_empty() && !is_local(host))
}

fn is_origin_of(origin: &str, host: &str) -> bool {
    origin.split_once("://").is_some_and(|(_, authority)| authority.eq_ignore_ascii_case(host))
}

/// Whether a `Host` header names this machine itself.
fn is_local(host: &str) -> bool {
    let Ok(authority) = host.parse::<Uri>().map(|uri| uri.authority().cloned()) else { return false };
    let Some(authority) = authority else { return false };
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_compared_whole() {
        assert!(is_same("secret", "secret"));
        for shown in ["", "secre", "secret ", "Secret"] {
            assert!(!is_same("secret", shown), "{shown:?}");
        }
    }

    #[test]
    fn a_browser_is_known_by_its_origin_and_host() {
        for host in ["127.0.0.1:7878", "localhost:7878", "LOCALHOST", "[::1]:7878", "127.0.0.1"] {
            assert!(is_local(host), "{host}");
        }
        for host in ["evil.example:7878", "localhost.evil.example", "10.0.0.1:7878", "a b"] {
            assert!(!is_local(host), "{host}");
        }
        assert!(is_origin_of("http://localhost:7878", "localhost:7878"));
        assert!(!is_origin_of("null", "localhost:7878"));
        assert!(!is_origin_of("http://localhost:80", "localhost:7878"));
    }
}
