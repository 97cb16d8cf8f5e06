//! Handlers for chunked uploads, which Turso's command line uses for every file.
//!
//! | request | body | response |
//! |---|---|---|
//! | `PUT …/start` | `{"db_size_bytes": …}` | the size of a chunk, and the id of the upload |
//! | `PUT …/{upload_id}/chunk/{number}` | chunk `number`, from 0, with the headers for encryption | empty |
//! | `PUT …/{upload_id}/finalize` | empty | that of an upload in one request, when the database is ready |
//!
//! Each request needs the token of an upload in one request, and may be repeated: a chunk is applied once, and a start cancels
//! the previous upload. An upload in one request cancels a chunked one too.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    body::Body,
    extract::{FromRequestParts, RawPathParams},
    http::{HeaderMap, StatusCode, header, request::Parts},
};
use http_body_util::BodyExt;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    app::{AppState, Context},
    body::{KeyHeaders, StartAnswer, StartUpload, UploadedAnswer},
    chunked_upload::{self, CHUNK_LEN, Chunk},
    error::{ApiError, ApiResult},
    executor::CallClass,
    openapi::{Conflict, Missing, NoRoom, Refused, operations},
    request::{JsonBody, JsonResult, Sender},
    upload::{UploadTarget, encryption, write_upload},
};
use crate::{DatabaseState, ErrorKind};

/// The smallest SQLite file: one page of the minimum size.
const SIZE_MIN: u64 = 512;

/// The largest SQLite file: the maximum number of pages of the maximum size.
const SIZE_MAX: u64 = 0xffff_fffe << 16;

/// How long the rest of a rejected chunk is read in total, and how long for each part. A client that is still sending might
/// otherwise see a reset connection instead of the response.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
const DRAIN_PART_TIMEOUT: Duration = Duration::from_secs(2);

/// The routes, for the host name of a database and for its path.
pub(super) fn routes() -> OpenApiRouter<Arc<AppState>> {
    let routes =
        || OpenApiRouter::new().routes(routes!(start)).routes(routes!(chunk)).routes(routes!(finalize));
    let mut by_path = routes();
    for item in by_path.get_openapi_mut().paths.paths.values_mut() {
        for operation in operations(item) {
            operation.operation_id = operation.operation_id.take().map(|id| id + "ByPath");
        }
    }
    OpenApiRouter::new().nest("/v2/upload", routes()).nest("/databases/{name}/v2/upload", by_path)
}

/// The path of a request. The host name may name the database instead.
struct ChunkPath {
    target: UploadTarget,
    upload_id: String,
    number: String,
}

impl<S: Send + Sync> FromRequestParts<S> for ChunkPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> ApiResult<Self> {
        let path = RawPathParams::from_request_parts(parts, state).await;
        let path = path.map_err(|error| ApiError::bad_request(error.body_text()))?;
        let param = |name| path.iter().find(|(known, _)| *known == name).map(|(_, value)| value.to_owned());
        let by_host = || UploadTarget::from_host(&parts.headers);
        let target = param("name").map_or_else(by_host, UploadTarget::from_name);
        let (upload_id, number) = (param("upload_id"), param("number"));
        Ok(Self { target, upload_id: upload_id.unwrap_or_default(), number: number.unwrap_or_default() })
    }
}

