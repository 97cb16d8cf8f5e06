//! Maintaining every database of a fleet again and again, on a thread of its own.

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

/// The longest time before the first pass.
const FIRST_PASS_MAX: Duration = Duration::from_secs(60);

/// Databases that are listed at once.
const PAGE_LEN: u32 = 100;

/// Is told what the maintenance of a database did.
type Report = dyn FnMut(&DatabaseName, &Result<MaintenanceReport>) + Send;

/// How a [`Maintainer`] works.
pub struct MaintainerOptions {
    every: Duration,
    report: Box<Report>,
}

impl MaintainerOptions {
    /// One pass over all databases in each period. The time between two passes varies by a tenth, so that the passes of several
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

/// What a pass found of the fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FleetFigures {
    /// When the pass began. Since then each database was maintained, unless that failed.
    pub since: Timestamp,
    /// Databases that can be used.
    pub databases: u64,
    /// Drafts, which wait for an upload.
    pub drafts: u64,
    /// The bytes of all databases and their logs.
    pub bytes: u64,
    /// The bytes of all histories.
    pub archive_bytes: u64,
    /// The earliest instant that one of the databases can be restored to. `None` if none has a history.
    pub oldest: Option<Timestamp>,
    /// Databases whose maintenance failed.
    pub failed: u64,
}

/// A thread that calls [`maintain_database`](ControlPlane::maintain_database) for one database of a fleet after the other, again
/// and again. Several processes may each have one for the same root.
///
/// It ends when it is dropped, which waits for the step that it is at, and not for the pass.
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

    /// Waits for `time`. `false` if the maintainer is stopped meanwhile.
    fn wait(&self, time: Duration) -> bool {
        !self.stopped.wait_timeout_while(self.state(), time, |state| !state.is_stopped).is_stopped
    }
}

impl Maintainer {
    /// Starts the thread. Its first pass begins within a minute.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for a period of zero, and [`ErrorKind::Io`] if the system starts no thread.
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
                // Of a pass that did not list the fleet to its end, the figures would be too low.
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

    /// What the last pass found. `None` before the first one is over.
    #[must_use]
    pub fn figures(&self) -> Option<FleetFigures> {
        self.shared.state().figures
    }

    /// When the thread was started.
    #[must_use]
    pub const fn started_at(&self) -> Timestamp {
        self.started_at
    }

    /// Makes the thread end soon, without waiting for it.
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

/// Maintains every database once. `None` if the pass did not come to the end of the fleet.
fn pass(plane: &ControlPlane, shared: &Shared, report: &mut Report) -> Option<FleetFigures> {
    let since = Timestamp::now();
    let mut figures =
        FleetFigures { since, databases: 0, drafts: 0, bytes: 0, archive_bytes: 0, oldest: None, failed: 0 };
    let mut page = ListDatabases { limit: Some(PAGE_LEN), ..ListDatabases::default() };
    loop {
        // A catalog that does not answer now is asked again in the next pass.
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
        // It was destroyed meanwhile, or the thread is to end.
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

/// A part of a time, between nothing and all of it.
fn part(time: Duration, random: u32) -> Duration {
    time.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

/// A number to tell processes apart, which need not be secret.
fn random() -> u32 {
    // Without random bytes the processes only work at the same time.
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
