//! `db create`: an empty database, a draft, a fork or an import.

use std::io;

use litefleet::{
    ControlPlane, CreateDatabaseInput, CreateDatabaseOutput, Error, ErrorKind, RemoteEncryption, Result,
    Seed, Timestamp,
};

use super::{args::CreateArguments, keys, output::Output, progress};

/// The file name that means standard input.
pub(super) const STDIN: &str = "-";

/// Creates a database and prints it.
pub(super) fn run(plane: &ControlPlane, arguments: &CreateArguments, output: Output) -> Result<()> {
    let created = create(plane, arguments).map_err(|error| {
        let error = arguments.key.explain(error);
        let has_source = arguments.from_db.is_some() || arguments.from_file.is_some();
        if has_source { keys::explain_source(error) } else { error }
    });
    output.created(&created?)
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
            Some(at) => Seed::database_at(source, at.parse::<Timestamp>()?),
            None => Seed::database(source),
        });
    }
    input.remote_encryption = encryption(plane, arguments)?;
    input.source_encryption_key = keys::source_key(arguments.source_encryption_key.as_ref())?;
    let Some(file) = &arguments.from_file else {
        let mut bar = progress::Bar::new("Forking")?;
        let created = plane.create_database(input.progress(|progress| bar.show(progress)));
        bar.clear();
        return created;
    };
    let mut bar = progress::Bar::new("Importing")?;
    let input = input.progress(|progress| bar.show(progress));
    let created = if file.as_os_str() == STDIN {
        plane.import_database(input, &mut io::stdin().lock())
    } else {
        plane.import_database(input, file)
    };
    bar.clear();
    created
}

/// Returns the only group of the fleet. Fails if there is none, or more than one.
fn only_group(plane: &ControlPlane) -> Result<String> {
    /// Maximum number of groups that an error names.
    const NAMED_MAX: usize = 5;
    let groups = plane.list_groups()?;
    match groups.as_slice() {
        [group] => Ok(group.name.to_string()),
        [] => Err(Error::new(
            ErrorKind::NotFound,
            "the fleet has no group; create one with: litefleet group create NAME",
        )),
        groups => {
            let names: Vec<_> = groups.iter().take(NAMED_MAX).map(|group| group.name.as_str()).collect();
            let more = if groups.len() > NAMED_MAX { ", …" } else { "" };
            let message = format!("group is required; choose one with --group: {}{more}", names.join(", "));
            Err(Error::new(ErrorKind::Invalid, message))
        }
    }
}

/// Returns the encryption of the new database, or `None` if neither a cipher is given nor the source is encrypted.
fn encryption(plane: &ControlPlane, arguments: &CreateArguments) -> Result<Option<RemoteEncryption>> {
    let cipher = arguments.remote_encryption_cipher.as_deref().map(str::parse).transpose()?;
    let source_cipher = match &arguments.from_db {
        Some(source) => plane.get_database(source)?.cipher,
        None => None,
    };
    if cipher.is_none() && source_cipher.is_none() {
        let message = "remote encryption cipher must be provided when remote encryption key is set; choose one with \
             --remote-encryption-cipher";
        // A key in the environment may be for other databases.
        if arguments.key.is_given() || arguments.page_format.is_some() {
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        return Ok(None);
    }
    let key = match cipher.or(source_cipher) {
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
