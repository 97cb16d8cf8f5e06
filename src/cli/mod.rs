//! Runs the commands, each of which makes a few calls of the public API.

pub(crate) mod args;
mod bench;
mod create;
mod history;
pub(crate) mod interrupt;
mod keys;
mod maintain;
pub(crate) mod output;
mod paste;
mod progress;
mod recover;
#[cfg(feature = "http")]
mod serve;
mod shell;
mod sql;
mod statements;
mod tour;

use std::{
    io::{self, IsTerminal, Write},
    path::Path,
    process::ExitCode,
};

use args::{Arguments, Command, ConfigArguments, DbCommand, GroupCommand};
use clap::CommandFactory;
use keys::KeyArguments;
use litefleet::{
    Change, ConnectOptions, ControlPlane, Database, DatabaseChanges, Error, ErrorKind, ExportOptions,
    GroupChanges, ListDatabases, RemoteEncryption, Result, Timestamp, Upload, UploadOptions, VerifyOptions,
};
use output::{DatabaseFiles, Output};

/// The exit code for an invalid command line.
pub(crate) const USAGE_ERROR: u8 = 2;

/// Runs a command and returns the exit code.
pub(crate) fn run(arguments: Arguments) -> Result<ExitCode> {
    let output = Output { json: arguments.json };
    let plane = || {
        require_fleet(&arguments.root)?;
        open(&arguments.root)
    };
    let done = match arguments.command {
        // Only `group create` and `serve` create a fleet, so that a mistyped path creates nothing.
        Command::Group(command @ GroupCommand::Create { .. }) => {
            group(&ControlPlane::open(&arguments.root)?, command, output)
        }
        Command::Group(command) => group(&plane()?, command, output),
        Command::Db(DbCommand::Verify { name, key }) => {
            return verify(&plane()?, &name, &key, output).map_err(|error| key.explain(error));
        }
        Command::Db(command) => {
            let key = command.key().cloned();
            let done = db(&plane()?, command, output);
            done.map_err(|error| match key {
                Some(key) => key.explain(error),
                None => error,
            })
        }
        #[cfg(feature = "http")]
        Command::Serve(options) => serve::run(&arguments.root, &options, output),
        Command::Recover => recover::run(&arguments.root, output),
        Command::Tour => tour::run(),
        Command::Bench { seconds } => bench::run(&arguments.root, seconds.0, output),
        Command::Man { dir } => man(dir.as_deref()),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Arguments::command(), "litefleet", &mut io::stdout());
            Ok(())
        }
    };
    done.map(|()| ExitCode::SUCCESS)
}

/// Prints the man page of the program, or writes a page for each command into `dir`.
fn man(dir: Option<&Path>) -> Result<()> {
    // The long version depends on the processor.
    let program = Arguments::command().long_version(None);
    let written = match dir {
        Some(dir) => clap_mangen::generate_to(program, dir),
        None => clap_mangen::Man::new(program).render(&mut io::stdout()),
    };
    written.map_err(|error| Error::new(ErrorKind::Io, format!("writing man pages: {error}")).caused_by(error))
}

/// Opens the fleet at `root`, read-only if it is not writable.
fn open(root: &Path) -> Result<ControlPlane> {
    match ControlPlane::open(root) {
        Err(error) if error.kind() == ErrorKind::ReadOnly => ControlPlane::open_read_only(root),
        opened => opened,
    }
}

/// Fails if there is no fleet at `root`.
fn require_fleet(root: &Path) -> Result<()> {
    // If this fails, opening the fleet reports the reason.
    if root.join("control.db").try_exists().unwrap_or(true) {
        return Ok(());
    }
    let command = paste::quoted(&["litefleet".as_ref(), "--root".as_ref(), root.as_os_str()]);
    let is_lost = root.join(".staging").try_exists().unwrap_or(false);
    let root = root.display();
    let message = if is_lost {
        format!(
            "control.db is missing from the fleet at {root}; put it back, or rebuild it with: {command} recover"
        )
    } else {
        format!("no fleet at {root}; create one with: {command} group create NAME")
    };
    Err(Error::new(ErrorKind::NotFound, message))
}

