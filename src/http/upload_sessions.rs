//! The chunked uploads in progress.
//!
//! A database has at most one. A client that did not receive the response to its start starts again, which replaces the first
//! upload. Uploads exist in memory only: when the server ends, they are lost, and their files are removed as after a crash.

use std::{
    collections::HashMap,
    ops::Deref,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use axum::http::StatusCode;

use super::{
    chunked_upload::{ChunkedUpload, no_such_upload},
    error::{ApiError, ApiResult},
    executor::Permit,
};
use crate::{
    Error, ErrorKind,
    sync::{Guard, Mutex, Rank},
};

/// The default time that an upload may wait for its next request. Clients retry for up to a minute, and their tokens live for five.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(300);

/// How long a start waits for the previous upload to remove its files.
const END_TIMEOUT: Duration = Duration::from_secs(30);

/// The chunked uploads of a server, by their ids.
pub(super) struct UploadSessions(Mutex<HashMap<String, Arc<Session>>>);

impl Default for UploadSessions {
    fn default() -> Self {
        Self(Mutex::new(Rank::Sessions, HashMap::new()))
    }
}

impl std::fmt::Debug for UploadSessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("UploadSessions").field(&self.by_id().len()).finish()
    }
}

struct Session {
    /// The id of the database.
    database: String,
    upload: ChunkedUpload,
    activity: Mutex<Activity>,
}

#[derive(Debug)]
struct Activity {
    /// Requests in progress.
    requests: usize,
    /// When the last request ended.
    last: Instant,
}

/// An upload with a request in progress, which is not idle.
pub(super) struct ActiveSession(Arc<Session>);

impl ActiveSession {
    fn new(session: Arc<Session>) -> Self {
        session.activity().requests += 1;
        Self(session)
    }
}

impl Deref for ActiveSession {
    type Target = ChunkedUpload;

    fn deref(&self) -> &ChunkedUpload {
        &self.0.upload
    }
}

impl Drop for ActiveSession {
    fn drop(&mut self) {
        let mut activity = self.0.activity();
        activity.requests -= 1;
        activity.last = Instant::now();
    }
}

impl Session {
    fn activity(&self) -> Guard<'_, Activity> {
        self.activity.lock_or_recover()
    }

    /// The time since the last request, or zero while the upload is active.
    fn idle_time(&self) -> Duration {
        let activity = self.activity();
        let is_idle = activity.requests == 0 && !self.upload.outcome().is_finishing();
        if is_idle { activity.last.elapsed() } else { Duration::ZERO }
    }
}

impl UploadSessions {
    fn by_id(&self) -> Guard<'_, HashMap<String, Arc<Session>>> {
        self.0.lock_or_recover()
    }

    /// Starts an upload of `size` bytes, and returns its id. The previous upload to the database must have ended.
    pub(super) fn start(
        self: &Arc<Self>,
        database: &str,
        size: u64,
        permit: Permit,
        idle_timeout: Duration,
    ) -> ApiResult<String> {
        let mut random = [0; 16];
        getrandom::fill(&mut random)
            .map_err(|error| Error::new(ErrorKind::Io, format!("generating the id of an upload: {error}")))?;
        let id = format!("{:032x}", u128::from_le_bytes(random));
        let session = Arc::new(Session {
            database: database.to_owned(),
            upload: ChunkedUpload::new(size, permit),
            activity: Mutex::new(Rank::SessionUsage, Activity { requests: 0, last: Instant::now() }),
        });
        let mut by_id = self.by_id();
        // A concurrent start for the database may have inserted another upload.
        by_id.retain(|_, other| {
            let is_replaced = other.database == database;
            if is_replaced {
                other.upload.end();
            }
            !is_replaced
        });
        by_id.insert(id.clone(), session);
        drop(by_id);
        tokio::spawn(end_when_idle(Arc::downgrade(self), id.clone(), idle_timeout));
        Ok(id)
    }

    /// Returns an upload to `database`. An upload to another database is reported as if it did not exist.
    pub(super) fn find(&self, id: &str, database: &str) -> ApiResult<ActiveSession> {
        let session = self.by_id().get(id).filter(|session| session.database == database).map(Arc::clone);
        session.map(ActiveSession::new).ok_or_else(no_such_upload)
    }

    /// Ends the upload to a database, if there is one, and waits until its files are removed.
    pub(super) async fn end_upload_to(&self, database: &str) -> ApiResult<()> {
        let outcome = {
            let mut by_id = self.by_id();
            let Some((id, session)) = by_id.iter().find(|(_, session)| session.database == database) else {
                return Ok(());
            };
            let (id, outcome) = (id.clone(), Arc::clone(session.upload.outcome()));
            if outcome.is_finishing() {
                let message = "an upload to this database is complete and being checked; wait for its result";
                return Err(ApiError::new(StatusCode::CONFLICT, ErrorKind::Busy.as_str(), message));
            }
            session.upload.end();
            by_id.remove(&id);
            outcome
        };
        tokio::time::timeout(END_TIMEOUT, outcome.settled()).await.map_err(|_| {
            ApiError::unavailable("the previous upload has not removed its files yet; retry later", 5)
        })
    }

    /// Ends every upload.
    pub(super) fn end_all(&self) {
        self.by_id().drain().for_each(|(_, session)| session.upload.end());
    }
}

/// Ends an upload once it has been idle for `timeout`, and forgets one that is complete.
async fn end_when_idle(sessions: Weak<UploadSessions>, id: String, timeout: Duration) {
    loop {
        let left = {
            let Some(sessions) = sessions.upgrade() else { return };
            let mut by_id = sessions.by_id();
            let Some(session) = by_id.get(&id) else { return };
            let left = timeout.saturating_sub(session.idle_time());
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
