//! A background thread that maintains every database of a fleet periodically.

use std::{
    fmt,
    ops::ControlFlow,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::{
    api::{Database, DatabaseState, ListDatabases},
    error::{Error, ErrorKind, Result},
    name::DatabaseName,
    plane::{ControlPlane, MaintainOptions},
    point::MaintenanceReport,
    sync::{Condvar, Guard, Mutex, Rank},
    time::Timestamp,
};

/// The maximum time before the first pass.
const FIRST_PASS_MAX: Duration = Duration::from_secs(60);

/// The number of databases per page of the list.
const PAGE_LEN: u32 = 100;

/// Receives the result of the maintenance of a database.
type Report = dyn FnMut(&DatabaseName, &Result<MaintenanceReport>) + Send;

/// Options of a [`Maintainer`].
pub struct MaintainerOptions {
    every: Duration,
    report: Box<Report>,
}

impl MaintainerOptions {
    /// Maintains every database once in each period. The time between two passes varies by 10 %, so that the passes of several
    /// processes drift apart.
    #[must_use]
    pub fn every(period: Duration) -> Self {
        Self { every: period, report: Box::new(|_, _| {}) }
    }

    /// Calls `report` with the result of each database's maintenance, on the maintainer's thread.
    #[must_use]
    pub fn report(
        self,
        report: impl FnMut(&DatabaseName, &Result<MaintenanceReport>) + Send + 'static,
    ) -> Self {
        Self { report: Box::new(report), ..self }
    }
}

impl fmt::Debug for MaintainerOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MaintainerOptions").field("every", &self.every).finish_non_exhaustive()
    }
}

/// The figures of the last complete pass over a fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FleetFigures {
    /// The beginning of the pass.
    pub since: Timestamp,
    /// The number of ready databases.
    pub databases: u64,
    /// The number of drafts.
    pub drafts: u64,
    /// The total size of all databases and their WALs in bytes.
    pub bytes: u64,
    /// The total size of all histories in bytes.
    pub archive_bytes: u64,
    /// The earliest instant to which any database can be restored. `None` if no database has a history.
    pub oldest: Option<Timestamp>,
    /// The number of databases whose maintenance failed.
    pub failed: u64,
}

/// A thread that calls [`maintain_database`](ControlPlane::maintain_database) for every database of a fleet periodically.
///
/// Several processes may each run one for the same root. Dropping it stops the thread and waits for the current step, not for
/// the pass.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// use std::time::Duration;
/// use litefleet::{ControlPlane, Maintainer, MaintainerOptions};
///
/// let plane = ControlPlane::open(dir.path())?;
/// let options = MaintainerOptions::every(Duration::from_secs(3600))
///     .report(|database, done| if let Err(error) = done { eprintln!("{database}: {error}") });
/// let maintainer = Maintainer::start(plane, options)?;
/// # drop(maintainer);
/// # Ok::<(), litefleet::Error>(())
/// ```
#[derive(Debug)]
pub struct Maintainer {
    shared: Arc<Shared>,
    started_at: Timestamp,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    stopped: Condvar,
}

#[derive(Debug, Default)]
struct State {
    is_stopped: bool,
    figures: Option<FleetFigures>,
}

impl Shared {
    fn new() -> Self {
        Self { state: Mutex::new(Rank::Maintainer, State::default()), stopped: Condvar::default() }
    }

    /// A flag and a statistic: no panic leaves them half changed.
    fn state(&self) -> Guard<'_, State> {
        self.state.lock_or_recover()
    }

    fn is_stopped(&self) -> bool {
        self.state().is_stopped
    }

    /// Waits for `time`. `false` if the maintainer was stopped.
    fn wait(&self, time: Duration) -> bool {
        !self.stopped.wait_timeout_while(self.state(), time, |state| !state.is_stopped).is_stopped
    }
}

