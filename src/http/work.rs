//! Calls of the control plane, which block, away from the threads that serve.

use std::{
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::http::StatusCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::refusal::{Answer, Refusal};
use crate::{Progress, Watch};

/// Calls that take a few flushes of the disk at most.
const QUICK_MAX: usize = 32;

/// Calls that copy databases. They keep the disk busy, and more of them at once are not faster.
const LONG_MAX: usize = 8;

/// Uploads that are under way, in one piece and in chunks. Each holds a thread, which mostly waits for its client: they count
/// apart, so that clients that are slow or gone keep no other call waiting.
const UPLOADS_MAX: usize = 16;
const SESSIONS_MAX: usize = 16;

/// Calls that wait for one of the others to end. The next is refused at once.
const WAITING_MAX: usize = 1_024;

/// How long a call waits for that.
const PATIENCE: Duration = Duration::from_secs(30);

/// How much a call has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Load {
    /// It reads or writes the catalog.
    Quick,
    /// It copies a database.
    Long,
    /// It takes a file from a client. What follows when all of it has come is a long call's work.
    Upload,
    /// The same in chunks.
    Session,
}

/// A place among the calls of a load, held for as long as one runs.
pub(super) type Permit = OwnedSemaphorePermit;

/// What is being done, and how much of it at once.
#[derive(Debug)]
pub(super) struct Work {
    quick: Arc<Semaphore>,
    long: Arc<Semaphore>,
    uploads: Arc<Semaphore>,
    sessions: Arc<Semaphore>,
    waiting: AtomicUsize,
    stopped: Arc<AtomicBool>,
}

impl Default for Work {
    fn default() -> Self {
        Self {
            quick: Arc::new(Semaphore::new(QUICK_MAX)),
            long: Arc::new(Semaphore::new(LONG_MAX)),
            uploads: Arc::new(Semaphore::new(UPLOADS_MAX)),
            sessions: Arc::new(Semaphore::new(SESSIONS_MAX)),
            waiting: AtomicUsize::new(0),
            stopped: Arc::default(),
        }
    }
}

/// How many calls run, and how many wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Figures {
    pub(super) quick: usize,
    pub(super) long: usize,
    pub(super) uploads: usize,
    pub(super) sessions: usize,
    pub(super) waiting: usize,
}

/// Counts a call as waiting for as long as it does.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Asks a long call to go on until the server is to stop, or nobody waits for its answer that must.
#[derive(Clone, Debug)]
pub(super) struct Going {
    stopped: Arc<AtomicBool>,
    abandoned: Arc<AtomicBool>,
}

/// Ends a call when it is dropped: its client is gone.
struct Awaited(Arc<AtomicBool>);

impl Drop for Awaited {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Going {
    pub(super) fn watch(&self) -> Box<Watch<'static>> {
        let Self { stopped, abandoned } = self.clone();
        Box::new(move |_: Progress| {
            let is_over = stopped.load(Ordering::Relaxed) || abandoned.load(Ordering::Relaxed);
            if is_over { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
    }
}

impl Work {
    /// Runs a call where it may block. It goes on when the client that asked for it is gone, unless it is an upload in one
    /// piece: that is cancelled, and leaves its draft as it was.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        load: Load,
        call: impl FnOnce(Going) -> Answer<T> + Send + 'static,
    ) -> Answer<T> {
        let permit = self.admit(load).await?;
        let abandoned = Arc::default();
        let _awaited = (load == Load::Upload).then(|| Awaited(Arc::clone(&abandoned)));
        self.run_until(abandoned, permit, call).await
    }

    /// The same for a call that is admitted already.
    pub(super) async fn run_admitted<T: Send + 'static>(
        &self,
        permit: Permit,
        call: impl FnOnce(Going) -> Answer<T> + Send + 'static,
    ) -> Answer<T> {
        self.run_until(Arc::default(), permit, call).await
    }

    async fn run_until<T: Send + 'static>(
        &self,
        abandoned: Arc<AtomicBool>,
        permit: Permit,
        call: impl FnOnce(Going) -> Answer<T> + Send + 'static,
    ) -> Answer<T> {
        let going = Going { stopped: Arc::clone(&self.stopped), abandoned };
        let span = tracing::Span::current();
        let running = tokio::task::spawn_blocking(move || {
            // Held until the call is over, whether or not somebody still waits for it.
            let _permit = permit;
            span.in_scope(|| call(going))
        });
        running.await.unwrap_or_else(|_| {
            let message = "this call failed in a way that was not foreseen; its changes are settled when the fleet is opened again";
            Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message))
        })
    }

    /// Waits for a place among the calls of this load.
    pub(super) async fn admit(&self, load: Load) -> Answer<Permit> {
        let busy = || Refusal::overloaded("the server has more to do than it can: try again in a moment", 2);
        if self.stopped.load(Ordering::Relaxed) {
            return Err(Refusal::overloaded("the server is shutting down", 5));
        }
        let permits = match load {
            Load::Quick => &self.quick,
            Load::Long => &self.long,
            Load::Upload => &self.uploads,
            Load::Session => &self.sessions,
        };
        if let Ok(permit) = Arc::clone(permits).try_acquire_owned() {
            return Ok(permit);
        }
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        if before >= WAITING_MAX {
            return Err(busy());
        }
        let permit = tokio::time::timeout(PATIENCE, Arc::clone(permits).acquire_owned()).await;
        permit.ok().and_then(Result::ok).ok_or_else(busy)
    }

    /// How much is being done.
    pub(super) fn figures(&self) -> Figures {
        Figures {
            quick: QUICK_MAX - self.quick.available_permits(),
            long: LONG_MAX - self.long.available_permits(),
            uploads: UPLOADS_MAX - self.uploads.available_permits(),
            sessions: SESSIONS_MAX - self.sessions.available_permits(),
            waiting: self.waiting.load(Ordering::Relaxed),
        }
    }

    /// Refuses what comes from now on, and asks long calls to stop: they leave nothing behind.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }
}
