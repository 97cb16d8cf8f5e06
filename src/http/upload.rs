//! Uploads in one request: the file of a draft, streamed from the client to the disk.

use std::sync::Arc;

use axum::{
    body::Body,
    http::{HeaderMap, StatusCode},
};
use tokio::{runtime::Handle, sync::oneshot};
use zeroize::Zeroizing;

use super::{
    app::Context,
    auth::Access,
    body::{KeyHeaders, UploadedAnswer},
    body_reader::BodyReader,
    error::{ApiError, ApiResult},
    executor::{CallClass, Cancellation, Executor},
    openapi::{Conflict, Missing, NoRoom, Refused},
    origin::{host, without_port},
    part_reader::{Part, PartReader, PartSender},
    request::{PathParam, Sender},
};
use crate::{Cipher, ControlPlane, Database, EncryptionKey, ErrorKind, RemoteEncryption, UploadOptions};

/// Uploads the file of a draft, to the host name of the draft.
#[utoipa::path(
    post, path = "/v1/upload", tag = "uploads", operation_id = "upload",
    request_body(content = Vec<u8>, description = "A SQLite file", content_type = "application/octet-stream"),
    params(KeyHeaders),
    responses(
        (status = 200, description = "The database is ready. The body is empty, or `{\"unchecked\": […]}` if parts of the file could not be checked"),
        Refused, Missing, Conflict, NoRoom,
    ),
)]
pub(super) async fn by_host(sender: Sender, headers: HeaderMap, body: Body) -> ApiResult<UploadedAnswer> {
    receive(sender, &headers, body, UploadTarget::from_host(&headers)).await
}

/// Uploads the file of a draft, to a path, for clients that cannot resolve the host names of databases.
#[utoipa::path(
    post, path = "/databases/{name}/v1/upload", tag = "uploads", operation_id = "uploadByPath",
    request_body(content = Vec<u8>, description = "A SQLite file", content_type = "application/octet-stream"),
    params(KeyHeaders),
    responses(
        (status = 200, description = "The database is ready. The body is empty, or `{\"unchecked\": […]}` if parts of the file could not be checked"),
        Refused, Missing, Conflict, NoRoom,
    ),
)]
pub(super) async fn by_path(
    sender: Sender,
    PathParam(name): PathParam<String>,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<UploadedAnswer> {
    receive(sender, &headers, body, UploadTarget::from_name(name)).await
}

/// The database that an upload addresses, by its name or by its host name.
pub(super) struct UploadTarget {
    name: String,
    host: Option<String>,
}

impl UploadTarget {
    pub(super) fn from_host(headers: &HeaderMap) -> Self {
        let host = host(headers).unwrap_or_default().to_owned();
        Self { name: host.split('.').next().unwrap_or_default().to_owned(), host: Some(host) }
    }

    pub(super) const fn from_name(name: String) -> Self {
        Self { name, host: None }
    }

    /// Returns the database. Fails unless the caller has full access to it.
    pub(super) fn find(&self, context: &Context<'_>) -> ApiResult<Database> {
        let database = context.database(&self.name, Access::Full)?;
        let hostname = without_port(&database.hostname);
        if self.host.as_ref().is_some_and(|host| !host.eq_ignore_ascii_case(hostname)) {
            return Err(ApiError::not_found("no database has this host name"));
        }
        Ok(database)
    }
}

async fn receive(
    sender: Sender,
    headers: &HeaderMap,
    body: Body,
    target: UploadTarget,
) -> ApiResult<UploadedAnswer> {
    let encryption = encryption(headers)?;
    let (parts, file) = PartReader::channel();
    let (started, is_started) = oneshot::channel();
    let app = Arc::clone(&sender.app);
    let uploads = Arc::clone(&app.uploads);
    let upload = sender.run(CallClass::Upload, move |context| {
        let database = target.find(context)?;
        // An abandoned chunked upload would block this one.
        Handle::current().block_on(uploads.end_upload_to(&database.id))?;
        let _request_waits = started.send(());
        write_upload(context.plane, &database, encryption.as_ref(), file, context.cancellation)
    });
    // The body is read only once the call runs: while it is queued, its body would occupy memory.
    let forwarded = async {
        match is_started.await {
            Ok(()) => forward(&app.executor, body, parts).await,
            Err(_call_failed) => Ok(()),
        }
    };
    // A call that fails is answered at once, without waiting for the rest of the body.
    tokio::pin!(upload);
    tokio::select! {
        result = &mut upload => result,
        forwarded = forwarded => {
            // The draft accepts another upload once the call has returned. If the body failed, its error explains the failure;
            // the call has only seen the end of the channel.
            let result = upload.await;
            forwarded.and(result)
        }
    }
}

/// Completes a draft with an uploaded file.
pub(super) fn write_upload(
    plane: &ControlPlane,
    database: &Database,
    encryption: Option<&RemoteEncryption>,
    mut file: PartReader,
    cancellation: &Cancellation,
) -> ApiResult<UploadedAnswer> {
    let options = UploadOptions::default().progress(cancellation.progress());
    let options = encryption.cloned().into_iter().fold(options, UploadOptions::encryption);
    let unchecked = plane.upload_database(database, &mut file, options).map_err(invalid_file)?.unchecked;
    for part in &unchecked {
        tracing::warn!(part, "a part of the uploaded file could not be checked");
    }
    Ok(UploadedAnswer { unchecked })
}

/// Converts the error of an upload: if SQLite finds the file invalid, the request is (400), not the server.
fn invalid_file(error: crate::Error) -> ApiError {
    match error.kind() {
        ErrorKind::Corrupt | ErrorKind::Sql => ApiError::with_status(StatusCode::BAD_REQUEST, &error),
        _ => error.into(),
    }
}

/// Returns the key and cipher in the headers, or `None` if the headers have neither.
pub(super) fn encryption(headers: &HeaderMap) -> ApiResult<Option<RemoteEncryption>> {
    match (key(headers)?, text(headers, "x-turso-encryption-cipher")) {
        (None, None) => Ok(None),
        (Some(key), Some(cipher)) => Ok(Some(RemoteEncryption::new(key, cipher.parse::<Cipher>()?)?)),
        _ => Err(ApiError::bad_request(
            "x-turso-encryption-key and x-turso-encryption-cipher must be given together",
        )),
    }
}

/// Returns the key in the headers, or `None` if there is none.
pub(super) fn key(headers: &HeaderMap) -> ApiResult<Option<EncryptionKey>> {
    let key = text(headers, "x-turso-encryption-key").map(|key| Zeroizing::new(key.to_owned()));
    Ok(key.map(|key| EncryptionKey::from_base64(&key)).transpose()?)
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).map(|value| value.to_str().unwrap_or_default())
}

/// Forwards a body to the call that reads it, until the call stops reading. If the body fails, the channel closes without an end.
async fn forward(executor: &Executor, mut body: Body, parts: PartSender) -> ApiResult<()> {
    let mut reader = BodyReader::default();
    loop {
        let bytes = reader.next(&mut body).await.map_err(|error| error.into_api_error("the upload"))?;
        let part = match bytes {
            Some(bytes) => Part::Bytes(bytes),
            None => Part::End(executor.acquire(CallClass::Copy).await?),
        };
        let is_end = matches!(part, Part::End(_));
        if parts.send(part).await.is_err() || is_end {
            return Ok(());
        }
    }
}