impl Maintainer {
    /// Starts the thread. The first pass begins within a minute.
    ///
    /// # Errors
    ///
    /// Fails with [`ErrorKind::Invalid`] if the period is zero, and with [`ErrorKind::Io`] if the system cannot start a thread.
    pub fn start(plane: ControlPlane, options: MaintainerOptions) -> Result<Self> {
        let MaintainerOptions { every, mut report } = options;
        if every.is_zero() {
            return Err(Error::new(ErrorKind::Invalid, "the period of maintenance must not be zero"));
        }
        let shared = Arc::new(Shared::new());
        let running = Arc::clone(&shared);
        let run = move || {
            let mut pause = part(every.min(FIRST_PASS_MAX), random());
            while running.wait(pause) {
                let figures = pass(&plane, &running, &mut *report);
                // The figures of an incomplete pass would be too low.
                if let Some(figures) = figures {
                    running.state().figures = Some(figures);
                }
                pause = every.saturating_sub(every / 10).saturating_add(part(every / 5, random()));
            }
        };
        let thread = thread::Builder::new().name("litefleet-maintain".into()).spawn(run);
        let thread = thread.map_err(|error| Error::io("starting a thread for maintenance", error))?;
        Ok(Self { shared, started_at: Timestamp::now(), thread: Some(thread) })
    }

    /// Returns the figures of the last complete pass. `None` before the first.
    #[must_use]
    pub fn figures(&self) -> Option<FleetFigures> {
        self.shared.state().figures
    }

    /// Returns when the thread was started.
    #[must_use]
    pub const fn started_at(&self) -> Timestamp {
        self.started_at
    }

    /// Stops the thread without waiting for it.
    pub fn stop(&self) {
        self.shared.state().is_stopped = true;
        self.shared.stopped.notify_all();
    }
}

impl Drop for Maintainer {
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            let _panicked_or_ended = thread.join();
        }
    }
}

/// Maintains every database once. `None` if the pass is incomplete.
fn pass(plane: &ControlPlane, shared: &Shared, report: &mut Report) -> Option<FleetFigures> {
    let since = Timestamp::now();
    let mut figures =
        FleetFigures { since, databases: 0, drafts: 0, bytes: 0, archive_bytes: 0, oldest: None, failed: 0 };
    let mut page = ListDatabases { limit: Some(PAGE_LEN), ..ListDatabases::default() };
    loop {
        // If the catalog fails now, the next pass retries.
        let databases = plane.list_databases(page.clone()).ok()?;
        for database in &databases {
            if shared.is_stopped() {
                return None;
            }
            maintain(plane, database, shared, report, &mut figures);
        }
        match databases.last() {
            Some(last) => page.after = Some(last.name.to_string()),
            None => break,
        }
    }
    (!shared.is_stopped()).then_some(figures)
}

fn maintain(
    plane: &ControlPlane,
    database: &Database,
    shared: &Shared,
    report: &mut Report,
    figures: &mut FleetFigures,
) {
    if database.state == DatabaseState::Draft {
        figures.drafts += 1;
        return;
    }
    let options = MaintainOptions::default()
        .progress(|_| if shared.is_stopped() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) });
    let done = plane.maintain_database(database, options);
    match &done {
        // The database was destroyed during the pass, or the thread stops.
        Err(error)
            if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Destroyed | ErrorKind::Cancelled) =>
        {
            return;
        }
        Err(_) => figures.failed += 1,
        Ok(done) => {
            let from = done.windows.first().map(|window| window.from);
            figures.oldest = [figures.oldest, from].into_iter().flatten().min();
        }
    }
    figures.databases += 1;
    figures.bytes += plane.database_size(database).unwrap_or(0);
    figures.archive_bytes += plane.history_size(database).unwrap_or(0);
    report(&database.name, &done);
}

/// Scales a duration by a random number.
fn part(time: Duration, random: u32) -> Duration {
    time.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

/// A random number, which need not be secret.
fn random() -> u32 {
    // Without random bytes, the passes of several processes coincide.
    getrandom::u32().unwrap_or(u32::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_time_are_within_it() {
        let hour = Duration::from_secs(3600);
        assert_eq!(part(hour, 0), Duration::ZERO);
        assert_eq!(part(hour, u32::MAX), hour);
        assert!((Duration::from_secs(1799)..Duration::from_secs(1801)).contains(&part(hour, u32::MAX / 2)));
    }
}
