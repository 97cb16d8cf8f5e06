//! The open files of this process.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    connection::DbConnection,
    error::VfsError,
    history_view::View,
    limits::Limits,
    peers::Peers,
    policy::PolicySource,
    raw_file::{FileLocks, RawFile},
};
use crate::sync::{Guard, Mutex, Rank};

/// The device and the inode of a file.
type Inode = (u64, u64);

/// The open database files of this process, found by their names, paths, roots and inodes without a scan of all of them.
#[derive(Debug)]
struct Databases {
    /// By the address of the name that SQLite opened each under. The names of the WAL and the journal of a database lead back to
    /// that address.
    by_name: BTreeMap<usize, Arc<DbConnection>>,
    /// The addresses of the names of the files that were opened at each path.
    by_path: BTreeMap<PathBuf, Vec<usize>>,
    /// The number of open databases of each fleet, by its root.
    roots: BTreeMap<PathBuf, usize>,
    /// The peers of each file, and the number of its connections.
    peers: BTreeMap<Inode, (Arc<Peers>, usize)>,
}

/// No file is read, written or locked while this is locked.
static DATABASES: Mutex<Databases> = Mutex::new(Rank::OpenDatabases, Databases::new());

impl Databases {
    const fn new() -> Self {
        Self {
            by_name: BTreeMap::new(),
            by_path: BTreeMap::new(),
            roots: BTreeMap::new(),
            peers: BTreeMap::new(),
        }
    }

    fn insert(&mut self, name: usize, connection: &Arc<DbConnection>) {
        self.by_name.insert(name, Arc::clone(connection));
        self.by_path.entry(connection.path().to_owned()).or_default().push(name);
        if let Some(root) = connection.root() {
            *self.roots.entry(root.to_owned()).or_default() += 1;
        }
    }

    /// The peers of the file of a connection, which is counted among them.
    fn join(&mut self, connection: &DbConnection) -> Arc<Peers> {
        // A file without an inode has no peers.
        let Some(inode) = connection.inode() else { return Arc::default() };
        let (peers, count) = self.peers.entry(inode).or_default();
        *count += 1;
        Arc::clone(peers)
    }

    fn remove(&mut self, name: usize) {
        let Some(connection) = self.by_name.remove(&name) else { return };
        if let Some(names) = self.by_path.get_mut(connection.path()) {
            names.retain(|other| *other != name);
            if names.is_empty() {
                self.by_path.remove(connection.path());
            }
        }
        if let Some(root) = connection.root()
            && let Some(count) = self.roots.get_mut(root)
        {
            *count -= 1;
            if *count == 0 {
                self.roots.remove(root);
            }
        }
        if let Some(inode) = connection.inode()
            && let Some((_, count)) = self.peers.get_mut(&inode)
        {
            *count -= 1;
            if *count == 0 {
                self.peers.remove(&inode);
            }
        }
    }

    fn at_path(&self, path: &Path) -> impl Iterator<Item = &Arc<DbConnection>> {
        let names = self.by_path.get(path).into_iter().flatten();
        names.filter_map(|name| self.by_name.get(name))
    }
}

/// The open historical views, by their addresses.
static VIEWS: Mutex<BTreeMap<usize, Arc<View>>> = Mutex::new(Rank::OpenViews, BTreeMap::new());

fn databases() -> Guard<'static, Databases> {
    // No change of the table panics halfway.
    DATABASES.lock_or_recover()
}

/// Adds a database file that SQLite has opened under the name at this address. `locks` are used until the connection is removed
/// from its peers.
pub(super) fn add_database(name: usize, connection: &Arc<DbConnection>, locks: Arc<dyn FileLocks>) {
    let mut open = databases();
    connection.open_with(open.join(connection), locks);
    open.insert(name, connection);
    drop(open);
    // The list of peers is locked while one of them locks the file, which may take long. Until the connection is in the list, it
    // has neither a lock of the file nor the WAL open, so its peers need not know of it.
    connection.join();
}

pub(super) fn remove_database(name: usize) {
    databases().remove(name);
}

/// The database whose name is at this address. `None` if it is not open through this VFS.
pub(super) fn database(name: usize) -> Option<Arc<DbConnection>> {
    databases().by_name.get(&name).cloned()
}

/// The connections to the database file at `path`.
pub(super) fn at_path(path: &Path) -> Vec<Arc<DbConnection>> {
    databases().at_path(path).cloned().collect()
}

/// The policy source of an open database at `path`. `None` if none is open there.
pub(super) fn policy_at(path: &Path) -> Option<Arc<dyn PolicySource>> {
    databases().at_path(path).find_map(|database| database.limits()).map(Limits::source).cloned()
}

/// Whether `path` is in the root of a fleet of which a database is open.
pub(super) fn is_in_open_fleet(path: &Path) -> bool {
    let open = databases();
    path.ancestors().any(|dir| open.roots.contains_key(dir))
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
    if let Some(database) = databases().by_name.values().find(|database| database.connection() == connection)
    {
        database.note_refusal(refusal.clone());
        return true;
    }
    let views = VIEWS.lock_or_recover();
    let view = views.values().find(|view| view.connection() == connection);
    view.map(|view| view.note_refusal(refusal.clone())).is_some()
}

/// Encrypts a file that SQL has opened by its path like the databases of its connection, whose `sqlite3` handle has this address.
pub(super) fn adopt(file: &DbConnection, connection: usize, raw: &dyn RawFile) {
    // Only files that SQL opens by their paths are adopted.
    if file.limits().is_some() {
        return;
    }
    let of = |other: &&Arc<DbConnection>| other.connection() == connection && other.limits().is_some();
    let governed: Vec<_> = databases().by_name.values().filter(of).cloned().collect();
    let is_its = |view: &&Arc<View>| view.connection() == connection;
    let viewed: Vec<_> = VIEWS.lock_or_recover().values().filter(is_its).cloned().collect();
    let governed = governed.iter().filter_map(|own| own.sealed());
    let sealings: Vec<_> = governed.chain(viewed.iter().filter_map(|view| view.sealed())).collect();
    file.adopt(&sealings, raw);
}
