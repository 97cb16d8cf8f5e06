//! Random operations compared with a model of the fleet, with the root reopened in between.

use std::collections::BTreeMap;

use litefleet::{
    ConnectOptions, ControlPlane, CreateDatabaseInput, DatabaseChanges, DatabaseState, ErrorKind,
    GroupChanges, ListDatabases, Result, Seed, UploadOptions, rusqlite::Connection,
};
use proptest::{prelude::*, test_runner::TestCaseResult};

use crate::support::{assert_no_debris, count};

/// One call, on one of a few names so that calls interact.
#[derive(Clone, Debug)]
enum Operation {
    CreateGroup(u8),
    DestroyGroup(u8),
    ProtectGroup(u8, bool),
    Create(u8, u8),
    Fork(u8, u8),
    Import(u8, u8),
    Draft(u8, u8),
    Upload(u8),
    Destroy(u8),
    Protect(u8, bool),
    Block(u8, bool, bool),
    Write(u8, i64),
    Reopen,
}

/// The expected state of a database.
#[derive(Clone, Debug, Default, PartialEq)]
struct ExpectedDatabase {
    group: u8,
    draft: bool,
    protected: bool,
    /// Whether reads and writes are blocked.
    blocked: (bool, bool),
    /// The numbers inserted into it.
    rows: Vec<i64>,
    parent: Option<u8>,
}

#[derive(Clone, Debug, Default)]
struct Model {
    /// The groups, with their delete protection.
    groups: BTreeMap<u8, bool>,
    databases: BTreeMap<u8, ExpectedDatabase>,
}

const UPLOADED: [i64; 3] = [7, 8, 9];

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let (group, name) = (0_u8..2, 0_u8..4);
    let one = prop_oneof![
        2 => group.clone().prop_map(Operation::CreateGroup),
        1 => group.clone().prop_map(Operation::DestroyGroup),
        1 => (group.clone(), any::<bool>()).prop_map(|(group, on)| Operation::ProtectGroup(group, on)),
        4 => (name.clone(), group.clone()).prop_map(|(name, group)| Operation::Create(name, group)),
        4 => (name.clone(), name.clone()).prop_map(|(name, source)| Operation::Fork(name, source)),
        2 => (name.clone(), group.clone()).prop_map(|(name, group)| Operation::Import(name, group)),
        2 => (name.clone(), group).prop_map(|(name, group)| Operation::Draft(name, group)),
        2 => name.clone().prop_map(Operation::Upload),
        3 => name.clone().prop_map(Operation::Destroy),
        1 => (name.clone(), any::<bool>()).prop_map(|(name, on)| Operation::Protect(name, on)),
        1 => (name.clone(), any::<bool>(), any::<bool>()).prop_map(|(name, r, w)| Operation::Block(name, r, w)),
        8 => (name, any::<i32>()).prop_map(|(name, row)| Operation::Write(name, row.into())),
        2 => Just(Operation::Reopen),
    ];
    prop::collection::vec(one, 1..40)
}

fn group_name(group: u8) -> String {
    format!("g{group}")
}

fn name(name: u8) -> String {
    format!("db-{name}")
}

impl Model {
    /// The expected result of a call; updates the model.
    fn apply(&mut self, operation: &Operation) -> Result<(), ErrorKind> {
        use ErrorKind::{AlreadyExists, Blocked, Invalid, NotFound, Protected};
        match *operation {
            Operation::CreateGroup(group) => {
                if self.groups.contains_key(&group) {
                    return Err(AlreadyExists);
                }
                self.groups.insert(group, false);
            }
            Operation::DestroyGroup(group) => {
                let protected = *self.groups.get(&group).ok_or(NotFound)?;
                let mine = |known: &ExpectedDatabase| known.group == group;
                if protected || self.databases.values().any(|known| mine(known) && known.protected) {
                    return Err(Protected);
                }
                self.groups.remove(&group);
                self.databases.retain(|_, known| !mine(known));
            }
            Operation::ProtectGroup(group, on) => *self.groups.get_mut(&group).ok_or(NotFound)? = on,
            Operation::Create(name, group) => self.insert(name, group, ExpectedDatabase::default())?,
            Operation::Import(name, group) => {
                self.insert(
                    name,
                    group,
                    ExpectedDatabase { rows: UPLOADED.to_vec(), ..ExpectedDatabase::default() },
                )?;
            }
            Operation::Draft(name, group) => {
                self.insert(name, group, ExpectedDatabase { draft: true, ..ExpectedDatabase::default() })?;
            }
            Operation::Fork(name, source) => {
                let known = self.usable(source)?;
                if known.blocked.0 {
                    return Err(Blocked);
                }
                let fork = ExpectedDatabase {
                    rows: known.rows.clone(),
                    parent: Some(source),
                    ..ExpectedDatabase::default()
                };
                let group = known.group;
                self.insert(name, group, fork)?;
            }
            Operation::Upload(name) => {
                let known = self.databases.get_mut(&name).ok_or(NotFound)?;
                if !known.draft {
                    return Err(AlreadyExists);
                }
                known.draft = false;
                known.rows = UPLOADED.to_vec();
            }
            Operation::Destroy(name) => {
                let known = self.databases.get(&name).ok_or(NotFound)?;
                if known.protected || self.groups[&known.group] {
                    return Err(Protected);
                }
                self.databases.remove(&name);
            }
            Operation::Protect(name, on) => self.databases.get_mut(&name).ok_or(NotFound)?.protected = on,
            Operation::Block(name, reads, writes) => {
                let known = self.databases.get_mut(&name).ok_or(NotFound)?;
                known.blocked = (reads, writes);
            }
            Operation::Write(name, row) => {
                let known = self.usable(name)?;
                if known.blocked != (false, false) {
                    return Err(Blocked);
                }
                self.databases.get_mut(&name).ok_or(Invalid)?.rows.push(row);
            }
            Operation::Reopen => {}
        }
        Ok(())
    }