/// Starts a chunked upload, and cancels the previous one to the same database.
#[utoipa::path(
    put, path = "/start", tag = "uploads", operation_id = "startUpload",
    request_body = StartUpload,
    responses((status = 200, description = "The upload has started", body = StartAnswer), Refused, Missing, Conflict, NoRoom),
)]
async fn start(sender: Sender, path: ChunkPath, body: JsonBody) -> JsonResult<StartAnswer> {
    let StartUpload { db_size_bytes: size } = body.parse()?;
    if !(SIZE_MIN..=SIZE_MAX).contains(&size) {
        let message = format!("invalid db_size_bytes {size}: it must be from {SIZE_MIN} to {SIZE_MAX}");
        return Err(ApiError::bad_request(message));
    }
    let app = Arc::clone(&sender.app);
    let find = move |context: &Context<'_>| {
        let database = path.target.find(context)?;
        if database.state != DatabaseState::Draft {
            let message = format!("database {} is not a draft; only drafts accept an upload", database.name);
            return Err(ApiError::new(StatusCode::CONFLICT, ErrorKind::AlreadyExists.as_str(), message));
        }
        if let Some(limit) = database.size_limit.filter(|limit| !limit.admits(size)) {
            let message = format!("the uploaded file is larger than the size limit of {limit} bytes");
            let status = StatusCode::PAYLOAD_TOO_LARGE;
            return Err(ApiError::new(status, ErrorKind::TooLarge.as_str(), message));
        }
        Ok(database.id)
    };
    let database = sender.run(CallClass::Catalog, find).await?;
    app.uploads.end_upload_to(&database).await?;
    let permit = app.executor.acquire(CallClass::ChunkedUpload).await?;
    let upload_id = app.uploads.start(&database, size, permit, app.upload_idle_timeout)?;
    Ok(Json(StartAnswer { chunk_size: CHUNK_LEN, upload_id }))
}

/// Uploads a chunk. A chunk that was received in full or in part may be sent again.
#[utoipa::path(
    put, path = "/{upload_id}/chunk/{number}", tag = "uploads", operation_id = "uploadChunk",
    request_body(content = Vec<u8>, description = "A part of the file", content_type = "application/octet-stream"),
    params(KeyHeaders),
    responses((status = 200, description = "The chunk is applied"), Refused, Missing, Conflict, NoRoom),
)]
async fn chunk(sender: Sender, path: ChunkPath, headers: HeaderMap, mut body: Body) -> ApiResult<()> {
    let result = receive(sender, path, &headers, &mut body).await;
    if result.is_err() {
        tokio::spawn(drain(body));
    }
    result
}

async fn receive(sender: Sender, path: ChunkPath, headers: &HeaderMap, body: &mut Body) -> ApiResult<()> {
    let ChunkPath { target, upload_id, number } = path;
    let encryption = encryption(headers)?;
    let number = number
        .parse()
        .map_err(|_| ApiError::bad_request("invalid chunk number: chunks are numbered from 0"))?;
    let len = headers.get(header::CONTENT_LENGTH).and_then(|len| len.to_str().ok()?.parse().ok());
    let app = Arc::clone(&sender.app);
    let database = sender.run(CallClass::Catalog, move |context| target.find(context)).await?;
    let upload = app.uploads.find(&upload_id, &database.id)?;
    let chunk = Chunk { number, len, encryption, body };
    let start = |permit, file, encryption: Option<_>, outcome| {
        let (executor, plane) = (Arc::clone(&app.executor), app.plane.clone());
        chunked_upload::spawn(outcome, async move {
            let call =
                move |cancellation| write_upload(&plane, &database, encryption.as_ref(), file, &cancellation);
            executor.run_with_permit(permit, call).await
        });
    };
    upload.receive(chunk, start).await
}

/// Completes a chunked upload.
#[utoipa::path(
    put, path = "/{upload_id}/finalize", tag = "uploads", operation_id = "finalizeUpload",
    responses(
        (status = 200, description = "The database is ready. The body is empty, or `{\"unchecked\": […]}` if parts of the file could not be checked"),
        Refused, Missing, Conflict, NoRoom,
    ),
)]
async fn finalize(sender: Sender, path: ChunkPath) -> ApiResult<UploadedAnswer> {
    let ChunkPath { target, upload_id, .. } = path;
    let app = Arc::clone(&sender.app);
    let database = sender.run(CallClass::Catalog, move |context| target.find(context)).await?;
    app.uploads.find(&upload_id, &database.id)?.finalize(&app.executor).await
}

/// Reads and discards the rest of a body, up to the length of a chunk, within the timeouts.
async fn drain(mut body: Body) {
    let drained = async {
        let mut left = CHUNK_LEN;
        while let Ok(Some(Ok(frame))) = tokio::time::timeout(DRAIN_PART_TIMEOUT, body.frame()).await {
            let len = frame.data_ref().map_or(0, |bytes| bytes.len() as u64);
            let Some(rest) = left.checked_sub(len) else { return };
            left = rest;
        }
    };
    let _timed_out = tokio::time::timeout(DRAIN_TIMEOUT, drained).await;
}
