//! Requests for new databases and uploads, with the progress callback that no body of the API contains.

use std::ops::ControlFlow;

use crate::{
    api::{CreateDatabaseInput, RemoteEncryption},
    cipher::EncryptionKey,
    progress::{OnProgress, Progress},
};

/// A request to create or import a database: a [`CreateDatabaseInput`] and a progress callback.
///
/// [`CreateDatabaseInput::progress`] makes one; an input without a callback converts into one.
#[derive(Debug)]
pub struct CreateDatabase<'p> {
    pub(super) input: CreateDatabaseInput,
    pub(super) progress: OnProgress<'p>,
}

impl From<CreateDatabaseInput> for CreateDatabase<'_> {
    fn from(input: CreateDatabaseInput) -> Self {
        Self { input, progress: OnProgress::default() }
    }
}

impl CreateDatabaseInput {
    /// Calls `callback` with the progress of a fork or an import; [`ControlFlow::Break`] cancels the call.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let plane = litefleet::ControlPlane::open(dir.path())?;
    /// # plane.create_group("default")?;
    /// # plane.create_database(litefleet::CreateDatabaseInput::new("orders", "default"))?;
    /// use std::ops::ControlFlow;
    /// use litefleet::CreateDatabaseInput;
    ///
    /// let mut bytes = 0;
    /// let fork = CreateDatabaseInput::fork("copy", "orders").progress(|progress| {
    ///     bytes = bytes.max(progress.done);
    ///     ControlFlow::Continue(())
    /// });
    /// plane.create_database(fork)?;
    /// assert_eq!(bytes, 4096);
    /// # Ok::<(), litefleet::Error>(())
    /// ```
    pub fn progress<'p>(self, callback: impl FnMut(Progress) -> ControlFlow<()> + 'p) -> CreateDatabase<'p> {
        CreateDatabase { input: self, progress: OnProgress::new(callback) }
    }
}

/// Options of [`upload_database`](crate::ControlPlane::upload_database).
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct UploadOptions<'p> {
    pub(super) encryption: Option<RemoteEncryption>,
    pub(super) file_key: Option<EncryptionKey>,
    pub(super) progress: OnProgress<'p>,
}

impl<'p> UploadOptions<'p> {
    /// Sets the key and cipher that encrypt the database. A draft that was created with a cipher requires them.
    #[must_use]
    pub fn encryption(self, encryption: RemoteEncryption) -> Self {
        Self { encryption: Some(encryption), ..self }
    }

    /// Sets the key of an uploaded file that is itself encrypted, in this crate's format or in Turso's. The default is the
    /// key of the database.
    #[must_use]
    pub fn file_key(self, key: EncryptionKey) -> Self {
        Self { file_key: Some(key), ..self }
    }

    /// Calls `callback` with the progress of the call; [`ControlFlow::Break`] cancels it.
    #[must_use]
    pub fn progress(self, callback: impl FnMut(Progress) -> ControlFlow<()> + 'p) -> Self {
        Self { progress: OnProgress::new(callback), ..self }
    }
}
