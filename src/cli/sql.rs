//! Runs SQL statement by statement and prints the rows.

use std::{
    fmt::Write,
    io::{self, BufRead, IsTerminal},
};

use litefleet::{
    Error, ErrorKind, Result,
    rusqlite::{self, Connection, types::ValueRef},
};
use serde_json::{Map, Value};

use super::{
    output::{self, Output},
    statements::{Statement, Statements},
};

/// The longest blob that is printed in hexadecimal. Longer blobs are printed as their length.
const BLOB_LEN_MAX: usize = 32;

/// Runs the statements of `sql`. As JSON, each statement with columns prints one array of row objects.
pub(crate) fn run(connection: &Connection, sql: &str, output: Output) -> Result<()> {
    let mut statements = Statements::new();
    statements.push(sql.as_bytes());
    run_complete(connection, &mut statements, output)?;
    run_rest(connection, &mut statements, output)
}

/// Runs the statements of `input`, each as soon as its semicolon arrives.
pub(crate) fn run_stream(connection: &Connection, mut input: impl BufRead, output: Output) -> Result<()> {
    let mut statements = Statements::new();
    loop {
        let len = match input.fill_buf() {
            Ok([]) => return run_rest(connection, &mut statements, output),
            Ok(arrived) => {
                statements.push(arrived);
                arrived.len()
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                return Err(
                    Error::new(ErrorKind::Io, format!("reading standard input: {error}")).caused_by(error)
                );
            }
        };
        input.consume(len);
        run_complete(connection, &mut statements, output)?;
    }
}

fn run_complete(connection: &Connection, statements: &mut Statements, output: Output) -> Result<()> {
    while let Some(statement) = statements.next_complete()? {
        run_located(connection, &statement, output)?;
    }
    Ok(())
}

/// Runs the last statement, whose semicolon may be missing.
fn run_rest(connection: &Connection, statements: &mut Statements, output: Output) -> Result<()> {
    match statements.rest()? {
        Some(statement) => run_located(connection, &statement, output),
        None => Ok(()),
    }
}

fn run_located(connection: &Connection, statement: &Statement<'_>, output: Output) -> Result<()> {
    run_one(connection, statement.sql, output)
        .map_err(|error| with_position(connection, statement, error, output))
}

/// The error of a statement.
enum StatementError {
    Sql(rusqlite::Error),
    Other(Error),
}

fn run_one(connection: &Connection, sql: &str, output: Output) -> Result<(), StatementError> {
    let mut statement = connection.prepare(sql).map_err(StatementError::Sql)?;
    let names = (0..statement.column_count()).map(|at| statement.column_name(at).map(str::to_owned));
    let columns = names.collect::<Result<Vec<_>, _>>().map_err(StatementError::Sql)?;
    let mut rows = statement.query([]).map_err(StatementError::Sql)?;
    if columns.is_empty() {
        rows.next().map_err(StatementError::Sql)?;
        return Ok(());
    }
    let mut table = output::table(&columns.iter().map(|column| output::escaped(column)).collect::<Vec<_>>());
    let mut values = Vec::new();
    while let Some(row) = rows.next().map_err(StatementError::Sql)? {
        let cells = (0..columns.len())
            .map(|at| row.get_ref(at))
            .collect::<Result<Vec<_>, _>>()
            .map_err(StatementError::Sql)?;
        if output.json {
            let mut object = Map::new();
            for (column, cell) in columns.iter().zip(cells) {
                object.insert(unique_key(&object, column), output::sql_value(cell));
            }
            values.push(Value::Object(object));
        } else {
            table.add_row(cells.into_iter().map(format_value));
        }
    }
    let printed =
        if output.json { output::json_line(&values) } else { output::print_rows(&table.to_string()) };
    printed.map_err(StatementError::Other)
}

/// The key of a column. A repeated name gets a suffix `:1`, `:2` and so on, as in SQLite's subqueries.
fn unique_key(object: &Map<String, Value>, column: &str) -> String {
    if !object.contains_key(column) {
        return column.to_owned();
    }
    let mut keys = (1..=object.len()).map(|at| format!("{column}:{at}"));
    keys.find(|key| !object.contains_key(key)).unwrap_or_default()
}

fn format_value(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => "NULL".to_owned(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => format!("{number:?}"),
        ValueRef::Text(text) => output::escaped(&String::from_utf8_lossy(text)),
        ValueRef::Blob(bytes) if bytes.len() <= BLOB_LEN_MAX => {
            let mut hex = String::from("x'");
            for byte in bytes {
                let _never_fails = write!(hex, "{byte:02x}");
            }
            hex + "'"
        }
        ValueRef::Blob(bytes) => format!("<{} bytes>", bytes.len()),
    }
}

/// Adds the line and column to a syntax error. On a terminal the line of SQL is shown below.
fn with_position(
    connection: &Connection,
    statement: &Statement<'_>,
    error: StatementError,
    output: Output,
) -> Error {
    let error = match error {
        StatementError::Other(error) => return error,
        StatementError::Sql(error) => error,
    };
    let rusqlite::Error::SqlInputError { msg, offset, .. } = &error else {
        return Error::from_sqlite(connection, error);
    };
    let Ok(offset) = usize::try_from(*offset) else { return Error::from_sqlite(connection, error) };
    let Statement { sql, lines, line: first_line } = statement;
    let before = &lines.as_bytes()[..(lines.len() - sql.len() + offset).min(lines.len())];
    let line = before.split(|byte| *byte == b'\n').count() - 1;
    let column = String::from_utf8_lossy(before.rsplit(|byte| *byte == b'\n').next().unwrap_or_default())
        .chars()
        .count();
    let text = lines.lines().nth(line).unwrap_or_default();
    let mut message = format!("{msg} at line {}, column {}", first_line + line, column + 1);
    if !output.json && io::stderr().is_terminal() {
        let _never_fails = write!(message, "\n  {text}\n  {:column$}^", "");
    }
    Error::new(ErrorKind::Sql, message).caused_by(error)
}
