//! Who may ask: requests for another host or from another site are refused, and where a token is wanted, those without.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};

use super::assets::POLICY;
use super::problem::Problem;

/// What is asked of a request.
#[derive(Clone, Debug)]
pub(super) struct Access {
    /// BLAKE3 of the token, which compares in the same time whatever is guessed.
    token: Option<blake3::Hash>,
    /// Name of the page's cookie: cookies do not tell ports apart.
    cookie: String,
    /// The address is one of this machine alone.
    loopback: bool,
}

impl Access {
    pub(super) fn new(address: SocketAddr, token: Option<&str>) -> Arc<Self> {
        let token = token.map(|token| blake3::hash(token.as_bytes()));
        let cookie = format!("cmd_token_{}", address.port());
        Arc::new(Self { token, cookie, loopback: address.ip().is_loopback() })
    }

    fn is_right(&self, token: &str) -> bool {
        self.token.is_none_or(|right| right == blake3::hash(token.as_bytes()))
    }

    /// By a header, or by the cookie of the page.
    fn is_known(&self, headers: &HeaderMap) -> bool {
        let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let bearer = text(header::AUTHORIZATION).and_then(|value| value.split_once(' '));
        let bearer = bearer.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, token)| token.trim());
        let cookies = text(header::COOKIE).into_iter().flat_map(|cookies| cookies.split(';'));
        let named = cookies.filter_map(|cookie| cookie.trim().split_once('='));
        let mut cookies = named.filter(|(name, _)| *name == self.cookie).map(|(_, value)| value);
        self.token.is_none()
            || bearer.is_some_and(|token| self.is_right(token))
            || cookies.any(|token| self.is_right(token))
    }

    fn check(&self, request: &Request) -> Result<(), Problem> {
        let (headers, uri) = (request.headers(), request.uri());
        let host = host(headers, uri);
        // A name that somebody points at this machine must not make a browser ask on their behalf.
        if self.loopback && !is_local(host) {
            let why = format!("this server answers for localhost, not for {host}");
            return Err(Problem::new(StatusCode::FORBIDDEN, why));
        }
        if let Some(origin) = headers.get(header::ORIGIN) {
            let origin = origin.to_str().unwrap_or("").split_once("://").map_or("", |(_, host)| host);
            if origin != host {
                return Err(Problem::new(StatusCode::FORBIDDEN, "other sites may not ask"));
            }
        }
        let is_open = matches!(uri.path(), "/healthz");
        if !is_open && !self.is_known(headers) {
            let why = "a token is needed: open the page with ?token=TOKEN, or send Authorization: Bearer TOKEN";
            return Err(Problem::new(StatusCode::UNAUTHORIZED, why));
        }
        Ok(())
    }

    /// The page that is opened with the token keeps it in a cookie, and out of the address.
    fn welcome(&self, request: &Request) -> Option<Response> {
        let (method, uri) = (request.method(), request.uri());
        let token = uri.query()?.split('&').find_map(|pair| pair.strip_prefix("token="))?;
        if method != Method::GET || uri.path() != "/" || self.token.is_none() || !self.is_right(token) {
            return None;
        }
        let cookie = format!("{}={token}; Path=/; HttpOnly; SameSite=Strict", self.cookie);
        let mut response = Redirect::to("/").into_response();
        response.headers_mut().insert(header::SET_COOKIE, HeaderValue::try_from(cookie).ok()?);
        Some(response)
    }
}

/// Lets a request through or not, and says what browsers may do with the answer.
pub(super) async fn guard(State(access): State<Arc<Access>>, request: Request, next: Next) -> Response {
    let mut response = match (access.welcome(&request), access.check(&request)) {
        (Some(welcome), _) => welcome,
        (None, Err(problem)) => problem.into_response(),
        (None, Ok(())) => next.run(request).await,
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Host and port that are asked for.
fn host<'a>(headers: &'a HeaderMap, uri: &'a Uri) -> &'a str {
    let named = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    named.or(uri.authority().map(|authority| authority.as_str())).unwrap_or("")
}

fn is_local(host: &str) -> bool {
    let Some(authority) = host.parse::<Authority>().ok().filter(|_| !host.contains('@')) else { return false };
    let port = &host[authority.host().len()..];
    if !port.is_empty() && port.strip_prefix(':').is_none_or(|port| port.parse::<u16>().is_err()) {
        return false;
    }
    let name = authority.host().trim_end_matches('.').to_ascii_lowercase();
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    name == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(headers: &[(&str, &str)]) -> Request {
        let builder = headers
            .iter()
            .fold(Request::builder().uri("/api/about"), |builder, (name, value)| builder.header(*name, *value));
        builder.body(axum::body::Body::empty()).expect("a request")
    }

    fn status(access: &Access, headers: &[(&str, &str)]) -> Option<u16> {
        access.check(&request(headers)).err().map(|problem| problem.status.as_u16())
    }

    #[test]
    fn only_this_machine_is_answered_for_and_no_other_site() {
        let access = Access::new("127.0.0.1:80".parse().expect("an address"), None);
        for host in ["localhost", "localhost:81", "127.0.0.1:81", "[::1]:81", "127.9.9.9", "LOCALHOST", "localhost."] {
            assert_eq!(status(&access, &[("host", host)]), None, "{host}");
        }
        for host in [
            "evil.example",
            "127.0.0.1.evil.example",
            "",
            "192.168.0.1",
            "localhost.evil.example:80",
            "localhost:80@evil.example",
            "[::1]evil.example",
            "[::1",
        ] {
            assert_eq!(status(&access, &[("host", host)]), Some(403), "{host}");
        }
        assert_eq!(status(&access, &[("host", "localhost:1"), ("origin", "http://localhost:1")]), None);
        for origin in ["http://evil.example", "http://localhost:2", "null"] {
            assert_eq!(status(&access, &[("host", "localhost:1"), ("origin", origin)]), Some(403), "{origin}");
        }
    }

    #[test]
    fn a_token_is_asked_for_where_there_is_one() {
        let access = Access::new("192.168.0.1:80".parse().expect("an address"), Some("abc"));
        let with = |headers: &[(&str, &str)]| status(&access, &[&[("host", "any")], headers].concat());
        assert_eq!((with(&[]), with(&[("authorization", "Bearer abd")])), (Some(401), Some(401)));
        assert_eq!(
            (with(&[("authorization", "bearer abc")]), with(&[("cookie", "a=b; cmd_token_80=x; cmd_token_80=abc")])),
            (None, None)
        );
    }
}
