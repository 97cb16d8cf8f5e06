//! Limits of SQL on a fenced connection: each statement is tried on plain and encrypted databases, through every kind
//! of connection.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use litefleet::{
    AttachOptions, Cipher, ConnectOptions, DatabaseChanges, Error, ErrorKind, PageFormat, Timestamp, fence,
    rusqlite::{
        Connection, ErrorCode,
        hooks::{AuthAction, AuthContext, Authorization},
    },
};

use crate::{
    encryption::{NEEDLE, holds, key, with_key},
    support::{Fleet, count},
};

const CIPHER: Cipher = Cipher::Aegis256;

/// Statements that reach outside the databases of a connection. `{root}` is the directory of the fleet, `{other}` the
/// file of another of its databases, `{own}` that of the connection, `{out}` a directory outside, `{link}` a link to
/// the root, and `{second}` the directory of a fleet that this process does not use.
const ESCAPES: &[&str] = &[
    // Files by path.
    "ATTACH '{other}' AS x",
    "ATTACH '{own}' AS x",
    "ATTACH \"{other}\" AS x",
    "ATTACH '{root}/control.db' AS x",
    "ATTACH '{root}/.http/access.db' AS x",
    "ATTACH '{root}/new.db' AS x",
    "ATTACH '{link}/control.db' AS x",
    "ATTACH '{out}/plain.db' AS x",
    "ATTACH '{out}/new.db' AS x",
    "ATTACH 'relative.db' AS x",
    "ATTACH ' ' AS x",
    "ATTACH ':memory: ' AS x",
    // URIs, which may name another VFS, and expressions that resemble a literal.
    "ATTACH 'file:{other}?vfs=unix' AS x",
    "ATTACH 'file://localhost{other}?vfs=unix-none' AS x",
    "ATTACH 'file:{other}?immutable=1' AS x",
    "ATTACH 'file:{root}/control.db?vfs=unix&mode=rw' AS x",
    "ATTACH 'file:{out}/plain.db' AS x",
    "ATTACH 'FILE:{other}?vfs=unix' AS x",
    "ATTACH 'file:/shared?vfs=memdb' AS x",
    "ATTACH 'file::memory:?cache=shared' AS x",
    "ATTACH 'file:x?mode=memory&cache=shared' AS x",
    "ATTACH 'file:' AS x",
    "ATTACH 'file:{other}?vfs=litefleet-unfenced' AS x",
    "ATTACH 'fi' || 'le:{other}?vfs=unix' AS x",
    "ATTACH CAST(x'66696c653a' AS TEXT) AS x",
    "ATTACH lower('') AS x",
    // Copies through another VFS or into a fleet.
    "VACUUM INTO 'file:{out}/copy.db?vfs=unix'",
    "VACUUM INTO 'file:{out}/copy.db?vfs=unix&reserve=0'",
    "VACUUM INTO 'file:{out}/copy.db'",
    "VACUUM INTO 'File:{out}/copy.db?vfs=unix'",
    "VACUUM INTO 'fi' || 'le:{out}/copy.db?vfs=unix'",
    "VACUUM main INTO 'file:{out}/copy.db?vfs=unix'",
    "VACUUM INTO '{out}/plain.db'",
    "VACUUM INTO '{root}/control.db'",
    "VACUUM INTO '{root}/new.db'",
    "VACUUM INTO '{root}/.http/new.db'",
    "VACUUM INTO '{root}/.staging/new.db'",
    "VACUUM INTO '{root}/default/new.db'",
    "VACUUM INTO '{other}'",
    "VACUUM INTO '{other}-new'",
    "VACUUM INTO '{own}'",
    "VACUUM INTO '{own}-new'",
    "VACUUM INTO '{own}-journal'",
    "VACUUM INTO '{link}/new.db'",
    "VACUUM INTO '{link}/default/new.db'",
    "VACUUM INTO '{root}/default/../new.db'",
    "VACUUM INTO '{second}/default/new.db'",
    // The schema table, and process-wide settings.
    "PRAGMA writable_schema=ON",
    "PRAGMA main.writable_schema=1",
    "PRAGMA temp.writable_schema=RESET",
    "PRAGMA temp_store_directory='{out}'",
    "PRAGMA data_store_directory='{out}'",
    "PRAGMA hard_heap_limit=4000000000",
    "PRAGMA soft_heap_limit=4000000000",
    "SELECT * FROM pragma_hard_heap_limit(4000000000)",
    "UPDATE sqlite_schema SET sql = 'CREATE TABLE t(a, b)'",
    "INSERT INTO sqlite_schema VALUES ('table', 'y', 'y', 2, 'CREATE TABLE y(a)')",
    "DELETE FROM sqlite_schema",
    "UPDATE words_data SET block = x'00'",
    "PRAGMA journal_mode=OFF",
    "PRAGMA locking_mode=EXCLUSIVE",
    // Native code, and functions and modules that some builds of SQLite include.
    "SELECT load_extension('{out}/evil.so')",
    "SELECT LOAD_EXTENSION('{out}/evil.so', 'main')",
    "SELECT fts3_tokenizer('simple')",
    "SELECT fts3_tokenizer('simple', x'0000000000000000')",
    "SELECT writefile('{out}/written', 'x')",
    "SELECT readfile('{other}')",
    "SELECT edit('x', 'touch {out}/written')",
    "SELECT * FROM fsdir('{root}')",
    "SELECT * FROM pragma_temp_store_directory('{out}')",
    "SELECT * FROM pragma_writable_schema(1)",
    "CREATE VIRTUAL TABLE temp.c USING csv(filename='{other}')",
    "CREATE VIRTUAL TABLE temp.c USING zipfile('{out}/plain.db')",
    "CREATE VIRTUAL TABLE temp.c USING vfsstat",
    "UPDATE sqlite_dbpage SET data = zeroblob(4096)",
];

