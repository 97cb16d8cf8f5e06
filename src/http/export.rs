//! Handler for exports: a database as one file, from the disk to the client.
//!
//! The file is written to `<root>/.http/exports/`, which only its owner can read. It is unlinked before its first byte is sent, so
//! it disappears when its last descriptor closes, however the process ends. Files of processes that died while writing are
//! removed by the next process that finds the directory unused.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
};
use http_body_util::channel::{Channel, Sender};

use super::{
    auth::Access,
    body::{ExportQuery, KeyHeader},
    error::{ApiError, ApiResult},
    executor::{CallClass, Cancellation},
    openapi::{Conflict, Missing, NoRoom, Refused},
    private_dir::PrivateDir,
    request::{Call, QueryParams, parse_instant},
    upload,
};
use crate::{ControlPlane, Database, Error, ErrorKind, ExportOptions};

/// Bytes per read.
const PART_LEN: u64 = 256 << 10;

/// Maximum number of parts that wait to be sent.
const PARTS_MAX: usize = 4;

/// How long a client may read nothing before the space on disk is released. The kernel buffers up to several megabytes for a
/// client, and accepts more only when much of that has been sent.
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);

/// Downloads a database as one SQLite file. An encrypted database stays encrypted unless the request asks for a plain file.
#[utoipa::path(
    get, path = "/{name}/export", tag = "databases", operation_id = "exportDatabase",
    params(ExportQuery, KeyHeader),
    responses(
        (status = 200, description = "The file", content(
            (Vec<u8> = "application/vnd.sqlite3"),
            (Vec<u8> = "application/octet-stream"),
        )),
        Refused, Missing, Conflict, NoRoom,
    ),
)]
pub(super) async fn export(
    call: Call<String>,
    QueryParams(query): QueryParams<ExportQuery>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let at = parse_instant("timestamp", query.timestamp.as_deref())?;
    let format = query.page_format.as_deref().map(str::parse).transpose()?;
    let key = upload::key(&headers)?;
    let export =
        call.with_database(CallClass::Copy, Access::ReadOnly, move |context, database, cancellation| {
            let options = ExportOptions::default().decrypt(query.decrypt);
            let options = at.into_iter().fold(options, ExportOptions::at);
            let mut options = format.into_iter().fold(options, ExportOptions::page_format);
            // A key for a plain database is ignored.
            if let Some(key) = key.filter(|_| database.cipher.is_some()) {
                options = options.encryption_key(key);
            }
            let is_sealed = database.cipher.is_some() && !query.decrypt;
            let file = write_export(context.plane, &database, options, cancellation)?;
            let len = file.metadata().map_err(failed)?.len();
            Ok((file, response_headers(database.name.as_str(), is_sealed, len)?))
        });
    let (file, headers) = export.await?;
    let (parts, body) = Channel::new(PARTS_MAX);
    tokio::spawn(send(file, parts));
    Ok((headers, Body::new(body)).into_response())
}

fn failed(error: io::Error) -> ApiError {
    Error::new(ErrorKind::Io, format!("writing an export: {error}")).caused_by(error).into()
}

fn response_headers(name: &str, is_sealed: bool, len: u64) -> ApiResult<HeaderMap> {
    let kind = if is_sealed { "application/octet-stream" } else { "application/vnd.sqlite3" };
    let disposition = HeaderValue::try_from(format!("attachment; filename=\"{name}.db\""))
        .map_err(|error| ApiError::bad_request(error.to_string()))?;
    Ok(HeaderMap::from_iter([
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (header::CONTENT_DISPOSITION, disposition),
        (header::CONTENT_LENGTH, HeaderValue::from(len)),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ]))
}

/// Exports a database, and returns the file after unlinking it.
fn write_export(
    plane: &ControlPlane,
    database: &Database,
    options: ExportOptions<'_>,
    cancellation: &Cancellation,
) -> ApiResult<File> {
    let dir = PrivateDir::open(plane.root())?.subdir("exports")?;
    dir.lock_shared().map_err(failed)?;
    let path = dir.path.join(format!("{}.db", uuid::Uuid::now_v7()));
    plane.export_database(database, &path, options.progress(cancellation.progress()))?;
    let file = File::open(&path);
    std::fs::remove_file(&path).and(file).map_err(failed)
}

/// Removes the files of processes that died, if no process is exporting.
pub(super) fn remove_leftovers(root: &Path) {
    // A failure is not fatal: the next export tries again.
    let _retried_later =
        PrivateDir::open(root).and_then(|dir| dir.subdir("exports")).map(|dir| dir.lock_shared());
}

/// Sends a file until its end, or until the client stops reading.
async fn send(mut file: File, mut parts: Sender<Bytes, io::Error>) {
    loop {
        let reading = tokio::task::spawn_blocking(move || {
            let mut part = Vec::new();
            let read = file.by_ref().take(PART_LEN).read_to_end(&mut part);
            (file, read.map(|_| part))
        });
        let part = match reading.await {
            Ok((returned, Ok(part))) if !part.is_empty() => {
                file = returned;
                part
            }
            Ok((_, Err(error))) => return parts.abort(error),
            _ => return,
        };
        match tokio::time::timeout(IDLE_TIMEOUT, parts.send_data(part.into())).await {
            Ok(Ok(())) => {}
            _ => return,
        }
    }
}
