//! Recovery of a lost catalog from the description files of databases and groups.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use super::{ControlPlane, ControlPlaneBuilder};
use crate::{
    catalog::Catalog,
    description::{self, DatabaseDescription, Encryption, GroupDescription, GroupIdentity},
    disk::{DatabaseFile, Disk, open_databases},
    error::{Error, ErrorKind, Result},
    finding::Finding,
    history,
    history_limit::HistoryLimit,
    id,
    layout::{self, ArchiveFile, ArchivePaths, Layout},
    name::{DatabaseName, GroupDir, GroupName},
    page::{HEADER_LEN, Header, Seal},
    retention::Retention,
    time::Timestamp,
};

/// The name prefix of a new catalog until it is complete. A recovery removes the files of killed ones.
const UNFINISHED: &str = ".recovered-";

/// The result of [`ControlPlane::recover`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovered {
    /// The number of groups in the new catalog.
    pub groups: u64,
    /// The number of databases in the new catalog.
    pub databases: u64,
    /// What is not recovered, or may differ from the lost catalog. Paths are relative to the root.
    pub findings: Vec<Finding>,
}

impl ControlPlane {
    /// Creates a new catalog for the root `root`, whose `control.db` is lost, from the description files of its databases and
    /// groups. No other process may use the root during the call.
    ///
    /// Names, ids, groups, configurations, ciphers, page formats, salts and parents are restored from the descriptions. A
    /// database without a valid description, for example from an earlier version, gets its name from its directory, its
    /// cipher, page format and salt from its file, and its id from its history, or a new id without one. Its configuration is
    /// the default, and a [finding](Recovered::findings) reports it. A file or directory that is not part of a fleet stays in
    /// place and is reported too. Drafts, and groups that never had a database, have no files and are lost. The staging and
    /// trash directories, which hold incomplete creates and destroys, are not recovered.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// let plane = litefleet::ControlPlane::open(dir.path())?;
    /// plane.create_group("default")?;
    /// plane.create_database(litefleet::CreateDatabaseInput::new("orders", "default"))?;
    /// let before = plane.get_database("orders")?;
    /// drop(plane);
    ///
    /// std::fs::remove_file(dir.path().join("control.db")).unwrap();
    /// let recovered = litefleet::ControlPlane::recover(dir.path())?;
    /// assert_eq!((recovered.groups, recovered.databases, recovered.findings.len()), (1, 1, 0));
    /// assert_eq!(litefleet::ControlPlane::open(dir.path())?.get_database("orders")?, before);
    /// # Ok::<(), litefleet::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Fails with [`ErrorKind::AlreadyExists`] if `control.db`, its WAL or its rollback journal exists, with
    /// [`ErrorKind::NotFound`] if there is no such directory, and with the errors of the disk. A failed recovery changes no
    /// database and creates no catalog.
    pub fn recover(root: impl AsRef<Path>) -> Result<Recovered> {
        Self::builder().recover(root)
    }
}

impl ControlPlaneBuilder {
    /// Creates a new catalog for a root whose catalog is lost.
    ///
    /// # Errors
    ///
    /// Fails as [`ControlPlane::recover`] does.
    pub fn recover(self, root: impl AsRef<Path>) -> Result<Recovered> {
        recover(&self.disk, root.as_ref())
    }
}

/// A group found in the root.
struct FoundGroup {
    description: GroupDescription,
    /// Why the description is reconstructed. `None` if it was read from the description file.
    guessed: Option<String>,
}

/// A database found in the root.
struct FoundDatabase {
    description: DatabaseDescription,
    is_guessed: bool,
    place: PathBuf,
}

/// The rows of a new catalog.
#[derive(Default)]
struct Rebuilt {
    groups: Vec<FoundGroup>,
    databases: Vec<FoundDatabase>,
    findings: Vec<Finding>,
}

