//! Running SQL: statement by statement, each with its rows.

use std::{
    fmt::Write,
    io::{self, IsTerminal},
};

use litefleet::{
    Error, ErrorKind, Result, explain,
    rusqlite::{self, Connection, types::ValueRef},
};
use serde_json::{Map, Value};

use super::output::{self, Output};

/// The longest blob that is printed whole.
const BLOB_SHOWN: usize = 32;

/// Runs every statement of `sql`. With JSON, each statement that has columns prints one array of row objects.
pub(crate) fn run(connection: &Connection, sql: &str, output: Output) -> Result<()> {
    let mut rest = sql;
    while let Some((statement, after)) = split(rest) {
        run_one(connection, statement, output)
            .map_err(|error| located(connection, sql, statement, error, output))?;
        rest = after;
    }
    Ok(())
}

/// Why a statement failed.
enum Failed {
    Sql(rusqlite::Error),
    Other(Error),
}

fn run_one(connection: &Connection, sql: &str, output: Output) -> Result<(), Failed> {
    let mut statement = connection.prepare(sql).map_err(Failed::Sql)?;
    let columns: Vec<String> = statement.column_names().map(str::to_owned).collect();
    let mut rows = statement.query([]).map_err(Failed::Sql)?;
    if columns.is_empty() {
        rows.next().map_err(Failed::Sql)?;
        return Ok(());
    }
    let mut table = output::table(&columns.iter().map(|column| output::escaped(column)).collect::<Vec<_>>());
    let mut values = Vec::new();
    while let Some(row) = rows.next().map_err(Failed::Sql)? {
        let cells = (0..columns.len())
            .map(|at| row.get_ref(at))
            .collect::<Result<Vec<_>, _>>()
            .map_err(Failed::Sql)?;
        if output.json {
            let mut object = Map::new();
            for (column, cell) in columns.iter().zip(cells) {
                object.insert(free_key(&object, column), output::sql_value(cell));
            }
            values.push(Value::Object(object));
        } else {
            table.add_row(cells.into_iter().map(shown));
        }
    }
    let printed =
        if output.json { output::json_line(&values) } else { output::print_rows(&table.to_string()) };
    printed.map_err(Failed::Other)
}

/// A key for a column: a name that stands twice gets `:1`, `:2` and so on, as SQLite does in subqueries.
fn free_key(object: &Map<String, Value>, column: &str) -> String {
    if !object.contains_key(column) {
        return column.to_owned();
    }
    let mut keys = (1..=object.len()).map(|at| format!("{column}:{at}"));
    keys.find(|key| !object.contains_key(key)).unwrap_or_default()
}

fn shown(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => "NULL".to_owned(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => format!("{number:?}"),
        ValueRef::Text(text) => output::escaped(&String::from_utf8_lossy(text)),
        ValueRef::Blob(bytes) if bytes.len() <= BLOB_SHOWN => {
            let mut hex = String::from("x'");
            for byte in bytes {
                let _never_fails = write!(hex, "{byte:02x}");
            }
            hex + "'"
        }
        ValueRef::Blob(bytes) => format!("<{} bytes>", bytes.len()),
    }
}

/// An error of a statement: one line, with the place for an error in the SQL, which a person is shown below it.
fn located(connection: &Connection, all: &str, statement: &str, failed: Failed, output: Output) -> Error {
    let error = match failed {
        Failed::Other(error) => return error,
        Failed::Sql(error) => error,
    };
    let rusqlite::Error::SqlInputError { msg, offset, .. } = &error else {
        return explain(connection, error);
    };
    let Ok(offset) = usize::try_from(*offset) else { return explain(connection, error) };
    // The statement is a part of all that was given, and so the place can be found there.
    let start = statement.as_ptr().addr() - all.as_ptr().addr();
    let before = &all.as_bytes()[..(start + offset).min(all.len())];
    let line = before.split(|byte| *byte == b'\n').count() - 1;
    let column = String::from_utf8_lossy(before.rsplit(|byte| *byte == b'\n').next().unwrap_or_default())
        .chars()
        .count();
    let text = all.lines().nth(line).unwrap_or_default();
    let mut message = format!("{msg} at line {}, column {}", line + 1, column + 1);
    if !output.json && io::stderr().is_terminal() {
        let _never_fails = write!(message, "\n  {text}\n  {:column$}^", "");
    }
    Error::new(ErrorKind::Sql, message).caused_by(error)
}

/// Parts the first statement, up to and with its semicolon, from the rest. Nothing if there is none.
pub(crate) fn split(sql: &str) -> Option<(&str, &str)> {
    let (end, _) = end_of_statement(sql);
    let (statement, rest) = sql.split_at(end);
    match is_blank(statement) {
        true if rest.is_empty() => None,
        true => split(rest),
        false => Some((statement, rest)),
    }
}