fn group(plane: &ControlPlane, command: GroupCommand, output: Output) -> Result<()> {
    match command {
        GroupCommand::Create { name } => {
            let group = plane.create_group(&name)?;
            output.say(&group, || format!("Created group {name}."))
        }
        GroupCommand::List => output.groups(&plane.list_groups()?),
        GroupCommand::Show { name } => output.group(plane.get_group(&name)?),
        GroupCommand::Rename { name, new } => {
            let group = plane.rename_group(&name, &new)?;
            output.say(&group, || format!("Renamed group {name} to {new}."))
        }
        GroupCommand::Protect { name, on } => {
            output.group(plane.configure_group(&name, GroupChanges::default().delete_protection(on))?)
        }
        GroupCommand::HistoryWindow { name, window } => {
            if let Some(window) = window {
                plane.configure_group(&name, GroupChanges::default().history_window(window.parse()?))?;
            }
            output.group(plane.get_group(&name)?)
        }
        GroupCommand::HistoryLimit { name, limit } => {
            if let Some(limit) = limit {
                plane.configure_group(&name, GroupChanges::default().history_limit(limit.parse()?))?;
            }
            output.group(plane.get_group(&name)?)
        }
        GroupCommand::Destroy { name, yes } => {
            let group = plane.get_group(&name)?;
            let count = plane.list_databases(ListDatabases::default().group(&name))?.len();
            confirm(yes, &format!("Destroy group {name} and the {count} databases in it?"))?;
            plane.destroy_group(&name)?;
            output.say(&group, || format!("Destroyed group {name}."))
        }
    }
}

fn db(plane: &ControlPlane, command: DbCommand, output: Output) -> Result<()> {
    match command {
        DbCommand::Create(arguments) => create::run(plane, &arguments, output),
        DbCommand::List { group, parent, limit, after } => {
            let mut filter = ListDatabases::default();
            filter.group = group;
            filter.parent = parent;
            filter.limit = limit;
            filter.after = after;
            output.databases(&plane.list_databases_with_size(filter)?)
        }
        DbCommand::Show { name } => show(plane, &plane.get_database(&name)?, output),
        DbCommand::Config(arguments) => config(plane, &arguments, output),
        DbCommand::Destroy { name, yes } => {
            let database = plane.get_database(&name)?;
            confirm(yes, &format!("Destroy database {name}?"))?;
            plane.destroy_database(&name)?;
            output.say(&database, || format!("Destroyed database {name}."))
        }
        DbCommand::Upload { name, file, key } => {
            let mut bar = progress::Bar::new("Uploading")?;
            let mut stdin = io::stdin().lock();
            let upload = if file.as_os_str() == create::STDIN {
                Upload::Reader(&mut stdin)
            } else {
                Upload::Path(&file)
            };
            let mut options = UploadOptions::default().progress(|progress| bar.show(progress));
            if let Some(cipher) = plane.get_database(&name)?.cipher
                && let Some(key) = key.key_for(cipher)?
            {
                options = options.encryption(RemoteEncryption::new(key, cipher)?);
            }
            let uploaded = plane.upload_database(&name, upload, options);
            bar.clear();
            let unchecked = uploaded?.unchecked;
            output.uploaded(&plane.get_database(&name)?, &unchecked)
        }
        DbCommand::Export { name, file, decrypt, page_format, timestamp, key } => {
            let mut options = ExportOptions::default().decrypt(decrypt);
            if let Some(format) = page_format {
                options = options.page_format(format.parse()?);
            }
            if let Some(at) = timestamp {
                options = options.at(at.parse::<Timestamp>()?);
            }
            if let Some(key) = key.for_database(plane, &name)? {
                options = options.encryption_key(key);
            }
            let mut bar = progress::Bar::new("Exporting")?;
            let exported =
                plane.export_database(&name, &file, options.progress(|progress| bar.show(progress)));
            bar.clear();
            exported?;
            output.say(&plane.get_database(&name)?, || {
                format!("Exported database {name} to {}.", file.display())
            })
        }
        DbCommand::Points { name, from, to } => history::points(plane, &name, from, to, output),
        DbCommand::Restore { name, timestamp, key } => {
            history::restore(plane, &name, &timestamp, &key, output)
        }
        // `run` handles it, because it has its own exit code.
        DbCommand::Verify { name, key } => verify(plane, &name, &key, output).map(|_| ()),
        DbCommand::Maintain { name: Some(name) } => maintain::one(plane, &name, output),
        DbCommand::Maintain { name: None } => maintain::all(plane, output),
        DbCommand::Shell { name, sql, read_only, timestamp, key } => {
            let mut options = ConnectOptions::default().read_only(read_only);
            if let Some(key) = key.for_database(plane, &name)? {
                options = options.encryption_key(key);
            }
            let connection = match timestamp {
                Some(at) => plane.connect_at(&name, at.parse::<Timestamp>()?, options)?.0,
                None => plane.connect(&name, options)?,
            };
            match sql {
                Some(sql) => sql::run(&connection, &sql, output),
                None if io::stdin().is_terminal() && !output.json => {
                    shell::run(plane, &connection, &name, &key)
                }
                None => sql::run_stream(&connection, io::stdin().lock(), output),
            }
        }
    }
}