/// Names bound as parameters of `ATTACH ?1 AS x` and `VACUUM INTO ?1`.
const BOUND: &[&str] = &[
    "{other}",
    "{root}/control.db",
    "{out}/plain.db",
    "file:{other}?vfs=unix",
    "file:{out}/copy.db?vfs=unix",
    "{root}/new.db",
];

/// Statements that a fenced connection allows.
const ORDINARY: &[&str] = &[
    "ATTACH '' AS x; CREATE TABLE x.t(a); DETACH x",
    "ATTACH ':memory:' AS x; CREATE TABLE x.t AS SELECT * FROM main.t; VACUUM x; DETACH x",
    "CREATE TEMP TABLE mine AS SELECT * FROM t; DROP TABLE mine",
    "PRAGMA writable_schema",
    "PRAGMA writable_schema=OFF",
    "PRAGMA temp_store=2",
    "SELECT * FROM pragma_database_list, pragma_table_info('t')",
    "SELECT * FROM json_each('[1]'), words('a')",
    "VACUUM INTO ''",
    "VACUUM INTO ':memory:'",
];

struct Fixture {
    fleet: Fleet,
    second: Fleet,
    own: String,
}

impl Fixture {
    /// A fleet with a database `own` whose rows contain the needle, a plain database `other` that another connection
    /// has open, a file outside, and a second fleet that is not open.
    fn new(is_sealed: bool) -> Self {
        let (fleet, second) = (Fleet::new(), Fleet::new());
        // As in a copy that omits empty directories.
        fs::remove_dir(second.plane.root().join(".staging")).unwrap();
        if is_sealed {
            fleet.create_sealed("own", CIPHER, PageFormat::Native);
        } else {
            fleet.create("own");
        }
        fleet.create("other");
        fleet.run("other", "CREATE TABLE t(a); INSERT INTO t VALUES ('of another one')");
        let changes = DatabaseChanges::default().block_writes(true).size_limit("1mb".parse().unwrap());
        fleet.plane.configure_database("other", changes).unwrap();
        fs::create_dir(fleet.plane.root().join(".http")).unwrap();
        fs::write(fleet.plane.root().join(".http/access.db"), "secret").unwrap();
        let out = fleet.dir.path();
        Connection::open(out.join("plain.db")).unwrap().execute_batch("CREATE TABLE t(a)").unwrap();
        std::os::unix::fs::symlink(fleet.plane.root(), out.join("link")).unwrap();
        let own = fleet.plane.database_path("own").unwrap().to_str().unwrap().to_owned();
        Self { fleet, second, own }
    }

    fn fill(&self, text: &str) -> String {
        let shown = |path: &Path| path.to_str().unwrap().to_owned();
        let out = shown(&self.fleet.dir.path().canonicalize().unwrap());
        text.replace("{other}", &shown(&self.fleet.plane.database_path("other").unwrap()))
            .replace("{own}", &self.own)
            .replace("{root}", &shown(self.fleet.plane.root()))
            .replace("{second}", &shown(self.second.plane.root()))
            .replace("{link}", &format!("{out}/link"))
            .replace("{out}", &out)
    }

