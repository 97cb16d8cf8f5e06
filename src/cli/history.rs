//! `db points` and `db restore`: the history of a database.

use std::{ffi::OsString, ops::Bound};

use litefleet::{ControlPlane, RestoreOptions, Result, Timestamp};

use super::{
    keys::{KEY_FILE_PLACEHOLDER, KeyArguments},
    output::Output,
    paste::{program, quoted},
    progress,
};

pub(super) fn points(
    plane: &ControlPlane,
    name: &str,
    from: Option<String>,
    to: Option<String>,
    output: Output,
) -> Result<()> {
    let parse = |text: Option<String>| text.map(|text| text.parse::<Timestamp>()).transpose();
    let from = parse(from)?.map_or(Bound::Unbounded, Bound::Included);
    let to = parse(to)?.map_or(Bound::Unbounded, Bound::Included);
    output.points(&plane.points(name, (from, to))?)
}

pub(super) fn restore(
    plane: &ControlPlane,
    name: &str,
    timestamp: &str,
    key: &KeyArguments,
    output: Output,
) -> Result<()> {
    let at = timestamp.parse::<Timestamp>()?;
    let mut options = RestoreOptions::default();
    if let Some(key) = key.for_database(plane, name)? {
        options = options.encryption_key(key);
    }
    let mut bar = progress::Bar::new("Restoring")?;
    let restored = plane.restore_database(name, at, options.progress(|progress| bar.show(progress)));
    bar.clear();
    let restored = restored?;
    let undo = restored.undo.map(|at| undo_command(plane, name, at, key));
    output.restored(name, &restored, undo)
}

/// The command that undoes a restore, quoted for the shell. It works in any directory.
fn undo_command(plane: &ControlPlane, name: &str, at: Timestamp, key: &KeyArguments) -> String {
    let root = plane.root().as_os_str().to_owned();
    let mut words: Vec<OsString> = vec![program(), "--root".into(), root];
    words.extend(["db", "restore", name, "--timestamp", &at.to_string()].map(Into::into));
    words.extend(key.printable_option().into_iter().flatten());
    let command = quoted(&words);
    match words.last() {
        Some(last) if last == KEY_FILE_PLACEHOLDER => {
            format!(
                "{command}\n(replace {KEY_FILE_PLACEHOLDER} with the path of a file that contains the key, as base64)"
            )
        }
        _ => command,
    }
}
