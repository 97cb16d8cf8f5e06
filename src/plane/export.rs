//! Exports: writing a database to a file outside the fleet.

use std::{ops::ControlFlow, path::Path};

use super::{DatabaseRef, Plane, history::birth, partial::Partial, resolve::Resolved};
use crate::{
    api::Database,
    cipher::EncryptionKey,
    connect::{self, ConnectOptions},
    error::{Error, ErrorKind, Result},
    page::PageFormat,
    progress::{OnProgress, Progress, ProgressFn},
    seed::{
        Output, Target, fork,
        restore::{self, Instant},
    },
    time::Timestamp,
};

/// Options of [`export_database`](crate::ControlPlane::export_database).
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct ExportOptions<'p> {
    key: Option<EncryptionKey>,
    decrypt: bool,
    page_format: Option<PageFormat>,
    at: Option<Timestamp>,
    progress: OnProgress<'p>,
}

impl<'p> ExportOptions<'p> {
    /// Exports the database as of an instant. The default is its current state.
    #[must_use]
    pub fn at(self, at: impl Into<Timestamp>) -> Self {
        Self { at: Some(at.into()), ..self }
    }

    /// Calls `callback` with the progress of the call; [`ControlFlow::Break`] cancels it.
    #[must_use]
    pub fn progress(self, callback: impl FnMut(Progress) -> ControlFlow<()> + 'p) -> Self {
        Self { progress: OnProgress::new(callback), ..self }
    }

    /// Sets the key of an encrypted database. Without it, the encrypted pages are copied as they are.
    #[must_use]
    pub fn encryption_key(self, key: EncryptionKey) -> Self {
        Self { key: Some(key), ..self }
    }

    /// Sets whether to write an encrypted database as a plain SQLite file. The default is `false`.
    #[must_use]
    pub fn decrypt(self, decrypt: bool) -> Self {
        Self { decrypt, ..self }
    }

    /// Encrypts the file in this page format, under the key and cipher of the database. The default is the format of the
    /// database.
    #[must_use]
    pub fn page_format(self, format: PageFormat) -> Self {
        Self { page_format: Some(format), ..self }
    }

    /// Returns how to seal the file. `None` for a plain file and for a copy of the stored pages.
    fn target(&self, database: &Database) -> Result<Option<Target>> {
        let invalid = |message: &str| Err(Error::new(ErrorKind::Invalid, message));
        let Some(cipher) = database.cipher else {
            return match self.page_format {
                Some(_) => invalid("a plain database has no page format"),
                None => Ok(None),
            };
        };
        match (&self.key, self.decrypt, self.page_format) {
            (_, true, Some(_)) => invalid("a decrypted file has no page format"),
            (None, false, None) | (Some(_), true, None) => Ok(None),
            (None, ..) => Err(connect::key_required(database, cipher)),
            (Some(key), false, format) => {
                key.check_size(cipher)?;
                format.map_or(Ok(()), |format| format.check(cipher))?;
                Ok(Some(Target { key: key.clone(), cipher, format }))
            }
        }
    }
}

impl Plane {
    pub(super) fn export(
        &self,
        database: DatabaseRef<'_>,
        path: &Path,
        mut options: ExportOptions<'_>,
    ) -> Result<()> {
        let mut progress = std::mem::take(&mut options.progress);
        let database = self.ready(database)?;
        let entry = &database.entry;
        if entry.database.block_reads {
            return Err(Error::new(ErrorKind::Blocked, connect::reads_blocked()));
        }
        let target = options.target(&entry.database)?;
        let partial = Partial::begin(&self.disk, path)?;
        let written =
            self.write_export(&database, &partial.data(), target.as_ref(), &options, progress.callback());
        let written = self.hold(&database, written).and_then(|()| partial.publish(&self.disk, path));
        partial.remove(&self.disk);
        written
    }

    fn write_export(
        &self,
        database: &Resolved,
        staged: &Path,
        target: Option<&Target>,
        options: &ExportOptions<'_>,
        watch: &mut ProgressFn<'_>,
    ) -> Result<()> {
        let entry = &database.entry;
        let data = self.data(entry);
        let birth = birth(entry)?;
        let instant = options.at.map(|at| Instant { at, birth, now: self.clock.now() });
        let output = Output { disk: &self.disk, path: staged, target, size_limit: None };
        if entry.database.cipher.is_some() && options.key.is_none() {
            let stored = fork::Stored { data: &data, identity: entry.identity };
            if let Some(instant) = instant {
                return restore::write_stored(stored, instant, output, watch);
            }
            return fork::write_stored(stored, output, watch);
        }
        let mut connect = ConnectOptions::default().read_only(true).unfenced();
        if let Some(key) = &options.key {
            connect = connect.encryption_key(key.clone());
        }
        let connection = match options.at {
            Some(at) => self.connect_to_restore(database, at, &connect)?,
            None => self.connect(database, &connect)?,
        };
        let identity = entry.identity;
        let source = fork::Source { connection, data: &data, key: options.key.as_ref(), identity };
        match instant {
            Some(instant) => restore::write(source, instant, output, watch).map(|_| ()),
            None => fork::write(source, output, watch),
        }
    }
}
