//! Bounds on what SQLite evaluates of the schema of a file that another party wrote.
//!
//! Checking a database and laying its rows out anew evaluate the expressions of its indexes, the conditions of its partial
//! indexes, and its generated columns. A single call of an SQL function cannot be interrupted, and SQLite looks for an
//! interrupt only where a program jumps back. So what one row may cost is bounded beforehand:
//!
//! | bound | by |
//! |---|---|
//! | instructions that a row takes | [`OPS_A_ROW_MAX`], counted in the program of the check |
//! | length of a value | `SQLITE_LIMIT_LENGTH`: [`WORK_A_ROW`] divided by those instructions |
//! | a call that takes more than linear time | [`super::functions`] |
//! | all rows together | processor time in proportion to the size of the file, by the progress handler |
//!
//! The values that are alive at once are no more than the instructions that made them, so the memory of a row is bounded by
//! [`WORK_A_ROW`] too. A schema without expressions evaluates nothing, and no length is bounded for it.

use std::{
    ffi::c_int,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use rusqlite::{Connection, ErrorCode, ffi, limits::Limit};
use rustix::time::{ClockId, clock_gettime};

use super::functions;
use crate::error::{Error, ErrorKind};

/// The processor time for a file of any size.
const TIME_BASE: Duration = Duration::from_secs(10);

/// The bytes of a file that add a second to that. A check takes 1 to 160 s a GB of ordinary content.
const BYTES_A_SECOND: u64 = 1 << 20;

/// Instructions between two calls of the progress handler. Few, since each may copy a value of the greatest length.
const TICK_OPS: c_int = 100;

/// The bytes that the instructions of one row may handle.
const WORK_A_ROW: u64 = 1 << 30;

/// The most instructions that one row may take.
const OPS_A_ROW_MAX: u64 = 32 << 10;

/// Functions that write their arguments as JSON, by the beginnings of their names.
const JSON_BUILDERS: [&str; 10] = [
    "json_array(",
    "jsonb_array(",
    "json_insert",
    "jsonb_insert",
    "json_object",
    "jsonb_object",
    "json_quote",
    "json_replace",
    "json_set",
    "jsonb_set",
];

/// By how much the length of a value is divided if one of those is called. A byte of a text takes up to six in JSON, and
/// SQLite bounds the buffer that JSON is built in by its memory alone.
const JSON_WEIGHT: u64 = 8;

/// A value of this length is admitted whatever a row takes.
const LENGTH_MIN: u64 = 64 << 10;

/// Whether the schema has an expression that the check evaluates. The pragmas read what SQLite parsed, so no name in
/// `sqlite_schema` can hide one.
const HAS_EXPRESSIONS: &str = "
    SELECT EXISTS (SELECT 1 FROM pragma_table_list AS t JOIN pragma_table_xinfo(t.name, t.schema) AS c
                   WHERE t.schema = 'main' AND t.type IN ('table', 'shadow') AND c.hidden IN (2, 3))
        OR EXISTS (SELECT 1 FROM pragma_table_list AS t JOIN pragma_index_list(t.name, t.schema) AS i
                   WHERE t.schema = 'main' AND t.type IN ('table', 'shadow')
                     AND (i.partial OR EXISTS (SELECT 1 FROM pragma_index_xinfo(i.name, t.schema) WHERE cid = -2)))";

/// The bounds of one operation on one file. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Bounds(Arc<State>);

#[derive(Debug)]
struct State {
    time: Duration,
    started: OnceLock<(Instant, Duration)>,
    stopped: AtomicBool,
    exceeded: OnceLock<Bound>,
}

/// A bound that a file exceeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bound {
    Time(Duration),
    /// Instructions of one row.
    Ops(u64),
    /// Bytes of a value.
    Length(i32),
    /// The product of the lengths of a function's arguments.
    Call(&'static str, u64),
}

impl Bounds {
    /// The bounds for a file of `len` bytes.
    pub(super) fn of(len: u64) -> Self {
        Self::within(TIME_BASE + Duration::from_secs(len / BYTES_A_SECOND))
    }

    fn within(time: Duration) -> Self {
        Self(Arc::new(State {
            time,
            started: OnceLock::new(),
            stopped: AtomicBool::new(false),
            exceeded: OnceLock::new(),
        }))
    }

    /// Holds the statements of a connection to the time, which begins with the first such call. They must run on this thread.
    pub(super) fn hold(&self, connection: &mut Connection) -> rusqlite::Result<()> {
        self.0.started.get_or_init(|| (Instant::now(), processor_time()));
        let bounds = self.clone();
        connection.progress_handler(TICK_OPS, Some(move || bounds.is_over()))?;
        connection.set_limit(Limit::SQLITE_LIMIT_WORKER_THREADS, 0).map(|_| ())
    }

    /// The length that a value may have while `connection` evaluates the expressions of its schema; `None` if it has none.
    pub(super) fn measure(&self, connection: &Connection) -> rusqlite::Result<Option<i32>> {
        if !connection.query_row(HAS_EXPRESSIONS, [], |row| row.get(0))? {
            return Ok(None);
        }
        let (ops, builds_json) = ops_a_row(connection)?;
        if ops > OPS_A_ROW_MAX {
            return Err(self.exceed(Bound::Ops(ops)));
        }
        let weight = if builds_json { JSON_WEIGHT } else { 1 };
        let length = (WORK_A_ROW / (weight * ops.max(1))).max(LENGTH_MIN);
        let most = connection.limit(Limit::SQLITE_LIMIT_LENGTH)?;
        Ok(Some(i32::try_from(length).map_or(most, |length| length.min(most))))
    }

    /// Holds the values of a connection to a length.
    pub(super) fn limit(&self, connection: &Connection, length: Option<i32>) -> rusqlite::Result<()> {
        let Some(length) = length else { return Ok(()) };
        connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, length)?;
        functions::bound(connection, self, length)
    }

    /// Ends what runs under these bounds, from any thread.
    pub(super) fn stop(&self) {
        self.0.stopped.store(true, Relaxed);
    }

    /// Whether nothing may go on under these bounds.
    pub(super) fn is_over(&self) -> bool {
        if self.0.stopped.load(Relaxed) {
            return true;
        }
        let Some((instant, processor)) = self.0.started.get() else { return false };
        // No thread uses more processor time than passes. The clock of that is slower to read.
        if instant.elapsed() < self.0.time || processor_time().saturating_sub(*processor) < self.0.time {
            return false;
        }
        self.0.exceeded.get_or_init(|| Bound::Time(self.0.time));
        true
    }

    /// Notes that a bound is exceeded. Returns an error for SQLite.
    pub(super) fn exceed(&self, bound: Bound) -> rusqlite::Error {
        self.0.exceeded.get_or_init(|| bound);
        rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_TOOBIG), None)
    }

    /// The error for a bound that `what` exceeds, if that is why SQLite failed.
    pub(super) fn explain(
        &self,
        what: &str,
        connection: &Connection,
        error: &rusqlite::Error,
    ) -> Option<Error> {
        let is_too_big = error.sqlite_error_code() == Some(ErrorCode::TooBig);
        let too_long = || connection.limit(Limit::SQLITE_LIMIT_LENGTH).ok().map(Bound::Length);
        let bound = self.0.exceeded.get().copied().or_else(|| is_too_big.then(too_long).flatten())?;
        Some(bound.of(what))
    }

    /// Whether a bound is exceeded, or the caller asked to stop.
    pub(super) fn is_exceeded(&self) -> bool {
        self.0.stopped.load(Relaxed) || self.0.exceeded.get().is_some()
    }
}

