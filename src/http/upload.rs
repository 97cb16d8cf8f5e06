//! Uploads: the file of a draft, streamed from the client to the disk.

use std::{
    io::{self, Read},
    time::Duration,
};

use axum::{body::Body, body::Bytes, http::HeaderMap, http::StatusCode};
use http_body_util::BodyExt;
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use super::{
    Shared, State,
    access::Access,
    body::KeyHeaders,
    history::database_for,
    openapi::{Conflict, Missing, NoRoom, Refused},
    refusal::{Answer, Refusal},
    request::{Bearer, Place, host},
    work::Load,
};
use crate::{Cipher, EncryptionKey, RemoteEncryption, Upload};

/// Parts of a body that wait to be written.
const PARTS_MAX: usize = 16;

/// How long a client may send nothing.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// Uploads the file of a draft, to its host name.
#[utoipa::path(
    post, path = "/v1/upload", tag = "uploads", operation_id = "upload",
    request_body(content = Vec<u8>, description = "A SQLite file", content_type = "application/octet-stream"),
    params(KeyHeaders),
    responses((status = 200, description = "The draft is a database now"), Refused, Missing, Conflict, NoRoom),
)]
pub(super) async fn by_host(shared: State, bearer: Bearer, headers: HeaderMap, body: Body) -> Answer<()> {
    let host = host(&headers).unwrap_or_default().to_owned();
    let name = host.split('.').next().unwrap_or_default().to_owned();
    receive(&shared, bearer, &headers, body, name, Some(host)).await
}

/// Uploads the file of a draft, to a path: for those whose name service does not know the host names of databases.
#[utoipa::path(
    post, path = "/databases/{name}/v1/upload", tag = "uploads", operation_id = "uploadByPath",
    request_body(content = Vec<u8>, description = "A SQLite file", content_type = "application/octet-stream"),
    params(KeyHeaders),
    responses((status = 200, description = "The draft is a database now"), Refused, Missing, Conflict, NoRoom),
)]
pub(super) async fn by_path(
    shared: State,
    bearer: Bearer,
    Place(name): Place<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer<()> {
    receive(&shared, bearer, &headers, body, name, None).await
}

async fn receive(
    shared: &Shared,
    bearer: Bearer,
    headers: &HeaderMap,
    body: Body,
    name: String,
    host: Option<String>,
) -> Answer<()> {
    let encryption = encryption(headers)?;
    let (parts, taken) = mpsc::channel(PARTS_MAX);
    let upload = shared.run(Load::Long, bearer, move |plane, caller, going| {
        let database = database_for(plane, caller, &name, Access::Full)?;
        let hostname = super::request::without_port(&database.hostname);
        if host.is_some_and(|host| !host.eq_ignore_ascii_case(hostname)) {
            return Err(Refusal::new(StatusCode::NOT_FOUND, "not_found", "no database has this host name"));
        }
        let mut file = Parts { taken, part: Bytes::new(), is_whole: false };
        let upload = Upload::Reader(&mut file);
        let watch = &mut *going.watch();
        let done = match &encryption {
            Some(encryption) => plane.upload_encrypted_database(&name, upload, encryption, None, watch),
            None => plane.upload_database_watched(&name, upload, watch),
        };
        done.map_err(invalid_file)
    });
    // A call that is refused is answered at once, and not when the client has sent more.
    tokio::pin!(upload);
    tokio::select! {
        answer = &mut upload => answer,
        () = feed(body, parts) => upload.await,
    }
}

/// A damaged file is the client's, not the server's.
fn invalid_file(error: crate::Error) -> Refusal {
    match error.kind() {
        crate::ErrorKind::Corrupt => Refusal::new(StatusCode::BAD_REQUEST, "corrupt", error.to_string()),
        _ => error.into(),
    }
}

/// The key and cipher in the headers, if they are there.
fn encryption(headers: &HeaderMap) -> Answer<Option<RemoteEncryption>> {
    match (key(headers)?, text(headers, "x-turso-encryption-cipher")) {
        (None, None) => Ok(None),
        (Some(key), Some(cipher)) => Ok(Some(RemoteEncryption::new(key, cipher.parse::<Cipher>()?)?)),
        _ => Err(Refusal::bad_request(
            "x-turso-encryption-key and x-turso-encryption-cipher must be given together",
        )),
    }
}

/// The key in the headers, if it is there.
pub(super) fn key(headers: &HeaderMap) -> Answer<Option<EncryptionKey>> {
    let key = text(headers, "x-turso-encryption-key").map(|key| Zeroizing::new(key.to_owned()));
    Ok(key.map(|key| EncryptionKey::from_base64(&key)).transpose()?)
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).map(|value| value.to_str().unwrap_or_default())
}

/// A part of a body, or its end.
enum Part {
    Bytes(Bytes),
    End,
}

/// Passes a body on, part by part, for as long as somebody takes them. A body that breaks off has no end.
async fn feed(mut body: Body, parts: mpsc::Sender<Part>) {
    loop {
        let part = match tokio::time::timeout(IDLE_MAX, body.frame()).await {
            Ok(Some(Ok(frame))) => match frame.into_data() {
                Ok(bytes) => Part::Bytes(bytes),
                Err(_trailers) => continue,
            },
            Ok(None) => Part::End,
            Ok(Some(Err(_))) | Err(_) => return,
        };
        let is_last = matches!(part, Part::End);
        if parts.send(part).await.is_err() || is_last {
            return;
        }
    }
}

/// A body as a file that is read.
struct Parts {
    taken: mpsc::Receiver<Part>,
    part: Bytes,
    is_whole: bool,
}

impl Read for Parts {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.part.is_empty() && !self.is_whole {
            match self.taken.blocking_recv() {
                Some(Part::Bytes(bytes)) => self.part = bytes,
                Some(Part::End) => self.is_whole = true,
                None => {
                    let message = "the upload broke off, or sent nothing for 30 seconds";
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
                }
            }
        }
        let count = buffer.len().min(self.part.len());
        buffer[..count].copy_from_slice(&self.part.split_to(count));
        Ok(count)
    }
}
