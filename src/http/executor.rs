//! Runs blocking calls of the control plane on the blocking pool, a bounded number of each class at a time.

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

use super::error::{ApiError, ApiResult};
use crate::Progress;

/// Catalog calls take a few flushes at most.
const CATALOG_MAX: usize = 32;

/// Copies keep the disk busy; more of them in parallel are not faster.
const COPY_MAX: usize = 8;

/// Maintenance and verification read whole histories. A separate bound keeps them from delaying copies.
const MAINTENANCE_MAX: usize = 2;

/// Uploads in one request, and chunked uploads. Each holds a thread that mostly waits for its client. Separate bounds keep slow
/// clients from delaying other calls.
const UPLOADS_MAX: usize = 16;
const CHUNKED_UPLOADS_MAX: usize = 16;

/// Maximum number of calls in the queue. Further calls fail at once.
const QUEUE_MAX: usize = 1_024;

/// Maximum time that a call waits in the queue.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(30);

/// The kind of work that a call does. Each class has a separate bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CallClass {
    /// Reads or writes the catalog.
    Catalog,
    /// Copies a database.
    Copy,
    /// Maintains or verifies a database.
    Maintenance,
    /// Receives a file in one request. Once the file is complete, building the database counts as a copy.
    Upload,
    /// Receives a file in chunks.
    ChunkedUpload,
}

/// The right to run one call of a class, released on drop.
pub(super) type Permit = OwnedSemaphorePermit;

/// The bounded pool of calls.
#[derive(Debug)]
pub(super) struct Executor {
    catalog: Arc<Semaphore>,
    copy: Arc<Semaphore>,
    maintenance: Arc<Semaphore>,
    uploads: Arc<Semaphore>,
    chunked_uploads: Arc<Semaphore>,
    queued: AtomicUsize,
    shutdown: Arc<Shutdown>,
}

impl Default for Executor {
    fn default() -> Self {
        Self {
            catalog: Arc::new(Semaphore::new(CATALOG_MAX)),
            copy: Arc::new(Semaphore::new(COPY_MAX)),
            maintenance: Arc::new(Semaphore::new(MAINTENANCE_MAX)),
            uploads: Arc::new(Semaphore::new(UPLOADS_MAX)),
            chunked_uploads: Arc::new(Semaphore::new(CHUNKED_UPLOADS_MAX)),
            queued: AtomicUsize::new(0),
            shutdown: Arc::default(),
        }
    }
}

/// Numbers of running calls by class, and of queued calls.
#[derive(Clone, Copy, Debug)]
pub(super) struct CallCounts {
    pub(super) catalog: usize,
    pub(super) copy: usize,
    pub(super) maintenance: usize,
    pub(super) uploads: usize,
    pub(super) chunked_uploads: usize,
    pub(super) queued: usize,
}

/// Counts a call as queued until it is dropped.
struct Queued<'a>(&'a AtomicUsize);

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Which calls must stop.
#[derive(Debug, Default)]
struct Shutdown {
    maintenance: AtomicBool,
    all: AtomicBool,
}

/// Tells a running call whether it is cancelled: by a shutdown, or because its client has disconnected.
#[derive(Clone, Debug)]
pub(super) struct Cancellation {
    shutdown: Arc<Shutdown>,
    is_maintenance: bool,
    client_left: Arc<AtomicBool>,
}