impl Bound {
    #[cold]
    fn of(self, what: &str) -> Error {
        let fault = match self {
            Self::Time(time) => {
                format!("it takes more than {} s of processor time, the bound for its size", time.as_secs())
            }
            Self::Ops(ops) => {
                format!("a row takes {ops} instructions of SQLite, and {OPS_A_ROW_MAX} is the bound")
            }
            Self::Length(length) => {
                format!(
                    "a value is longer than {length} bytes, the bound while its expressions are evaluated"
                )
            }
            Self::Call(function, product) => format!(
                "a call of {function}() multiplies the lengths of its arguments to {product}, and {} is the bound",
                functions::PRODUCT_MAX
            ),
        };
        let message = format!(
            "{what} cannot be evaluated within bounds: {fault}; drop its indexes on expressions, partial indexes and \
             generated columns, and try again"
        );
        Error::new(ErrorKind::Unsupported, message)
    }
}

/// The processor time of this thread.
fn processor_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    let (seconds, nanos) = (u64::try_from(now.tv_sec), u32::try_from(now.tv_nsec));
    Duration::new(seconds.unwrap_or(0), nanos.unwrap_or(0))
}

/// The most instructions between two looks at whether to go on, in the program that checks all tables: those of its longest
/// loop. Each argument of a function counts as one more.
///
/// Also returns whether it calls a function that builds JSON.
fn ops_a_row(connection: &Connection) -> rusqlite::Result<(u64, bool)> {
    let mut program = connection.prepare("EXPLAIN PRAGMA integrity_check(1)")?;
    let mut rows = program.query([])?;
    // The instructions and the calls before each address.
    let mut before = vec![(0, 0)];
    let (mut longest, mut outside, mut builds_json) = (0, 0_u64, false);
    while let Some(row) = rows.next()? {
        let opcode = row.get_ref("opcode")?.as_bytes().unwrap_or_default();
        let (mut ops, mut calls) = before.last().copied().unwrap_or_default();
        ops += 1;
        if matches!(opcode, b"Function" | b"PureFunc") {
            let function = row.get_ref("p4")?.as_bytes().unwrap_or_default();
            builds_json |= JSON_BUILDERS.iter().any(|name| function.starts_with(name.as_bytes()));
            let arguments = arguments(function);
            ops += arguments;
            calls += 1 + arguments;
            outside += 1 + arguments;
        }
        before.push((ops, calls));
        if matches!(opcode, b"Next" | b"Prev" | b"SorterNext" | b"VNext") {
            let start = usize::try_from(row.get::<_, i64>("p2")?).unwrap_or(0);
            let (ops_then, calls_then) = before.get(start).copied().unwrap_or((ops, calls));
            longest = longest.max(ops - ops_then);
            outside = outside.saturating_sub(calls - calls_then);
        }
    }
    // Older versions of SQLite call functions of constants once, before the loops.
    Ok((longest.max(outside), builds_json))
}

