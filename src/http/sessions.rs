//! Uploads in chunks that are under way: which there are, and when they end.
//!
//! A database has one at most: a client that did not get the answer to its start starts again, and the first one, which nobody
//! can go on with, makes room for the second. They stand in memory alone: with the server they are gone, and what they had
//! sent so far is swept as every broken upload is.

use std::{
    collections::HashMap,
    ops::Deref,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::http::StatusCode;

use super::{
    chunked::Chunked,
    refusal::{Answer, Refusal},
    work::Permit,
};
use crate::{
    Error, ErrorKind,
    sync::{Guard, Mutex, Rank},
};

/// How long an upload may wait for its next request, unless the host says otherwise: clients wait a minute between two
/// tries, so this is a few of them, and it is as long as their tokens last.
pub(super) const PATIENCE: Duration = Duration::from_secs(300);

/// How long a start waits for the upload before it to clear away what it has.
const END_TIME: Duration = Duration::from_secs(30);

/// The uploads in chunks of a server, by their ids.
pub(super) struct Sessions(Mutex<HashMap<String, Arc<Session>>>);

impl Default for Sessions {
    fn default() -> Self {
        Self(Mutex::new(Rank::Sessions, HashMap::new()))
    }
}

impl std::fmt::Debug for Sessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Sessions").field(&self.by_id().len()).finish()
    }
}

/// An upload in chunks, and who uses it.
struct Session {
    /// The id of its database.
    database: String,
    upload: Chunked,
    usage: Mutex<Usage>,
}

#[derive(Debug)]
struct Usage {
    requests: usize,
    last: Instant,
}

/// An upload that a request uses: it does not count as idle.
pub(super) struct InUse(Arc<Session>);

impl InUse {
    fn new(session: Arc<Session>) -> Self {
        session.usage().requests += 1;
        Self(session)
    }
}

impl Deref for InUse {
    type Target = Chunked;

    fn deref(&self) -> &Chunked {
        &self.0.upload
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        let mut usage = self.0.usage();
        usage.requests -= 1;
        usage.last = Instant::now();
    }
}

impl Session {
    /// A count and a time: no panic leaves them half changed.
    fn usage(&self) -> Guard<'_, Usage> {
        self.usage.lock_or_recover()
    }

    /// How long it has waited for a request.
    fn idle_for(&self) -> Duration {
        let usage = self.usage();
        let is_waiting = usage.requests == 0 && !self.upload.fate().is_finishing();
        if is_waiting { usage.last.elapsed() } else { Duration::ZERO }
    }
}

impl Sessions {
    /// Changed by one insertion or removal at a time.
    fn by_id(&self) -> Guard<'_, HashMap<String, Arc<Session>>> {
        self.0.lock_or_recover()
    }

    /// Begins an upload of `size` bytes to a database that has no other one, and answers its id.
    pub(super) fn begin(
        self: &Arc<Self>,
        database: &str,
        size: u64,
        place: Permit,
        patience: Duration,
    ) -> Answer<String> {
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|error| {
            Error::new(ErrorKind::Io, format!("no random bytes for the id of an upload: {error}"))
        })?;
        let id = format!("{:032x}", u128::from_le_bytes(random));
        let session = Arc::new(Session {
            database: database.to_owned(),
            upload: Chunked::new(size, place),
            usage: Mutex::new(Rank::SessionUsage, Usage { requests: 0, last: Instant::now() }),
        });
        let mut by_id = self.by_id();
        // Of two that start at once, one is late.
        by_id.retain(|_, other| other.database != database || other.upload.end());
        by_id.insert(id.clone(), session);
        drop(by_id);
        tokio::spawn(end_when_idle(Arc::downgrade(self), id.clone(), patience));
        Ok(id)
    }

    /// An upload to a database. Those of others are not told from those that are none.
    pub(super) fn find(&self, id: &str, database: &str) -> Answer<InUse> {
        let session = self.by_id().get(id).filter(|session| session.database == database).map(Arc::clone);
        session.map(InUse::new).ok_or_else(ended)
    }

    /// Ends the upload to a database, if there is one, and waits until nothing is left of it.
    pub(super) async fn end_of(&self, database: &str) -> Answer<()> {
        let fate = {
            let mut by_id = self.by_id();
            let Some((id, session)) = by_id.iter().find(|(_, session)| session.database == database) else {
                return Ok(());
            };
            let (id, fate) = (id.clone(), Arc::clone(session.upload.fate()));
            if fate.is_finishing() {
                let message = "an upload to this database has come whole and is being checked: wait for it";
                return Err(Refusal::new(StatusCode::CONFLICT, "busy", message));
            }
            session.upload.end();
            by_id.remove(&id);
            fate
        };
        tokio::time::timeout(END_TIME, fate.over()).await.map_err(|_| {
            Refusal::overloaded("the upload before this one has not cleared away its file yet: try again", 5)
        })
    }

    /// Ends all of them.
    pub(super) fn end_all(&self) {
        self.by_id().retain(|_, session| session.upload.end());
    }
}

/// What those are told whose upload is not there any more.
pub(super) fn ended() -> Refusal {
    let message = "this database has no such upload: it ended, waited too long for its next chunk, gave way to another one, or the server was restarted; start again";
    Refusal::new(StatusCode::NOT_FOUND, "not_found", message)
}

/// Ends an upload that nobody goes on with, and forgets one that is over.
async fn end_when_idle(sessions: std::sync::Weak<Sessions>, id: String, patience: Duration) {
    loop {
        let left = {
            let Some(sessions) = sessions.upgrade() else { return };
            let mut by_id = sessions.by_id();
            let Some(session) = by_id.get(&id) else { return };
            let left = patience.saturating_sub(session.idle_for());
            if left.is_zero() {
                session.upload.end();
                by_id.remove(&id);
                return;
            }
            left
        };
        tokio::time::sleep(left).await;
    }
}
