//! Uploads in chunks, as Turso's command line sends all of its files: the requests, and who may make them.
//!
//! | request | body | answer |
//! |---|---|---|
//! | `PUT …/start` | `{"db_size_bytes": …}` | the size of the chunks, and the id of the upload |
//! | `PUT …/{upload_id}/chunk/{number}` | a chunk, from number 0 on, with the headers of the encryption | nothing |
//! | `PUT …/{upload_id}/finalize` | nothing | nothing, when the database is complete |
//!
//! Each asks for the same token as an upload in one piece, and may come again: a chunk that was taken is not taken twice, a
//! start ends the upload that was started before. A single upload ends one in chunks, too.

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
    Shared, State,
    body::{KeyHeaders, StartAnswer, StartUpload},
    chunked::{self, CHUNK_LEN, Chunk},
    openapi::{Conflict, Missing, NoRoom, Refused, operations},
    refusal::{Answer, Refusal},
    request::{Bearer, JsonBody},
    upload::{Address, encryption, write},
    work::Load,
};
use crate::{DatabaseState, ErrorKind};

/// The size of the smallest SQLite file: one page of the smallest size.
const SIZE_MIN: u64 = 512;

/// That of the largest: as many pages as there can be, of the largest size.
const SIZE_MAX: u64 = 0xffff_fffe << 16;

/// How long the rest of a chunk that is refused is read, and how long for each part of it: a client that still sends might see
/// nothing but a broken connection.
const DRAIN_TIME: Duration = Duration::from_secs(30);
const DRAIN_WAIT: Duration = Duration::from_secs(2);

/// The routes, for the host name of a database and for its path.
pub(super) fn routes() -> OpenApiRouter<Arc<Shared>> {
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

/// What the path and the host name say.
struct To {
    address: Address,
    upload_id: String,
    number: String,
}

impl<S: Send + Sync> FromRequestParts<S> for To {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Answer<Self> {
        let path = RawPathParams::from_request_parts(parts, state).await;
        let path = path.map_err(|error| Refusal::bad_request(error.body_text()))?;
        let part = |name| path.iter().find(|(known, _)| *known == name).map(|(_, value)| value.to_owned());
        let address = part("name").map_or_else(|| Address::of_host(&parts.headers), Address::of_path);
        let (upload_id, number) = (part("upload_id"), part("number"));
        Ok(Self { address, upload_id: upload_id.unwrap_or_default(), number: number.unwrap_or_default() })
    }
}

/// Starts an upload in chunks, and ends the one before it.
#[utoipa::path(
    put, path = "/start", tag = "uploads", operation_id = "startUpload",
    request_body = StartUpload,
    responses((status = 200, description = "Chunks may come", body = StartAnswer), Refused, Missing, Conflict, NoRoom),
)]
async fn start(shared: State, bearer: Bearer, to: To, body: JsonBody) -> Answer<Json<StartAnswer>> {
    let StartUpload { db_size_bytes: size } = body.read()?;
    if !(SIZE_MIN..=SIZE_MAX).contains(&size) {
        let message = format!("db_size_bytes is from {SIZE_MIN} to {SIZE_MAX}, not {size}");
        return Err(Refusal::bad_request(message));
    }
    let database = shared
        .run(Load::Quick, bearer, move |plane, caller, _| {
            let database = to.address.find(plane, caller)?;
            if database.state != DatabaseState::Draft {
                let message = format!(
                    "database {} already has its contents; a file can be uploaded to a draft only",
                    database.name
                );
                return Err(Refusal::new(StatusCode::CONFLICT, ErrorKind::AlreadyExists.as_str(), message));
            }
            if let Some(limit) = database.size_limit.filter(|limit| !limit.admits(size)) {
                let message = format!("the uploaded file is larger than the size limit of {limit} bytes");
                return Err(Refusal::new(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    ErrorKind::TooLarge.as_str(),
                    message,
                ));
            }
            Ok(database.id)
        })
        .await?;
    shared.sessions.end_of(&database).await?;
    let place = shared.work.admit(Load::Session).await?;
    let upload_id = shared.sessions.begin(&database, size, place, shared.patience)?;
    Ok(Json(StartAnswer { chunk_size: CHUNK_LEN, upload_id }))
}

/// Uploads a chunk. One that was answered, or has come in part, may come again.
#[utoipa::path(
    put, path = "/{upload_id}/chunk/{number}", tag = "uploads", operation_id = "uploadChunk",
    request_body(content = Vec<u8>, description = "A part of the file", content_type = "application/octet-stream"),
    params(KeyHeaders),
    responses((status = 200, description = "The chunk is taken"), Refused, Missing, Conflict, NoRoom),
)]
async fn chunk(shared: State, bearer: Bearer, to: To, headers: HeaderMap, mut body: Body) -> Answer<()> {
    let taken = take(&shared, bearer, to, &headers, &mut body).await;
    if taken.is_err() {
        tokio::spawn(drain(body));
    }
    taken
}

async fn take(shared: &State, bearer: Bearer, to: To, headers: &HeaderMap, body: &mut Body) -> Answer<()> {
    let encryption = encryption(headers)?;
    let number = to
        .number
        .parse()
        .map_err(|_| Refusal::bad_request("chunks are numbered from 0: …/chunk/0 is the first"))?;
    let len = headers.get(header::CONTENT_LENGTH).and_then(|len| len.to_str().ok()?.parse().ok());
    let find = move |plane: &_, caller: &_, _: &_| to.address.find(plane, caller);
    let database = shared.run(Load::Quick, bearer, find).await?;
    let upload = shared.sessions.find(&to.upload_id, &database.id)?;
    let shared = Arc::clone(shared);
    let chunk = Chunk { number, len, encryption, body };
    let begin = |place, file, encryption: Option<_>, fate| {
        let (work, plane) = (Arc::clone(&shared.work), shared.plane.clone());
        chunked::run(fate, async move {
            let call = move |going| write(&plane, &database, encryption.as_ref(), file, &going);
            work.run_admitted(place, call).await
        });
    };
    upload.take(chunk, begin).await
}

/// Completes an upload in chunks.
#[utoipa::path(
    put, path = "/{upload_id}/finalize", tag = "uploads", operation_id = "finalizeUpload",
    responses((status = 200, description = "The draft is a database now"), Refused, Missing, Conflict, NoRoom),
)]
async fn finalize(shared: State, bearer: Bearer, to: To) -> Answer<()> {
    let find = move |plane: &_, caller: &_, _: &_| to.address.find(plane, caller);
    let database = shared.run(Load::Quick, bearer, find).await?;
    shared.sessions.find(&to.upload_id, &database.id)?.finalize(&shared.work).await
}

/// Reads the rest of a body, of a chunk's length at most, and for a while.
async fn drain(mut body: Body) {
    let drained = async {
        let mut left = CHUNK_LEN;
        while let Ok(Some(Ok(frame))) = tokio::time::timeout(DRAIN_WAIT, body.frame()).await {
            let len = frame.data_ref().map_or(0, |bytes| bytes.len() as u64);
            let Some(rest) = left.checked_sub(len) else { return };
            left = rest;
        }
    };
    let _given_up = tokio::time::timeout(DRAIN_TIME, drained).await;
}
