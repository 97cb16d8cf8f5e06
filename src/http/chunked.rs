//! An upload in chunks: the chunks of one file, in their order, each taken once whatever a client sends again.
//!
//! What has come of a chunk is passed on to the call that builds the database at once, so a chunk whose request broke off
//! has come in part. The client sends it again from its start: what was passed on is skipped then, if it is the same.
//!
//! Digests tell chunks apart that a client mixed up. They are no defence against one that forges its own file.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering},
};

use axum::{
    body::{Body, Bytes},
    http::StatusCode,
};
use tokio::sync::{Mutex as Turns, mpsc, watch};
use xxhash_rust::xxh3::Xxh3;

use super::{
    pace::Paced,
    refusal::{Answer, Refusal},
    sessions::ended,
    upload::{Part, Parts},
    work::{Load, Permit, Work},
};
use crate::{
    RemoteEncryption,
    sync::{Guard, Mutex, Rank},
};

/// The size of all chunks but the last. What is sent again after a broken connection is less than this, and each costs one
/// round trip: at a tenth of a second that leaves 80 MB/s.
pub(super) const CHUNK_LEN: u64 = 8 << 20;

/// The newest request of an upload that ended.
const ENDED: u64 = u64::MAX;

/// The call that builds a database, as its upload sees it.
#[derive(Debug)]
pub(super) struct Fate {
    is_begun: AtomicBool,
    is_whole: AtomicBool,
    /// Why the upload is broken, where the call only sees that no more comes.
    broken: OnceLock<Refusal>,
    answer: watch::Sender<Option<Answer<()>>>,
}

impl Fate {
    /// Whether all bytes have come and the call is at work on them.
    pub(super) fn is_finishing(&self) -> bool {
        self.is_whole.load(Ordering::Relaxed) && self.answer.borrow().is_none()
    }

    /// Waits until there is no call, and nothing that it would clear away.
    pub(super) async fn over(&self) {
        if self.is_begun.load(Ordering::Relaxed) {
            let _answer = self.answer().await;
        }
    }

    /// What the call answers, when it does.
    async fn answer(&self) -> Answer<()> {
        let mut answers = self.answer.subscribe();
        // The sender is in this value: it is not gone.
        let answer = answers.wait_for(Option::is_some).await.ok().and_then(|answer| answer.clone());
        answer.unwrap_or_else(|| Err(ended()))
    }

    fn settle(&self, answer: Answer<()>) {
        let answer = self.broken.get().map_or(answer, |broken| Err(broken.clone()));
        self.answer.send_replace(Some(answer));
    }
}

/// An upload in chunks.
pub(super) struct Chunked {
    size: u64,
    /// Held by the request that passes bytes on.
    turn: Turns<Turn>,
    /// The digests of the chunks that have come.
    taken: Mutex<Vec<u128>>,
    /// The newest request for the chunk that is to come. The older ones, whose connections are most likely gone, give way.
    newest: watch::Sender<u64>,
    fate: Arc<Fate>,
}

/// Where the next byte goes, and what has come of the next chunk.
struct Turn {
    call: Call,
    passed: u64,
    digest: Xxh3,
}

enum Call {
    /// It begins with the first chunk, which brings the key.
    NotBegun(Permit),
    Reads {
        parts: mpsc::Sender<Part>,
        encryption: Option<RemoteEncryption>,
    },
    /// It has all that it gets.
    Reading,
}

/// A chunk on its way in.
pub(super) struct Chunk<'a> {
    pub(super) number: u64,
    /// The length that its headers say.
    pub(super) len: Option<u64>,
    pub(super) encryption: Option<RemoteEncryption>,
    pub(super) body: &'a mut Body,
}

impl Chunked {
    pub(super) fn new(size: u64, place: Permit) -> Self {
        Self {
            size,
            turn: Turns::new(Turn { call: Call::NotBegun(place), passed: 0, digest: Xxh3::new() }),
            taken: Mutex::new(Rank::Chunks, Vec::new()),
            newest: watch::Sender::new(0),
            fate: Arc::new(Fate {
                is_begun: AtomicBool::new(false),
                is_whole: AtomicBool::new(false),
                broken: OnceLock::new(),
                answer: watch::Sender::new(None),
            }),
        }
    }

    pub(super) const fn fate(&self) -> &Arc<Fate> {
        &self.fate
    }

    /// Makes every request leave. The call ends when they have, and with it what it wrote. Answers `false`: it is gone.
    pub(super) fn end(&self) -> bool {
        self.newest.send_replace(ENDED);
        false
    }

