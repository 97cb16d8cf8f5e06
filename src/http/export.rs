//! Exports: a database as one file, from the disk to the client.
//!
//! The file is written to `<root>/.http/exports/`, for the owner's eyes only, and has no name any more when the first byte
//! of it is sent: it goes when nobody reads it, however the process ends. What a process leaves that dies while it writes
//! is swept by the next that finds the directory unused.

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
    State,
    access::Access,
    body::{ExportQuery, KeyHeader},
    databases::instant,
    dir::PrivateDir,
    history::database_for,
    openapi::{Conflict, Missing, NoRoom, Refused},
    refusal::{Answer, Refusal},
    request::{Bearer, Parameters, Place},
    upload,
    work::{Going, Load},
};
use crate::{ControlPlane, Database, Error, ErrorKind, ExportOptions};

/// How much is read at once.
const PART_LEN: u64 = 256 << 10;

/// Parts that wait to be sent.
const PARTS_MAX: usize = 4;

/// How long a client may take nothing. The room on the disk is given back then. The system buffers up to some megabytes for a
/// client, and takes more only when much of that has gone.
const IDLE_MAX: Duration = Duration::from_secs(300);

/// Downloads a database as one SQLite file. An encrypted one stays so, unless it is asked for otherwise.
#[utoipa::path(
    get, path = "/{name}/export", tag = "databases", operation_id = "exportDatabase",
    params(ExportQuery, KeyHeader),
    responses(
        (status = 200, description = "Its file", content(
            (Vec<u8> = "application/vnd.sqlite3"),
            (Vec<u8> = "application/octet-stream"),
        )),
        Refused, Missing, Conflict, NoRoom,
    ),
)]
pub(super) async fn export(
    shared: State,
    bearer: Bearer,
    Place((organization, name)): Place<(String, String)>,
    Parameters(query): Parameters<ExportQuery>,
    headers: HeaderMap,
) -> Answer<Response> {
    shared.check_organization(&organization)?;
    let mut options = ExportOptions::default().decrypt(query.decrypt);
    if let Some(at) = instant("timestamp", query.timestamp.as_deref())? {
        options = options.at(at);
    }
    if let Some(format) = query.page_format.as_deref() {
        options = options.page_format(format.parse()?);
    }
    let key = upload::key(&headers)?;
    let (file, head) = shared
        .run(Load::Long, bearer, move |plane, caller, going| {
            let database = database_for(plane, caller, &name, Access::ReadOnly)?;
            // A key that came for a plain database is of no use.
            if let Some(key) = key.filter(|_| database.cipher.is_some()) {
                options = options.encryption_key(key);
            }
            let is_sealed = database.cipher.is_some() && !query.decrypt;
            let file = written(plane, &database, &options, going)?;
            let len = file.metadata().map_err(failed)?.len();
            Ok((file, head(database.name.as_str(), is_sealed, len)?))
        })
        .await?;
    let (parts, body) = Channel::new(PARTS_MAX);
    tokio::spawn(feed(file, parts));
    Ok((head, Body::new(body)).into_response())
}

fn failed(error: io::Error) -> Refusal {
    Error::new(ErrorKind::Io, format!("writing an export: {error}")).caused_by(error).into()
}

fn head(name: &str, is_sealed: bool, len: u64) -> Answer<HeaderMap> {
    let kind = if is_sealed { "application/octet-stream" } else { "application/vnd.sqlite3" };
    let disposition = HeaderValue::try_from(format!("attachment; filename=\"{name}.db\""))
        .map_err(|error| Refusal::bad_request(error.to_string()))?;
    Ok(HeaderMap::from_iter([
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (header::CONTENT_DISPOSITION, disposition),
        (header::CONTENT_LENGTH, HeaderValue::from(len)),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ]))
}

/// The exported file, which has no name any more.
fn written(
    plane: &ControlPlane,
    database: &Database,
    options: &ExportOptions,
    going: &Going,
) -> Answer<File> {
    let dir = PrivateDir::of(plane.root())?.inner("exports")?;
    dir.hold().map_err(failed)?;
    let path = dir.path.join(format!("{}.db", uuid::Uuid::now_v7()));
    plane.export_database(database, &path, options, &mut *going.watch())?;
    let file = File::open(&path);
    std::fs::remove_file(&path).and(file).map_err(failed)
}

/// Removes what dead processes left, if nobody writes an export now.
pub(super) fn sweep(root: &Path) {
    // What cannot be removed now keeps nobody from serving.
    let _swept_later = PrivateDir::of(root).and_then(|dir| dir.inner("exports")).map(|dir| dir.hold());
}

/// Passes a file on, part by part, for as long as somebody takes them.
async fn feed(mut file: File, mut parts: Sender<Bytes, io::Error>) {
    loop {
        let reading = tokio::task::spawn_blocking(move || {
            let mut part = Vec::new();
            let read = file.by_ref().take(PART_LEN).read_to_end(&mut part);
            (file, read.map(|_| part))
        });
        let part = match reading.await {
            Ok((same, Ok(part))) if !part.is_empty() => {
                file = same;
                part
            }
            Ok((_, Err(error))) => return parts.abort(error),
            _ => return,
        };
        match tokio::time::timeout(IDLE_MAX, parts.send_data(part.into())).await {
            Ok(Ok(())) => {}
            _ => return,
        }
    }
}
