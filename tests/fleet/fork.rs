//! Forks: each is the state of one commit of a database that is still written to.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use litefleet::{
    CreateDatabaseInput, DatabaseChanges, ErrorKind, ListDatabases, Phase, Seed, SizeLimit, Timestamp,
    rusqlite::Connection,
};

use crate::support::{Fleet, contents, count, refused};

/// Sets a flag when dropped, so that a failing test stops its threads.
pub(crate) struct SetOnDrop<'a>(pub(crate) &'a std::sync::atomic::AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

#[test]
fn fork_contains_rows_of_file_and_wal() {
    let fleet = Fleet::new();
    fleet.create("orders");
    let source = fleet.connect("orders");
    source.execute_batch("CREATE TABLE t(a, b); CREATE INDEX i ON t(b)").unwrap();
    source.execute_batch("PRAGMA wal_checkpoint(TRUNCATE); PRAGMA wal_autocheckpoint=0").unwrap();
    source
        .execute_batch(
            "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 5000)
             INSERT INTO t SELECT i, hex(randomblob(50)) FROM n; DELETE FROM t WHERE a % 7 = 0",
        )
        .unwrap();
    // Checkpoint half of the changes, and make more.
    source.execute_batch("PRAGMA wal_checkpoint(PASSIVE); UPDATE t SET b = a WHERE a % 3 = 0").unwrap();

    let made = fleet.plane.create_database(CreateDatabaseInput::fork("copy", "orders")).unwrap();
    let copy = fleet.connect("copy");
    assert_eq!(contents(&copy), contents(&source));
    assert_eq!(copy.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0)).unwrap(), "ok");
    let parent = fleet.plane.get_database("copy").unwrap().parent.unwrap();
    assert_eq!(parent.id, fleet.plane.get_database("orders").unwrap().id);
    let forks = fleet.plane.list_databases(ListDatabases::default().parent(parent.id)).unwrap();
    assert_eq!(forks.iter().map(|fork| fork.id.as_str()).collect::<Vec<_>>(), [made.id.as_str()]);

    // Source and fork are independent, and the source may be destroyed.
    copy.execute_batch("DELETE FROM t").unwrap();
    assert_ne!(count(&source, "SELECT count(*) FROM t"), 0);
    fleet.plane.destroy_database("orders").unwrap();
    copy.execute_batch("INSERT INTO t VALUES (1, 2)").unwrap();
    fleet.assert_no_debris();
}

/// The sum of all balances is constant, so a fork that mixes commits has a different sum.
#[test]
fn fork_under_load_is_the_state_of_one_commit() {
    let fleet = Fleet::new();
    fleet.create("bank");
    fleet.run(
        "bank",
        "CREATE TABLE account(id INTEGER PRIMARY KEY, balance INTEGER NOT NULL, filler BLOB NOT NULL);
         WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
         INSERT INTO account SELECT i, 100, randomblob(300) FROM n;
         CREATE TABLE transfer(id INTEGER PRIMARY KEY)",
    );
    let done = AtomicBool::new(false);
    let transfers = AtomicI64::new(0);
    std::thread::scope(|scope| {
        for writer in 0..2_i64 {
            let (fleet, done, transfers) = (&fleet, &done, &transfers);
            scope.spawn(move || {
                let connection = fleet.connect("bank");
                connection.execute_batch("PRAGMA wal_autocheckpoint=50; PRAGMA cache_size=20").unwrap();
                let mut step = writer;
                while !done.load(Ordering::Relaxed) {
                    step += 7919;
                    let (from, to) = (step % 2000 + 1, step * 31 % 2000 + 1);
                    connection
                        .execute_batch(&format!(
                            "BEGIN IMMEDIATE;
                             UPDATE account SET balance = balance - 5, filler = randomblob(300) WHERE id = {from};
                             UPDATE account SET balance = balance + 5, filler = randomblob(400) WHERE id = {to};
                             INSERT INTO transfer DEFAULT VALUES; COMMIT"
                        ))
                        .unwrap();
                    transfers.fetch_add(1, Ordering::Relaxed);
                    // Writers without a pause would starve checkpoints even without forks.
                    std::thread::sleep(std::time::Duration::from_micros(500));
                }
            });
        }
        let stop = SetOnDrop(&done);
        let mut seen = 0;
        for round in 0..60 {
            let name = format!("fork-{round}");
            let before = transfers.load(Ordering::Relaxed);
            fleet.plane.create_database(CreateDatabaseInput::fork(&name, "bank")).unwrap();
            let fork = fleet.connect(&name);
            assert_eq!(count(&fork, "SELECT sum(balance) FROM account"), 200_000, "{name}");
            assert_eq!(
                fork.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0)).unwrap(),
                "ok"
            );
            let now = count(&fork, "SELECT count(*) FROM transfer");
            assert!(now >= before && now >= seen, "{name} lost a commit: {now} < {before} or {seen}");
            seen = now;
            drop(fork);
            fleet.plane.destroy_database(&name).unwrap();
        }
        drop(stop);
        assert!(seen > 60, "writers were blocked: {seen} transfers");
    });
    fleet.assert_no_debris();
}