fn recover(disk: &Disk, root: &Path) -> Result<Recovered> {
    if !Disk::exists(root)? {
        return Err(Error::naming(ErrorKind::NotFound, root, |root| format!("{root}: no such directory")));
    }
    let layout = Layout::new(Disk::canonical(root)?);
    let disk = &disk.clone().within(layout.root())?;
    // A process that opens the root concurrently would create an empty catalog. It waits for this lock.
    let _root_lock = Disk::wait_for_dir(layout.root())?;
    let control = layout.control();
    for path in ["", "-wal", "-journal"].map(|suffix| layout::beside(&control, suffix)) {
        if Disk::exists(&path)? {
            return Err(Error::naming(ErrorKind::AlreadyExists, &path, |file| {
                format!("{file} is there: move it out of the root before a catalog is recovered")
            }));
        }
    }
    let mut rebuilt = Rebuilt::default();
    for name in sorted(layout.root())? {
        let path = layout.root().join(&name);
        if name.starts_with(UNFINISHED) {
            disk.remove(&path)?;
        } else if !name.starts_with('.') && name != "control.db-shm" {
            rebuilt.add_group(&path, &name)?;
        }
    }
    for (dir, fate) in [(layout.staging(), "being created"), (layout.trash(), "being destroyed")] {
        if Disk::exists(&dir)? && !Disk::list(&dir)?.is_empty() {
            let message =
                format!("what was {fate} is not recovered: it is removed when the root is next opened");
            rebuilt.find(&dir, message);
        }
    }
    rebuilt.name_groups(layout.root());
    rebuilt.drop_duplicates();
    let made = layout.root().join(format!("{UNFINISHED}{}.db", id::new_id(Timestamp::now())));
    let written = Catalog::make(disk, &made, |rows| {
        rebuilt.groups.iter().try_for_each(|group| rows.insert_described_group(&group.description))?;
        rebuilt
            .databases
            .iter()
            .try_for_each(|database| rows.insert_described_database(&database.description))
    });
    let written = written.and_then(|()| {
        let file = disk.open_to_write(&made)?;
        disk.sync_file(&file, &made)?;
        // The wal-index of the lost catalog.
        disk.remove(&layout::beside(&control, "-shm"))?;
        disk.rename_new(&made, &control)?;
        disk.sync_dir(layout.root()).inspect_err(|_| {
            let _stays_recovered = disk.rename_new(&control, &made);
        })
    });
    if written.is_err() {
        for suffix in ["", "-wal", "-shm", "-journal"] {
            let _nothing_left = disk.remove(&layout::beside(&made, suffix));
        }
    }
    written?;
    let findings = rebuilt.findings.into_iter().map(|finding| relative(finding, layout.root())).collect();
    Ok(Recovered { groups: rebuilt.groups.len() as u64, databases: rebuilt.databases.len() as u64, findings })
}

/// Lists a directory in ascending order, so that the result does not depend on the order of the file system.
fn sorted(dir: &Path) -> Result<Vec<String>> {
    let mut names = Disk::list(dir)?;
    names.sort();
    Ok(names)
}

fn relative(finding: Finding, root: &Path) -> Finding {
    let file = finding.file.strip_prefix(root).map_or_else(|_| finding.file.clone(), Path::to_owned);
    Finding { file, ..finding }
}

impl Rebuilt {
    fn find(&mut self, path: &Path, message: impl Into<String>) {
        self.findings.push(Finding::new(path, message));
    }

    /// Adds the group in a directory and its databases.
    fn add_group(&mut self, path: &Path, name: &str) -> Result<()> {
        let Some(dir) = name.parse::<GroupDir>().ok().filter(|_| Disk::is_dir(path)) else {
            self.find(path, "this is no group of the fleet: it is left as it is");
            return Ok(());
        };
        let file = layout::group_description(path);
        let described = read(&file).and_then(|bytes| bytes.map(|bytes| group_from(&bytes)).transpose());
        let mut databases = Vec::new();
        let names = match sorted(path) {
            Ok(names) => names,
            Err(error) => {
                self.find(path, format!("the databases of this group are not recovered: {error}"));
                return Ok(());
            }
        };
        for name in names {
            let place = path.join(&name);
            if place == file || place == layout::beside(&file, ".new") {
                continue;
            }
            match name.parse::<DatabaseName>() {
                Ok(name) if Disk::is_dir(&place) => databases.extend(self.database(&place, name, &dir)?),
                _ => self.find(&place, "this is no database of the fleet: it is left as it is"),
            }
        }
        let group = match described {
            Ok(Some(description)) if description.directory == dir.as_str() => {
                FoundGroup { description, guessed: None }
            }
            _ if databases.is_empty() => {
                self.find(path, "this group has no description and no database: it is not recovered");
                return Ok(());
            }
            other => {
                // The description of a database names its group as of the time that it was written.
                let known = databases.iter().find(|database: &&FoundDatabase| !database.is_guessed);
                let known = known.map(|database| database.description.group.clone());
                let why = match other {
                    Ok(None) => "has no description".to_owned(),
                    Ok(Some(_)) => "has the description of another group".to_owned(),
                    Err(error) => format!("has a description that cannot be read ({error})"),
                };
                FoundGroup { description: guessed_group(&dir, known)?, guessed: Some(why) }
            }
        };
        for mut database in databases {
            database.description.group.id.clone_from(&group.description.id);
            self.databases.push(database);
        }
        self.groups.push(group);
        Ok(())
    }

