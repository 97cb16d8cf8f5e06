//! Checks of the host and the origin of a request, which protect a server without tokens from web pages.

use std::net::IpAddr;

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue, Version, header},
};

use super::error::{ApiError, ApiResult};

/// The header in which a browser reports the relation of the requesting page's site to that of the target.
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

const FOREIGN_ORIGIN: &str = "requests from web pages of another origin are refused";

/// The host that a request names, without its port.
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

/// Fails unless the request names exactly one host: a proxy before this server might take another of several to be meant.
/// HTTP/1.0 does not require a `Host` header, and from HTTP/2 on the request target names the host.
pub(super) fn check_authority(request: &Request) -> ApiResult<()> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (host, next) = (hosts.next(), hosts.next());
    let has_host = host.is_some() || request.version() != Version::HTTP_11;
    if !has_host || next.is_some() {
        return Err(ApiError::bad_request("a request must have exactly one Host header"));
    }
    let target = request.uri().authority().map(|authority| authority.as_str().as_bytes());
    if target.is_some_and(|target| host.is_some_and(|host| !host.as_bytes().eq_ignore_ascii_case(target))) {
        return Err(ApiError::bad_request("the Host header and the request target name different hosts"));
    }
    Ok(())
}

/// Rejects what a browser fetches for a page of another site without an `Origin` header, as it does for images and links:
/// without tokens, this could start an export. The page at `/` may be linked to from anywhere.
pub(super) fn check_site(request: &Request) -> ApiResult<()> {
    let site = request.headers().get(FETCH_SITE).map(HeaderValue::as_bytes);
    if matches!(site, None | Some(b"same-origin" | b"none")) || request.uri().path() == "/" {
        return Ok(());
    }
    Err(ApiError::forbidden(FOREIGN_ORIGIN))
}

/// Rejects what a browser sends for a page of another origin. Browsers can reach servers on loopback addresses, and send them
/// bodies of plain text without a preflight request.
pub(super) fn check_origin(headers: &HeaderMap) -> ApiResult<()> {
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let authority =
        origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, authority)| authority);
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    if authority.is_some() && authority == host {
        return Ok(());
    }
    Err(ApiError::forbidden(FOREIGN_ORIGIN))
}

/// Rejects a host name other than localhost. A page whose domain resolves to this machine (DNS rebinding) is of the same origin,
/// so that only its host name distinguishes it.
pub(super) fn check_host(headers: &HeaderMap) -> ApiResult<()> {
    let host = host(headers).unwrap_or_default().to_ascii_lowercase();
    let is_local = host == "localhost"
        || host.ends_with(".localhost")
        || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    if is_local {
        Ok(())
    } else {
        Err(ApiError::forbidden("with tokens disabled, only requests to localhost are accepted"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_is_removed_from_host() {
        assert_eq!(without_port("orders.localhost:8080"), "orders.localhost");
        assert_eq!(without_port("orders.localhost"), "orders.localhost");
        assert_eq!(without_port("[::1]:80"), "[::1]");
    }
}