    /// Changed by one insertion at a time.
    fn taken(&self) -> Guard<'_, Vec<u128>> {
        self.taken.lock_or_recover()
    }

    fn next(&self) -> u64 {
        self.taken().len() as u64
    }

    /// How long a chunk is.
    fn len(&self, number: u64) -> Answer<u64> {
        let count = self.size.div_ceil(CHUNK_LEN);
        if number >= count {
            let message =
                format!("there is no chunk {number}: {} bytes are {count} chunks, from 0", self.size);
            return Err(Refusal::bad_request(message));
        }
        Ok(CHUNK_LEN.min(self.size - number * CHUNK_LEN))
    }

    /// The answer of a call that is over already.
    fn past(&self) -> Option<Answer<()>> {
        let answer = self.fate.answer.borrow().clone();
        answer.map(|answer| answer.map_err(Refusal::again))
    }

    /// Takes a chunk. `begin` runs the call that reads the file.
    pub(super) async fn take(
        &self,
        chunk: Chunk<'_>,
        begin: impl FnOnce(Permit, Parts, Option<RemoteEncryption>, Arc<Fate>),
    ) -> Answer<()> {
        let Chunk { number, encryption, body, .. } = chunk;
        let len = self.len(number)?;
        if let Some(sent) = chunk.len.filter(|sent| *sent != len) {
            return Err(Refusal::bad_request(format!("chunk {number} has {len} bytes, not {sent}")));
        }
        if let Some(past) = self.past() {
            past?;
            return Err(conflict("this upload is complete already"));
        }
        let next = self.next();
        if number < next {
            return self.compare(number, len, body).await;
        }
        if number > next {
            let message = format!("chunk {number} came before chunk {next}: they are sent in order");
            return Err(conflict(&message));
        }
        let mut ticket = ENDED;
        self.newest.send_modify(|newest| {
            if *newest != ENDED {
                *newest += 1;
                ticket = *newest;
            }
        });
        if ticket == ENDED {
            return Err(ended());
        }
        let mut turn = tokio::select! {
            turn = self.turn.lock() => turn,
            refusal = self.displaced(Some(ticket)) => return Err(refusal),
        };
        if self.next() != number {
            // The request that had the turn took it after all.
            drop(turn);
            return self.compare(number, len, body).await;
        }
        self.begin(&mut turn, ticket, encryption.as_ref(), begin)?;
        self.pass_on(&mut turn, (number, len), ticket, body).await
    }

    /// Begins the call with the first chunk, and holds the others to its key.
    fn begin(
        &self,
        turn: &mut Turn,
        ticket: u64,
        encryption: Option<&RemoteEncryption>,
        begin: impl FnOnce(Permit, Parts, Option<RemoteEncryption>, Arc<Fate>),
    ) -> Answer<()> {
        if let Call::Reads { encryption: known, .. } = &turn.call {
            if known.as_ref() != encryption {
                let message = "the chunks of one upload have the same encryption key and cipher in their headers, or none of them has any";
                return Err(Refusal::bad_request(message));
            }
            return Ok(());
        }
        // Who ends the upload knows whether there is a call to wait for: it cannot end while this is held.
        let newest = self.newest.borrow();
        if *newest != ticket {
            return Err(ended());
        }
        if let Call::NotBegun(place) = std::mem::replace(&mut turn.call, Call::Reading) {
            let (parts, file) = Parts::channel();
            turn.call = Call::Reads { parts, encryption: encryption.cloned() };
            self.fate.is_begun.store(true, Ordering::Relaxed);
            begin(place, file, encryption.cloned(), Arc::clone(&self.fate));
        }
        drop(newest);
        Ok(())
    }

    /// Passes on what of a chunk was not passed on before.
    async fn pass_on(
        &self,
        turn: &mut Turn,
        (number, len): (u64, u64),
        ticket: u64,
        body: &mut Body,
    ) -> Answer<()> {
        let (mut seen, mut digest, mut paced) = (0, Xxh3::new(), Paced::default());
        while let Some(mut bytes) = self.receive(body, &mut paced, Some(ticket)).await? {
            if seen + bytes.len() as u64 > len {
                return Err(Refusal::bad_request(format!("chunk {number} is longer than its {len} bytes")));
            }
            if seen < turn.passed {
                let known = usize::try_from(turn.passed - seen).unwrap_or(usize::MAX).min(bytes.len());
                digest.update(&bytes.split_to(known));
                seen += known as u64;
                if seen == turn.passed && digest.digest128() != turn.digest.digest128() {
                    return self.break_off(turn, number).await;
                }
            }
            if bytes.is_empty() {
                continue;
            }
            let Call::Reads { parts, .. } = &turn.call else { return Err(ended()) };
            let sent = tokio::select! {
                sent = parts.send(Part::Bytes(bytes.clone())) => sent,
                refusal = self.displaced(Some(ticket)) => return Err(refusal),
            };
            if sent.is_err() {
                self.fate.answer().await?;
                return Err(ended());
            }
            // Nothing is awaited between the two: a request that is given up has counted what it passed on.
            turn.digest.update(&bytes);
            turn.passed += bytes.len() as u64;
            seen += bytes.len() as u64;
        }
        if seen < len {
            return Err(Refusal::bad_request(format!("chunk {number} has {len} bytes, not {seen}")));
        }
        self.taken().push(turn.digest.digest128());
        (turn.passed, turn.digest) = (0, Xxh3::new());
        Ok(())
    }

    /// Reads a chunk that was taken before, whose answer the client did not get.
    async fn compare(&self, number: u64, len: u64, body: &mut Body) -> Answer<()> {
        let (mut seen, mut digest, mut paced) = (0, Xxh3::new(), Paced::default());
        while let Some(bytes) = self.receive(body, &mut paced, None).await? {
            seen += bytes.len() as u64;
            if seen > len {
                break;
            }
            digest.update(&bytes);
        }
        let taken = usize::try_from(number).ok().and_then(|number| self.taken().get(number).copied());
        if seen != len || taken != Some(digest.digest128()) {
            let message = format!("chunk {number} was taken already, and other bytes came with it then");
            return Err(conflict(&message));
        }
        Ok(())
    }

    /// The next bytes of a body, or its end.
    async fn receive(
        &self,
        body: &mut Body,
        paced: &mut Paced,
        ticket: Option<u64>,
    ) -> Answer<Option<Bytes>> {
        tokio::select! {
            biased;
            refusal = self.displaced(ticket) => Err(refusal),
            answer = self.fate.answer(), if ticket.is_some() => {
                answer?;
                Err(ended())
            }
            bytes = paced.next(body) => bytes.map_err(|missing| missing.refusal("the chunk")),
        }
    }

    /// Waits until a request is to leave: another one for the same chunk came, or the upload ended.
    async fn displaced(&self, ticket: Option<u64>) -> Refusal {
        let mut newest = self.newest.subscribe();
        let left = |newest: &u64| ticket.map_or(*newest == ENDED, |ticket| *newest != ticket);
        match newest.wait_for(left).await {
            Ok(newest) if *newest != ENDED => {
                conflict("this chunk was sent again, and that request is taken")
            }
            _ => ended(),
        }
    }

    /// What was passed on cannot be taken back.
    async fn break_off(&self, turn: &mut Turn, number: u64) -> Answer<()> {
        let message = format!(
            "chunk {number} does not begin as what came of it before it broke off: the upload cannot go on; start again"
        );
        let _first = self.fate.broken.set(conflict(&message));
        turn.call = Call::Reading;
        self.fate.answer().await
    }

    /// Completes the upload, and waits for what the call makes of it. One that is asked for again answers the same.
    pub(super) async fn finalize(&self, work: &Work) -> Answer<()> {
        if let Some(past) = self.past() {
            return past;
        }
        let finish = async {
            let mut turn = self.turn.lock().await;
            let next = self.next();
            let missing = self.size.saturating_sub(next * CHUNK_LEN);
            if missing > 0 {
                let message = format!(
                    "{missing} of {} bytes are missing: chunk {next} is the next; send it, and finalize then",
                    self.size
                );
                return Err(Refusal::bad_request(message));
            }
            if let Call::Reads { parts, .. } = &turn.call {
                let permit = work.admit(Load::Long).await?;
                self.fate.is_whole.store(true, Ordering::Relaxed);
                // A call that takes no more has its answer.
                let _taken = parts.send(Part::End(permit)).await;
                turn.call = Call::Reading;
            }
            Ok(())
        };
        tokio::select! {
            finished = finish => finished?,
            refusal = self.displaced(None) => return Err(refusal),
        }
        self.fate.answer().await
    }
}

/// Runs a call that reads an upload, and keeps its answer for whoever asks.
pub(super) fn run(fate: Arc<Fate>, call: impl Future<Output = Answer<()>> + Send + 'static) {
    tokio::spawn(async move { fate.settle(call.await) });
}

fn conflict(message: &str) -> Refusal {
    Refusal::new(StatusCode::CONFLICT, "conflict", message)
}
