//! Prints results: as tables and sentences, or as one JSON value.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
};

use comfy_table::{ContentArrangement, Table, presets};
use indicatif::HumanBytes;
use litefleet::{
    CreateDatabaseOutput, Database, DatabaseState, Error, ErrorKind, Group, HistoryLimit, MaintenanceReport,
    Point, Points, PruneReason, Recovered, ResolvedInstant, RestorableRange, Restored, Result, SizeLimit,
    VerifyReport,
};
use serde::Serialize;
use serde_json::{Value, json};

use super::interrupt;

/// Bytes that are printed between checks for an interrupt.
const PART_LEN: usize = 64 << 10;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    pub(crate) json: bool,
}

/// The path of a database and the sizes of its files, which drafts lack.
#[derive(Debug)]
pub(crate) struct DatabaseFiles {
    pub(crate) path: Option<PathBuf>,
    /// The size of the file and its log.
    pub(crate) size: Option<u64>,
    pub(crate) history_size: Option<u64>,
}

impl Output {
    /// Prints `value` as JSON, or `sentence`.
    pub(crate) fn say(self, value: &impl Serialize, sentence: impl FnOnce() -> String) -> Result<()> {
        if self.json { json_line(value) } else { print(&sentence()) }
    }

    pub(crate) fn groups(self, groups: &[Group]) -> Result<()> {
        if self.json {
            return json_line(groups);
        }
        let mut table = table(&["NAME", "CREATED", "PROTECTED", "HISTORY", "HISTORY LIMIT"]);
        for group in groups {
            table.add_row([
                group.name.to_string(),
                group.created_at.to_string(),
                yes(group.delete_protection),
                group.history_window.to_string(),
                history_limit(group.history_limit),
            ]);
        }
        print(&table.to_string())
    }

    pub(crate) fn group(self, group: Group) -> Result<()> {
        if self.json { json_line(&group) } else { self.groups(&[group]) }
    }

    /// Prints databases with their sizes on disk, which drafts lack.
    pub(crate) fn databases(self, databases: &[(Database, Option<u64>)]) -> Result<()> {
        if self.json {
            let values = databases.iter().map(|(database, size)| {
                let mut value = serde_json::to_value(database).map_err(unprintable)?;
                value["size_bytes"] = json!(size);
                Ok(value)
            });
            return json_line(&values.collect::<Result<Vec<_>>>()?);
        }
        let mut table =
            table(&["NAME", "GROUP", "STATE", "SIZE", "LIMIT", "ENCRYPTION", "CREATED", "FORK OF"]);
        for (database, size) in databases {
            table.add_row([
                database.name.to_string(),
                database.group.to_string(),
                state(database),
                size.map_or_else(|| "-".to_owned(), |size| HumanBytes(size).to_string()),
                database
                    .size_limit
                    .map_or_else(|| "none".to_owned(), |limit| HumanBytes(limit.bytes()).to_string()),
                cipher(database),
                database.created_at.to_string(),
                database.parent.as_ref().map_or_else(String::new, |parent| parent.name.to_string()),
            ]);
        }
        print(&table.to_string())
    }

    /// Prints a new database and, for a fork, the instant that it shows.
    pub(crate) fn created(self, created: &CreateDatabaseOutput) -> Result<()> {
        if self.json {
            let mut value = serde_json::to_value(created).map_err(unprintable)?;
            if let Some(reached) = &created.reached {
                value["reached"] = reached_value(reached);
            }
            return json_line(&with_unchecked(value, &created.unchecked));
        }
        let words = created.reached.as_ref().map(|reached| format!(", {}", reached_sentence(reached)));
        print(&format!("Created database {}{}.", created.name, words.unwrap_or_default()))?;
        print_unchecked(&created.unchecked);
        Ok(())
    }

    /// Prints a database after an upload.
    pub(crate) fn uploaded(self, database: &Database, unchecked: &[String]) -> Result<()> {
        if self.json {
            let value = serde_json::to_value(database).map_err(unprintable)?;
            return json_line(&with_unchecked(value, unchecked));
        }
        print(&format!("Uploaded to database {}.", database.name))?;
        print_unchecked(unchecked);
        Ok(())
    }

