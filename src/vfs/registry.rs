//! The open files of this process.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use super::{
    connection::DbConnection,
    error::VfsError,
    history_view::View,
    limits::Limits,
    policy::PolicySource,
    raw_file::{FileLocks, RawFile},
};
use crate::sync::{Guard, Mutex, Rank};

type Databases = BTreeMap<usize, Arc<DbConnection>>;

/// The open database files, by the address of the name that SQLite opened each under. The names of the WAL and the journal of a
/// database lead back to that address.
static DATABASES: Mutex<Databases> = Mutex::new(Rank::OpenDatabases, BTreeMap::new());

/// The open historical views, by their addresses.
static VIEWS: Mutex<BTreeMap<usize, Arc<View>>> = Mutex::new(Rank::OpenViews, BTreeMap::new());

fn databases() -> Guard<'static, Databases> {
    // The table changes by one insertion or removal at a time.
    DATABASES.lock_or_recover()
}

/// Adds a database file that SQLite has opened under the name at this address. `locks` are used until the connection is removed
/// from its peers.
pub(super) fn add_database(name: usize, connection: &Arc<DbConnection>, locks: Arc<dyn FileLocks>) {
    let mut open = databases();
    connection.join(open.values(), locks);
    open.insert(name, Arc::clone(connection));
}

pub(super) fn remove_database(name: usize) {
    databases().remove(&name);
}

/// The database whose name is at this address. `None` if it is not open through this VFS.
pub(super) fn database(name: usize) -> Option<Arc<DbConnection>> {
    databases().get(&name).cloned()
}

/// The connections to the database file at `path`.
pub(super) fn at_path(path: &Path) -> Vec<Arc<DbConnection>> {
    databases().values().filter(|database| database.path() == path).cloned().collect()
}

/// The policy source of an open database at `path`. `None` if none is open there.
pub(super) fn policy_at(path: &Path) -> Option<Arc<dyn PolicySource>> {
    databases()
        .values()
        .filter(|database| database.path() == path)
        .find_map(|database| database.limits())
        .map(Limits::source)
        .cloned()
}

/// Whether `path` is in the root of a fleet of which a database is open.
pub(super) fn is_in_open_fleet(path: &Path) -> bool {
    databases().values().filter_map(|database| database.root()).any(|root| path.starts_with(root))
}

pub(super) fn add_view(view: &Arc<View>) {
    VIEWS.lock_or_recover().insert(address(view), Arc::clone(view));
}

pub(super) fn remove_view(view: &Arc<View>) {
    VIEWS.lock_or_recover().remove(&address(view));
}

fn address(view: &Arc<View>) -> usize {
    Arc::as_ptr(view).addr()
}

/// Notes why a statement of a connection, whose `sqlite3` handle has this address, was refused. Returns `false` if the connection
/// has no file open through this VFS.
pub(super) fn note_refusal(connection: usize, refusal: &VfsError) -> bool {
    if let Some(database) = databases().values().find(|database| database.connection() == connection) {
        database.note_refusal(refusal.clone());
        return true;
    }
    let views = VIEWS.lock_or_recover();
    let view = views.values().find(|view| view.connection() == connection);
    view.map(|view| view.note_refusal(refusal.clone())).is_some()
}

/// Encrypts a file that SQL has opened by its path like the databases of its connection, whose `sqlite3` handle has this address.
pub(super) fn adopt(file: &DbConnection, connection: usize, raw: &dyn RawFile) {
    let open = databases();
    let views = VIEWS.lock_or_recover();
    let own = open.values().filter(|other| other.connection() == connection);
    let governed = own.filter(|own| own.limits().is_some()).filter_map(|own| own.sealed());
    let viewed = views.values().filter(|view| view.connection() == connection);
    let sealings: Vec<_> = governed.chain(viewed.filter_map(|view| view.sealed())).collect();
    file.adopt(&sealings, raw);
}
