//! Lists: by group, by parent, and a page at a time.

use litefleet::{CreateDatabaseInput, ErrorKind, ListDatabases};

use crate::support::{Fleet, refused};

#[test]
fn pages_follow_each_other_without_a_gap() {
    let fleet = Fleet::new();
    fleet.plane.create_group("other").unwrap();
    for at in 0..23 {
        let group = if at % 3 == 0 { "other" } else { "default" };
        fleet.plane.create_database(CreateDatabaseInput::new(format!("db-{at:02}"), group)).unwrap();
    }
    let names = |which: &ListDatabases| -> Vec<String> {
        fleet.plane.list_databases(which).unwrap().iter().map(|found| found.name.to_string()).collect()
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
    let nowhere = fleet.plane.list_databases(&ListDatabases::default().group("nowhere"));
    assert_eq!(refused(nowhere), (ErrorKind::NotFound, "group not found".into()));
    let groups = fleet.plane.list_groups().unwrap();
    assert_eq!(groups.iter().map(|group| group.name.as_str()).collect::<Vec<_>>(), ["default", "other"]);
}
