//! The check of an untrusted database file.
//!
//! SQLite's integrity check reads every page, row and index entry. CHECK constraints are not evaluated, so rows may violate them.
//! Expressions of indexes and generated columns are evaluated within [bounds](super::bounds).
//!
//! A file may use collations, functions, modules and tokenizers of the program that wrote it. The parts that need one cannot be
//! checked and are reported. Everything else is checked.

use rusqlite::{
    Connection, ErrorCode, OptionalExtension, config::DbConfig, functions::FunctionFlags, limits::Limit,
};

use super::{bounds::Bounds, functions};
use crate::{
    error::{Error, ErrorKind, Result},
    progress::{Phase, ProgressFn},
    sqlite, vfs,
};

/// The maximum number of functions of one file that are replaced by stand-ins.
const FUNCTIONS_MAX: usize = 100;

/// The maximum length of a value while the schema of the statistics tables is read.
const STATISTICS_LENGTH: i32 = 1000;

/// The maximum number of characters of a quoted declaration.
const QUOTED_MAX: usize = 120;

/// Opens a connection to the file.
pub(super) type Open<'a> = dyn Fn() -> Result<Connection> + Sync + 'a;

/// Checks the integrity of a file of `len` bytes. Returns the parts that could not be checked, each with the reason.
///
/// # Errors
///
/// Fails with [`ErrorKind::Corrupt`] and the first finding if the file is damaged, with [`ErrorKind::Unsupported`] if it exceeds a
/// bound, and with [`ErrorKind::Cancelled`].
pub(super) fn check(
    name: &str,
    len: u64,
    open: &Open<'_>,
    watch: &mut ProgressFn<'_>,
) -> Result<Vec<String>> {
    let bounds = Bounds::of(len);
    let check = Check { name, open, bounds: &bounds };
    super::watched(Phase::Check, &bounds, watch, || check.run())?
}

/// The error of a check that SQLite failed.
pub(super) fn failed(name: &str, error: rusqlite::Error) -> Error {
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => Error::new(
            ErrorKind::Invalid,
            format!("{name} is not a sqlite3 database that this version can read"),
        )
        .caused_by(error),
        Some(ErrorCode::DatabaseCorrupt) => {
            Error::new(ErrorKind::Corrupt, format!("{name} is damaged: {error}")).caused_by(error)
        }
        _ => sqlite::failed(format_args!("checking {name}"), error),
    }
}

/// Prevents triggers, views and CHECK constraints of the file from being executed. The statement loads the schema.
pub(super) fn fence(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false)?;
    connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
    // The header of the file can set a cache size.
    connection.execute_batch(
        "PRAGMA ignore_check_constraints=ON; PRAGMA synchronous=OFF; PRAGMA cell_size_check=ON; PRAGMA mmap_size=0;
         PRAGMA cache_size=-2000",
    )
}

/// Whether SQLite could not prepare a statement. The file need not be damaged.
fn is_refused(error: &rusqlite::Error) -> bool {
    matches!(error, rusqlite::Error::SqlInputError { .. })
        || error.sqlite_error_code() == Some(ErrorCode::Unknown)
}

/// One check of one file.
struct Check<'a> {
    name: &'a str,
    open: &'a Open<'a>,
    bounds: &'a Bounds,
}

