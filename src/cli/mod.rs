//! The commands, each a few calls of the public API.

pub(crate) mod args;
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

use args::{Arguments, Command, ConfigArguments, CreateArguments, DbCommand, GroupCommand};
use clap::CommandFactory;
use keys::KeyArguments;
use litefleet::{
    Change, ConnectOptions, ControlPlane, CreateDatabaseInput, CreateDatabaseOutput, Database,
    DatabaseChanges, EncryptionKey, Error, ErrorKind, ExportOptions, GroupChanges, ListDatabases,
    RemoteEncryption, Result, Seed, Upload, VerifyOptions,
};
use output::Output;

/// What the program exits with where the command is none.
pub(crate) const USAGE: u8 = 2;

/// The file name that stands for standard input.
const STDIN: &str = "-";

/// Runs a command, and says what the program is to exit with.
pub(crate) fn run(arguments: Arguments) -> Result<ExitCode> {
    let output = Output { json: arguments.json };
    let plane = || {
        there(&arguments.root)?;
        open(&arguments.root)
    };
    let done = match arguments.command {
        // It makes a fleet, and so does `serve`: for the others a mistyped directory is none.
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
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Arguments::command(), "litefleet", &mut io::stdout());
            Ok(())
        }
        Command::Man { dir } => man(dir.as_deref()),
    };
    done.map(|()| ExitCode::SUCCESS)
}

/// Prints the man page of the program, or writes a page for each command into `dir`.
fn man(dir: Option<&Path>) -> Result<()> {
    // The long version describes the processor that this runs on.
    let program = Arguments::command().long_version(None);
    let written = match dir {
        Some(dir) => clap_mangen::generate_to(program, dir),
        None => clap_mangen::Man::new(program).render(&mut io::stdout()),
    };
    written.map_err(|error| Error::new(ErrorKind::Io, format!("writing man pages: {error}")).caused_by(error))
}

/// Opens the fleet at `root`: to be read, if it cannot be written to.
fn open(root: &Path) -> Result<ControlPlane> {
    match ControlPlane::open(root) {
        Err(error) if error.kind() == ErrorKind::ReadOnly => ControlPlane::open_read_only(root),
        opened => opened,
    }
}

/// Makes sure that there is a fleet at `root`.
fn there(root: &Path) -> Result<()> {
    // What cannot be looked at is opened, which says why.
    if root.join("control.db").try_exists().unwrap_or(true) {
        return Ok(());
    }
    let command = paste::quoted(&["litefleet".as_ref(), "--root".as_ref(), root.as_os_str()]);
    let is_lost = root.join(".staging").try_exists().unwrap_or(false);
    let root = root.display();
    let message = if is_lost {
        format!(
            "control.db is gone from the fleet at {root}: put it back, or make a new one with: {command} recover"
        )
    } else {
        format!("no fleet at {root}; make one with: {command} group create NAME")
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
        GroupCommand::Destroy { name, yes } => {
            let group = plane.get_group(&name)?;
            let count = plane.list_databases(&ListDatabases::default().group(&name))?.len();
            confirm(yes, &format!("Destroy group {name} and the {count} databases in it?"))?;
            plane.destroy_group(&name)?;
            output.say(&group, || format!("Destroyed group {name}."))
        }
    }
}

