//! The commands that look into the past of a database.

use std::ops::Bound;

use litefleet::{ConnectOptions, ControlPlane, Result, Timestamp};

use super::{args::KeyArguments, key_for, output::Output, progress};

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
    let at = timestamp.parse()?;
    let mut options = ConnectOptions::default();
    if let Some(key) = key_for(plane, name, key)? {
        options = options.encryption_key(key);
    }
    let mut bar = progress::Bar::new("Restoring")?;
    let restored = plane.restore_database(name, at, &options, &mut |progress| bar.show(progress));
    bar.clear();
    output.restored(name, &restored?)
}
