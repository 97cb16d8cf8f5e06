//! What is read from a request: its token, its body, and where it comes from.

use std::{net::IpAddr, sync::Arc};

use axum::{
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    http::{HeaderMap, HeaderName, Version, header, request::Parts},
};
use serde_json::Value;

use super::{
    Shared,
    body::Claims,
    pace::Paced,
    refusal::{Answer, Refusal},
};

/// The longest JSON body, in bytes.
const BODY_MAX: usize = 256 << 10;

/// In which a browser says whether the page that a request is for is of the same site.
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// What the token says that came with a request; nothing where no tokens are asked for. A request without a token that this
/// server signed is refused before anything else of it is looked at. Whether the token was revoked is not known yet.
///
/// Neither it nor a body, which may hold a key, can be printed.
pub(super) struct Bearer(pub(super) Option<Claims>);

impl FromRequestParts<Arc<Shared>> for Bearer {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Answer<Self> {
        let Some(tokens) = &shared.tokens else { return Ok(Self(None)) };
        let header = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = header
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let missing = || Refusal::unauthorized("a token is required: Authorization: Bearer TOKEN");
        let (_, token) = token.ok_or_else(missing)?;
        tokens.claims(token.trim()).map(|claims| Self(Some(claims)))
    }
}

/// A JSON body. Its type is not asked for, its keys may be in any case, and no body, or `null`, is an empty object, as
/// clients of the API rely on.
pub(super) struct JsonBody(Value);

impl JsonBody {
    /// The body as it is.
    pub(super) fn value(self) -> Value {
        self.0
    }

    pub(super) fn read<T: serde::de::DeserializeOwned>(self) -> Answer<T> {
        serde_json::from_value(self.0)
            .map_err(|error| Refusal::bad_request(format!("invalid request: {error}")))
    }
}

impl<S: Sync> FromRequest<S> for JsonBody {
    type Rejection = Refusal;

    async fn from_request(request: Request, _: &S) -> Answer<Self> {
        let bytes = Paced::whole(request.into_body(), BODY_MAX).await;
        let bytes = bytes.map_err(|missing| missing.refusal("the body"))?;
        let Some(bytes) = bytes else {
            return Err(Refusal::bad_request(format!("the body is longer than {BODY_MAX} bytes")));
        };
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self(Value::Object(serde_json::Map::new())));
        }
        // What is said of a broken body names a place in it and quotes nothing.
        match serde_json::from_slice(&bytes) {
            Ok(Value::Object(keys)) => Ok(Self(Value::Object(lowercased(keys)))),
            Ok(Value::Null) => Ok(Self(Value::Object(serde_json::Map::new()))),
            Ok(_) => Err(Refusal::bad_request("invalid request: the body must be a JSON object")),
            Err(error) => Err(Refusal::bad_request(format!("invalid request: {error}"))),
        }
    }
}

/// The same with its keys in lower case, where no other key is that already.
fn lowercased(keys: serde_json::Map<String, Value>) -> serde_json::Map<String, Value> {
    let mut result = serde_json::Map::new();
    let (exact, other): (Vec<_>, Vec<_>) =
        keys.into_iter().partition(|(key, _)| !key.bytes().any(|byte| byte.is_ascii_uppercase()));
    result.extend(exact);
    for (key, value) in other {
        result.entry(key.to_ascii_lowercase()).or_insert(value);
    }
    result
}

/// The parts of a path.
#[derive(Debug)]
pub(super) struct Place<T>(pub(super) T);

impl<T: serde::de::DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Place<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Answer<Self> {
        let path = Path::from_request_parts(parts, state).await;
        path.map(|Path(path)| Self(path)).map_err(|error| Refusal::bad_request(error.body_text()))
    }
}

/// The parameters behind a path.
#[derive(Debug)]
pub(super) struct Parameters<T>(pub(super) T);

impl<T: serde::de::DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Parameters<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Answer<Self> {
        let query = Query::from_request_parts(parts, state).await;
        query.map(|Query(query)| Self(query)).map_err(|error| Refusal::bad_request(error.body_text()))
    }
}

/// The host that a request is for, without its port.
pub(super) fn host(headers: &HeaderMap) -> Option<&str> {
    let host = headers.get(header::HOST)?.to_str().ok()?;
    Some(without_port(host))
}

pub(super) fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Refuses a request that does not say once which host it is for: programs between the client and this server could take it
/// for one to another host. HTTP/1.0 has requests without a `Host` header, and from HTTP/2 on the target names the host.
pub(super) fn check_authority(request: &Request) -> Answer<()> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (host, next) = (hosts.next(), hosts.next());
    let is_named = host.is_some() || request.version() != Version::HTTP_11;
    if !is_named || next.is_some() {
        return Err(Refusal::bad_request("a request must have one Host header"));
    }
    let target = request.uri().authority().map(|authority| authority.as_str().as_bytes());
    if target.is_some_and(|target| host.is_some_and(|host| !host.as_bytes().eq_ignore_ascii_case(target))) {
        return Err(Refusal::bad_request("the Host header and the request's target name different hosts"));
    }
    Ok(())
}

/// Refuses what a browser fetches for a page of another origin without an `Origin` header, as it does for images and links:
/// where no token is asked for, an export or a fork would begin. The page for a person may be linked to from anywhere.
pub(super) fn check_site(request: &Request) -> Answer<()> {
    let site = request.headers().get(FETCH_SITE).map(header::HeaderValue::as_bytes);
    if matches!(site, None | Some(b"same-origin" | b"none")) || request.uri().path() == "/" {
        return Ok(());
    }
    Err(Refusal::forbidden("requests from web pages of another origin are refused"))
}

/// Refuses what a browser sends for a page of another origin: it can reach servers that listen on loopback, and it sends a
/// body of plain text there without asking.
pub(super) fn check_origin(headers: &HeaderMap) -> Answer<()> {
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let authority =
        origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, authority)| authority);
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    if authority.is_some() && authority == host {
        return Ok(());
    }
    Err(Refusal::forbidden("requests from web pages of another origin are refused"))
}

/// Refuses a host name that is not this machine's own. A page whose name was made to point to this machine is of the same
/// origin, and where no token is asked for its name is all that tells it apart.
pub(super) fn check_host(headers: &HeaderMap) -> Answer<()> {
    let host = host(headers).unwrap_or_default().to_ascii_lowercase();
    let is_local = host == "localhost"
        || host.ends_with(".localhost")
        || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    if is_local {
        Ok(())
    } else {
        Err(Refusal::forbidden("with tokens disabled, only requests to localhost are accepted"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_in_any_case_and_the_exact_one_wins() {
        let keys = |text| serde_json::from_str::<serde_json::Map<String, Value>>(text).unwrap_or_default();
        assert_eq!(lowercased(keys(r#"{"Name": 1, "LOCATION": 2}"#)), keys(r#"{"name": 1, "location": 2}"#));
        assert_eq!(lowercased(keys(r#"{"Name": 1, "name": 2}"#)), keys(r#"{"name": 2}"#));
    }

    #[test]
    fn a_host_is_read_without_its_port() {
        assert_eq!(without_port("orders.localhost:8080"), "orders.localhost");
        assert_eq!(without_port("orders.localhost"), "orders.localhost");
        assert_eq!(without_port("[::1]:80"), "[::1]");
    }
}
