//! The fence, which restricts the files and settings that SQL on a connection can access.
//!
//! SQL on a connection that [`connect`](crate::ControlPlane::connect) or [`connect_at`](crate::ControlPlane::connect_at)
//! returns, or that is opened under a [`lease`](crate::ControlPlane::lease), is fenced, unless it is opened with [`unfenced`](crate::ConnectOptions::unfenced). It reaches the databases that
//! the host opened and attached, and no other file:
//!
//! | statement | fenced |
//! |---|---|
//! | `ATTACH` | `''` and `':memory:'` only, as literals; [`attach`](crate::ControlPlane::attach) attaches a database of the fleet |
//! | `VACUUM INTO` | a path outside of every fleet, never a URI; from an encrypted database, the copy is encrypted under the same key |
//! | `PRAGMA writable_schema` | stays off |
//! | `PRAGMA temp_store_directory`, `data_store_directory`, `hard_heap_limit`, `soft_heap_limit` | cannot be set: they are settings of the whole process |
//! | `load_extension()`, `fts3_tokenizer()` | refused |
//! | writes to shadow tables, `PRAGMA schema_version=N`, and everything else that [defensive mode] disables | refused, or without effect |
//!
//! A refused statement fails with `SQLITE_AUTH`; [`Error::from_sqlite`](crate::Error::from_sqlite) gives the reason. `VACUUM INTO` is allowed on a
//! read-only connection, as in SQLite: it changes no database. It writes to any other path that the process can write to, and
//! the size limit does not apply. `VACUUM INTO` is refused on an encrypted connection with databases under several keys,
//! because the key of the copy would be ambiguous.
//!
//! The fence restricts SQL, not the host. Calls of the SQLite API by the host, such as backups, loading extensions and
//! registering virtual tables that read files, are not restricted.
//!
//! # Custom authorizers
//!
//! A connection has one authorizer. An authorizer that the host sets replaces that of the fence, and with it:
//!
//! - the refusal of URIs, and so of every other VFS, in `ATTACH` and `VACUUM INTO`;
//! - the refusal of `ATTACH ?`, of the pragmas and of the functions above, except that `writable_schema` stays without effect.
//!
//! The VFS still refuses a plain path in `ATTACH`, and a target of `VACUUM INTO` in a fleet's directory. Such a host calls
//! [`authorize`] first:
//!
//! ```
//! # let dir = tempfile::tempdir().unwrap();
//! # let plane = litefleet::ControlPlane::open(dir.path())?;
//! # plane.create_group("default")?;
//! # plane.create_database(litefleet::CreateDatabaseInput::new("orders", "default"))?;
//! use litefleet::{
//!     fence,
//!     rusqlite::hooks::{AuthAction, AuthContext, Authorization},
//! };
//!
//! let mut orders = plane.connect("orders", Default::default())?;
//! orders
//!     .authorizer(Some(|context: AuthContext<'_>| match (fence::authorize(context), context.action) {
//!         (Authorization::Allow, AuthAction::DropTable { .. }) => Authorization::Deny,
//!         (answer, _) => answer,
//!     }))
//!     .unwrap();
//! assert!(orders.execute_batch("ATTACH 'file:x?vfs=unix' AS x").is_err());
//! # Ok::<(), litefleet::Error>(())
//! ```
//!
//! [defensive mode]: https://www.sqlite.org/c3ref/c_dbconfig_defensive.html

use rusqlite::{
    ffi,
    hooks::{AuthAction, AuthContext, Authorization},
};

use crate::vfs::{self, Action};

/// The authorizer of the fence, for use in the authorizer of a host.
///
/// Returns [`Deny`](Authorization::Deny) for an action that the [fence](self) refuses, and [`Allow`](Authorization::Allow)
/// otherwise. It allows a plain path in `ATTACH`, because `VACUUM INTO` requests the authorization of `ATTACH` too; the VFS
/// refuses such an `ATTACH` later.
#[must_use]
pub fn authorize(context: AuthContext<'_>) -> Authorization {
    let action = match context.action {
        AuthAction::Attach { filename } => Action::Attach(Some(filename.as_bytes())),
        // The file name is not a literal.
        AuthAction::Unknown { code: ffi::SQLITE_ATTACH, .. } => Action::Attach(None),
        AuthAction::Pragma { pragma_name, pragma_value } => {
            Action::Pragma { name: pragma_name.as_bytes(), value: pragma_value.map(str::as_bytes) }
        }
        AuthAction::Function { function_name } => Action::Function(function_name.as_bytes()),
        _ => Action::Other,
    };
    if vfs::admits(action) { Authorization::Allow } else { Authorization::Deny }
}
