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
use crate::{Progress, ProgressFn};

/// Calls that take a few flushes of the disk at most.
const QUICK_MAX: usize = 32;

/// Calls that copy databases. They keep the disk busy, and more of them at once are not faster.
const LONG_MAX: usize = 8;

/// Calls that maintain or verify databases. They read whole histories, and hold no place of those that clients wait for.
const UPKEEP_MAX: usize = 2;

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
    /// It maintains or verifies a database.
    Upkeep,
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
    upkeep: Arc<Semaphore>,
    uploads: Arc<Semaphore>,
    sessions: Arc<Semaphore>,
    waiting: AtomicUsize,
    stop: Arc<Stop>,
}

impl Default for Work {
    fn default() -> Self {
        Self {
            quick: Arc::new(Semaphore::new(QUICK_MAX)),
            long: Arc::new(Semaphore::new(LONG_MAX)),
            upkeep: Arc::new(Semaphore::new(UPKEEP_MAX)),
            uploads: Arc::new(Semaphore::new(UPLOADS_MAX)),
            sessions: Arc::new(Semaphore::new(SESSIONS_MAX)),
            waiting: AtomicUsize::new(0),
            stop: Arc::default(),
        }
    }
}

/// How many calls run, and how many wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Figures {
    pub(super) quick: usize,
    pub(super) long: usize,
    pub(super) upkeep: usize,
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

/// What is to stop.
#[derive(Debug, Default)]
struct Stop {
    upkeep: AtomicBool,
    all: AtomicBool,
}

/// Asks a long call to go on until the server is to stop, or nobody waits for its answer that must.
#[derive(Clone, Debug)]
pub(super) struct Going {
    stop: Arc<Stop>,
    is_upkeep: bool,
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
    pub(super) fn watch(&self) -> Box<ProgressFn<'static>> {
        let Self { stop, is_upkeep, abandoned } = self.clone();
        Box::new(move |_: Progress| {
            let is_over = stop.all.load(Ordering::Relaxed)
                || (is_upkeep && stop.upkeep.load(Ordering::Relaxed))
                || abandoned.load(Ordering::Relaxed);
            if is_over { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
    }
}

impl Work {
    /// Runs a call where it may block. It goes on when the client that asked for it is gone, unless it is an upload in one
    /// piece, maintenance or a verification: those are cancelled, and leave things as they were.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        load: Load,
        call: impl FnOnce(Going) -> Answer<T> + Send + 'static,
    ) -> Answer<T> {
        let permit = self.admit(load).await?;
        let is_upkeep = load == Load::Upkeep;
        let going = Going { stop: Arc::clone(&self.stop), is_upkeep, abandoned: Arc::default() };
        let _awaited = (is_upkeep || load == Load::Upload).then(|| Awaited(Arc::clone(&going.abandoned)));
        Self::run_blocking(permit, going, call).await
    }

    /// The same for a call that is admitted already.
    pub(super) async fn run_admitted<T: Send + 'static>(
        &self,
        permit: Permit,
        call: impl FnOnce(Going) -> Answer<T> + Send + 'static,
    ) -> Answer<T> {
        let going = Going { stop: Arc::clone(&self.stop), is_upkeep: false, abandoned: Arc::default() };
        Self::run_blocking(permit, going, call).await
    }

    async fn run_blocking<T: Send + 'static>(
        permit: Permit,
        going: Going,
        call: impl FnOnce(Going) -> Answer<T> + Send + 'static,
    ) -> Answer<T> {
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
        let busy = || Refusal::overloaded("the server is overloaded; retry later", 2);
        let is_stopping = |flag: &AtomicBool| flag.load(Ordering::Relaxed);
        if is_stopping(&self.stop.all) || (load == Load::Upkeep && is_stopping(&self.stop.upkeep)) {
            return Err(Refusal::overloaded("the server is shutting down", 5));
        }
        let permits = match load {
            Load::Quick => &self.quick,
            Load::Long => &self.long,
            Load::Upkeep => &self.upkeep,
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
            upkeep: UPKEEP_MAX - self.upkeep.available_permits(),
            uploads: UPLOADS_MAX - self.uploads.available_permits(),
            sessions: SESSIONS_MAX - self.sessions.available_permits(),
            waiting: self.waiting.load(Ordering::Relaxed),
        }
    }

    /// Refuses what comes from now on, and asks long calls to stop: they leave nothing behind.
    pub(super) fn stop(&self) {
        self.drain();
        self.stop.all.store(true, Ordering::Relaxed);
    }

    /// Refuses calls that maintain or verify from now on, and asks those that run to stop.
    pub(super) fn drain(&self) {
        self.stop.upkeep.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Phase;

    /// Whether a call of this load goes on when it asks.
    fn goes_on(work: &Work, load: Load) -> bool {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let progress = Progress { phase: Phase::Check, done: 0, total: None };
        let call = move |going: Going| Ok(going.watch()(progress).is_continue());
        runtime.block_on(work.run(load, call)).unwrap_or(false)
    }

    #[test]
    fn draining_stops_upkeep_and_nothing_else() {
        let work = Work::default();
        assert!(goes_on(&work, Load::Upkeep) && goes_on(&work, Load::Long));
        work.drain();
        assert!(!goes_on(&work, Load::Upkeep) && goes_on(&work, Load::Long));
        work.stop();
        assert!(!goes_on(&work, Load::Upkeep) && !goes_on(&work, Load::Long));
    }
}
