//! Renaming groups: databases, connections and histories remain usable under the new name.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use litefleet::{
    ConnectOptions, ControlPlane, CreateDatabaseInput, ErrorKind, ExportOptions, GroupChanges, ListDatabases,
    MaintainOptions, RestoreOptions, Seed, Timestamp, VerifyOptions, rusqlite::Connection,
};

use crate::{
    crash::{child_arguments, child_of},
    support::{Fleet, assert_no_debris, contents, count, names, refused},
};

#[test]
fn renamed_group_keeps_databases_connections_and_history() {
    let fleet = Fleet::new();
    let (plane, rows) = (&fleet.plane, "SELECT count(*) FROM t");
    fleet.create("orders");
    let group = plane.get_group("default").unwrap();
    let path = plane.database_path("orders").unwrap();
    let open = fleet.connect("orders");
    open.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (1)").unwrap();
    let before = Timestamp::now();
    let (view, _) = plane.connect_at("orders", before, ConnectOptions::default()).unwrap();

    // During a transaction.
    open.execute_batch("BEGIN; INSERT INTO t VALUES (2)").unwrap();
    let other = ControlPlane::open(plane.root()).unwrap();
    let renamed = other.rename_group("default", "eu").unwrap();
    assert_eq!((renamed.name.as_str(), &renamed.id), ("eu", &group.id));
    open.execute_batch("COMMIT; INSERT INTO t VALUES (3)").unwrap();
    assert_eq!((count(&fleet.connect("orders"), rows), count(&view, rows)), (3, 1));

    assert_eq!(plane.get_group("eu").unwrap(), renamed);
    assert_eq!(plane.list_groups().unwrap(), std::slice::from_ref(&renamed));
    assert_eq!(plane.group_of_database("orders").unwrap(), renamed);
    assert_eq!(plane.get_database("orders").unwrap().group.as_str(), "eu");
    assert_eq!(plane.list_databases(ListDatabases::default().group("eu")).unwrap().len(), 1);
    let not_found = (ErrorKind::NotFound, "group not found".to_owned());
    assert_eq!(refused(plane.get_group("default")), not_found);
    assert_eq!(refused(plane.list_databases(ListDatabases::default().group("default"))), not_found);
    assert_eq!(refused(plane.create_database(CreateDatabaseInput::new("a", "default"))), not_found);
    assert_eq!(plane.database_path("orders").unwrap(), path);

    // The history continues and reaches back beyond the rename.
    assert_eq!(plane.points("orders", ..).unwrap().points.len(), 4);
    plane.create_database(CreateDatabaseInput::fork("fork", "orders")).unwrap();
    assert_eq!(contents(&fleet.connect("fork")), contents(&open));
    let input = CreateDatabaseInput::new("then", "eu").with_seed(Seed::database_at("orders", before));
    plane.create_database(input).unwrap();
    assert_eq!(count(&fleet.connect("then"), rows), 1);
    let file = fleet.dir.path().join("export.db");
    plane.export_database("orders", &file, ExportOptions::default()).unwrap();
    assert_eq!(count(&Connection::open(&file).unwrap(), rows), 3);
    plane.restore_database("orders", before, RestoreOptions::default()).unwrap();
    assert_eq!(count(&open, rows), 1);
    plane.maintain_database("orders", MaintainOptions::default()).unwrap();
    for name in ["orders", "fork", "then"] {
        assert_eq!(plane.get_database(name).unwrap().group.as_str(), "eu", "{name}");
        let verified = plane.verify_database(name, VerifyOptions::default()).unwrap();
        assert_eq!(verified.findings, []);
    }
    // Database names are unique across groups.
    plane.create_group("default").unwrap();
    assert_eq!(
        refused(plane.create_database(CreateDatabaseInput::new("orders", "default"))),
        (ErrorKind::AlreadyExists, "database with name orders already exists".into())
    );
    drop((ControlPlane::open(plane.root()).unwrap(), view));
    fleet.assert_no_debris();
}