#[test]
fn fork_neither_waits_for_nor_blocks_a_writer() {
    let fleet = Fleet::new();
    fleet.create("orders");
    let writer = fleet.connect("orders");
    writer.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (1)").unwrap();
    writer.execute_batch("PRAGMA busy_timeout=0; BEGIN IMMEDIATE; INSERT INTO t VALUES (2)").unwrap();
    fleet.plane.create_database(CreateDatabaseInput::fork("before", "orders")).unwrap();
    assert_eq!(
        count(&fleet.connect("before"), "SELECT sum(a) FROM t"),
        1,
        "the fork contains an uncommitted row"
    );

    // The writer commits and begins again while a fork is in progress.
    let mut commits = 0;
    fleet
        .plane
        .create_database(CreateDatabaseInput::fork("during", "orders").progress(|_| {
            writer.execute_batch("COMMIT; BEGIN IMMEDIATE; INSERT INTO t VALUES (2)").unwrap();
            commits += 1;
            std::ops::ControlFlow::Continue(())
        }))
        .unwrap();
    assert!(commits >= 2);
    let sum = count(&fleet.connect("during"), "SELECT sum(a) FROM t");
    assert!((1..=1 + 2 * commits).contains(&sum), "{sum}");
    writer.execute_batch("COMMIT").unwrap();
    assert_eq!(count(&fleet.connect("orders"), "SELECT sum(a) FROM t"), 1 + 2 * (commits + 1));
}

#[test]
fn fork_refuses_other_groups_missing_and_blocked_sources() {
    let fleet = Fleet::new();
    fleet.plane.create_group("other").unwrap();
    fleet.create("orders");
    let mut across = CreateDatabaseInput::fork("copy", "orders");
    across.group = Some("other".into());
    let text = "can only fork databases within the same group: database orders is not part of group other";
    assert_eq!(refused(fleet.plane.create_database(across.clone())), (ErrorKind::Invalid, text.into()));
    across.group = Some("nowhere".into());
    assert_eq!(refused(fleet.plane.create_database(across)).1, "group not found");
    let missing = fleet.plane.create_database(CreateDatabaseInput::fork("copy", "gone"));
    assert_eq!(
        refused(missing),
        (ErrorKind::NotFound, "could not find database with name gone: record not found".into())
    );
    fleet.plane.configure_database("orders", DatabaseChanges::default().block_reads(true)).unwrap();
    let blocked = fleet.plane.create_database(CreateDatabaseInput::fork("copy", "orders"));
    assert_eq!(refused(blocked).0, ErrorKind::Blocked);
    assert_eq!(fleet.plane.list_databases(ListDatabases::default()).unwrap().len(), 1);
    fleet.assert_no_debris();
}

