//! Bounded versions of SQLite's functions that can take more than linear time.
//!
//! On a connection that evaluates an untrusted schema, each is replaced by a function that fails if the product of the lengths of its
//! arguments exceeds [`PRODUCT_MAX`], and otherwise calls SQLite's function on an in-memory connection. Its results are therefore
//! equal to those in the indexes of the file.

use std::{cell::OnceCell, ffi::c_int};

use rusqlite::{
    Connection, ErrorCode, ffi,
    functions::{Context, FunctionFlags},
    limits::Limit,
    types::{ToSql, ToSqlOutput, Value, ValueRef},
};

use super::bounds::{Bound, Bounds, PRODUCT_MAX};

/// The functions and their numbers of arguments. The time of each grows with the product of the lengths of its first two. The result
/// of `json_pretty` grows with the square of the first, because each element is indented by its depth.
const FUNCTIONS: &[(&str, c_int)] = &[
    ("glob", 2),
    ("instr", 2),
    ("json_patch", 2),
    ("json_pretty", 1),
    ("json_pretty", 2),
    ("jsonb_patch", 2),
    ("like", 2),
    ("like", 3),
    ("ltrim", 2),
    ("replace", 3),
    ("rtrim", 2),
    ("trim", 2),
    ("unhex", 2),
];

/// The default indentation of `json_pretty` in bytes.
const PRETTY_INDENT: u64 = 4;

/// The subtype of JSON text (<https://www.sqlite.org/src/file/src/json.c>).
const JSON: u32 = b'J' as u32;

/// Bounds the length of values on `connection` to `length` bytes, and the functions accordingly. `None` bounds neither.
pub(super) fn limit(connection: &Connection, bounds: &Bounds, length: Option<c_int>) -> rusqlite::Result<()> {
    let Some(length) = length else { return Ok(()) };
    connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, length)?;
    bound(connection, bounds, length)
}

/// Bounds the functions on `connection`, and the length of their results by `length`.
fn bound(connection: &Connection, bounds: &Bounds, length: c_int) -> rusqlite::Result<()> {
    let flags =
        FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC | FunctionFlags::SQLITE_INNOCUOUS;
    for &(name, arguments) in FUNCTIONS {
        let bounds = bounds.clone();
        let own = Own { name, length, connection: OnceCell::new() };
        if ["json_patch", "json_pretty"].contains(&name) {
            let flags = flags | FunctionFlags::SQLITE_RESULT_SUBTYPE;
            connection.create_scalar_function(name, arguments, flags, move |context| {
                own.call(context, &bounds).map(|answer| (answer, Some(JSON)))
            })?;
        } else {
            connection
                .create_scalar_function(name, arguments, flags, move |context| own.call(context, &bounds))?;
        }
    }
    Ok(())
}

/// A function of SQLite.
struct Own {
    name: &'static str,
    length: c_int,
    connection: OnceCell<Connection>,
}

impl Own {
    fn call(&self, context: &Context<'_>, bounds: &Bounds) -> rusqlite::Result<Answer> {
        if bounds.is_over() {
            return Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_INTERRUPT), None));
        }
        let one = len(context.get_raw(0));
        let other = if context.len() > 1 { len(context.get_raw(1)) } else { PRETTY_INDENT };
        let scanned = match self.name {
            // The patch is applied member by member, and each searches the members before it.
            "json_patch" | "jsonb_patch" => one.saturating_add(other),
            "json_pretty" => one.saturating_mul(one),
            _ => one,
        };
        let product = scanned.saturating_mul(other);
        if product > PRODUCT_MAX {
            return Err(bounds.exceed(Bound::Call(self.name, product)));
        }
        let connection = if let Some(connection) = self.connection.get() {
            connection
        } else {
            let connection = Connection::open_in_memory()?;
            connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, self.length)?;
            self.connection.get_or_init(|| connection)
        };
        // SQLite drops the code of an error that has a message.
        self.answer(connection, context).map_err(|error| match error.sqlite_error_code() {
            Some(ErrorCode::TooBig) => bounds.exceed(Bound::Length(self.length)),
            _ => error,
        })
    }

    fn answer(&self, connection: &Connection, context: &Context<'_>) -> rusqlite::Result<Answer> {
        let arguments = ["?1", "?1, ?2", "?1, ?2, ?3"][context.len().clamp(1, 3) - 1];
        let mut statement = connection.prepare_cached(&format!("SELECT {}({arguments})", self.name))?;
        for at in 0..context.len() {
            statement.raw_bind_parameter(at + 1, ToSqlOutput::Borrowed(context.get_raw(at)))?;
        }
        let mut rows = statement.raw_query();
        let answer =
            rows.next()?.map_or(Ok(Answer::Other(Value::Null)), |row| row.get_ref(0).map(Answer::of));
        drop(rows);
        // Frees the arguments before the next call.
        statement.clear_bindings();
        answer
    }
}

