//! Lists: by group, by parent, and in pages.

use litefleet::{CreateDatabaseInput, ErrorKind, ListDatabases, Seed};

use crate::support::{Fleet, refused};

#[test]
fn list_pages_cover_every_database_once() {
    let fleet = Fleet::new();
    fleet.plane.create_group("other").unwrap();
    for at in 0..23 {
        let group = if at % 3 == 0 { "other" } else { "default" };
        fleet.plane.create_database(CreateDatabaseInput::new(format!("db-{at:02}"), group)).unwrap();
    }
    let names = |which: &ListDatabases| -> Vec<String> {
        fleet
            .plane
            .list_databases(which.clone())
            .unwrap()
            .iter()
            .map(|found| found.name.to_string())
            .collect()
    };
    let all: Vec<_> = (0..23).map(|at| format!("db-{at:02}")).collect();
    assert_eq!(names(&ListDatabases::default()), all);
    for group in [None, Some("default"), Some("other")] {
        let mut which = ListDatabases::default().limit(4);
        if let Some(group) = group {
            which = which.group(group);
        }
        let mut paged: Vec<String> = Vec::new();
        loop {
            let page = names(&which);
            let Some(last) = page.last().cloned() else { break };
            assert!(page.len() <= 4);
            paged.extend(page);
            which = which.after(last);
        }
        let expected: Vec<_> = all
            .iter()
            .enumerate()
            .filter(|(at, _)| group.is_none_or(|group| (group == "other") == (at % 3 == 0)))
            .map(|(_, name)| name.clone())
            .collect();
        assert_eq!(paged, expected, "{group:?}");
    }
    let nowhere = fleet.plane.list_databases(ListDatabases::default().group("nowhere"));
    assert_eq!(refused(nowhere), (ErrorKind::NotFound, "group not found".into()));
    let groups = fleet.plane.list_groups().unwrap();
    assert_eq!(groups.iter().map(|group| group.name.as_str()).collect::<Vec<_>>(), ["default", "other"]);
}

#[test]
fn forks_are_listed_by_name_or_id_of_parent() {
    let fleet = Fleet::new();
    fleet.create("orders");
    fleet.create("other");
    for name in ["one", "two"] {
        fleet.plane.create_database(CreateDatabaseInput::fork(name, "orders")).unwrap();
    }
    let list = |parent: &str| {
        let databases = fleet.plane.list_databases(ListDatabases::default().parent(parent))?;
        Ok(databases.iter().map(|found| found.name.to_string()).collect::<Vec<_>>())
    };
    let id = fleet.plane.get_database("orders").unwrap().id;
    assert_eq!(list("orders").unwrap(), ["one", "two"]);
    assert_eq!(list(&id).unwrap(), ["one", "two"]);
    assert_eq!(list("other").unwrap(), Vec::<String>::new());
    let unknown = |parent: &str| {
        let message = format!("could not find database with name {parent}: record not found");
        assert_eq!(refused::<Vec<String>>(list(parent)), (ErrorKind::NotFound, message));
    };
    unknown("nowhere");
    unknown("019a0000-0000-7000-8000-000000000000");
    assert_eq!(refused::<Vec<String>>(list("Not a name")).0, ErrorKind::Invalid);
    // A destroyed parent is known while it has forks.
    fleet.plane.destroy_database("orders").unwrap();
    assert_eq!(list(&id).unwrap(), ["one", "two"]);
    unknown("orders");
    fleet.plane.destroy_database("one").unwrap();
    fleet.plane.destroy_database("two").unwrap();
    unknown(&id);
}

#[test]
fn sizes_are_listed_with_databases() {
    let fleet = Fleet::new();
    fleet.create("a");
    fleet.create("b");
    let draft = CreateDatabaseInput::new("draft", "default").with_seed(Seed::DatabaseUpload);
    fleet.plane.create_database(draft).unwrap();
    let connection = fleet.connect("b");
    connection.execute_batch("CREATE TABLE t AS SELECT randomblob(50000) AS a").unwrap();
    let listed = fleet.plane.list_databases_with_size(ListDatabases::default()).unwrap();
    let sizes: Vec<_> = listed.iter().map(|(database, size)| (database.name.as_str(), *size)).collect();
    let size = |name: &str| fleet.plane.database_size(name).ok();
    assert_eq!(sizes, [("a", Some(4096)), ("b", size("b")), ("draft", None)]);
    assert!(size("b").unwrap() > 50_000);
    let page = fleet.plane.list_databases_with_size(ListDatabases::default().after("a").limit(1)).unwrap();
    assert_eq!(page.iter().map(|(database, _)| database.name.as_str()).collect::<Vec<_>>(), ["b"]);
}
