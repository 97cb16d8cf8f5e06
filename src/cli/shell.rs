//! The interactive shell of `db shell`: line history, multi-line statements and dot commands.

use std::path::PathBuf;

use litefleet::{
    AttachOptions, ControlPlane, Error, ErrorKind, Result,
    rusqlite::{Connection, OptionalExtension},
};
use rustyline::{
    Completer, Editor, Helper, Highlighter, Hinter,
    error::ReadlineError,
    history::FileHistory,
    validate::{ValidationContext, ValidationResult, Validator},
};

use super::{
    interrupt,
    keys::KeyArguments,
    output::{self, Output},
    sql,
    statements::Statements,
};

const HELP: &str = "\
.tables          list tables and views
.schema [NAME]   show the statements that created them
.attach NAME [SCHEMA]
                 attach another database of the fleet as NAME or SCHEMA
.json            switch between JSON and tables
.quit            leave (also Ctrl-D)
Ctrl-C           stop the running statement
Other input is SQL. A statement runs at its semicolon.";

/// Accepts input once its statements are complete.
#[derive(Completer, Helper, Highlighter, Hinter)]
struct StatementValidator;

impl Validator for StatementValidator {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        let input = context.input();
        Ok(if input.trim_start().starts_with('.') || Statements::is_complete(input) {
            ValidationResult::Valid(None)
        } else {
            ValidationResult::Incomplete
        })
    }
}

/// Reads and runs statements until the input ends.
pub(crate) fn run(
    plane: &ControlPlane,
    connection: &Connection,
    name: &str,
    key: &KeyArguments,
) -> Result<()> {
    let failed = |error: ReadlineError| Error::new(ErrorKind::Io, format!("reading the terminal: {error}"));
    let mut editor: Editor<StatementValidator, FileHistory> = Editor::new().map_err(failed)?;
    editor.set_helper(Some(StatementValidator));
    let history = history_file();
    if let Some(history) = &history {
        let _may_not_exist = editor.load_history(history);
    }
    let running = connection.get_interrupt_handle();
    interrupt::on_interrupt(move || running.interrupt())?;
    println!("SQLite {}, database {name}. Enter .help for help.", litefleet::rusqlite::version());
    let mut output = Output { json: false };
    loop {
        let line = match editor.readline(&format!("{name}> ")) {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(failed(error)),
        };
        // The history is a file, in which no key must be stored.
        if !sets_key(&line) {
            let _best_effort = editor.add_history_entry(line.trim());
        }
        interrupt::reset();
        let in_transaction = !connection.is_autocommit();
        let ran = match line.trim().strip_prefix('.') {
            None => sql::run(connection, &line, output),
            Some(command) => match command.split_whitespace().collect::<Vec<_>>().as_slice() {
                ["quit" | "exit"] => break,
                ["help"] => output::print(HELP),
                ["json"] => {
                    output.json = !output.json;
                    Ok(())
                }
                ["tables"] => sql::run(
                    connection,
                    "SELECT type, name FROM sqlite_schema WHERE type IN ('table', 'view')
                     AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name",
                    output,
                ),
                ["schema"] => schema(connection, None),
                ["schema", name] => schema(connection, Some(name)),
                ["attach", name] => attach(plane, connection, name, name, key),
                ["attach", name, schema] => attach(plane, connection, name, schema, key),
                _ => Err(Error::new(
                    ErrorKind::Invalid,
                    format!("unknown command .{command}; enter .help for help"),
                )),
            },
        };
        if let Err(error) = ran {
            output::print_error(&error, output.json);
            if in_transaction && connection.is_autocommit() && !output.json {
                eprintln!("the transaction was rolled back");
            }
        }
    }
    if let Some(history) = &history {
        let _best_effort = editor.save_history(history);
    }
    Ok(())
}

fn schema(connection: &Connection, name: Option<&str>) -> Result<()> {
    let query =
        "SELECT group_concat(sql || ';', char(10)) FROM sqlite_schema WHERE ?1 IS NULL OR tbl_name = ?1";
    let schema: Option<String> = connection
        .query_row(query, [name], |row| row.get(0))
        .optional()
        .map_err(|error| litefleet::Error::from_sqlite(connection, error))?
        .flatten();
    output::print(&output::escaped(&schema.unwrap_or_default()))
}

/// Attaches a database of the fleet. An encrypted database is opened with the key of the shell.
fn attach(
    plane: &ControlPlane,
    connection: &Connection,
    name: &str,
    schema: &str,
    key: &KeyArguments,
) -> Result<()> {
    let key = key.for_database(plane, name)?;
    let options = key.into_iter().fold(AttachOptions::default(), AttachOptions::encryption_key);
    plane.attach(connection, name, schema, options)?;
    let shown = format!("attached {name} as \"{}\"", schema.replace('"', "\"\""));
    output::print(&output::escaped(&shown))
}

/// Whether a line sets an encryption key with a pragma, as in other engines.
fn sets_key(line: &str) -> bool {
    let line = line.to_ascii_lowercase();
    line.contains("pragma") && line.contains("key")
}

/// The file of the line history, in the state directory of the user.
fn history_file() -> Option<PathBuf> {
    let home = |rest: &str| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(rest));
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).or_else(|| home(".local/state"))?;
    let dir = state.join("litefleet");
    std::fs::create_dir_all(&dir).ok()?;
    Some(dir.join("history"))
}