impl Check<'_> {
    fn run(&self) -> Result<Vec<String>> {
        self.statistics()?;
        let connection = self.connect()?;
        // Without modules SQLite checks the shadow tables of virtual tables, and skips the virtual tables.
        vfs::drop_modules(&connection);
        let mut unchecked = Vec::new();
        let length = match self.whole(&connection, "PRAGMA integrity_check(1)") {
            Err(Refused::Sql(error)) if is_refused(&error) && !self.bounds.is_exceeded() => {
                let length = self.with_stand_ins()?;
                self.impose(&connection, length)?;
                self.each_table(&connection, &mut unchecked)?;
                length
            }
            checked => checked.map_err(|error| self.explained(&connection, error))?,
        };
        self.virtual_tables(&connection, length, &mut unchecked)?;
        Ok(unchecked)
    }

    /// A fenced connection with bounds.
    fn connect(&self) -> Result<Connection> {
        let mut connection = (self.open)()?;
        let held = self.bounds.hold(&mut connection).and_then(|()| fence(&connection));
        held.map_err(|error| self.failed(&connection, error))?;
        Ok(connection)
    }

    /// Refuses a file with a generated column in a statistics table. SQLite evaluates the column whenever the database is opened.
    fn statistics(&self) -> Result<()> {
        let mut connection = (self.open)()?;
        let find = |connection: &mut Connection| {
            self.bounds.hold(connection)?;
            connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, STATISTICS_LENGTH)?;
            // SQLite then accepts a schema that it cannot parse completely.
            connection.execute_batch("PRAGMA writable_schema=ON")?;
            connection
                .query_row(
                    "SELECT name FROM sqlite_schema WHERE CASE WHEN name LIKE 'sqlite!_stat%' ESCAPE '!' AND type = 'table'
                     THEN length(sql) > 500 OR sql LIKE '%as%' END LIMIT 1",
                    [],
                    |row| row.get::<_, String>(0),
                )
                .optional()
        };
        match find(&mut connection).map_err(|error| self.failed(&connection, error))? {
            None => Ok(()),
            Some(table) => {
                let message = format!(
                    "{}: {table} has a generated column, which would be evaluated whenever the database is opened; drop \
                     that table and run ANALYZE",
                    self.name
                );
                Err(Error::new(ErrorKind::Unsupported, message))
            }
        }
    }

    /// Checks the whole database by a pragma. Returns the bound on the length of a value.
    fn whole(&self, connection: &Connection, pragma: &str) -> Result<Option<i32>, Refused> {
        let length = self.bounds.measure(connection).map_err(Refused::Sql)?;
        functions::limit(connection, self.bounds, length).map_err(Refused::Sql)?;
        ask(connection, pragma).and_then(|finding| self.sound(finding))?;
        Ok(length)
    }

    fn impose(&self, connection: &Connection, length: Option<i32>) -> Result<()> {
        functions::limit(connection, self.bounds, length).map_err(|error| self.failed(connection, error))
    }

    /// Fails with the finding of a check, if there is one.
    fn sound(&self, finding: Option<String>) -> Result<(), Refused> {
        let Some(finding) = finding else { return Ok(()) };
        let finding = finding.trim_start_matches("*** in database main ***").trim();
        Err(Refused::Other(Error::new(ErrorKind::Corrupt, format!("{} is damaged: {finding}", self.name))))
    }

    /// Checks everything except index entries, with stand-ins for unknown collations and functions. Returns the bound on the length of
    /// a value.
    fn with_stand_ins(&self) -> Result<Option<i32>> {
        const QUICK: &str = "PRAGMA quick_check(1)";
        let connection = self.connect()?;
        vfs::drop_modules(&connection);
        let stand_in = connection.collation_needed(|connection, name| {
            connection.create_collation(name, |a: &str, b: &str| a.cmp(b))
        });
        let mut checked = stand_in.map_err(Refused::Sql).and_then(|()| self.whole(&connection, QUICK));
        for _ in 0..FUNCTIONS_MAX {
            let Err(Refused::Sql(error)) = &checked else { break };
            let Some(function) = unknown_function(error) else { break };
            let flags = FunctionFlags::SQLITE_UTF8
                | FunctionFlags::SQLITE_DETERMINISTIC
                | FunctionFlags::SQLITE_INNOCUOUS;
            // Zero is valid in a column of any type except BLOB, and in a NOT NULL column.
            let made = connection.create_scalar_function(function, -1, flags, |_| Ok(0));
            checked = made.map_err(Refused::Sql).and_then(|()| self.whole(&connection, QUICK));
        }
        checked.map_err(|error| self.explained(&connection, error))
    }

    /// Checks the indexes of each table, except for tables that need an unknown collation or function.
    fn each_table(&self, connection: &Connection, unchecked: &mut Vec<String>) -> Result<()> {
        let tables =
            "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type IN ('table', 'shadow')";
        for table in self.names(connection, tables)? {
            match self.check_table(connection, &table) {
                Err(Refused::Sql(error)) if is_refused(&error) && !self.bounds.is_exceeded() => {
                    let why = one_line(&message(&error));
                    let table = one_line(&table);
                    unchecked.push(format!("the indexes and generated columns of the table {table}: {why}"));
                }
                checked => checked.map_err(|error| self.explained(connection, error))?,
            }
        }
        Ok(())
    }

    /// Checks the content of each virtual table whose module is available.
    fn virtual_tables(
        &self,
        main: &Connection,
        length: Option<i32>,
        unchecked: &mut Vec<String>,
    ) -> Result<()> {
        let tables = "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'virtual'";
        let tables = self.names(main, tables)?;
        if tables.is_empty() {
            return Ok(());
        }
        let connection = self.connect()?;
        self.impose(&connection, length)?;
        for table in tables {
            let connected = connection.prepare(&format!("SELECT 1 FROM {}", quoted(&table))).map(drop);
            let checked =
                connected.map_err(Refused::Sql).and_then(|()| self.check_table(&connection, &table));
            match checked {
                Err(Refused::Sql(error)) if is_refused(&error) && !self.bounds.is_exceeded() => {
                    let sql = "SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?1";
                    let declared: Option<String> =
                        main.query_row(sql, [&table], |row| row.get(0)).optional().ok().flatten();
                    let using =
                        declared.as_deref().and_then(using).unwrap_or_else(|| "of a module".to_owned());
                    let why = one_line(&message(&error));
                    unchecked.push(format!("the virtual table {}, {using}: {why}", one_line(&table)));
                }
                checked => checked.map_err(|error| self.explained(&connection, error))?,
            }
        }
        Ok(())
    }

    fn check_table(&self, connection: &Connection, table: &str) -> Result<(), Refused> {
        ask(connection, &format!("PRAGMA integrity_check({})", quoted(table)))
            .and_then(|finding| self.sound(finding))
    }

    fn names(&self, connection: &Connection, sql: &str) -> Result<Vec<String>> {
        let names = connection.prepare(sql).and_then(|mut select| {
            let name = |row: &rusqlite::Row<'_>| {
                Ok(String::from_utf8_lossy(row.get_ref(0)?.as_bytes()?).into_owned())
            };
            select.query_map([], name)?.collect()
        });
        names.map_err(|error| self.failed(connection, error))
    }

    fn failed(&self, connection: &Connection, error: rusqlite::Error) -> Error {
        self.bounds.explain(self.name, connection, &error).unwrap_or_else(|| failed(self.name, error))
    }

    fn explained(&self, connection: &Connection, refused: Refused) -> Error {
        match refused {
            Refused::Sql(error) => self.failed(connection, error),
            Refused::Other(error) => error,
        }
    }
}