/// The length of a value, or the maximum length of a number as text.
fn len(value: ValueRef<'_>) -> u64 {
    match value {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes.len() as u64,
        _ => 32,
    }
}

/// A value whose text need not be UTF-8.
enum Answer {
    Text(Vec<u8>),
    Other(Value),
}

impl Answer {
    fn of(value: ValueRef<'_>) -> Self {
        match value {
            ValueRef::Text(bytes) => Self::Text(bytes.to_owned()),
            ValueRef::Blob(bytes) => Self::Other(Value::Blob(bytes.to_owned())),
            ValueRef::Integer(number) => Self::Other(Value::Integer(number)),
            ValueRef::Real(number) => Self::Other(Value::Real(number)),
            ValueRef::Null => Self::Other(Value::Null),
        }
    }
}

impl ToSql for Answer {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        match self {
            Self::Text(bytes) => Ok(ToSqlOutput::Borrowed(ValueRef::Text(bytes))),
            Self::Other(value) => value.to_sql(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    /// Calls with values of every type, invalid UTF-8, zero bytes, and nested JSON.
    #[test]
    fn bounded_functions_equal_those_of_sqlite() {
        let (theirs, ours) = (Connection::open_in_memory().unwrap(), Connection::open_in_memory().unwrap());
        bound(&ours, &Bounds::of(0), 1 << 20).unwrap();
        let values = [
            "NULL",
            "1",
            "-2.5",
            "''",
            "'a'",
            "'ababA%_'",
            "'a%'",
            "'_b*'",
            "x''",
            "x'61'",
            "x'ff0061'",
            "CAST(x'ff6100ff' AS TEXT)",
            "'{\"a\": 1}'",
            "'{\"b\": [2]}'",
            "zeroblob(3)",
            "'ß'",
        ];
        let mut calls = Vec::new();
        for one in values {
            for other in values {
                for (name, arguments) in FUNCTIONS {
                    calls.push(match arguments {
                        1 => format!("{name}({one})"),
                        3 => format!("{name}({one}, {other}, 'b')"),
                        _ => format!("{name}({one}, {other})"),
                    });
                }
            }
        }
        calls.push(r#"json_array(json_patch('{"a": 1}', '{"b": 2}'))"#.to_owned());
        calls.push("'abc' LIKE 'A%' OR 'abc' GLOB 'A*'".to_owned());
        let answer = |connection: &Connection, call: &str| {
            let ask = format!("SELECT typeof(x), hex(x) FROM (SELECT {call} AS x)");
            connection
                .query_row(&ask, [], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))
                .map_err(|_| ())
        };
        for call in calls {
            assert_eq!(answer(&ours, &call), answer(&theirs, &call), "{call}");
        }
    }

    #[test]
    fn call_beyond_bound_is_refused_with_function_name() {
        for (name, arguments) in FUNCTIONS {
            let connection = Connection::open_in_memory().unwrap();
            let bounds = Bounds::of(0);
            bound(&connection, &bounds, 1 << 20).unwrap();
            let long = "hex(zeroblob(10000))";
            let call = match arguments {
                1 => format!("SELECT {name}({long})"),
                2 => format!("SELECT {name}({long}, {long})"),
                _ => format!("SELECT {name}({long}, {long}, 'x')"),
            };
            let error = connection.query_row(&call, [], |_| Ok(())).unwrap_err();
            let told = bounds.explain("it", &connection, &error).unwrap();
            assert_eq!(told.kind(), ErrorKind::Unsupported, "{told}");
            assert!(told.to_string().contains(&format!("{name}()")), "{told}");
        }
    }
}
