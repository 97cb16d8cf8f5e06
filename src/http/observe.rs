//! Middleware that records each request in the metrics, and in a `tracing` span with an id.
//!
//! Headers, parameters and bodies are not recorded, because they contain tokens and keys.

use std::{sync::Arc, time::Instant};

use axum::{
    extract::{MatchedPath, Request},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode},
    middleware::Next,
    response::Response,
};
use tracing::Instrument;

use super::{error::LoggedMessage, metrics::Metrics};

/// The header with the id of a request, which the client may choose.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Maximum length of an id chosen by the client. Longer ones are replaced.
const REQUEST_ID_LEN_MAX: usize = 128;

/// Forwards a request and records its response.
pub(super) async fn observe(metrics: Arc<Metrics>, request: Request, next: Next) -> Response {
    let id = request_id(request.headers());
    let method = method(request.method());
    // The route, not the path: a label with names would create a time series for each database.
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    let path = request.uri().path();
    let span = tracing::info_span!("request", id = id.to_str().unwrap_or_default(), method, path);
    async move {
        let started = Instant::now();
        let mut response = next.run(request).await;
        let (status, took) = (response.status(), started.elapsed());
        metrics.count(method, &route, status.as_u16(), took);
        let milliseconds = (took.as_secs_f64() * 1e6).round() / 1e3;
        log(status, milliseconds, response.extensions().get());
        response.headers_mut().insert(REQUEST_ID, id);
        response
    }
    .instrument(span)
    .await
}

fn log(status: StatusCode, milliseconds: f64, message: Option<&LoggedMessage>) {
    let (status, error) = (status.as_u16(), message.map(|LoggedMessage(message)| message.as_str()));
    match status {
        500.. => tracing::error!(status, milliseconds, error, "failed"),
        400.. => tracing::info!(status, milliseconds, error, "refused"),
        _ => tracing::info!(status, milliseconds, "done"),
    }
}

fn request_id(headers: &HeaderMap) -> HeaderValue {
    let given = headers.get(REQUEST_ID);
    // Other characters could forge a line of the log.
    let is_printable = |id: &&HeaderValue| {
        (1..=REQUEST_ID_LEN_MAX).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic)
    };
    given.filter(is_printable).cloned().unwrap_or_else(|| {
        let id = uuid::Uuid::now_v7().to_string();
        HeaderValue::try_from(id).unwrap_or_else(|_| HeaderValue::from_static("none"))
    })
}

/// The label of a method. Unknown methods share one, because clients can invent any number of them.
fn method(method: &Method) -> &'static str {
    let known = ["GET", "POST", "PATCH", "DELETE", "PUT", "HEAD", "OPTIONS"];
    known.into_iter().find(|known| *known == method.as_str()).unwrap_or("other")
}
