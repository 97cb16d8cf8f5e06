//! Recovering a catalog that is lost, from what stands beside the databases.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use super::{ControlPlane, ControlPlaneBuilder};
use crate::{
    catalog::Catalog,
    description::{self, DatabaseDescription, Encryption, GroupDescription, GroupIdentity},
    disk::Disk,
    error::{Error, ErrorKind, Result},
    finding::Finding,
    history, id,
    layout::{self, ArchiveFile, ArchivePaths, Layout},
    name::{DatabaseName, GroupDir, GroupName},
    page::{HEADER_LEN, Header, Seal},
    retention::Retention,
    time::Timestamp,
};

/// How the files begin in which a catalog is made.
const UNFINISHED: &str = ".recovered-";

/// What a recovery made of a root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovered {
    /// Groups that are in the new catalog.
    pub groups: u64,
    /// Databases that are in the new catalog.
    pub databases: u64,
    /// What is not as it was, or is not known to be: files relative to the root, and a sentence about each.
    pub findings: Vec<Finding>,
}

impl ControlPlane {
    /// Makes a new catalog for the root in a directory whose `control.db` is lost, from the descriptions that stand beside
    /// its databases and groups. No other process may use the root meanwhile.
    ///
    /// Names, ids, groups, configurations, ciphers, page formats, salts and parents are then as they were. A database of an
    /// earlier version that has no description yet gets what its files tell: its name, its id if it has a history, and its
    /// cipher, page format and salt; the rest is the default, and a [finding](Recovered::findings) says so. A directory that
    /// is no database is left where it is, and is a finding too. Drafts and groups without a database have no files, and
    /// are lost. What was being created or destroyed is not recovered.
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
    /// [`ErrorKind::AlreadyExists`] if there is a `control.db`, or a log of one; [`ErrorKind::NotFound`] if there is no such
    /// directory; and what the disk may answer. Whichever it is, the root is as it was.
    pub fn recover(root: impl AsRef<Path>) -> Result<Recovered> {
        Self::builder().recover(root)
    }
}

impl ControlPlaneBuilder {
    /// Makes a new catalog for a root whose catalog is lost.
    ///
    /// # Errors
    ///
    /// As for [`ControlPlane::recover`].
    pub fn recover(self, root: impl AsRef<Path>) -> Result<Recovered> {
        recover(&self.disk, root.as_ref())
    }
}

/// A group that was found.
struct FoundGroup {
    description: GroupDescription,
    /// Why its description is a guess. `None` if it is not.
    guessed: Option<String>,
}

/// A database that was found.
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
    // A process that opens the root would make an empty catalog, and waits here.
    let _alone = Disk::wait_for_dir(layout.root())?;
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
        // The memory beside a log of the old catalog.
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

/// The names in a directory, in order: so that what is recovered does not depend on that of the file system.
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

    /// Adds the group in a directory, and its databases.
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
                // Each database names its group as it was when it was described last.
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

    /// The database in a directory. `None` if it cannot be recovered.
    fn database(
        &mut self,
        place: &Path,
        name: DatabaseName,
        group: &GroupDir,
    ) -> Result<Option<FoundDatabase>> {
        let file = layout::description(place);
        let data = layout::data(place);
        let seal = header(&data);
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
                        "this is not the file that database {name} was created with: put back that one"
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
                "database {} has no description: {id}, and its configuration is the default: no size limit, nothing blocked, no protection, the window of its group, no parent",
                description.name
            ),
        );
        Ok(Some(FoundDatabase { description, is_guessed: true, place: place.to_owned() }))
    }

    /// Gives each group whose name is a guess one that no other group has, and leaves out groups that have the name or the id
    /// of another one.
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
                    "group {} {why}: its name may be another one, and its history window and delete protection are the defaults",
                    group.name
                );
                findings.push(Finding::new(&dir, message));
            }
            let is_new = ids.insert(group.id.clone()) && names.insert(group.name.as_str().to_owned());
            if !is_new {
                let message = format!(
                    "group {} has the name or the id of another group: neither it nor its databases are recovered",
                    group.name
                );
                findings.push(Finding::new(dir, message));
            }
            is_new
        });
    }

    /// Leaves out databases whose group is left out, or that have the name or the id of another one. What is described comes
    /// before what is guessed.
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

/// Reads the description of a database, whose ids must be ids: they are compared with those of histories, and printed.
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

/// Fails with [`ErrorKind::Corrupt`] for what is no id as a catalog has it.
fn check_id(id: &str) -> Result<()> {
    if id::number(id).is_ok_and(|number| id::text(number) == id) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Corrupt, "it has an invalid id"))
}

/// A description, if it is there.
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

/// What the header of a database file says that the file is sealed under.
fn header(data: &Path) -> Result<Option<Seal>> {
    let gone = || Error::new(ErrorKind::NotFound, "data.db is not there");
    let file = Disk::open_regular(data)?.ok_or_else(gone)?;
    let mut head = [0; HEADER_LEN];
    if Disk::read_up_to(&file, data, &mut head, 0)? < HEADER_LEN {
        return Err(Error::new(ErrorKind::Corrupt, "data.db is shorter than a header"));
    }
    Ok(Header::parse(&head)?.seal)
}

/// What can be said of a group without its description.
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
        delete_protection: false,
    })
}

/// What can be said of a database without its description, and whether its id is its own.
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
        // Nothing says that its history was never off.
        history_paused: true,
        block_reads: false,
        block_writes: false,
        delete_protection: false,
        encryption: seal.map(|seal| Encryption::new(seal.cipher, &seal.identity())),
        parent: None,
    };
    (description, known.is_some())
}

/// The id in the stamps of a database's history, if one can be read.
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