    /// Returns the database in a directory. `None` if it cannot be recovered.
    fn database(
        &mut self,
        place: &Path,
        name: DatabaseName,
        group: &GroupDir,
    ) -> Result<Option<FoundDatabase>> {
        let file = layout::description(place);
        let data = layout::data(place);
        let seal = open_databases(|| header(&data)).flatten();
        let described = read(&file).and_then(|bytes| bytes.map(|bytes| database_from(&bytes)).transpose());
        let described = match described {
            Ok(Some(described)) if described.name == name => Some(described),
            Ok(Some(other)) => {
                let message = format!(
                    "this is the description of database {}: database {name} is recovered without it",
                    other.name
                );
                self.find(&file, message);
                None
            }
            Ok(None) => None,
            Err(error) => {
                self.find(&file, format!("the description of database {name} cannot be read: {error}"));
                None
            }
        };
        if let Some(described) = described {
            let identity = described.encryption.as_ref().map(Encryption::identity).transpose();
            match (identity, seal) {
                (Err(error), _) => {
                    self.find(&file, format!("database {name} is not recovered: {error}"));
                    return Ok(None);
                }
                (_, Err(error)) => {
                    let message = format!(
                        "the file of database {name} cannot be read ({error}); its history may restore it"
                    );
                    self.find(&data, message);
                }
                (Ok(identity), Ok(seal)) if seal.map(|seal| seal.identity()) != identity => {
                    let message = format!(
                        "this is not the file that database {name} was created with: restore the original file"
                    );
                    self.find(&data, message);
                }
                _ => {}
            }
            let place = place.to_owned();
            return Ok(Some(FoundDatabase { description: described, is_guessed: false, place }));
        }
        let seal = match seal {
            Ok(seal) => seal,
            Err(error) => {
                self.find(&data, format!("database {name} is not recovered: {error}"));
                return Ok(None);
            }
        };
        let (description, is_own) = guessed_database(&data, name, seal, guessed_group(group, None)?);
        let id = if is_own { "its id is that of its history" } else { "its id is new" };
        self.find(
            place,
            format!(
                "database {} has no description: {id}, and its configuration is the default: no size limit, reads and writes allowed, no delete protection, the history window of its group, no parent",
                description.name
            ),
        );
        Ok(Some(FoundDatabase { description, is_guessed: true, place: place.to_owned() }))
    }

    /// Makes the names of reconstructed groups unique, and drops groups that have the name or the id of another group. Groups
    /// with a description take precedence.
    fn name_groups(&mut self, root: &Path) {
        self.groups.sort_by_key(|group| group.guessed.is_some());
        let (mut names, mut ids) = (BTreeSet::new(), BTreeSet::new());
        let findings = &mut self.findings;
        self.groups.retain_mut(|FoundGroup { description: group, guessed }| {
            let dir = root.join(&group.directory);
            if let Some(why) = guessed {
                let first = group.name.clone();
                let mut others = (2..).map_while(|number: u32| format!("{first}-{number}").parse().ok());
                while names.contains(group.name.as_str()) {
                    let Some(other) = others.next() else { break };
                    group.name = other;
                }
                let message = format!(
                    "group {} {why}: its name may differ from the original, and its history window and delete protection are the defaults",
                    group.name
                );
                findings.push(Finding::new(&dir, message));
            }
            let is_new = ids.insert(group.id.clone()) && names.insert(group.name.as_str().to_owned());
            if !is_new {
                let message = format!(
                    "group {} has the name or the id of another group: the group and its databases are not recovered",
                    group.name
                );
                findings.push(Finding::new(dir, message));
            }
            is_new
        });
    }

    /// Drops databases whose group is dropped, or that have the name or the id of another database. Databases with a
    /// description take precedence.
    fn drop_duplicates(&mut self) {
        let groups: BTreeSet<_> = self.groups.iter().map(|group| group.description.id.as_str()).collect();
        self.databases.sort_by_key(|database| database.is_guessed);
        let (mut names, mut ids) = (BTreeSet::new(), BTreeSet::new());
        let findings = &mut self.findings;
        self.databases.retain(|FoundDatabase { description: database, place, .. }| {
            if !groups.contains(database.group.id.as_str()) {
                return false;
            }
            let is_new = ids.insert(database.id.clone()) && names.insert(database.name.as_str().to_owned());
            if !is_new {
                let message = format!(
                    "database {} has the name or the id of another database: it is not recovered",
                    database.name
                );
                findings.push(Finding::new(place, message));
            }
            is_new
        });
    }
}