    fn usable(&self, name: u8) -> Result<&ExpectedDatabase, ErrorKind> {
        let known = self.databases.get(&name).ok_or(ErrorKind::NotFound)?;
        if known.draft { Err(ErrorKind::Invalid) } else { Ok(known) }
    }

    fn insert(&mut self, name: u8, group: u8, known: ExpectedDatabase) -> Result<(), ErrorKind> {
        if !self.groups.contains_key(&group) {
            return Err(ErrorKind::NotFound);
        }
        if self.databases.contains_key(&name) {
            return Err(ErrorKind::AlreadyExists);
        }
        self.databases.insert(name, ExpectedDatabase { group, ..known });
        Ok(())
    }
}

fn write(connection: &Connection, row: i64) -> Result<()> {
    connection
        .execute_batch(&format!("CREATE TABLE IF NOT EXISTS t(a); INSERT INTO t VALUES ({row})"))
        .map_err(|error| litefleet::Error::from_sqlite(connection, error))
}

fn call(plane: &ControlPlane, file: &std::path::Path, operation: &Operation) -> Result<()> {
    let new = |id: u8, group: u8| CreateDatabaseInput::new(name(id), group_name(group));
    let changes = DatabaseChanges::default;
    match *operation {
        Operation::CreateGroup(group) => plane.create_group(&group_name(group)).map(|_| ()),
        Operation::DestroyGroup(group) => plane.destroy_group(&group_name(group)),
        Operation::ProtectGroup(group, on) => {
            plane.configure_group(&group_name(group), GroupChanges::default().delete_protection(on)).map(drop)
        }
        Operation::Create(id, group) => plane.create_database(new(id, group)).map(|_| ()),
        Operation::Fork(id, source) => {
            plane.create_database(CreateDatabaseInput::fork(name(id), name(source))).map(|_| ())
        }
        Operation::Import(id, group) => plane.import_database(new(id, group), file).map(|_| ()),
        Operation::Draft(id, group) => {
            plane.create_database(new(id, group).with_seed(Seed::DatabaseUpload)).map(|_| ())
        }
        Operation::Upload(id) => plane
            .upload_database(&name(id), &mut std::fs::File::open(file).unwrap(), UploadOptions::default())
            .map(drop),
        Operation::Destroy(id) => plane.destroy_database(&name(id)),
        Operation::Protect(id, on) => {
            plane.configure_database(&name(id), changes().delete_protection(on)).map(|_| ())
        }
        Operation::Block(id, reads, writes) => {
            plane.configure_database(&name(id), changes().block_reads(reads).block_writes(writes)).map(|_| ())
        }
        Operation::Write(id, row) => {
            plane.connect(&name(id), ConnectOptions::default()).and_then(|connection| write(&connection, row))
        }
        Operation::Reopen => Ok(()),
    }
}

/// Checks that fleet and model agree.
fn compare(plane: &ControlPlane, model: &Model) -> TestCaseResult {
    assert_no_debris(plane);
    let groups: Vec<_> = plane.list_groups().unwrap().iter().map(|group| group.name.to_string()).collect();
    prop_assert_eq!(groups, model.groups.keys().map(|group| group_name(*group)).collect::<Vec<_>>());
    let listed = plane.list_databases(ListDatabases::default()).unwrap();
    prop_assert_eq!(listed.len(), model.databases.len());
    for (found, (id, known)) in listed.iter().zip(&model.databases) {
        prop_assert_eq!(found.name.as_str(), name(*id));
        prop_assert_eq!(found.group.as_str(), group_name(known.group));
        prop_assert_eq!(found.state == DatabaseState::Draft, known.draft);
        prop_assert_eq!(found.delete_protection, known.protected);
        prop_assert_eq!((found.block_reads, found.block_writes), known.blocked);
        prop_assert_eq!(found.parent.as_ref().map(|parent| parent.name.to_string()), known.parent.map(name));
        if known.draft || known.blocked.0 {
            continue;
        }
        let connection = plane.connect(found.name.as_str(), ConnectOptions::default()).unwrap();
        let tables = count(&connection, "SELECT count(*) FROM sqlite_schema WHERE name = 't'");
        let mut rows: Vec<i64> = Vec::new();
        if tables > 0 {
            let mut select = connection.prepare("SELECT a FROM t ORDER BY rowid").unwrap();
            rows = select.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        }
        prop_assert_eq!(&rows, &known.rows, "{}", found.name);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn fleet_behaves_like_the_model(operations in operations()) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("uploaded.db");
        let uploaded = Connection::open(&file).unwrap();
        uploaded.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (7), (8), (9)").unwrap();
        let mut plane = ControlPlane::open(dir.path().join("root")).unwrap();
        let mut model = Model::default();
        for operation in &operations {
            let expected = model.apply(operation);
            let answer = call(&plane, &file, operation).map_err(|error| error.kind());
            prop_assert_eq!(answer, expected, "{:?}", operation);
            if matches!(operation, Operation::Reopen) {
                plane = ControlPlane::open(plane.root()).unwrap();
                compare(&plane, &model)?;
            }
        }
        compare(&plane, &model)?;
    }
}