    /// The contents of every file except those of `own`, which is written to. Another process reads them: closing a
    /// descriptor here would release this process's locks.
    fn file_contents(&self) -> BTreeMap<String, Vec<u8>> {
        let list = |dir: &Path| {
            let found = Command::new("find").arg(dir).args(["-type", "f"]).output().unwrap().stdout;
            String::from_utf8(found).unwrap().lines().map(str::to_owned).collect::<Vec<_>>()
        };
        let files = [list(self.fleet.dir.path()), list(self.second.dir.path())].concat();
        let is_own = |name: &String| name.contains("/own/") || name.ends_with("-shm");
        let read = |name: String| {
            let bytes = Command::new("cat").arg(&name).output().unwrap().stdout;
            (name, bytes)
        };
        files.into_iter().filter(|name| !is_own(name)).map(read).collect()
    }
}

/// Every kind of connection on which untrusted SQL may run, with a description.
fn connections(fleet: &Fleet, is_sealed: bool) -> Vec<(&'static str, Connection)> {
    let options = if is_sealed { with_key(key(CIPHER)) } else { ConnectOptions::default() };
    let connect = |options: &ConnectOptions| fleet.plane.connect("own", options.clone()).unwrap();
    let with_attached = connect(&options);
    fleet.plane.attach(&with_attached, "other", "attached", AttachOptions::default()).unwrap();
    vec![
        ("read-write", connect(&options)),
        ("read-only", connect(&options.clone().read_only(true))),
        ("with another database", with_attached),
        ("past", fleet.plane.connect_at("own", Timestamp::now(), options.clone()).unwrap().0),
    ]
}

#[test]
fn sql_does_not_escape_its_connection() {
    for is_sealed in [false, true] {
        let fixture = Fixture::new(is_sealed);
        let fleet = &fixture.fleet;
        let options = if is_sealed { with_key(key(CIPHER)) } else { ConnectOptions::default() };
        let schema = format!(
            "CREATE TABLE t(a); INSERT INTO t VALUES ('{NEEDLE}');
             CREATE VIRTUAL TABLE words USING fts5(word); INSERT INTO words VALUES ('a')"
        );
        fleet.plane.connect("own", options.clone()).unwrap().execute_batch(&schema).unwrap();
        let _open_elsewhere = fleet.connect("other");
        let connections = connections(fleet, is_sealed);
        let before = fixture.file_contents();
        for (what, connection) in &connections {
            for escape in ESCAPES {
                // A read-only view has neither a journal mode nor a locking mode to change.
                let is_moot = escape.contains("journal_mode") || escape.contains("locking_mode");
                if *what == "past" && is_moot {
                    continue;
                }
                let ran = connection.execute_batch(&fixture.fill(escape));
                assert!(ran.is_err(), "sealed: {is_sealed}, {what}: {escape}");
            }
            for bound in BOUND {
                let name = fixture.fill(bound);
                assert!(connection.execute("ATTACH ?1 AS x", [&name]).is_err(), "{what}: {bound}");
                assert!(connection.execute("VACUUM INTO ?1", [&name]).is_err(), "{what}: {bound}");
            }
            for ordinary in ORDINARY {
                // SQLite opens attached databases with the flags of the main one, which is read-only for a view.
                if *what == "past" && ordinary.contains("CREATE TABLE x.t") {
                    continue;
                }
                let ran = connection.execute_batch(ordinary);
                ran.unwrap_or_else(|error| panic!("sealed: {is_sealed}, {what}: {ordinary}: {error}"));
            }
            assert_eq!(count(connection, "SELECT count(*) FROM pragma_database_list WHERE name = 'x'"), 0);
            // A fenced connection can write copies, which are sealed if the database is.
            let copy = fleet.dir.path().join(what.replace(' ', "-"));
            connection.execute("VACUUM INTO ?1", [copy.to_str().unwrap()]).unwrap();
            let bytes = fs::read(&copy).unwrap();
            assert_eq!(bytes.starts_with(b"LFleet"), is_sealed, "{what}");
            fs::remove_file(&copy).unwrap();
            let text = fixture.fill("VACUUM INTO '{out}/it''s a copy?vfs=unix'");
            connection.execute_batch(&text).unwrap();
            let copy = fleet.dir.path().join("it's a copy?vfs=unix");
            assert_eq!(fs::read(&copy).unwrap().starts_with(b"LFleet"), is_sealed, "{what}");
            if is_sealed {
                assert!(!holds(fleet.dir.path(), NEEDLE), "{what}");
            }
            fs::remove_file(&copy).unwrap();
        }
        let after = fixture.file_contents();
        assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
        for (name, bytes) in before {
            assert!(after[&name] == bytes, "{name} has changed");
        }
    }
}

