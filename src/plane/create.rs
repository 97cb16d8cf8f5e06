//! The create protocol, by which a create is complete or leaves nothing.
//!
//! | step | on the disk | row | after a crash |
//! |---|---|---|---|
//! | 1 | `.staging/<id>` is created and locked | none | removed: no row |
//! | 2 | | `creating` | row and directory removed |
//! | 3 | files are written and flushed, then the directory | `creating` | row and directory removed |
//! | 4 | | `publishing`, flushed | continues at step 5 |
//! | 5 | renamed to `<directory of the group>/<database>` | `publishing` | continues at step 6 |
//! | 6 | | `ready` | complete |
//!
//! A draft is a row `draft` without a directory. An upload to it goes through these steps with the row in `draft` instead of
//! `creating`, where it stays if the upload fails. The rows of steps 2 and 6 are not flushed: without the row of step 2 the
//! sweep removes the directory, and without that of step 6 it continues at step 5.

use std::path::Path;

use super::{
    CreateDatabase, DatabaseRef, Plane, UploadOptions,
    history::birth,
    resolve::{self, Resolved, Wanted},
};
use crate::{
    api::{CreateDatabaseInput, CreateDatabaseOutput, Database, Parent, Seed, Uploaded},
    catalog::{Durability, Entry, InGroup, NewDatabase, State},
    cipher::Cipher,
    connect::{self, ConnectOptions},
    disk::Disk,
    error::{Error, ErrorKind, Result},
    id,
    name::{DatabaseName, GroupDir, GroupName},
    point::ResolvedInstant,
    progress::ProgressFn,
    seed::{
        self, Output, Staged, Target, fork, restore,
        upload::{self, Upload},
    },
    size::SizeLimit,
    time::Timestamp,
};

