//! A chunked upload: receives the chunks of one file in order and applies each once, even if the client repeats requests.
//!
//! The bytes of a chunk are forwarded at once to the call that builds the database, so a chunk whose request failed may have been
//! forwarded in part. The client sends the chunk again from its start, and the part that was forwarded is skipped after its digest
//! matches.
//!
//! The digests detect clients that mix up chunks. They do not detect a client that forges its own file.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering},
};

use axum::{
    body::{Body, Bytes},
    http::StatusCode,
};
use tokio::sync::{Mutex as AsyncMutex, watch};
use xxhash_rust::xxh3::Xxh3;

use super::{
    body::UploadedAnswer,
    body_reader::BodyReader,
    error::{ApiError, ApiResult},
    executor::{CallClass, Executor, Permit},
    part_reader::{Part, PartReader, PartSender},
};
use crate::{
    RemoteEncryption,
    sync::{Guard, Mutex, Rank},
};

/// The size of every chunk except the last. It bounds what a failed request must repeat, and costs one round trip per chunk, which
/// allows 80 MB/s at a latency of 100 ms.
pub(super) const CHUNK_LEN: u64 = 8 << 20;

/// The value of `latest_request` once the upload has ended.
const ENDED: u64 = u64::MAX;

/// The outcome of the call that builds the database.
#[derive(Debug)]
pub(super) struct Outcome {
    has_started: AtomicBool,
    is_complete: AtomicBool,
    /// The reason why the upload failed, if the call has seen only the end of the channel.
    failure: OnceLock<ApiError>,
    result: watch::Sender<Option<ApiResult<UploadedAnswer>>>,
}

impl Outcome {
    /// Whether the file is complete and the call is still running.
    pub(super) fn is_finishing(&self) -> bool {
        self.is_complete.load(Ordering::Relaxed) && self.result.borrow().is_none()
    }

    /// Waits until the call has returned, if it has started, and so until its files are removed.
    pub(super) async fn settled(&self) {
        if self.has_started.load(Ordering::Relaxed) {
            let _result = self.result().await;
        }
    }

    /// Waits for the result of the call.
    async fn result(&self) -> ApiResult<UploadedAnswer> {
        let mut results = self.result.subscribe();
        // `wait_for` fails only if the sender is dropped, which `self` owns.
        let result = results.wait_for(Option::is_some).await.ok().and_then(|result| result.clone());
        result.unwrap_or_else(|| Err(no_such_upload()))
    }

    fn settle(&self, result: ApiResult<UploadedAnswer>) {
        let result = self.failure.get().map_or(result, |failure| Err(failure.clone()));
        self.result.send_replace(Some(result));
    }
}

pub(super) struct ChunkedUpload {
    size: u64,
    /// Locked by the request that forwards bytes.
    writer: AsyncMutex<Writer>,
    /// The digests of the chunks that were applied.
    applied: Mutex<Vec<u128>>,
    /// The latest request for the next chunk. Earlier requests, whose connections have probably failed, yield to it.
    latest_request: watch::Sender<u64>,
    outcome: Arc<Outcome>,
}

/// The state of the call that reads the file, and the part of the next chunk that was forwarded to it.
struct Writer {
    call: CallState,
    forwarded: u64,
    digest: Xxh3,
}

enum CallState {
    /// The call starts with the first chunk, which contains the key.
    NotStarted(Permit),
    Reading {
        parts: PartSender,
        encryption: Option<RemoteEncryption>,
    },
    /// The channel is closed.
    Closed,
}

/// The chunk that is forwarded next.
#[derive(Clone, Copy)]
struct ExpectedChunk {
    number: u64,
    len: u64,
    /// The request that forwards it, which yields to a later one.
    ticket: u64,
}

/// A chunk in a request.
pub(super) struct Chunk<'a> {
    pub(super) number: u64,
    /// The length in the headers, if they have one.
    pub(super) len: Option<u64>,
    pub(super) encryption: Option<RemoteEncryption>,
    pub(super) body: &'a mut Body,
}

impl ChunkedUpload {
    pub(super) fn new(size: u64, permit: Permit) -> Self {
        let call = CallState::NotStarted(permit);
        Self {
            size,
            writer: AsyncMutex::new(Writer { call, forwarded: 0, digest: Xxh3::new() }),
            applied: Mutex::new(Rank::Chunks, Vec::new()),
            latest_request: watch::Sender::new(0),
            outcome: Arc::new(Outcome {
                has_started: AtomicBool::new(false),
                is_complete: AtomicBool::new(false),
                failure: OnceLock::new(),
                result: watch::Sender::new(None),
            }),
        }
    }

    pub(super) const fn outcome(&self) -> &Arc<Outcome> {
        &self.outcome
    }

    /// Ends the upload: every request fails, and once they have returned, the call fails and removes its files.
    pub(super) fn end(&self) {
        self.latest_request.send_replace(ENDED);
    }