/// Cancels a call when dropped, because its client has disconnected.
struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Cancellation {
    /// A progress callback that stops the call once it is cancelled.
    pub(super) fn progress(&self) -> Box<dyn FnMut(Progress) -> ControlFlow<()>> {
        let Self { shutdown, is_maintenance, client_left } = self.clone();
        Box::new(move |_: Progress| {
            let is_cancelled = shutdown.all.load(Ordering::Relaxed)
                || (is_maintenance && shutdown.maintenance.load(Ordering::Relaxed))
                || client_left.load(Ordering::Relaxed);
            if is_cancelled { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
    }
}

impl Executor {
    /// Runs a call on the blocking pool. If its client disconnects, an upload in one request, maintenance and verification are
    /// cancelled and change nothing. Every other call runs to its end.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        class: CallClass,
        call: impl FnOnce(Cancellation) -> ApiResult<T> + Send + 'static,
    ) -> ApiResult<T> {
        let permit = self.acquire(class).await?;
        let is_maintenance = class == CallClass::Maintenance;
        let cancellation = self.cancellation(is_maintenance);
        let _client_waits = (is_maintenance || class == CallClass::Upload)
            .then(|| CancelOnDrop(Arc::clone(&cancellation.client_left)));
        Self::run_blocking(permit, cancellation, call).await
    }

    /// Runs a call that already holds its permit. It continues if its client disconnects.
    pub(super) async fn run_with_permit<T: Send + 'static>(
        &self,
        permit: Permit,
        call: impl FnOnce(Cancellation) -> ApiResult<T> + Send + 'static,
    ) -> ApiResult<T> {
        Self::run_blocking(permit, self.cancellation(false), call).await
    }

    fn cancellation(&self, is_maintenance: bool) -> Cancellation {
        Cancellation { shutdown: Arc::clone(&self.shutdown), is_maintenance, client_left: Arc::default() }
    }

    async fn run_blocking<T: Send + 'static>(
        permit: Permit,
        cancellation: Cancellation,
        call: impl FnOnce(Cancellation) -> ApiResult<T> + Send + 'static,
    ) -> ApiResult<T> {
        let span = tracing::Span::current();
        let running = tokio::task::spawn_blocking(move || {
            // Held until the call has returned, even if no request waits for it any more.
            let _permit = permit;
            span.in_scope(|| call(cancellation))
        });
        running.await.unwrap_or_else(|_| {
            let message =
                "internal error: the call panicked; what it left incomplete is rolled back when the fleet is next opened";
            Err(ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message))
        })
    }

    /// Waits for a permit to run a call of `class`.
    pub(super) async fn acquire(&self, class: CallClass) -> ApiResult<Permit> {
        let overloaded = || ApiError::unavailable("the server is overloaded; retry later", 2);
        let is_set = |flag: &AtomicBool| flag.load(Ordering::Relaxed);
        if is_set(&self.shutdown.all)
            || (class == CallClass::Maintenance && is_set(&self.shutdown.maintenance))
        {
            return Err(ApiError::unavailable("the server is shutting down", 5));
        }
        let permits = match class {
            CallClass::Catalog => &self.catalog,
            CallClass::Copy => &self.copy,
            CallClass::Maintenance => &self.maintenance,
            CallClass::Upload => &self.uploads,
            CallClass::ChunkedUpload => &self.chunked_uploads,
        };
        if let Ok(permit) = Arc::clone(permits).try_acquire_owned() {
            return Ok(permit);
        }
        let ahead = self.queued.fetch_add(1, Ordering::Relaxed);
        let _queued = Queued(&self.queued);
        if ahead >= QUEUE_MAX {
            return Err(overloaded());
        }
        let permit = tokio::time::timeout(QUEUE_TIMEOUT, Arc::clone(permits).acquire_owned()).await;
        permit.ok().and_then(Result::ok).ok_or_else(overloaded)
    }

    pub(super) fn counts(&self) -> CallCounts {
        CallCounts {
            catalog: CATALOG_MAX - self.catalog.available_permits(),
            copy: COPY_MAX - self.copy.available_permits(),
            maintenance: MAINTENANCE_MAX - self.maintenance.available_permits(),
            uploads: UPLOADS_MAX - self.uploads.available_permits(),
            chunked_uploads: CHUNKED_UPLOADS_MAX - self.chunked_uploads.available_permits(),
            queued: self.queued.load(Ordering::Relaxed),
        }
    }

    /// Refuses further calls and cancels those that run.
    pub(super) fn stop(&self) {
        self.drain();
        self.shutdown.all.store(true, Ordering::Relaxed);
    }

    /// Refuses further maintenance and verification, and cancels those that run.
    pub(super) fn drain(&self) {
        self.shutdown.maintenance.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Phase;

    /// Whether a call of `class` runs and is not cancelled.
    fn runs(executor: &Executor, class: CallClass) -> bool {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let progress = Progress { phase: Phase::Check, done: 0, total: None };
        let call = move |cancellation: Cancellation| Ok(cancellation.progress()(progress).is_continue());
        runtime.block_on(executor.run(class, call)).unwrap_or(false)
    }

    #[test]
    fn drain_cancels_maintenance_only() {
        let executor = Executor::default();
        assert!(runs(&executor, CallClass::Maintenance) && runs(&executor, CallClass::Copy));
        executor.drain();
        assert!(!runs(&executor, CallClass::Maintenance) && runs(&executor, CallClass::Copy));
        executor.stop();
        assert!(!runs(&executor, CallClass::Maintenance) && !runs(&executor, CallClass::Copy));
    }
}