#[test]
fn old_name_of_a_renamed_group_is_free() {
    let fleet = Fleet::new();
    let plane = &fleet.plane;
    fleet.create("first");
    fleet.run("first", "CREATE TABLE t(a); INSERT INTO t VALUES (1)");
    plane.rename_group("default", "eu").unwrap();
    let second = plane.create_group("default").unwrap();
    fleet.create("second");
    fleet.run("second", "CREATE TABLE t(a); INSERT INTO t VALUES (2), (2)");
    // The directory shows the owner: no group name contains a dot.
    let file = |name: &str| plane.database_path(name).unwrap().strip_prefix(plane.root()).unwrap().to_owned();
    assert_eq!(file("first"), Path::new("default/first/data.db"));
    assert_eq!(file("second"), Path::new(&format!("default.{}/second/data.db", second.id)));
    fleet.assert_no_debris();

    // Renaming back and forth never makes two groups share a directory.
    plane.rename_group("default", "us").unwrap();
    plane.rename_group("eu", "default").unwrap();
    plane.create_group("eu").unwrap();
    plane.create_database(CreateDatabaseInput::new("third", "eu")).unwrap();
    assert_eq!(file("third"), Path::new("eu/third/data.db"));
    let plane = ControlPlane::open(plane.root()).unwrap();
    for (name, group) in [("first", "default"), ("second", "us"), ("third", "eu")] {
        assert_eq!(plane.get_database(name).unwrap().group.as_str(), group);
    }
    plane.destroy_group("us").unwrap();
    assert_eq!(refused(plane.connect("second", ConnectOptions::default())).0, ErrorKind::NotFound);
    assert_eq!(count(&fleet.connect("first"), "SELECT count(*) FROM t"), 1);
    fleet.assert_no_debris();
    plane.destroy_group("default").unwrap();
    plane.destroy_group("eu").unwrap();
    let left = names(plane.root());
    assert!(left.iter().all(|name| name.starts_with('.') || name.starts_with("control.db")), "{left:?}");
    // The directory was removed with its group, so a new group can use it.
    plane.create_group("default").unwrap();
    fleet.create("first");
    assert_eq!(file("first"), Path::new("default/first/data.db"));
}

#[test]
fn new_group_leaves_an_existing_directory_alone() {
    let fleet = Fleet::new();
    let theirs = fleet.plane.root().join("eu/orders");
    fs::create_dir_all(&theirs).unwrap();
    fleet.plane.create_group("eu").unwrap();
    fleet.plane.create_database(CreateDatabaseInput::new("orders", "eu")).unwrap();
    fleet.run("orders", "CREATE TABLE t(a)");
    fleet.plane.destroy_group("eu").unwrap();
    assert_eq!(names(&theirs), [""; 0]);
}

#[test]
fn rename_group_refuses_taken_missing_and_invalid_names() {
    let fleet = Fleet::new();
    let plane = &fleet.plane;
    plane.create_group("eu").unwrap();
    let all = plane.list_groups().unwrap();
    let exists = (ErrorKind::AlreadyExists, "group already exists".to_owned());
    assert_eq!(refused(plane.create_group("eu")), exists);
    assert_eq!(refused(plane.rename_group("default", "eu")), exists);
    let not_found = (ErrorKind::NotFound, "group not found".to_owned());
    for new in ["us", "eu", "none"] {
        assert_eq!(refused(plane.rename_group("none", new)), not_found);
    }
    for bad in ["", "EU", "e.u", "../eu", &"x".repeat(65)] {
        let (kind, text) = refused(plane.rename_group("default", bad));
        assert!(kind == ErrorKind::Invalid && text.starts_with("invalid group name: "), "{bad}: {text}");
    }
    assert_eq!(plane.rename_group("eu", "eu").unwrap().name.as_str(), "eu");
    assert_eq!(plane.list_groups().unwrap(), all);

    // Delete protection does not prevent a rename, and is preserved.
    plane.configure_group("eu", GroupChanges::default().delete_protection(true)).unwrap();
    assert!(plane.rename_group("eu", "us").unwrap().delete_protection);
    assert_eq!(
        refused(plane.destroy_group("us")),
        (ErrorKind::Protected, "group us is delete-protected and cannot be deleted".into())
    );
}