    /// Every change is a single insertion, which a panic cannot leave half done.
    fn applied(&self) -> Guard<'_, Vec<u128>> {
        self.applied.lock_or_recover()
    }

    /// The number of the next chunk.
    fn next(&self) -> u64 {
        self.applied().len() as u64
    }

    /// The length of a chunk.
    fn len(&self, number: u64) -> ApiResult<u64> {
        let count = self.size.div_ceil(CHUNK_LEN);
        if number >= count {
            let message =
                format!("chunk {number} does not exist; {} bytes have {count} chunks, from 0", self.size);
            return Err(ApiError::bad_request(message));
        }
        Ok(CHUNK_LEN.min(self.size - number * CHUNK_LEN))
    }

    /// The result of the call, or `None` if it has not returned.
    fn final_result(&self) -> Option<ApiResult<UploadedAnswer>> {
        let result = self.outcome.result.borrow().clone();
        result.map(|result| result.map_err(ApiError::into_final))
    }

    /// Receives a chunk. `start` starts the call that reads the file.
    pub(super) async fn receive(
        &self,
        chunk: Chunk<'_>,
        start: impl FnOnce(Permit, PartReader, Option<RemoteEncryption>, Arc<Outcome>),
    ) -> ApiResult<()> {
        let Chunk { number, encryption, body, .. } = chunk;
        let len = self.len(number)?;
        if let Some(sent) = chunk.len.filter(|sent| *sent != len) {
            return Err(ApiError::bad_request(format!("chunk {number} has {len} bytes, not {sent}")));
        }
        if let Some(result) = self.final_result() {
            result?;
            return Err(conflict("this upload is already complete"));
        }
        let next = self.next();
        if number < next {
            return self.compare(number, len, body).await;
        }
        if number > next {
            let message = format!("chunk {number} is out of order; the next chunk is {next}");
            return Err(conflict(&message));
        }
        let mut ticket = ENDED;
        self.latest_request.send_modify(|latest| {
            if *latest != ENDED {
                *latest += 1;
                ticket = *latest;
            }
        });
        if ticket == ENDED {
            return Err(no_such_upload());
        }
        let mut writer = tokio::select! {
            writer = self.writer.lock() => writer,
            error = self.superseded(Some(ticket)) => return Err(error),
        };
        if self.next() != number {
            // The request that held the lock has applied the chunk.
            drop(writer);
            return self.compare(number, len, body).await;
        }
        self.start(&mut writer, ticket, encryption.as_ref(), start)?;
        let expected = ExpectedChunk { number, len, ticket };
        self.forward(&mut writer, expected, body).await
    }

    /// Starts the call with the first chunk, and checks that later chunks have the same key.
    fn start(
        &self,
        writer: &mut Writer,
        ticket: u64,
        encryption: Option<&RemoteEncryption>,
        start: impl FnOnce(Permit, PartReader, Option<RemoteEncryption>, Arc<Outcome>),
    ) -> ApiResult<()> {
        if let CallState::Reading { encryption: known, .. } = &writer.call {
            if known.as_ref() != encryption {
                let message = "every chunk of an upload must have the same encryption key and cipher in its headers, or none";
                return Err(ApiError::bad_request(message));
            }
            return Ok(());
        }
        // While this borrow is held, `end` blocks. After it, `Outcome::settled` sees whether there is a call to wait for.
        let latest = self.latest_request.borrow();
        if *latest != ticket {
            return Err(no_such_upload());
        }
        if let CallState::NotStarted(permit) = std::mem::replace(&mut writer.call, CallState::Closed) {
            let (parts, file) = PartReader::channel();
            writer.call = CallState::Reading { parts, encryption: encryption.cloned() };
            self.outcome.has_started.store(true, Ordering::Relaxed);
            start(permit, file, encryption.cloned(), Arc::clone(&self.outcome));
        }
        drop(latest);
        Ok(())
    }

    /// Forwards the part of a chunk that was not forwarded before.
    async fn forward(&self, writer: &mut Writer, expected: ExpectedChunk, body: &mut Body) -> ApiResult<()> {
        let ExpectedChunk { number, len, ticket } = expected;
        let (mut seen, mut digest, mut reader) = (0, Xxh3::new(), BodyReader::default());
        while let Some(mut bytes) = self.read(body, &mut reader, Some(ticket)).await? {
            if seen + bytes.len() as u64 > len {
                return Err(ApiError::bad_request(format!("chunk {number} has {len} bytes, not more")));
            }
            if seen < writer.forwarded {
                let known = usize::try_from(writer.forwarded - seen).unwrap_or(usize::MAX).min(bytes.len());
                digest.update(&bytes.split_to(known));
                seen += known as u64;
                if seen == writer.forwarded && digest.digest128() != writer.digest.digest128() {
                    return self.fail(writer, number).await;
                }
            }
            if bytes.is_empty() {
                continue;
            }
            let CallState::Reading { parts, .. } = &writer.call else { return Err(no_such_upload()) };
            let sent = tokio::select! {
                sent = parts.send(Part::Bytes(bytes.clone())) => sent,
                error = self.superseded(Some(ticket)) => return Err(error),
            };
            if sent.is_err() {
                self.outcome.result().await?;
                return Err(no_such_upload());
            }
            // There is no await between sending and counting, so a request that is dropped has counted what it forwarded.
            writer.digest.update(&bytes);
            writer.forwarded += bytes.len() as u64;
            seen += bytes.len() as u64;
        }
        if seen < len {
            return Err(ApiError::bad_request(format!("chunk {number} has {len} bytes, not {seen}")));
        }
        self.applied().push(writer.digest.digest128());
        (writer.forwarded, writer.digest) = (0, Xxh3::new());
        Ok(())
    }

    /// Checks that a repeated chunk equals the one that was applied.
    async fn compare(&self, number: u64, len: u64, body: &mut Body) -> ApiResult<()> {
        let (mut seen, mut digest, mut reader) = (0, Xxh3::new(), BodyReader::default());
        while let Some(bytes) = self.read(body, &mut reader, None).await? {
            seen += bytes.len() as u64;
            if seen > len {
                break;
            }
            digest.update(&bytes);
        }
        let applied = usize::try_from(number).ok().and_then(|number| self.applied().get(number).copied());
        if seen != len || applied != Some(digest.digest128()) {
            let message = format!("chunk {number} was already received with different contents");
            return Err(conflict(&message));
        }
        Ok(())
    }

    /// Reads the next bytes of a body, until the request is superseded or the call returns.
    async fn read(
        &self,
        body: &mut Body,
        reader: &mut BodyReader,
        ticket: Option<u64>,
    ) -> ApiResult<Option<Bytes>> {
        tokio::select! {
            biased;
            error = self.superseded(ticket) => Err(error),
            result = self.outcome.result(), if ticket.is_some() => {
                result?;
                Err(no_such_upload())
            }
            bytes = reader.next(body) => bytes.map_err(|error| error.into_api_error("the chunk")),
        }
    }

    /// Completes when a request must give up: because of a later request for its chunk, or because the upload has ended.
    async fn superseded(&self, ticket: Option<u64>) -> ApiError {
        let mut latest = self.latest_request.subscribe();
        let is_superseded = |latest: &u64| ticket.map_or(*latest == ENDED, |ticket| *latest != ticket);
        match latest.wait_for(is_superseded).await {
            Ok(latest) if *latest != ENDED => conflict("superseded by a later request for this chunk"),
            _ => no_such_upload(),
        }
    }

    /// Fails the upload because a repeated chunk differs from the part that was forwarded, which cannot be taken back.
    async fn fail(&self, writer: &mut Writer, number: u64) -> ApiResult<()> {
        let message =
            format!("chunk {number} differs from the part of it that was received before; start again");
        let _first_failure = self.outcome.failure.set(conflict(&message));
        writer.call = CallState::Closed;
        self.outcome.result().await.map(|_| ())
    }

    /// Completes the upload and returns the result of the call. May be repeated.
    pub(super) async fn finalize(&self, executor: &Executor) -> ApiResult<UploadedAnswer> {
        if let Some(result) = self.final_result() {
            return result;
        }
        let finish = async {
            let mut writer = self.writer.lock().await;
            let next = self.next();
            let missing = self.size.saturating_sub(next * CHUNK_LEN);
            if missing > 0 {
                let message = format!(
                    "{missing} of {} bytes are missing; send chunk {next} next, and finalize at the end",
                    self.size
                );
                return Err(ApiError::bad_request(message));
            }
            if let CallState::Reading { parts, .. } = &writer.call {
                let permit = executor.acquire(CallClass::Copy).await?;
                self.outcome.is_complete.store(true, Ordering::Relaxed);
                // If the call no longer reads, its result is available.
                let _received = parts.send(Part::End(permit)).await;
                writer.call = CallState::Closed;
            }
            Ok(())
        };
        tokio::select! {
            finished = finish => finished?,
            error = self.superseded(None) => return Err(error),
        }
        self.outcome.result().await
    }
}

/// Runs the call that reads an upload, and keeps its result for every request.
pub(super) fn spawn(
    outcome: Arc<Outcome>,
    call: impl Future<Output = ApiResult<UploadedAnswer>> + Send + 'static,
) {
    tokio::spawn(async move { outcome.settle(call.await) });
}

/// The error of a request for an upload that does not exist any more.
pub(super) fn no_such_upload() -> ApiError {
    ApiError::not_found(
        "no such upload of this database: it ended, timed out, was replaced, or the server restarted; start again",
    )
}

fn conflict(message: &str) -> ApiError {
    ApiError::new(StatusCode::CONFLICT, "conflict", message)
}
