//! Uploads: the file of a draft, streamed from the client to the disk.

use std::{
    io::{self, Read},
    sync::Arc,
};

use axum::{body::Body, body::Bytes, http::HeaderMap, http::StatusCode};
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
};
use zeroize::Zeroizing;

use super::{
    Shared, State,
    access::{Access, Caller},
    body::KeyHeaders,
    history::database_for,
    openapi::{Conflict, Missing, NoRoom, Refused},
    pace::Paced,
    refusal::{Answer, Refusal},
    request::{Bearer, Place, host, without_port},
    work::{Going, Load, Permit, Work},
};
use crate::{Cipher, ControlPlane, Database, EncryptionKey, RemoteEncryption, Upload};

/// Parts of a body that wait to be written. Each holds on to the buffer that it was read into, of up to 400 KB.
const PARTS_MAX: usize = 4;

/// Uploads the file of a draft, to its host name.
#[utoipa::path(
    post, path = "/v1/upload", tag = "uploads", operation_id = "upload",
    request_body(content = Vec<u8>, description = "A SQLite file", content_type = "application/octet-stream"),
    params(KeyHeaders),
    responses((status = 200, description = "The draft is a database now"), Refused, Missing, Conflict, NoRoom),
)]
pub(super) async fn by_host(shared: State, bearer: Bearer, headers: HeaderMap, body: Body) -> Answer<()> {
    receive(&shared, bearer, &headers, body, Address::of_host(&headers)).await
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
    receive(&shared, bearer, &headers, body, Address::of_path(name)).await
}

/// Which database something is uploaded to.
pub(super) struct Address {
    name: String,
    host: Option<String>,
}

impl Address {
    /// The one whose host name a request is for.
    pub(super) fn of_host(headers: &HeaderMap) -> Self {
        let host = host(headers).unwrap_or_default().to_owned();
        Self { name: host.split('.').next().unwrap_or_default().to_owned(), host: Some(host) }
    }

    pub(super) const fn of_path(name: String) -> Self {
        Self { name, host: None }
    }

    /// The database, if the caller may upload to it.
    pub(super) fn find(&self, plane: &ControlPlane, caller: &Caller) -> Answer<Database> {
        let database = database_for(plane, caller, &self.name, Access::Full)?;
        let hostname = without_port(&database.hostname);
        if self.host.as_ref().is_some_and(|host| !host.eq_ignore_ascii_case(hostname)) {
            return Err(Refusal::new(StatusCode::NOT_FOUND, "not_found", "no database has this host name"));
        }
        Ok(database)
    }
}

async fn receive(
    shared: &Shared,
    bearer: Bearer,
    headers: &HeaderMap,
    body: Body,
    address: Address,
) -> Answer<()> {
    let encryption = encryption(headers)?;
    let (parts, file) = Parts::channel();
    let (admitted, is_admitted) = oneshot::channel();
    let sessions = Arc::clone(&shared.sessions);
    let upload = shared.run(Load::Upload, bearer, move |plane, caller, going| {
        let database = address.find(plane, caller)?;
        // One in chunks that nobody goes on with would be in its way.
        Handle::current().block_on(sessions.end_of(&database.id))?;
        let _still_asked_for = admitted.send(());
        write(plane, &database, encryption.as_ref(), file, going)
    });
    // Nothing is read for a call that waits for its turn: its body would wait in memory, and the turn come for clients that
    // are gone since.
    let sent = async {
        match is_admitted.await {
            Ok(()) => feed(&shared.work, body, parts).await,
            Err(_refused) => Ok(()),
        }
    };
    // A call that is refused is answered at once, and not when the client has sent more.
    tokio::pin!(upload);
    tokio::select! {
        answer = &mut upload => answer,
        sent = sent => {
            // The draft can be uploaded to again when the call has ended. Of a file that did not come, the call only sees
            // that no more comes.
            let answer = upload.await;
            sent.and(answer)
        }
    }
}

/// Completes a draft with what comes through `file`.
pub(super) fn write(
    plane: &ControlPlane,
    database: &Database,
    encryption: Option<&RemoteEncryption>,
    mut file: Parts,
    going: &Going,
) -> Answer<()> {
    let (upload, watch) = (Upload::Reader(&mut file), &mut *going.watch());
    let done = match encryption {
        Some(encryption) => plane.upload_encrypted_database(database, upload, encryption, None, watch),
        None => plane.upload_database_watched(database, upload, watch),
    };
    let uploaded = done.map_err(invalid_file)?;
    for part in uploaded.unchecked {
        tracing::warn!(part, "a part of the uploaded file could not be checked");
    }
    Ok(())
}

/// What SQLite finds wrong with a file is the client's fault, not the server's.
fn invalid_file(error: crate::Error) -> Refusal {
    match error.kind() {
        crate::ErrorKind::Corrupt | crate::ErrorKind::Sql => {
            Refusal::with_status(StatusCode::BAD_REQUEST, &error)
        }
        _ => error.into(),
    }
}

/// The key and cipher in the headers, if they are there.
pub(super) fn encryption(headers: &HeaderMap) -> Answer<Option<RemoteEncryption>> {
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
pub(super) enum Part {
    Bytes(Bytes),
    /// What follows is a long call's work.
    End(Permit),
}

/// Passes a body on, part by part, for as long as somebody takes them. A body that breaks off has no end.
async fn feed(work: &Work, mut body: Body, parts: mpsc::Sender<Part>) -> Answer<()> {
    let mut paced = Paced::default();
    loop {
        let bytes = paced.next(&mut body).await.map_err(|missing| missing.refusal("the upload"))?;
        let part = match bytes {
            Some(bytes) => Part::Bytes(bytes),
            None => Part::End(work.admit(Load::Long).await?),
        };
        let is_last = matches!(part, Part::End(_));
        if parts.send(part).await.is_err() || is_last {
            return Ok(());
        }
    }
}

/// A body as a file that is read.
pub(super) struct Parts {
    taken: mpsc::Receiver<Part>,
    part: Bytes,
    is_whole: bool,
    /// Held until the call that reads this is over.
    permit: Option<Permit>,
}

impl Parts {
    /// Where parts are sent, and where they are read. A few of them stand in memory.
    pub(super) fn channel() -> (mpsc::Sender<Part>, Self) {
        let (parts, taken) = mpsc::channel(PARTS_MAX);
        (parts, Self { taken, part: Bytes::new(), is_whole: false, permit: None })
    }
}

impl Read for Parts {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.part.is_empty() && !self.is_whole {
            match self.taken.blocking_recv() {
                Some(Part::Bytes(bytes)) => self.part = bytes,
                Some(Part::End(permit)) => (self.is_whole, self.permit) = (true, Some(permit)),
                None => {
                    let message = "the upload broke off before its end";
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
                }
            }
        }
        let count = buffer.len().min(self.part.len());
        buffer[..count].copy_from_slice(&self.part.split_to(count));
        Ok(count)
    }
}
