//! Root occasionally works in the fleet of another user: everything that root creates there belongs to that user.
//!
//! The tests run the program as either user. They are skipped if they do not run as root or the program was not
//! built.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use tempfile::TempDir;

/// The user of the fleet.
const USER: u32 = 65534;

/// A directory with a program that every user can run, and a fleet.
pub(crate) struct Shared {
    dir: TempDir,
}

impl Shared {
    pub(crate) fn new() -> Option<Self> {
        let skip = |why: &str| {
            eprintln!("not checked: {why}");
            None
        };
        let Some(program) = option_env!("CARGO_BIN_EXE_litefleet") else {
            return skip("the program was not built");
        };
        let dir = tempfile::tempdir().unwrap();
        if fs::metadata(dir.path()).unwrap().uid() != 0 {
            return skip("the tests do not run as root");
        }
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::copy(program, dir.path().join("litefleet")).unwrap();
        let shared = Self { dir };
        fs::create_dir(shared.root()).unwrap();
        std::os::unix::fs::chown(shared.root(), Some(USER), Some(USER)).unwrap();
        let known = shared.user("true").stderr(Stdio::null()).status();
        if known.is_ok_and(|status| status.success()) {
            Some(shared)
        } else {
            skip("setpriv is not installed")
        }
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A command line as root, with the program as `$LF`.
    pub(crate) fn admin(&self, script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-ec", script]);
        self.with_environment(command)
    }

    /// A command line as the user of the fleet.
    pub(crate) fn user(&self, script: &str) -> Command {
        let mut command = Command::new("setpriv");
        let user = USER.to_string();
        command.args(["--reuid", &user, "--regid", &user, "--clear-groups", "sh", "-ec", script]);
        self.with_environment(command)
    }

    fn with_environment(&self, mut command: Command) -> Command {
        command
            .env("LF", self.dir.path().join("litefleet"))
            .env("LITEFLEET_ROOT", self.root())
            .env_remove("LITEFLEET_ENCRYPTION_KEY")
            .current_dir(self.dir.path())
            .stdin(Stdio::null());
        command
    }

    /// Files in the root that do not belong to the fleet's user.
    fn files_of_others(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut left = vec![self.root()];
        while let Some(path) = left.pop() {
            let metadata = fs::symlink_metadata(&path).unwrap();
            if metadata.is_dir() {
                left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
            if (metadata.uid(), metadata.gid()) != (USER, USER) {
                found.push(path);
            }
        }
        found
    }
}

/// Runs a command and returns its output.
#[track_caller]
pub(crate) fn run_command(mut command: Command) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

#[test]
fn files_created_by_root_belong_to_the_fleet_user() {
    let Some(shared) = Shared::new() else { return };
    fs::write(shared.dir().join("key"), KEY).unwrap();
    let check = |script: &str| {
        run_command(shared.admin(script));
        assert_eq!(shared.files_of_others(), Vec::<PathBuf>::new(), "{script}");
    };
    // From the first file on, in a directory of the user.
    check("$LF group create g");
    check("$LF db create plain --group g; $LF db create draft --group g --draft");
    check("$LF db shell plain 'CREATE TABLE t(a); INSERT INTO t VALUES (1)'");
    check("$LF db create fork --from-db plain; $LF db shell fork 'INSERT INTO t VALUES (2)'");
    check(
        "$LF db export plain out.db; $LF db create imported --group g --from-file out.db; $LF db upload draft out.db",
    );
    check(
        "$LF db create sealed --group g --remote-encryption-cipher aes256gcm --key-file key
         $LF db shell sealed --key-file key 'CREATE TABLE t(a); INSERT INTO t VALUES (1)'
         $LF db create resealed --from-db sealed --key-file key --remote-encryption-cipher aegis256",
    );
    check(
        "for i in 1 2 3; do $LF db shell plain 'PRAGMA wal_checkpoint(TRUNCATE); INSERT INTO t SELECT randomblob(900000)'; done",
    );
    check("$LF db maintain; $LF db points plain; $LF db verify plain; $LF db destroy fork --yes");
    run_command(shared.user(
        "$LF db shell plain 'INSERT INTO t VALUES (5)'; $LF db shell sealed --key-file key 'INSERT INTO t VALUES (5)'
         $LF db maintain; $LF db create mine --group g; $LF db destroy imported --yes; $LF group destroy g --yes",
    ));
}

#[test]
fn write_or_restore_by_root_does_not_stop_the_fleet_user() {
    let Some(shared) = Shared::new() else { return };
    run_command(shared.user(
        "$LF group create g; $LF db create p --group g; $LF db shell p 'CREATE TABLE t(a); INSERT INTO t VALUES (1)'
         date -u +%FT%T.%6NZ > $LITEFLEET_ROOT/instant; $LF db shell p 'INSERT INTO t VALUES (2)'",
    ));
    run_command(shared.admin("$LF db restore p --timestamp $(cat root/instant); rm root/instant"));
    assert_eq!(shared.files_of_others(), Vec::<PathBuf>::new());
    run_command(shared.user("$LF db shell p 'INSERT INTO t VALUES (3)'"));
    assert_eq!(
        run_command(shared.user("$LF db shell p 'SELECT group_concat(a) FROM t'"))
            .lines()
            .last()
            .map(str::trim),
        Some("1,3")
    );
}

/// SQLite gives `-wal` and `-shm` the permissions of the database, regardless of the umask.
#[test]
fn history_files_have_permissions_of_the_database() {
    let Some(shared) = Shared::new() else { return };
    let commits =
        "for i in 1 2 3; do $LF db shell p 'CREATE TABLE IF NOT EXISTS t(a); INSERT INTO t VALUES (1)'; done";
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let database = shared.root().join("g/p");
    run_command(shared.user("umask 002; $LF group create g; $LF db create p --group g"));
    fs::set_permissions(database.join("data.db"), fs::Permissions::from_mode(0o660)).unwrap();
    run_command(shared.user(&format!("umask 077; {commits}")));
    assert_eq!(mode(&database.join("archive")), mode(&database));
    for entry in fs::read_dir(database.join("archive")).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o660, "{}", path.display());
    }
}

#[test]
fn counters_have_permissions_of_the_catalog() {
    let Some(shared) = Shared::new() else { return };
    run_command(shared.user("umask 000; $LF group create g"));
    let mode = |name: &str| fs::metadata(shared.root().join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(".changes"), mode("control.db")), (0o644, 0o644));
}
