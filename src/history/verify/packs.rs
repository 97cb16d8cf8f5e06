//! Packs: whether each part can be decompressed. Their files are checked as those of the generations.

use super::run::{Listed, Run};
use crate::{
    error::{ErrorKind, Result},
    finding::Finding,
};

/// Checks all packs.
pub(super) fn check(run: &mut Run<'_>) -> Result<()> {
    for pack in run.ended().list_packs()? {
        let Ok((file, _)) = pack.contents() else {
            run.found(Finding::new(pack.path(), "it is damaged: invalid directory"));
            continue;
        };
        let mut listed = Listed::default();
        for frame in file.frames() {
            match file.frame(frame.plain_at) {
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    let (from, to) = (frame.at, frame.at + frame.len as u64);
                    let message = format!("it is damaged: bytes {from} to {to} cannot be decompressed");
                    listed.add(run, Finding::new(pack.path(), message));
                }
                read => _ = read?,
            }
            run.read(frame.len as u64)?;
        }
        listed.finish(run, pack.path(), "parts");
    }
    Ok(())
}