    /// Prints the result of a restore and the command that undoes it.
    pub(crate) fn restored(self, name: &str, restored: &Restored, undo: Option<String>) -> Result<()> {
        if self.json {
            let undo = restored.undo.map(|at| at.to_string());
            return json_line(
                &json!({"name": name, "reached": reached_value(&restored.reached), "undo": undo}),
            );
        }
        let undo = match undo {
            Some(command) => format!("To undo it: {command}"),
            None => "The database was already in this state; nothing was written.".to_owned(),
        };
        print(&format!("Restored database {name}, {}.\n{undo}", reached_sentence(&restored.reached)))
    }

    /// Prints the recovery points of a database.
    pub(crate) fn points(self, points: &Points) -> Result<()> {
        if self.json {
            let commits: Vec<_> = points
                .points
                .iter()
                .map(|point| {
                    let Point { at, pages, bytes, size, .. } = point;
                    json!({"at": at.to_string(), "pages": pages, "bytes": bytes, "size": size})
                })
                .collect();
            let pruned_by = points.pruned_by.map(PruneReason::as_str);
            return json_line(
                &json!({"points": commits, "windows": windows(&points.windows), "pruned_by": pruned_by}),
            );
        }
        let mut table = table(&["COMMIT", "PAGES", "BYTES", "SIZE"]);
        for point in &points.points {
            table.add_row([
                point.at.to_string(),
                point.pages.to_string(),
                point.bytes.to_string(),
                point.size.to_string(),
            ]);
        }
        print(&table.to_string())?;
        for window in &points.windows {
            let to = window.to.map_or_else(|| "now".to_owned(), |to| to.to_string());
            print(&format!("Every instant from {} to {to} can be restored.", window.from))?;
        }
        if points.pruned_by == Some(PruneReason::Limit) {
            print("Earlier instants were removed to keep the history within its limit.")?;
        }
        Ok(())
    }

    /// Prints the report of a recovery.
    pub(crate) fn recovered(self, recovered: &Recovered) -> Result<()> {
        let Recovered { groups, databases, findings, .. } = recovered;
        if self.json {
            let findings: Vec<_> = findings
                .iter()
                .map(|finding| json!({"file": finding.file.to_string_lossy(), "message": finding.message}))
                .collect();
            return json_line(&json!({"groups": groups, "databases": databases, "findings": findings}));
        }
        for finding in findings {
            print(&escaped(&finding.to_string()))?;
        }
        let plural = |count: u64, noun: &str| format!("{count} {noun}{}", if count == 1 { "" } else { "s" });
        print(&format!("Recovered {} and {}.", plural(*groups, "group"), plural(*databases, "database")))
    }

    /// Prints the report of a verification.
    pub(crate) fn verified(self, report: &VerifyReport) -> Result<()> {
        let VerifyReport { findings, commits, logs, snapshots, bytes, tags, .. } = report;
        if self.json {
            let findings: Vec<_> = findings
                .iter()
                .map(|finding| {
                    json!({
                        "file": finding.file.to_string_lossy(), "frame": finding.frame, "page": finding.page,
                        "message": finding.message,
                    })
                })
                .collect();
            return json_line(&json!({
                "findings": findings, "commits": commits, "logs": logs, "snapshots": snapshots, "bytes": bytes,
                "tags": tags,
            }));
        }
        for finding in findings {
            print(&escaped(&finding.to_string()))?;
        }
        if findings.is_empty() {
            let tags = if *tags { ", all tags valid" } else { "" };
            print(&format!(
                "ok: {commits} commits, {logs} logs, {snapshots} snapshots, {bytes} bytes{tags}"
            ))?;
        }
        Ok(())
    }