#[test]
fn denied_attach_names_the_call_to_use() {
    let fixture = Fixture::new(false);
    let connection = fixture.fleet.connect("own");
    for (sql, remedy) in [
        ("ATTACH '{other}' AS x", "ControlPlane::attach"),
        ("ATTACH '{root}/control.db' AS x", "ControlPlane::attach"),
        ("ATTACH lower('x') AS x", "ControlPlane::attach"),
        ("ATTACH 'file:{other}' AS x", "ConnectOptions::unfenced"),
        ("VACUUM INTO 'file:{out}/x?vfs=unix'", "ConnectOptions::unfenced"),
        ("VACUUM INTO '{root}/new.db'", "a file elsewhere"),
        ("PRAGMA writable_schema=ON", "ConnectOptions::unfenced"),
    ] {
        let error = connection.execute_batch(&fixture.fill(sql)).unwrap_err();
        assert_eq!(error.sqlite_error_code(), Some(ErrorCode::AuthorizationForStatementDenied), "{sql}");
        let error = Error::from_sqlite(&connection, error);
        assert_eq!(error.kind(), ErrorKind::Sql, "{sql}");
        assert!(error.to_string().contains(remedy), "{sql}: {error}");
    }
    let error = connection.execute_batch("SELECT load_extension('x')").unwrap_err();
    assert!(
        Error::from_sqlite(&connection, error)
            .to_string()
            .contains("not authorized to use function: load_extension")
    );
    // A reason is reported once, and only to its own connection.
    let denied = connection.execute_batch("PRAGMA writable_schema=ON").unwrap_err();
    let another = fixture.fleet.connect("own");
    let blocked = DatabaseChanges::default().block_reads(true);
    fixture.fleet.plane.configure_database("own", blocked).unwrap();
    let error =
        Error::from_sqlite(&another, another.execute_batch("SELECT * FROM sqlite_schema").unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Blocked, "{error}");
    assert_eq!(Error::from_sqlite(&connection, denied).kind(), ErrorKind::Sql);
}

#[test]
fn reason_of_refused_statement_is_known_on_other_threads() {
    let fixture = Fixture::new(false);
    let explain = |connection: Connection, error| {
        let explained = std::thread::spawn(move || Error::from_sqlite(&connection, error).to_string());
        explained.join().unwrap()
    };
    for (sql, reason) in [
        ("ATTACH 'file:x' AS x", "accept no URI"),
        ("ATTACH '{out}/new.db' AS x", "ATTACH accepts only"),
        ("VACUUM INTO '{root}/new.db'", "is in the directory of a fleet"),
        ("PRAGMA writable_schema = ON", "writable_schema cannot be set"),
    ] {
        for (what, connection) in connections(&fixture.fleet, false) {
            let error = connection.execute_batch(&fixture.fill(sql)).unwrap_err();
            let message = explain(connection, error);
            assert!(message.contains(reason), "{what}: {sql}: {message}");
        }
    }
}

#[test]
fn plane_attach_passes_the_fence() {
    let fixture = Fixture::new(true);
    let own = fixture.fleet.unlock("own", CIPHER);
    fixture.fleet.plane.attach(&own, "other", "other", AttachOptions::default()).unwrap();
    assert_eq!(count(&own, "SELECT count(*) FROM other.t"), 1);
    own.execute_batch("DETACH other").unwrap();
    // A failed attach leaves the fence in place.
    assert!(fixture.fleet.plane.attach(&own, "missing", "m", AttachOptions::default()).is_err());
    assert!(fixture.fleet.plane.attach(&own, "other", "main", AttachOptions::default()).is_err());
    assert!(own.execute("ATTACH ?1 AS x", [fixture.fill("{other}")]).is_err());
}