fn db(plane: &ControlPlane, command: DbCommand, output: Output) -> Result<()> {
    match command {
        DbCommand::Create(arguments) => {
            let made = create(plane, &arguments).map_err(|error| arguments.explain_key(error))?;
            output.created(&made)
        }
        DbCommand::List { group, parent, limit, after } => {
            let mut which = ListDatabases::default();
            which.group = group;
            which.parent = parent;
            which.limit = limit;
            which.after = after;
            output.databases(&plane.list_databases_with_size(&which)?)
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
            let mut watch = |progress| bar.show(progress);
            let mut stdin = io::stdin().lock();
            let upload =
                if file.as_os_str() == STDIN { Upload::Reader(&mut stdin) } else { Upload::Path(&file) };
            let encryption = match plane.get_database(&name)?.cipher {
                Some(cipher) => {
                    key.key_for(cipher)?.map(|key| RemoteEncryption::new(key, cipher)).transpose()?
                }
                None => None,
            };
            let uploaded = match &encryption {
                Some(encryption) => {
                    plane.upload_encrypted_database(&name, upload, encryption, None, &mut watch)
                }
                None => plane.upload_database_watched(&name, upload, &mut watch),
            };
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
                options = options.at(at.parse()?);
            }
            if let Some(key) = key_for(plane, &name, &key)? {
                options = options.encryption_key(key);
            }
            let mut bar = progress::Bar::new("Exporting")?;
            let exported = plane.export_database(&name, &file, &options, &mut |progress| bar.show(progress));
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
        // It has an exit code of its own.
        DbCommand::Verify { name, key } => verify(plane, &name, &key, output).map(|_| ()),
        DbCommand::Maintain { name: Some(name) } => maintain::one(plane, &name, output),
        DbCommand::Maintain { name: None } => maintain::all(plane, output),
        DbCommand::Shell { name, sql, read_only, timestamp, key } => {
            let mut options = ConnectOptions::default().read_only(read_only);
            if let Some(key) = key_for(plane, &name, &key)? {
                options = options.encryption_key(key);
            }
            let connection = match timestamp {
                Some(at) => plane.connect_at(&name, at.parse()?, &options)?.0,
                None => plane.connect(&name, &options)?,
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

/// What is found is printed, and is a failure.
fn verify(plane: &ControlPlane, name: &str, key: &KeyArguments, output: Output) -> Result<ExitCode> {
    let mut options = VerifyOptions::default();
    if let Some(key) = key_for(plane, name, key)? {
        options = options.encryption_key(key);
    }
    let mut bar = progress::Bar::new("Verifying")?;
    let verified = plane.verify_database(name, &options, &mut |progress| bar.show(progress));
    bar.clear();
    let verified = verified?;
    output.verified(&verified)?;
    Ok(if verified.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The key for a database, if it is encrypted: a key in the environment is not meant for the plain ones.
fn key_for(plane: &ControlPlane, name: &str, key: &KeyArguments) -> Result<Option<EncryptionKey>> {
    match plane.get_database(name)?.cipher {
        Some(cipher) => key.key_for(cipher),
        None => Ok(None),
    }
}

/// What a new database is to be encrypted under, if it is: a cipher is named, or the source has one.
fn encryption(plane: &ControlPlane, arguments: &CreateArguments) -> Result<Option<RemoteEncryption>> {
    let cipher = arguments.remote_encryption_cipher.as_deref().map(str::parse).transpose()?;
    let inherit_cipher = match &arguments.from_db {
        Some(source) => plane.get_database(source)?.cipher,
        None => None,
    };
    if cipher.is_none() && inherit_cipher.is_none() {
        let message = "remote encryption cipher must be provided when remote encryption key is set; name one with \
             --remote-encryption-cipher";
        // A key in the environment is not meant for every database.
        if arguments.key.is_given() || arguments.page_format.is_some() {
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        return Ok(None);
    }
    let key = match cipher.or(inherit_cipher) {
        Some(cipher) => arguments.key.key_for(cipher)?,
        None => arguments.key.key()?,
    };
    let Some(key) = key else {
        if cipher.is_none() {
            return Ok(None);
        }
        let message = "remote encryption key must be provided when remote encryption cipher is set";
        return Err(Error::new(ErrorKind::KeyRequired, message));
    };
    let encryption = match cipher {
        Some(cipher) => RemoteEncryption::new(key, cipher)?,
        None => RemoteEncryption::inherit_cipher(key),
    };
    Ok(Some(match &arguments.page_format {
        Some(format) => encryption.with_page_format(format.parse()?),
        None => encryption,
    }))
}

fn create(plane: &ControlPlane, arguments: &CreateArguments) -> Result<CreateDatabaseOutput> {
    let mut input = CreateDatabaseInput::new(&arguments.name, "");
    input.group = match &arguments.group {
        None if arguments.from_db.is_none() => Some(only_group(plane)?),
        group => group.clone(),
    };
    if let Some(limit) = &arguments.size_limit {
        input.size_limit = Some(limit.parse()?);
    }
    if arguments.draft {
        input.seed = Some(Seed::DatabaseUpload);
    }
    if let Some(source) = &arguments.from_db {
        input.seed = Some(match &arguments.timestamp {
            Some(at) => Seed::database_at(source, at.parse()?),
            None => Seed::database(source),
        });
    }
    input.remote_encryption = encryption(plane, arguments)?;
    input.source_encryption_key = arguments.source_key()?;
    let Some(file) = &arguments.from_file else {
        let mut bar = progress::Bar::new("Forking")?;
        let made = plane.create_database_watched(input, &mut |progress| bar.show(progress));
        bar.clear();
        return made;
    };
    let mut bar = progress::Bar::new("Importing")?;
    let mut watch = |progress| bar.show(progress);
    let made = if file.as_os_str() == STDIN {
        plane.import_database_watched(input, Upload::Reader(&mut io::stdin().lock()), &mut watch)
    } else {
        plane.import_database_watched(input, Path::new(file), &mut watch)
    };
    bar.clear();
    made
}

/// The group of a fleet that has only one.
fn only_group(plane: &ControlPlane) -> Result<String> {
    /// How many groups an error names.
    const NAMED_MAX: usize = 5;
    let groups = plane.list_groups()?;
    match groups.as_slice() {
        [group] => Ok(group.name.to_string()),
        [] => Err(Error::new(
            ErrorKind::NotFound,
            "there is no group yet; make one with: litefleet group create NAME",
        )),
        groups => {
            let names: Vec<_> = groups.iter().take(NAMED_MAX).map(|group| group.name.as_str()).collect();
            let more = if groups.len() > NAMED_MAX { " and others" } else { "" };
            let message =
                format!("group is required: choose one with --group, out of {}{more}", names.join(", "));
            Err(Error::new(ErrorKind::Invalid, message))
        }
    }
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
    output.database(database, plane.database_path(name).ok().as_deref(), plane.database_size(name).ok())
}

/// Asks before something is destroyed. Nobody is asked where nobody can answer: there `--yes` must be said.
fn confirm(yes: bool, question: &str) -> Result<()> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        return Err(Error::new(
            ErrorKind::Invalid,
            format!("{question} Say --yes to do so without being asked."),
        ));
    }
    eprint!("{question} [y/N] ");
    let _shown_or_not = io::stderr().flush();
    let mut answer = String::new();
    let read = io::stdin().read_line(&mut answer);
    if read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes") {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Cancelled, "nothing was destroyed"))
}