/// Verifies a database and prints the findings. Any finding is a failure.
fn verify(plane: &ControlPlane, name: &str, key: &KeyArguments, output: Output) -> Result<ExitCode> {
    let mut options = VerifyOptions::default();
    if let Some(key) = key.for_database(plane, name)? {
        options = options.encryption_key(key);
    }
    let mut bar = progress::Bar::new("Verifying")?;
    let report = plane.verify_database(name, options.progress(|progress| bar.show(progress)));
    bar.clear();
    let report = report?;
    output.verified(&report)?;
    Ok(if report.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn config(plane: &ControlPlane, arguments: &ConfigArguments, output: Output) -> Result<()> {
    let mut changes = DatabaseChanges::default();
    changes.size_limit = match arguments.size_limit.as_deref() {
        None => Change::Keep,
        Some("none") => Change::Reset,
        Some(limit) => Change::Set(limit.parse()?),
    };
    changes.history_window = match arguments.history_window.as_deref() {
        None => Change::Keep,
        Some("default") => Change::Reset,
        Some(window) => Change::Set(window.parse()?),
    };
    changes.history_limit = match arguments.history_limit.as_deref() {
        None => Change::Keep,
        Some("default") => Change::Reset,
        Some(limit) => Change::Set(limit.parse()?),
    };
    changes.block_reads = arguments.block_reads;
    changes.block_writes = arguments.block_writes;
    changes.delete_protection = arguments.delete_protection;
    let database = if changes == DatabaseChanges::default() {
        plane.get_database(&arguments.name)?
    } else {
        plane.configure_database(&arguments.name, changes)?
    };
    show(plane, &database, output)
}

fn show(plane: &ControlPlane, database: &Database, output: Output) -> Result<()> {
    let name = database.name.as_str();
    let files = DatabaseFiles {
        path: plane.database_path(name).ok(),
        size: plane.database_size(name).ok(),
        history_size: plane.history_size(name).ok(),
    };
    output.database(database, &files)
}

/// Asks for confirmation before something is destroyed. Without a terminal, `--yes` is required.
fn confirm(yes: bool, question: &str) -> Result<()> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        return Err(Error::new(ErrorKind::Invalid, format!("{question} Confirm with --yes.")));
    }
    eprint!("{question} [y/N] ");
    let _best_effort = io::stderr().flush();
    let mut answer = String::new();
    let read = io::stdin().read_line(&mut answer);
    if read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes") {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Cancelled, "nothing was destroyed"))
}