#[test]
fn database_attached_to_read_only_connection_is_read_only() {
    let fleet = Fleet::new();
    fleet.create("a");
    fleet.create("b");
    fleet.run("b", "CREATE TABLE t(a)");
    let connection = fleet.plane.connect("a", ConnectOptions::default().read_only(true)).unwrap();
    fleet.plane.attach(&connection, "b", "b", AttachOptions::default()).unwrap();
    let error =
        Error::from_sqlite(&connection, connection.execute_batch("INSERT INTO b.t VALUES (1)").unwrap_err());
    assert!(error.to_string().ends_with("this connection was opened read-only"), "{error}");
    assert_eq!(count(&connection, "SELECT count(*) FROM b.t"), 0);
}

#[test]
fn unfenced_sql_is_unrestricted() {
    let fixture = Fixture::new(false);
    let options = ConnectOptions::default().unfenced();
    let connection = fixture.fleet.plane.connect("own", options.clone()).unwrap();
    for sql in [
        "ATTACH 'file:{out}/plain.db?vfs=unix' AS x; INSERT INTO x.t VALUES (1); DETACH x",
        "ATTACH '{out}/plain.db' AS x; INSERT INTO x.t VALUES (2); DETACH x",
        "VACUUM INTO 'file:{out}/copy.db?vfs=unix'",
        "PRAGMA writable_schema=ON",
    ] {
        connection.execute_batch(&fixture.fill(sql)).unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
    let plain = Connection::open(fixture.fleet.dir.path().join("plain.db")).unwrap();
    assert_eq!(count(&plain, "SELECT sum(a) FROM t"), 3);
}

#[test]
fn host_authorizer_keeps_the_fence_by_calling_it() {
    let fixture = Fixture::new(true);
    let mut own = fixture.fleet.unlock("own", CIPHER);
    own.execute_batch("CREATE TABLE t(a)").unwrap();
    own.authorizer(Some(|context: AuthContext<'_>| match (fence::authorize(context), context.action) {
        (Authorization::Allow, AuthAction::DropTable { .. }) => Authorization::Deny,
        (answer, _) => answer,
    }))
    .unwrap();
    for sql in [
        "DROP TABLE t",
        "ATTACH '{other}' AS x",
        "ATTACH 'file:{other}?vfs=unix' AS x",
        "VACUUM INTO 'file:{out}/copy.db?vfs=unix'",
        "PRAGMA writable_schema=ON",
        "SELECT load_extension('x')",
    ] {
        assert!(own.execute_batch(&fixture.fill(sql)).is_err(), "{sql}");
    }
    assert!(own.execute("ATTACH ?1 AS x", [fixture.fill("{other}")]).is_err());
    let error = own.execute_batch("ATTACH 'file:x' AS x").unwrap_err();
    assert!(Error::from_sqlite(&own, error).to_string().contains("ConnectOptions::unfenced"));
    fixture.fleet.plane.attach(&own, "other", "other", AttachOptions::default()).unwrap();

    // Without an authorizer, the VFS still distinguishes copies from attached files.
    own.authorizer(None::<fn(AuthContext<'_>) -> Authorization>).unwrap();
    for sql in [
        "ATTACH '{other}' AS x",
        "ATTACH '{out}/plain.db' AS x",
        "VACUUM INTO '{root}/new.db'",
        "UPDATE sqlite_schema SET sql = 'CREATE TABLE t(a, b)'",
    ] {
        assert!(own.execute_batch(&fixture.fill(sql)).is_err(), "{sql}");
    }
    own.execute_batch(&fixture.fill("VACUUM INTO '{out}/copy.db'; DROP TABLE t")).unwrap();
    assert!(fs::read(fixture.fleet.dir.path().join("copy.db")).unwrap().starts_with(b"LFleet"));
}

#[test]
fn non_unicode_names_pass_the_fence() {
    let fleet = Fleet::new();
    let file = fleet.dir.path().join("latin.db");
    let theirs = Connection::open(&file).unwrap();
    theirs.execute_batch("CREATE TABLE t(na_e); INSERT INTO t VALUES (1)").unwrap();
    drop(theirs);
    let mut bytes = fs::read(&file).unwrap();
    let at = bytes.windows(4).position(|window| window == b"na_e").unwrap();
    bytes[at + 2] = 0xef;
    fs::write(&file, bytes).unwrap();
    let input = litefleet::CreateDatabaseInput::new("latin", "default");
    fleet.plane.import_database(input, file.as_path()).unwrap();
    assert_eq!(count(&fleet.connect("latin"), "SELECT * FROM t"), 1);
}