    /// Prints a database and its files.
    pub(crate) fn database(self, database: &Database, files: &DatabaseFiles) -> Result<()> {
        let DatabaseFiles { path, size, history_size } = files;
        let path = path.as_deref();
        if self.json {
            let mut value = serde_json::to_value(database).map_err(unprintable)?;
            value["size_bytes"] = json!(size);
            value["history_bytes"] = json!(history_size);
            value["path"] = json!(path.map(Path::to_string_lossy));
            return json_line(&value);
        }
        let mut table = table::<&str>(&[]);
        let mut row = |name: &str, value: String| {
            table.add_row([name.to_owned(), value]);
        };
        row("name", database.name.to_string());
        row("id", database.id.clone());
        row("hostname", database.hostname.clone());
        row("group", database.group.to_string());
        row("state", state(database));
        row("created", database.created_at.to_string());
        row("path", path.map_or_else(|| "-".to_owned(), |path| escaped(&path.to_string_lossy())));
        row("size", size.map_or_else(|| "-".to_owned(), bytes));
        row("history size", history_size.map_or_else(|| "-".to_owned(), bytes));
        row("size limit", limit(database.size_limit));
        let inherited = if database.inherits_history_window { ", from its group" } else { "" };
        row("history window", format!("{}{inherited}", database.history_window));
        let inherited = if database.inherits_history_limit { ", from its group" } else { "" };
        row("history limit", format!("{}{inherited}", history_limit(database.history_limit)));
        row("encryption", cipher(database));
        row("block reads", yes(database.block_reads));
        row("block writes", yes(database.block_writes));
        row("delete protection", yes(database.delete_protection));
        if let Some(parent) = &database.parent {
            row("fork of", format!("{} ({}) at {}", parent.name, parent.id, parent.branched_at));
        }
        print(&table.to_string())
    }
}

/// Adds the parts of a file that could not be checked, if there are any.
fn with_unchecked(mut value: Value, unchecked: &[String]) -> Value {
    if !unchecked.is_empty() {
        value["unchecked"] = json!(unchecked);
    }
    value
}

fn print_unchecked(unchecked: &[String]) {
    for part in unchecked {
        eprintln!("not checked: {}", escaped(part));
    }
}

/// The JSON value of a resolved instant.
fn reached_value(reached: &ResolvedInstant) -> Value {
    json!({
        "kind": reached.kind.as_str(),
        "commit": reached.commit.map(|at| at.to_string()),
        "next": reached.next.map(|at| at.to_string()),
    })
}

/// Describes a resolved instant.
fn reached_sentence(reached: &ResolvedInstant) -> String {
    let state = match reached.commit {
        Some(commit) => format!("as of the commit at {commit}"),
        None => "as of its creation, before its first commit".to_owned(),
    };
    match reached.next {
        Some(next) => format!("{state}; the next commit was at {next}"),
        None => format!("{state}; there is no later commit"),
    }
}

/// The JSON value of the maintenance of a database.
pub(crate) fn maintenance_value(
    name: &str,
    result: std::result::Result<&MaintenanceReport, &Error>,
) -> Value {
    match result {
        Ok(report) => json!({
            "Name": name,
            "snapshots": report.snapshots,
            "generations": report.generations,
            "bytes_freed": report.bytes_freed,
            "compressed": report.compressed,
            "bytes_saved": report.bytes_saved,
            "deferred": report.deferred,
            "windows": windows(&report.windows),
        }),
        Err(error) => json!({"Name": name, "error": error.to_string(), "kind": error.kind().as_str()}),
    }
}

fn windows(windows: &[RestorableRange]) -> Vec<Value> {
    let value = |window: &RestorableRange| json!({"from": window.from.to_string(), "to": window.to.map(|to| to.to_string())});
    windows.iter().map(value).collect()
}

/// Prints the URL of a server and the path of its token file.
#[cfg(feature = "http")]
pub(crate) fn served(url: &str, token_file: Option<&Path>) -> Result<()> {
    json_line(&json!({ "url": url, "token_file": token_file }))
}

/// Prints one value as a line of JSON.
pub(crate) fn json_line(value: &(impl Serialize + ?Sized)) -> Result<()> {
    print(&serde_json::to_string(value).map_err(unprintable)?)
}

fn unprintable(error: serde_json::Error) -> Error {
    Error::new(ErrorKind::Io, format!("printing JSON: {error}")).caused_by(error)
}