/// Why a check failed.
enum Refused {
    Sql(rusqlite::Error),
    Other(Error),
}

/// The first finding of a pragma.
fn ask(connection: &Connection, pragma: &str) -> Result<Option<String>, Refused> {
    let answer = connection.query_row(pragma, [], |row| {
        // A finding may quote a name that is not UTF-8.
        Ok(String::from_utf8_lossy(row.get_ref(0)?.as_bytes()?).into_owned())
    });
    answer.map(|answer| Some(answer).filter(|answer| answer != "ok")).map_err(Refused::Sql)
}

/// The name of the unknown function, if that is the error.
fn unknown_function(error: &rusqlite::Error) -> Option<&str> {
    let (rusqlite::Error::SqlInputError { msg, .. } | rusqlite::Error::SqliteFailure(_, Some(msg))) = error
    else {
        return None;
    };
    msg.strip_prefix("unknown function: ")?.strip_suffix("()")
}

fn message(error: &rusqlite::Error) -> String {
    match error {
        rusqlite::Error::SqlInputError { msg, .. } => msg.clone(),
        error => error.to_string(),
    }
}

/// The module of a virtual table and its arguments.
fn using(declared: &str) -> Option<String> {
    const USING: &str = "using ";
    let at = declared.to_ascii_lowercase().find(USING)?;
    Some(format!("USING {}", one_line(declared[at + USING.len()..].trim())))
}

/// Text of the file for an error message: one line, truncated.
fn one_line(text: &str) -> String {
    let mut line: String =
        text.chars().map(|sign| if sign.is_control() { ' ' } else { sign }).take(QUOTED_MAX).collect();
    if text.chars().nth(QUOTED_MAX).is_some() {
        line.push('…');
    }
    line
}

/// Quotes an SQL identifier.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_declaration_is_one_truncated_line() {
        assert_eq!(using("CREATE VIRTUAL TABLE f USING fts5(a,\n b)").unwrap(), "USING fts5(a,  b)");
        assert_eq!(using("CREATE TABLE t(a)"), None);
        assert_eq!(one_line(&"ä".repeat(QUOTED_MAX + 1)).chars().count(), QUOTED_MAX + 1);
        assert_eq!(quoted("a\"b"), "\"a\"\"b\"");
    }
}