#[test]
fn fork_follows_group_of_source_renamed_meanwhile() {
    let fleet = Fleet::new();
    fleet.create("source");
    let other = fleet.plane.clone();
    // A disk operation between reading the source's row and writing the fork's row.
    let hook = move |step: litefleet::testing::DiskOp, path: &Path| {
        if step == litefleet::testing::DiskOp::MakeDir && path.parent().unwrap().ends_with(".staging") {
            other.rename_group("default", "eu").unwrap();
            other.create_group("default").unwrap();
        }
        Ok(())
    };
    let plane = ControlPlane::builder().fault_hook(Arc::new(hook)).open(fleet.plane.root()).unwrap();
    plane.create_database(CreateDatabaseInput::fork("fork", "source")).unwrap();
    assert_eq!(plane.get_database("fork").unwrap().group.as_str(), "eu");
    fleet.assert_no_debris();
}

/// Starts two children at once, and returns the lines that each prints.
fn run_race(test: &str, root: &Path) -> Vec<Vec<String>> {
    let mut children: Vec<_> = ["a", "b"]
        .map(|own| {
            let role = format!("{}|{own}", root.display());
            let mut child = child_of(test, &role).stdin(Stdio::piped()).spawn().unwrap();
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
            lines.by_ref().find(|line| line.contains("READY")).unwrap();
            (child, lines)
        })
        .into_iter()
        .collect();
    for (child, _) in &mut children {
        writeln!(child.stdin.take().unwrap(), "go").unwrap();
    }
    children
        .into_iter()
        .map(|(mut child, lines)| {
            let printed = lines.take_while(|line| line != "DONE").collect();
            child.wait().unwrap();
            printed
        })
        .collect()
}

