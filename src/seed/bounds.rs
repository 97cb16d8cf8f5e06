//! Bounds on the evaluation of an untrusted schema.
//!
//! Checking and rebuilding a database evaluate the expressions of its indexes, the conditions of its partial indexes, and its
//! generated columns. A single call of an SQL function cannot be interrupted, and SQLite checks for an interrupt only at backward
//! jumps. The cost of one row is therefore bounded beforehand:
//!
//! | bound | by |
//! |---|---|
//! | instructions per row | [`OPS_A_ROW_MAX`], counted in the program of the check |
//! | length of a value | `SQLITE_LIMIT_LENGTH`: [`WORK_A_ROW`] divided by those instructions |
//! | a function call of more than linear time | `functions` |
//! | all rows together | processor time proportional to the size of the file, by the progress handler |
//!
//! Each live value was made by an instruction of the row, so [`WORK_A_ROW`] bounds the memory of a row too. A schema without
//! expressions evaluates nothing and has no bound on the length of a value.

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

use crate::error::{Error, ErrorKind};

/// The processor time for an empty file.
const TIME_BASE: Duration = Duration::from_secs(10);

/// The number of bytes of a file that add a second to [`TIME_BASE`]. A check of ordinary content takes 1 to 160 s per GB.
const BYTES_A_SECOND: u64 = 1 << 20;

/// The number of instructions between two calls of the progress handler. It is small because each may copy a value of the maximum
/// length.
const TICK_OPS: c_int = 100;

/// The maximum number of bytes that the instructions of one row process.
const WORK_A_ROW: u64 = 1 << 30;

/// The maximum number of instructions per row.
const OPS_A_ROW_MAX: u64 = 32 << 10;

/// The prefixes of the functions that write their arguments as JSON.
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

/// The divisor of the length of a value if one of [`JSON_BUILDERS`] is called. A byte of text takes up to six bytes in JSON, and
/// SQLite does not bound the buffer of JSON.
const JSON_WEIGHT: u64 = 8;

/// The minimum bound on the length of a value.
const LENGTH_MIN: u64 = 64 << 10;

/// The maximum product of the lengths of two arguments in bytes. The slowest calls within it, of `trim` and of `glob` with a
/// character class, take less than a second.
pub(super) const PRODUCT_MAX: u64 = 1 << 28;

/// Whether the schema has an expression that the check evaluates. The pragmas read the parsed schema, so no entry of
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

/// A bound that was exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bound {
    Time(Duration),
    /// The instructions of one row.
    Ops(u64),
    /// The bytes of a value.
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

    /// Applies the bound on time to the statements of a connection. The time starts with the first call. The statements must run on
    /// this thread.
    pub(super) fn hold(&self, connection: &mut Connection) -> rusqlite::Result<()> {
        self.0.started.get_or_init(|| (Instant::now(), processor_time()));
        let bounds = self.clone();
        connection.progress_handler(TICK_OPS, Some(move || bounds.is_over()))?;
        connection.set_limit(Limit::SQLITE_LIMIT_WORKER_THREADS, 0).map(|_| ())
    }

    /// The maximum length of a value while `connection` evaluates the expressions of its schema. `None` if it has none.
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

    /// Interrupts the statements under these bounds. May be called on any thread.
    pub(super) fn stop(&self) {
        self.0.stopped.store(true, Relaxed);
    }

    /// Whether the statements under these bounds must end.
    pub(super) fn is_over(&self) -> bool {
        if self.0.stopped.load(Relaxed) {
            return true;
        }
        let Some((instant, processor)) = self.0.started.get() else { return false };
        // Processor time never exceeds elapsed time, and is slower to read.
        if instant.elapsed() < self.0.time || processor_time().saturating_sub(*processor) < self.0.time {
            return false;
        }
        self.0.exceeded.get_or_init(|| Bound::Time(self.0.time));
        true
    }

    /// Records that a bound is exceeded. Returns an error for SQLite.
    pub(super) fn exceed(&self, bound: Bound) -> rusqlite::Error {
        self.0.exceeded.get_or_init(|| bound);
        rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_TOOBIG), None)
    }

    /// The error of this crate if SQLite failed because `what` exceeds a bound.
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

    /// Whether a bound is exceeded or the caller has cancelled.
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
                "a call of {function}() multiplies the lengths of its arguments to {product}, and {PRODUCT_MAX} is the bound"
            ),
        };
        let message = format!(
            "{what} cannot be evaluated within bounds: {fault}; drop its indexes on expressions, partial indexes and \
             generated columns, and retry"
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

/// The number of instructions in the longest loop of the program that checks all tables. Each argument of a function counts as one
/// more.
///
/// Also returns whether the program calls one of [`JSON_BUILDERS`].
fn ops_a_row(connection: &Connection) -> rusqlite::Result<(u64, bool)> {
    let mut program = connection.prepare("EXPLAIN PRAGMA integrity_check(1)")?;
    let mut rows = program.query([])?;
    // The numbers of instructions and calls before each address.
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

/// The number of arguments of a function, which the program shows as `name(number)`.
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
    fn length_bound_falls_with_instructions_per_row() {
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
    fn statement_ends_at_bound_on_processor_time() {
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
    fn bound_on_time_grows_with_file() {
        assert_eq!(Bounds::of(0).0.time, Duration::from_secs(10));
        assert_eq!(Bounds::of(50 << 30).0.time, Duration::from_secs(10 + 50 * 1024));
    }
}