/// The number of arguments in `name(number)`, as the program shows a function.
fn arguments(function: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(function);
    let number = text.rsplit_once('(').and_then(|(_, rest)| rest.trim_end_matches(')').parse().ok());
    number.unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(schema: &str) -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(schema).unwrap();
        connection
    }

    #[test]
    fn values_are_bounded_only_if_the_schema_has_expressions() {
        let measure = |schema: &str| Bounds::of(0).measure(&connection(schema)).unwrap();
        let plain = "CREATE TABLE t(a CHECK (instr(a, a) = 1), b TEXT UNIQUE); CREATE INDEX i ON t(b COLLATE NOCASE, a);
             CREATE VIEW v AS SELECT hex(a) FROM t; CREATE VIRTUAL TABLE f USING fts5(body)";
        assert_eq!(measure(plain), None);
        for expression in [
            "CREATE TABLE t(a, b INTEGER AS (length(a)))",
            "CREATE TABLE t(a, b INTEGER AS (length(a)) STORED)",
            "CREATE TABLE t(a); CREATE INDEX i ON t(lower(a))",
            "CREATE TABLE t(a); CREATE INDEX i ON t(a) WHERE a > 1",
            "CREATE TABLE t(a PRIMARY KEY, b AS (a || a)) WITHOUT ROWID",
        ] {
            let length = measure(expression).unwrap_or_else(|| panic!("{expression}"));
            assert!(length > 1 << 20, "{expression}: {length}");
        }
    }

    #[test]
    fn the_longer_a_row_takes_the_shorter_its_values_are() {
        let terms = |count: usize| {
            let terms = vec!["hex(a) = 'x'"; count].join(" OR ");
            format!("CREATE TABLE t(a); CREATE INDEX i ON t(a) WHERE a IN ({})", terms.replace(" OR ", ", "))
        };
        let bounds = Bounds::of(0);
        let measure = |count| bounds.measure(&connection(&terms(count)));
        let (few, many) = (measure(10).unwrap().unwrap(), measure(2000).unwrap().unwrap());
        assert!(few > 100 * many / 10 && many >= 64 << 10, "{few} {many}");
        assert!(!bounds.is_exceeded());
        let error = measure(20_000).unwrap_err();
        let told = bounds.explain("it", &connection(""), &error).unwrap();
        assert_eq!(told.kind(), ErrorKind::Unsupported);
        assert!(told.to_string().contains("32768 is the bound"), "{told}");
    }

    #[test]
    fn a_statement_ends_when_its_processor_time_is_used_up() {
        let endless =
            "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
        let mut connection = connection("");
        let bounds = Bounds::within(Duration::from_millis(20));
        bounds.hold(&mut connection).unwrap();
        let error = connection.query_row(endless, [], |_| Ok(())).unwrap_err();
        let told = bounds.explain("it", &connection, &error).unwrap();
        assert_eq!(told.kind(), ErrorKind::Unsupported);
        assert!(told.to_string().contains("processor time"), "{told}");
    }

    #[test]
    fn a_file_has_more_time_the_larger_it_is() {
        assert_eq!(Bounds::of(0).0.time, Duration::from_secs(10));
        assert_eq!(Bounds::of(50 << 30).0.time, Duration::from_secs(10 + 50 * 1024));
    }
}
