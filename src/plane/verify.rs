//! Verification of a database and its history.

use std::{ops::ControlFlow, path::Path};

use super::{ControlPlane, DatabaseRef, Plane, history};
use crate::{
    catalog::Entry,
    cipher::EncryptionKey,
    disk::{DatabaseFile, Disk, open_databases_while},
    error::{Error, ErrorKind, Result},
    finding::VerifyReport,
    history::verify::{self, Subject},
    layout::{ArchiveFile, ArchivePaths},
    page::{self, HEADER_LEN, Header, PageCodec},
    progress::{self, OnProgress, Progress, ProgressFn},
};

/// Options of [`verify_database`](crate::ControlPlane::verify_database).
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct VerifyOptions<'p> {
    key: Option<EncryptionKey>,
    progress: OnProgress<'p>,
}

impl<'p> VerifyOptions<'p> {
    /// Calls `callback` with the progress of the call; [`ControlFlow::Break`] cancels it.
    #[must_use]
    pub fn progress(self, callback: impl FnMut(Progress) -> ControlFlow<()> + 'p) -> Self {
        Self { progress: OnProgress::new(callback), ..self }
    }

    /// Sets the key of an encrypted database, so that the authentication tag of every page is verified. Without it, only the
    /// checksums are. It has no effect on a plain database.
    #[must_use]
    pub fn encryption_key(self, key: EncryptionKey) -> Self {
        Self { key: Some(key), ..self }
    }
}

impl ControlPlane {
    /// Verifies a database and its whole history.
    ///
    /// It verifies every checksum, that each generation continues its predecessor, that snapshots and WALs lead to each other
    /// and to the current database file, and, with a key, the authentication tag of every page. It changes nothing, takes no
    /// lock, and may run while the database is in use.
    ///
    /// Commits made while the history was off are not a finding. The database file is therefore compared with a history that
    /// was ever off only if the file has not changed since its last WAL ended.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let plane = litefleet::ControlPlane::open(dir.path())?;
    /// # plane.create_group("default")?;
    /// # plane.create_database(litefleet::CreateDatabaseInput::new("orders", "default"))?;
    /// # let connection = plane.connect("orders", Default::default())?;
    /// # connection.execute_batch("CREATE TABLE t(a)").unwrap();
    /// let verified = plane.verify_database("orders", Default::default())?;
    /// assert_eq!((verified.findings.len(), verified.commits), (0, 1));
    /// # Ok::<(), litefleet::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Fails as [`database_path`](Self::database_path) does, with [`ErrorKind::WrongKey`], with [`ErrorKind::Busy`] if the
    /// database keeps changing, and with [`ErrorKind::Cancelled`]. Damage is not an error but a
    /// [finding](VerifyReport::findings).
    pub fn verify_database<'a>(
        &self,
        database: impl Into<DatabaseRef<'a>>,
        options: VerifyOptions<'_>,
    ) -> Result<VerifyReport> {
        let database = self.0.ready(database.into())?;
        let VerifyOptions { key, mut progress } = options;
        let verified =
            self.0.verify(&database.entry, key.as_ref(), progress.callback()).and_then(|mut verified| {
                verified.findings.extend(self.0.verify_description(&database.entry.database.id)?);
                Ok(verified)
            });
        self.0.hold(&database, verified)
    }
}

impl Plane {
    fn verify(
        &self,
        entry: &Entry,
        key: Option<&EncryptionKey>,
        watch: &mut ProgressFn<'_>,
    ) -> Result<VerifyReport> {
        let data = self.data(entry);
        let birth = history::birth(entry)?;
        let key = key.filter(|_| entry.database.cipher.is_some());
        let (teller, listener) = progress::line();
        let run = || {
            let teller = teller;
            let (page_size, codec) = layout_of(entry, &data, key)?;
            let lock_page = page::lock_page(page_size as usize);
            let is_authentic = |number: u32, page: &mut [u8]| match &codec {
                // SQLite stores nothing in the page of its lock bytes, so that page is not sealed.
                Some(codec) => number == lock_page || codec.open_page(number, page).is_ok(),
                None => true,
            };
            let tag = codec.is_some().then_some(&is_authentic as &verify::Tag<'_>);
            let subject = Subject { data: &data, birth, page_size, tag };
            verify::verify(&subject, &mut |progress| teller.tell(progress))
        };
        open_databases_while(run, || listener.listen(watch))?
    }
}

/// Returns the page size of a database and, with a key, its page codec. They are read from the header of the database file or,
/// if that is damaged, of a snapshot.
fn layout_of(entry: &Entry, data: &Path, key: Option<&EncryptionKey>) -> Result<(u32, Option<PageCodec>)> {
    let archive = ArchivePaths::of(data);
    let names = if Disk::exists(archive.dir())? { Disk::list(archive.dir())? } else { Vec::new() };
    let snapshots = names.iter().filter_map(|name| ArchivePaths::parse(name));
    let snapshots = snapshots.filter(|(_, file)| *file == ArchiveFile::Snapshot);
    let snapshots = snapshots.map(|(sequence, file)| archive.file(sequence, file));
    let mut error = None;
    for path in [data.to_owned()].into_iter().chain(snapshots) {
        let found = header(&path).and_then(|header| {
            let is_own = header.seal.map(|seal| seal.identity()) == entry.identity
                && header.seal.map(|seal| seal.cipher) == entry.database.cipher;
            let message = "no file of this database has the header that the catalog records";
            let header = is_own.then_some(header).ok_or_else(|| Error::new(ErrorKind::Corrupt, message))?;
            let codec = key.zip(header.seal).map(|(key, seal)| PageCodec::new(seal, header.page_size, key));
            Ok((header.page_size, codec.transpose()?))
        });
        match found {
            Ok(found) => return Ok(found),
            Err(found) => _ = error.get_or_insert(found),
        }
    }
    Err(error
        .unwrap_or_else(|| Error::naming(ErrorKind::NotFound, data, |data| format!("{data}: no such file"))))
}

fn header(path: &Path) -> Result<Header> {
    let file = DatabaseFile::open(path)?
        .ok_or_else(|| Error::naming(ErrorKind::Corrupt, path, |file| format!("{file} does not exist")))?;
    let mut head = [0; HEADER_LEN];
    if file.read_up_to(&mut head, 0)? < HEADER_LEN {
        return Err(Error::naming(ErrorKind::Corrupt, path, |file| format!("{file}: shorter than a header")));
    }
    Header::parse(&head)
}
