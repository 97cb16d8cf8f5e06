//! What is told of each request: a span with an id for whoever listens to `tracing`, and a count.
//!
//! Neither headers nor bodies nor parameters are told: tokens and keys are in them.

use std::{sync::Arc, time::Instant};

use axum::{
    extract::{MatchedPath, Request},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode},
    middleware::Next,
    response::Response,
};
use tracing::Instrument;

use super::{metrics::Metrics, refusal::Sentence};

/// The header with the id of a request: that of the client, or one that is made here.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest id of a client that is taken over.
const REQUEST_ID_LEN_MAX: usize = 128;

/// Lets a request through, and tells of it.
pub(super) async fn observe(metrics: Arc<Metrics>, request: Request, next: Next) -> Response {
    let id = request_id(request.headers());
    let method = method(request.method());
    // The route, and not the path: names would make a figure for each database.
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    let path = request.uri().path();
    let span = tracing::info_span!("request", id = id.to_str().unwrap_or_default(), method, path);
    async move {
        let begun = Instant::now();
        let mut response = next.run(request).await;
        let (status, took) = (response.status(), begun.elapsed());
        metrics.count(method, &route, status.as_u16(), took);
        // To the microsecond.
        tell(status, (took.as_secs_f64() * 1e6).round() / 1e3, response.extensions().get());
        response.headers_mut().insert(REQUEST_ID, id);
        response
    }
    .instrument(span)
    .await
}

fn tell(status: StatusCode, milliseconds: f64, sentence: Option<&Sentence>) {
    let (status, error) = (status.as_u16(), sentence.map(|Sentence(sentence)| sentence.as_str()));
    match status {
        500.. => tracing::error!(status, milliseconds, error, "failed"),
        400.. => tracing::info!(status, milliseconds, error, "refused"),
        _ => tracing::info!(status, milliseconds, "done"),
    }
}

fn request_id(headers: &HeaderMap) -> HeaderValue {
    let given = headers.get(REQUEST_ID);
    let is_readable = |id: &&HeaderValue| {
        (1..=REQUEST_ID_LEN_MAX).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic)
    };
    given.filter(is_readable).cloned().unwrap_or_else(|| {
        let id = uuid::Uuid::now_v7().to_string();
        HeaderValue::try_from(id).unwrap_or_else(|_| HeaderValue::from_static("none"))
    })
}

/// A method's name; clients may make up others, as many as they like.
fn method(method: &Method) -> &'static str {
    let known = ["GET", "POST", "PATCH", "DELETE", "PUT", "HEAD", "OPTIONS"];
    known.into_iter().find(|known| *known == method.as_str()).unwrap_or("other")
}