/// Parses the description of a database. Fails with [`ErrorKind::Corrupt`] if one of its ids is invalid: ids are compared with
/// those of histories, and printed.
fn database_from(bytes: &[u8]) -> Result<DatabaseDescription> {
    let found = DatabaseDescription::parse(bytes)?;
    let parent = found.parent.as_ref().map(|parent| &parent.id);
    [&found.id, &found.group.id].into_iter().chain(parent).try_for_each(|id| check_id(id))?;
    Ok(found)
}

fn group_from(bytes: &[u8]) -> Result<GroupDescription> {
    let found = GroupDescription::parse(bytes)?;
    check_id(&found.id)?;
    Ok(found)
}

/// Fails with [`ErrorKind::Corrupt`] if `id` is not an id in the form that the catalog stores.
fn check_id(id: &str) -> Result<()> {
    if id::number(id).is_ok_and(|number| id::text(number) == id) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Corrupt, "it has an invalid id"))
}

/// Reads a description file. `None` if it does not exist.
fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match Disk::open_regular(path)? {
        Some(file) => {
            let mut bytes = vec![0; usize::try_from(description::LEN_MAX).unwrap_or(0)];
            let len = Disk::read_up_to(&file, path, &mut bytes, 0)?;
            bytes.truncate(len);
            Ok(Some(bytes))
        }
        None => Ok(None),
    }
}

/// Returns the seal in the header of a database file. `None` if the file is plain.
fn header(data: &Path) -> Result<Option<Seal>> {
    let gone = || Error::new(ErrorKind::NotFound, "data.db does not exist");
    let file = DatabaseFile::open(data)?.ok_or_else(gone)?;
    let mut head = [0; HEADER_LEN];
    if file.read_up_to(&mut head, 0)? < HEADER_LEN {
        return Err(Error::new(ErrorKind::Corrupt, "data.db is shorter than a header"));
    }
    Ok(Header::parse(&head)?.seal)
}

/// Reconstructs the description of a group from its directory, and from the identity that its databases record, if known.
fn guessed_group(dir: &GroupDir, known: Option<GroupIdentity>) -> Result<GroupDescription> {
    let now = Timestamp::now();
    let (name, uuid) =
        dir.as_str().split_once('.').map_or((dir.as_str(), None), |(name, id)| (name, Some(id)));
    let identity = match known {
        Some(known) => known,
        None => GroupIdentity {
            id: uuid.map_or_else(|| id::new_id(now), str::to_owned),
            name: name.parse::<GroupName>()?,
        },
    };
    Ok(GroupDescription {
        format: description::FORMAT,
        created_at: id::made_at(&identity.id).unwrap_or(now),
        id: identity.id,
        name: identity.name,
        directory: dir.as_str().to_owned(),
        history_window: Retention::default(),
        history_limit: HistoryLimit::NONE,
        delete_protection: false,
    })
}

/// Reconstructs the description of a database from its files. Returns whether its id comes from its history.
fn guessed_database(
    data: &Path,
    name: DatabaseName,
    seal: Option<Seal>,
    group: GroupDescription,
) -> (DatabaseDescription, bool) {
    let known = history_id(data);
    let id = known.clone().unwrap_or_else(|| id::new_id(Timestamp::now()));
    let description = DatabaseDescription {
        format: description::FORMAT,
        created_at: id::made_at(&id).unwrap_or_else(Timestamp::now),
        id,
        name,
        group: GroupIdentity { id: group.id, name: group.name },
        size_limit: None,
        history_window: None,
        history_limit: None,
        // Whether its history was ever off is unknown, so assume that it was.
        history_paused: true,
        block_reads: false,
        block_writes: false,
        delete_protection: false,
        encryption: seal.map(|seal| Encryption::new(seal.cipher, &seal.identity())),
        parent: None,
    };
    (description, known.is_some())
}

/// Returns the database id in the stamps of a history. `None` if no stamps can be read.
fn history_id(data: &Path) -> Option<String> {
    let paths = ArchivePaths::of(data);
    let names = Disk::list(paths.dir()).unwrap_or_default();
    let numbered = names.iter().filter_map(|name| ArchivePaths::parse(name));
    let stamps = numbered.filter(|(_, file)| *file == ArchiveFile::Stamps);
    let stamps = stamps.map(|(sequence, file)| paths.file(sequence, file));
    let paths = [paths.live_stamps()].into_iter().chain(stamps).collect::<Vec<PathBuf>>();
    let stamps = paths.iter().find_map(|path| history::read_stamps(path).ok()?);
    stamps.map(|stamps| id::text(stamps.generation.database))
}