#[test]
fn fork_inherits_size_limit_and_must_fit_its_own() {
    let fleet = Fleet::new();
    let limit = SizeLimit::from_bytes(1 << 20).unwrap();
    let input = CreateDatabaseInput::new("orders", "default").with_size_limit(limit);
    fleet.plane.create_database(input).unwrap();
    fleet.run("orders", "CREATE TABLE t AS SELECT randomblob(200000) AS a");
    fleet.plane.create_database(CreateDatabaseInput::fork("same", "orders")).unwrap();
    assert_eq!(fleet.plane.get_database("same").unwrap().size_limit, Some(limit));
    let small = CreateDatabaseInput::fork("small", "orders").with_size_limit("100kb".parse().unwrap());
    assert_eq!(refused(fleet.plane.create_database(small)).0, ErrorKind::TooLarge);
    let large = CreateDatabaseInput::fork("large", "orders").with_size_limit("2mb".parse().unwrap());
    fleet.plane.create_database(large).unwrap();
    assert_eq!(fleet.plane.get_database("large").unwrap().size_limit, Some("2mb".parse().unwrap()));
    fleet.assert_no_debris();
}

#[test]
fn cancelled_fork_leaves_nothing() {
    let fleet = Fleet::new();
    fleet.create("orders");
    fleet.run("orders", "CREATE TABLE t AS SELECT randomblob(2000000) AS a");
    for stop_at in [Phase::Copy, Phase::Sync] {
        let answer =
            fleet.plane.create_database(CreateDatabaseInput::fork("copy", "orders").progress(|progress| {
                if progress.phase == stop_at {
                    std::ops::ControlFlow::Break(())
                } else {
                    std::ops::ControlFlow::Continue(())
                }
            }));
        assert_eq!(refused(answer).0, ErrorKind::Cancelled, "{stop_at:?}");
        assert_eq!(refused(fleet.plane.get_database("copy")).0, ErrorKind::NotFound);
        fleet.assert_no_debris();
    }
}

/// Closing a descriptor releases the process's POSIX locks on the file: a fork must not do that to open connections.
#[test]
fn fork_keeps_posix_locks_of_open_connections() {
    let fleet = Fleet::new();
    fleet.create("orders");
    let holder = fleet.connect("orders");
    holder.execute_batch("CREATE TABLE t(a); BEGIN IMMEDIATE; INSERT INTO t VALUES (1)").unwrap();
    let path = fleet.plane.database_path("orders").unwrap();
    let locks = || {
        let inode = {
            use std::os::unix::fs::MetadataExt;
            std::fs::metadata(&path).unwrap().ino().to_string()
        };
        let all = std::fs::read_to_string("/proc/locks").unwrap();
        all.lines().filter(|line| line.contains(&format!(":{inode} "))).count()
    };
    let before = locks();
    assert!(before > 0, "SQLite holds a lock on a WAL database that is open");
    fleet.plane.create_database(CreateDatabaseInput::fork("copy", "orders")).unwrap();
    let import = CreateDatabaseInput::new("import", "default");
    fleet.plane.import_database(import, path.as_path()).unwrap();
    assert_eq!(locks(), before);
    holder.execute_batch("COMMIT").unwrap();
    assert_eq!(count(&Connection::open(&path).unwrap(), "SELECT count(*) FROM t"), 1);
}

#[test]
fn fork_as_of_an_instant_needs_a_source_first() {
    let fleet = Fleet::new();
    fleet.create("orders");
    fleet.run("orders", "CREATE TABLE t(a)");
    let before: std::time::SystemTime = Timestamp::now().into();
    fleet.run("orders", "INSERT INTO t VALUES (1)");
    fleet.plane.create_database(CreateDatabaseInput::fork("then", "orders").at(before)).unwrap();
    assert_eq!(count(&fleet.connect("then"), "SELECT count(*) FROM t"), 0);
    let input = CreateDatabaseInput::new("late", "default").at(before).with_seed(Seed::database("orders"));
    let (kind, text) = refused(fleet.plane.create_database(input));
    assert_eq!(kind, ErrorKind::Invalid);
    assert!(text.starts_with("an instant was given without a source"), "{text}");
}