/// Whether `sql` ends with a whole statement, so that the shell need not wait for more.
pub(crate) fn is_complete(sql: &str) -> bool {
    let mut rest = sql;
    loop {
        if is_blank(rest) {
            return true;
        }
        match end_of_statement(rest) {
            (_, false) => return false,
            (end, true) => rest = &rest[end..],
        }
    }
}

/// Whether there is nothing in it but white space, semicolons and comments.
fn is_blank(sql: &str) -> bool {
    words(sql).next().is_none_or(|(word, at)| word == ";" && is_blank(&sql[at + 1..]))
}

/// Where the first statement ends, and whether a semicolon ends it. The statements inside of a trigger do not.
fn end_of_statement(sql: &str) -> (usize, bool) {
    let mut trigger = Trigger::Maybe(0);
    for (word, at) in words(sql) {
        if word == ";" {
            if !matches!(trigger, Trigger::Body) {
                return (at + 1, true);
            }
            continue;
        }
        trigger = match trigger {
            Trigger::Maybe(0) if word.eq_ignore_ascii_case("create") => Trigger::Maybe(1),
            Trigger::Maybe(0) if word.eq_ignore_ascii_case("explain") => Trigger::Maybe(0),
            Trigger::Maybe(1) if ["temp", "temporary"].iter().any(|temp| word.eq_ignore_ascii_case(temp)) => {
                Trigger::Maybe(1)
            }
            Trigger::Maybe(1) if word.eq_ignore_ascii_case("trigger") => Trigger::Body,
            Trigger::Body if word.eq_ignore_ascii_case("end") && follows_semicolon(&sql[..at]) => Trigger::No,
            Trigger::Body => Trigger::Body,
            Trigger::Maybe(_) | Trigger::No => Trigger::No,
        };
    }
    (sql.len(), false)
}

/// Whether a statement can still turn out to make a trigger.
#[derive(Clone, Copy)]
enum Trigger {
    /// So many of the words that begin one were seen.
    Maybe(u8),
    Body,
    No,
}

fn follows_semicolon(sql: &str) -> bool {
    words(sql).last().is_some_and(|(word, _)| word == ";")
}

/// The words and signs of SQL with their places; comments and white space left out, strings as one sign.
fn words(sql: &str) -> impl Iterator<Item = (&str, usize)> {
    let bytes = sql.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            let start = at;
            let rest = &sql[start..];
            let first = *bytes.get(start)?;
            let until = |needle: &str, from: usize| {
                sql[from..].find(needle).map_or(sql.len(), |found| from + found + needle.len())
            };
            match first {
                _ if rest.starts_with("--") => at = until("\n", start),
                // A comment that is not closed is not nothing: there is more to come.
                _ if rest.starts_with("/*") && !rest[2..].contains("*/") => {
                    at = sql.len();
                    return Some((rest, start));
                }
                _ if rest.starts_with("/*") => at = until("*/", start + 2),
                b' ' | b'\t' | b'\n' | b'\r' | b'\x0c' => at += 1,
                b'\'' | b'"' | b'`' => {
                    at = until(&rest[..1], start + 1);
                    return Some((&sql[start..at], start));
                }
                b'[' => {
                    at = until("]", start);
                    return Some((&sql[start..at], start));
                }
                byte if byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80 => {
                    let len = rest
                        .bytes()
                        .take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_' || *byte >= 0x80);
                    at += len.count();
                    return Some((&sql[start..at], start));
                }
                _ => {
                    at += 1;
                    return Some((&sql[start..at], start));
                }
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_parted_where_sqlite_parts_them() {
        let sql = "select ';' ; -- a; comment\n /* b; */ create temp trigger t after insert on x begin
            select case when 1 then 2 end; delete from y; end; insert into \"a;b\" values (1)";
        let mut parts = Vec::new();
        let mut rest = sql;
        while let Some((statement, after)) = split(rest) {
            parts.push(statement.trim());
            rest = after;
        }
        assert_eq!(parts.len(), 3, "{parts:?}");
        assert_eq!(parts[0], "select ';' ;");
        assert!(parts[1].ends_with("end;"));
        assert!(parts[2].starts_with("insert"));
    }

    #[test]
    fn the_shell_waits_for_what_is_not_complete() {
        for whole in [
            "",
            " ",
            "select 1;",
            "select 1; -- x",
            ";;",
            "create trigger t after insert on x begin select 1; end;",
        ] {
            assert!(is_complete(whole), "{whole:?}");
        }
        for open in [
            "select 1",
            "select ';",
            "select 1; select",
            "/* ;",
            "create trigger t after insert on x begin select 1;",
        ] {
            assert!(!is_complete(open), "{open:?}");
        }
    }
}