impl Plane {
    pub(super) fn create(
        &self,
        request: CreateDatabase<'_>,
        upload: Option<Upload<'_>>,
    ) -> Result<CreateDatabaseOutput> {
        let CreateDatabase { input, mut progress } = request;
        let watch = progress.callback();
        let CreateDatabaseInput {
            name,
            group,
            seed,
            size_limit,
            remote_encryption,
            source_encryption_key,
            lacks_source,
        } = input;
        if lacks_source {
            let message = "an instant was given without a source; name the source first, as in fork(name, source).at(instant)";
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let name: DatabaseName = name.parse()?;
        let group = group.as_deref().map(str::parse::<GroupName>).transpose()?;
        let source = match &seed {
            Some(Seed::Database { .. }) if upload.is_some() => {
                let message = "a database is created from another one or from a file, not from both";
                return Err(Error::new(ErrorKind::Invalid, message));
            }
            Some(Seed::Database { name, .. }) => Some(self.source(name.into(), group.as_ref())?),
            Some(Seed::DatabaseUpload) | None => None,
        };
        let group = match (group, &source) {
            // By id: the group may be renamed at any time.
            (_, Some(source)) => InGroup::Same(source.entry.group_id.clone()),
            (Some(group), None) => InGroup::Named(group),
            (None, None) => return Err(Error::new(ErrorKind::Invalid, "group is required")),
        };
        let source_cipher = source.as_ref().and_then(|source| source.entry.database.cipher);
        let target = Target::of(remote_encryption.as_ref(), source_cipher)?;
        if let (Some(cipher), None, Some(source)) = (source_cipher, &target, &source) {
            if source_encryption_key.is_some() {
                let message = format!(
                    "database {} is encrypted under {cipher}: besides its key, the fork {name} needs an encryption key of its own",
                    source.entry.database.name
                );
                return Err(Error::new(ErrorKind::KeyRequired, message));
            }
            return Err(connect::key_required(&source.entry.database, cipher));
        }
        let now = self.clock.now();
        let inherited = source.as_ref().and_then(|source| source.entry.database.size_limit);
        let own_limit =
            |database: &Database| (!database.inherits_history_limit).then_some(database.history_limit);
        let new = NewDatabase {
            id: id::new_id(now),
            name,
            group,
            state: State::Creating,
            created_at: now,
            size_limit: size_limit.or(inherited),
            history_limit: source.as_ref().and_then(|source| own_limit(&source.entry.database)),
            cipher: target.as_ref().map(|target| target.cipher),
            parent: source.as_ref().map(|source| Parent {
                id: source.entry.database.id.clone(),
                name: source.entry.database.name.clone(),
                branched_at: now,
            }),
        };
        if upload.is_none() && seed == Some(Seed::DatabaseUpload) {
            let draft = NewDatabase { state: State::Draft, ..new };
            self.insert(&draft, Durability::Full)?;
            return Ok(self.output(&draft));
        }
        let limit = new.size_limit;
        let at = match seed {
            Some(Seed::Database { timestamp, .. }) => timestamp,
            _ => None,
        };
        let (mut reached, mut unchecked) = (None, Vec::new());
        let source_key = source_encryption_key.as_ref().or(target.as_ref().map(|target| &target.key));
        self.build(&new, |staged| {
            self.keep_private(staged, target.as_ref())?;
            match (&source, upload) {
                (Some(source), _) => {
                    let key = source_key.filter(|_| source_cipher.is_some());
                    let mut options = ConnectOptions::default().read_only(true).unfenced();
                    if let Some(key) = key {
                        options = options.encryption_key(key.clone());
                    }
                    // The pages are copied by path. If the source still exists afterwards, they belong to it.
                    let data = staged.data();
                    let output = self.output_to(&data, target.as_ref(), limit);
                    let copied = self.fork(source, &options, at, output, watch);
                    self.hold(source, copied).map(|what| reached = what)
                }
                (None, Some(upload)) => {
                    let (data, key) = (staged.data(), source_encryption_key.as_ref());
                    let output = self.output_to(&data, target.as_ref(), limit);
                    unchecked = upload::write(upload, key, output, watch)?;
                    Ok(())
                }
                (None, None) => seed::empty(&self.disk, &staged.data(), target.as_ref()),
            }
        })?;
        Ok(CreateDatabaseOutput { reached, unchecked, ..self.output(&new) })
    }

    /// Writes a source into a staged directory: its current state, or its state as of `at`. Returns the commit to which `at`
    /// resolved.
    fn fork(
        &self,
        source: &Resolved,
        options: &ConnectOptions,
        at: Option<Timestamp>,
        output: Output<'_>,
        watch: &mut ProgressFn<'_>,
    ) -> Result<Option<ResolvedInstant>> {
        let connection = match at {
            Some(at) => self.connect_to_restore(source, at, options)?,
            None => self.connect(source, options)?,
        };
        let data = self.data(&source.entry);
        let (identity, birth) = (source.entry.identity, birth(&source.entry)?);
        let source = fork::Source { connection, data: &data, key: options.key(), identity };
        let Some(at) = at else {
            fork::write(source, output, watch)?;
            return Ok(None);
        };
        let instant = restore::Instant { at, birth, now: self.clock.now() };
        restore::write(source, instant, output, watch).map(Some)
    }

    pub(super) fn upload(
        &self,
        wanted: &Wanted<'_>,
        upload: Upload<'_>,
        options: UploadOptions<'_>,
    ) -> Result<Uploaded> {
        let UploadOptions { encryption, file_key, mut progress } = options;
        let (encryption, file_key, watch) = (encryption.as_ref(), file_key.as_ref(), progress.callback());
        let Resolved { entry, .. } = self.resolve(wanted)?;
        let name = &wanted.name;
        if entry.state != State::Draft {
            let message =
                format!("database {name} already has its contents; a file can be uploaded to a draft only");
            return Err(Error::new(ErrorKind::AlreadyExists, message));
        }
        let target = Target::of(encryption, entry.database.cipher)?;
        let cipher = target.as_ref().map(|target| target.cipher);
        match (entry.database.cipher, cipher) {
            (Some(cipher), None) => return Err(connect::key_required(&entry.database, cipher)),
            (known, given) if known != given => {
                let known = known.map_or("none", Cipher::as_str);
                let message =
                    format!("the draft {name} was created with the cipher {known}; upload it with that");
                return Err(Error::new(ErrorKind::Invalid, message));
            }
            _ => {}
        }
        let staged = Staged::begin(&self.disk, &self.layout, &entry.database.id)?;
        // Another upload may have completed the draft before this one locked the directory.
        let entry = self.catalog.read(|rows| rows.entry_by_id(&entry.database.id));
        let entry = match entry {
            Ok(Some(entry)) if entry.state == State::Draft => entry,
            other => {
                let _swept_later = self.disk.remove(&staged.dir);
                if other?.is_none_or(|entry| entry.state.is_unsettled()) {
                    return Err(resolve::destroyed(name));
                }
                let message = format!("database {name} was completed by another call");
                return Err(Error::new(ErrorKind::AlreadyExists, message));
            }
        };
        let limit = entry.database.size_limit;
        let mut unchecked = Vec::new();
        self.whole_or_nothing(&staged, State::Draft, || {
            self.keep_private(&staged, target.as_ref())?;
            let data = staged.data();
            let output = self.output_to(&data, target.as_ref(), limit);
            unchecked = upload::write(upload, file_key, output, watch)?;
            Ok(())
        })?;
        Ok(Uploaded { unchecked })
    }

    fn output_to<'a>(
        &'a self,
        path: &'a Path,
        target: Option<&'a Target>,
        size_limit: Option<SizeLimit>,
    ) -> Output<'a> {
        Output { disk: &self.disk, path, target, size_limit }
    }

    /// Makes the directory of an encrypted database private. Other users cannot decrypt it, but need not see its metadata
    /// either.
    fn keep_private(&self, staged: &Staged, target: Option<&Target>) -> Result<()> {
        target.map_or(Ok(()), |_| self.disk.make_private(&staged.dir))
    }

    /// Resolves the source of a fork, if it may be forked into `group`.
    fn source(&self, source: DatabaseRef<'_>, group: Option<&GroupName>) -> Result<Resolved> {
        let source = self.ready(source)?;
        let database = &source.entry.database;
        if let Some(group) = group.filter(|group| **group != database.group) {
            self.catalog.read(|rows| rows.group(group))?;
            let message = format!(
                "can only fork databases within the same group: database {} is not part of group {group}",
                database.name
            );
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        if database.block_reads {
            return Err(Error::new(ErrorKind::Blocked, connect::reads_blocked()));
        }
        Ok(source)
    }

    /// Returns the output of a successful create. It cannot fail, because the database already exists.
    fn output(&self, new: &NewDatabase) -> CreateDatabaseOutput {
        CreateDatabaseOutput {
            id: new.id.clone(),
            hostname: self.catalog.hostname(&new.name),
            name: new.name.as_str().to_owned(),
            reached: None,
            unchecked: Vec::new(),
        }
    }

    /// Inserts a row. Frees a name that a killed process holds.
    fn insert(&self, new: &NewDatabase, durability: Durability) -> Result<()> {
        let insert =
            || self.catalog.write(durability, |rows| rows.insert_database(new)).map_err(connect::with_remedy);
        let taken = match insert() {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => error,
            inserted => return inserted,
        };
        match self.catalog.read(|rows| rows.entry(&new.name))? {
            Some(entry) if !entry.state.is_unsettled() => Err(taken),
            _ => {
                self.settle()?;
                insert()
            }
        }
    }

    /// Creates a database whose directory `fill` fills.
    fn build(&self, new: &NewDatabase, fill: impl FnOnce(&Staged) -> Result<()>) -> Result<()> {
        let staged = Staged::begin(&self.disk, &self.layout, &new.id)?;
        let inserted = self.insert(new, Durability::Lazy);
        if inserted.is_err() {
            // The lock is free, so the sweep removes what cannot be removed now.
            let _swept_later = self.disk.remove(&staged.dir);
        }
        inserted?;
        self.whole_or_nothing(&staged, State::Creating, || fill(&staged))
    }

    /// Fills a staged directory and publishes it. A failure leaves everything unchanged.
    fn whole_or_nothing(
        &self,
        staged: &Staged,
        from: State,
        fill: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let Err(error) = fill().and_then(|()| self.publish(staged, from)).map_err(connect::with_remedy)
        else {
            return Ok(());
        };
        let trashed = self.layout.trashed(&staged.id);
        // Row and directory are removed together, or left to the sweep. A row that a sweep has made ready may be in use, so it
        // is left alone.
        let undone = self.catalog.write(Durability::Full, |rows| {
            let entry = rows.entry_by_id(&staged.id)?;
            let dir = match &entry {
                Some(entry) if entry.state == State::Publishing && !Disk::exists(&staged.dir)? => {
                    self.place(entry)
                }
                _ => staged.dir.clone(),
            };
            if let Some(entry) = &entry {
                match entry.state {
                    State::Publishing if from == State::Draft => {
                        rows.set_draft(&staged.id)?;
                    }
                    state @ (State::Publishing | State::Creating) => {
                        rows.delete_database(&staged.id, state)?;
                    }
                    _ => {}
                }
            }
            if Disk::exists(&dir)? && (dir == staged.dir || entry.is_some()) {
                self.disk.rename(&dir, &trashed)?;
            }
            Ok(())
        });
        // If the catalog cannot be written, the sweep removes the row without a directory.
        if undone.is_err() {
            let _nothing_left = self.disk.remove(&staged.dir);
        }
        let _swept_later = self.disk.remove(&trashed);
        Err(error)
    }

    /// Moves a complete staged directory into its place.
    fn publish(&self, staged: &Staged, from: State) -> Result<()> {
        staged.mark_unwritten(&self.disk)?;
        let identity = staged.identity()?;
        let row = self.catalog.read(|rows| rows.entry_by_id(&staged.id))?;
        if let Some(row) = row {
            self.describe_staged(staged, &Entry { identity, ..row })?;
        }
        staged.sync(&self.disk, &self.layout)?;
        let entry = self.catalog.write(Durability::Full, |rows| {
            let entry = rows.entry_by_id(&staged.id)?;
            let moved = rows.set_publishing(&staged.id, from, identity.as_ref())?;
            // While a group is being destroyed, so are its databases, whatever state their rows have.
            entry.filter(|entry| moved && entry.state == from).ok_or_else(|| {
                Error::new(ErrorKind::Destroyed, "the database was destroyed while it was being created")
            })
        })?;
        let is_first = self.make_group_dir(&entry.group_dir)?;
        self.disk.rename(&staged.dir, &self.place(&entry))?;
        self.catalog.write(Durability::Lazy, |rows| {
            if is_first {
                rows.mark_stale(&entry.group_id)?;
            }
            rows.set_state(&staged.id, State::Publishing, State::Ready)
        })?;
        if is_first {
            self.describe(&entry.group_id);
        }
        Ok(())
    }

    /// Creates the directory of a group when its first database is published. Returns whether this call created it.
    pub(super) fn make_group_dir(&self, group: &GroupDir) -> Result<bool> {
        let is_new = self.disk.make_dir(&self.layout.group(group))?;
        if is_new {
            self.disk.sync_dir(self.layout.root())?;
        }
        Ok(is_new)
    }
}