/// Prints a line. If the reader has closed the pipe (`| head`), the process exits without an error.
pub(crate) fn print(text: &str) -> Result<()> {
    check_written(writeln!(io::stdout().lock(), "{text}"))
}

fn check_written(result: io::Result<()>) -> Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        result => result.map_err(|error| Error::new(ErrorKind::Io, format!("printing: {error}"))),
    }
}

/// Prints the rows of a query, which may be many. Fails with [`ErrorKind::Cancelled`] on an interrupt.
pub(crate) fn print_rows(rows: &str) -> Result<()> {
    let (whole, rest) = rows.as_bytes().as_chunks::<PART_LEN>();
    for part in whole.iter().map(<[u8; PART_LEN]>::as_slice) {
        if interrupt::is_requested() {
            return Err(Error::new(ErrorKind::Cancelled, "interrupted"));
        }
        check_written(io::stdout().lock().write_all(part))?;
    }
    check_written(io::stdout().lock().write_all(rest).and_then(|()| writeln!(io::stdout())))
}

/// Prints an error on one line of standard error.
pub(crate) fn print_error(error: &Error, as_json: bool) {
    if as_json {
        eprintln!("{}", json!({"error": error.to_string(), "kind": error.kind().as_str()}));
    } else {
        eprintln!("error: {}", escaped(&error.to_string()));
    }
}

/// Escapes control characters except tabs and newlines, so that text from a database cannot control the terminal.
pub(crate) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() && character != '\n' && character != '\t' {
            let _never_fails = write!(escaped, "\\x{:02x}", u32::from(character));
        } else {
            escaped.push(character);
        }
    }
    escaped
}

/// Prints an error about the command line as one line of JSON on standard error.
pub(crate) fn print_usage_error(error: &clap::Error) {
    // The paragraphs after the first are hints.
    let text = error.to_string();
    let first = text.split("\n\n").next().unwrap_or_default().trim_start_matches("error: ");
    let error = first.split_whitespace().collect::<Vec<_>>().join(" ");
    eprintln!("{}", json!({"error": error, "kind": "usage"}));
}

/// A table without borders, at most as wide as the terminal.
pub(crate) fn table<T: AsRef<str>>(header: &[T]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    // A terminal of unknown width, as under `docker`, `expect` and `ssh -tt`, reports 0.
    if io::stdout().is_terminal() && table.width().is_some_and(|width| width > 0) {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    if !header.is_empty() {
        table.set_header(header.iter().map(AsRef::as_ref));
    }
    table
}

fn yes(flag: bool) -> String {
    if flag { "yes" } else { "no" }.to_owned()
}

fn state(database: &Database) -> String {
    match database.state {
        DatabaseState::Draft => "draft",
        _ => "ready",
    }
    .to_owned()
}

fn limit(limit: Option<SizeLimit>) -> String {
    limit.map_or_else(|| "none".to_owned(), |limit| bytes(limit.bytes()))
}

fn history_limit(limit: HistoryLimit) -> String {
    limit.bytes().map_or_else(|| "none".to_owned(), bytes)
}

/// Formats a size in bytes and in a binary unit.
fn bytes(size: u64) -> String {
    format!("{size} bytes ({})", HumanBytes(size))
}

fn cipher(database: &Database) -> String {
    database.cipher.map_or_else(|| "none".to_owned(), |cipher| cipher.to_string())
}

/// Converts an SQL value to JSON, as documented in `docs::cli`.
pub(crate) fn sql_value(value: litefleet::rusqlite::types::ValueRef<'_>) -> Value {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use litefleet::rusqlite::types::ValueRef;
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => json!(number),
        // JSON has no infinities. SQLite has no NaN.
        ValueRef::Real(number) if number.is_finite() => json!(number),
        ValueRef::Real(number) => json!(if number > 0.0 { "Infinity" } else { "-Infinity" }),
        ValueRef::Text(text) => json!(String::from_utf8_lossy(text)),
        ValueRef::Blob(bytes) => json!({"base64": STANDARD.encode(bytes)}),
    }
}