/// Waits for the line that starts the race.
fn wait_for_start() {
    println!("\nREADY");
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

const ROUNDS: usize = 60;

#[test]
fn processes_renaming_to_one_name_have_one_winner() {
    if let Some(arguments) = child_arguments() {
        let [root, own] = arguments.as_slice() else { unreachable!() };
        let plane = ControlPlane::open(root).unwrap();
        wait_for_start();
        for round in 0..ROUNDS {
            match plane.rename_group(&format!("{own}-{round}"), &format!("c-{round}")) {
                Ok(group) => println!("{}", group.id),
                Err(error) => println!("{}", error.kind()),
            }
        }
        println!("DONE");
        return;
    }
    let fleet = Fleet::new();
    let ids: Vec<_> = (0..ROUNDS)
        .map(|round| ["a", "b"].map(|own| fleet.plane.create_group(&format!("{own}-{round}")).unwrap().id))
        .collect();
    let printed = run_race("rename::processes_renaming_to_one_name_have_one_winner", fleet.plane.root());
    for (round, [a, b]) in ids.iter().enumerate() {
        let winner = fleet.plane.get_group(&format!("c-{round}")).unwrap().id;
        let (expected, loser) =
            if winner == *a { ([a.as_str(), "already_exists"], "b") } else { (["already_exists", b], "a") };
        assert_eq!([printed[0][round].as_str(), &printed[1][round]], expected);
        fleet.plane.get_group(&format!("{loser}-{round}")).unwrap();
    }
}

#[test]
fn groups_created_under_one_name_never_share_a_directory() {
    if let Some(arguments) = child_arguments() {
        let [root, own] = arguments.as_slice() else { unreachable!() };
        let plane = ControlPlane::open(root).unwrap();
        wait_for_start();
        for round in 0..ROUNDS {
            for answer in [plane.create_group("new"), plane.rename_group("new", &format!("{own}-{round}"))] {
                match answer {
                    Ok(_) => {}
                    Err(error) => assert!(
                        [ErrorKind::AlreadyExists, ErrorKind::NotFound].contains(&error.kind()),
                        "{error}"
                    ),
                }
            }
        }
        println!("DONE");
        return;
    }
    let fleet = Fleet::new();
    let name = "rename::groups_created_under_one_name_never_share_a_directory";
    run_race(name, fleet.plane.root());
    let groups = fleet.plane.list_groups().unwrap();
    assert!(groups.len() > ROUNDS / 2, "{}", groups.len());
    let mut dirs = BTreeSet::new();
    for group in &groups {
        let name = format!("in-{}", group.name);
        fleet.plane.create_database(CreateDatabaseInput::new(&name, group.name.as_str())).unwrap();
        let path = fleet.plane.database_path(&name).unwrap();
        dirs.insert(path.ancestors().nth(2).unwrap().to_owned());
    }
    assert_eq!(dirs.len(), groups.len());
    fleet.assert_no_debris();
}

/// Renames a group back and forth, and creates and destroys groups and databases under the free name, until killed.
fn rename_until_killed(root: &str) {
    let plane = ControlPlane::open(root).unwrap();
    println!("\nREADY");
    for round in 0_u64.. {
        let taken = plane.group_of_database("bank").unwrap().name.to_string();
        let free = if taken == "a" { "b" } else { "a" };
        plane.rename_group(&taken, free).unwrap();
        plane
            .connect("bank", ConnectOptions::default())
            .unwrap()
            .execute_batch("INSERT INTO t VALUES (1)")
            .unwrap();
        plane.create_group(&taken).unwrap();
        plane.create_database(CreateDatabaseInput::new(format!("x-{round}"), &taken)).unwrap();
        plane.create_database(CreateDatabaseInput::fork(format!("y-{round}"), "bank")).unwrap();
        plane.destroy_group(&taken).unwrap();
        plane.destroy_database(&format!("y-{round}")).unwrap();
    }
}

#[test]
fn process_killed_during_rename_leaves_one_name_and_databases() {
    let arguments = child_arguments();
    if let Some([root]) = arguments.as_deref() {
        rename_until_killed(root);
    }
    let fleet = Fleet::new();
    let plane = &fleet.plane;
    plane.rename_group("default", "a").unwrap();
    plane.create_database(CreateDatabaseInput::new("bank", "a")).unwrap();
    let open = fleet.connect("bank");
    open.execute_batch("CREATE TABLE t(a)").unwrap();
    let id = plane.get_group("a").unwrap().id;
    let (mut names, mut last) = (BTreeSet::new(), 0);
    for round in 0..40_u64 {
        let test = "rename::process_killed_during_rename_leaves_one_name_and_databases";
        let mut killed = child_of(test, &plane.root().display().to_string()).spawn().unwrap();
        let mut lines = BufReader::new(killed.stdout.take().unwrap()).lines().map(Result::unwrap);
        lines.by_ref().find(|line| line.contains("READY")).unwrap();
        std::thread::sleep(Duration::from_micros(round * 997));
        killed.kill().unwrap();
        killed.wait().unwrap();

        let plane = ControlPlane::open(plane.root()).unwrap();
        assert_no_debris(&plane);
        let group = plane.group_of_database("bank").unwrap();
        assert_eq!((&group.id, &plane.get_group(group.name.as_str()).unwrap()), (&id, &group));
        names.insert(group.name.to_string());
        let verified = plane.verify_database("bank", VerifyOptions::default()).unwrap();
        assert_eq!(verified.findings, []);
        let rows = count(&open, "SELECT count(*) FROM t");
        assert!(rows >= last, "round {round}");
        last = rows;
        // Databases created by the killed process are in the group that their row names.
        for database in plane.list_databases(ListDatabases::default()).unwrap() {
            let name = database.name.as_str();
            if name != "bank" {
                assert_eq!(
                    database.group == group.name,
                    name.starts_with('y'),
                    "{name} in {}",
                    database.group
                );
                plane.connect(name, ConnectOptions::default()).unwrap();
                plane.destroy_database(name).unwrap();
            }
        }
        for other in plane.list_groups().unwrap() {
            if other.id != id {
                plane.destroy_group(other.name.as_str()).unwrap();
            }
        }
    }
    assert!(
        names.len() == 2 && last > 10,
        "the killed processes made little progress: {names:?}, {last} rows"
    );
}
