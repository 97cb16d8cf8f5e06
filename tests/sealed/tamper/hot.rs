//! Rollback journals. An encrypted database of a fleet never has one; SQLite would play back what lies there.

use super::{Base, Outcome::Refused, Tampering, damage};

const SECTOR: usize = 512;

pub(super) const TABLE: &[Tampering] = &[
    // A file that is not in WAL mode needs one to get there, and so is refused as well.
    Tampering {
        name: "journal: taken away or emptied, from a file that somebody took out of WAL mode",
        base: Base::Hot,
        times: 2,
        apply: |_, files, time| match time {
            0 => files.journal = None,
            _ => files.journal().clear(),
        },
        native: &[Refused("corrupt")],
        turso: &[Refused("corrupt")],
    },
    Tampering {
        name: "journal: any that lies beside the file, whole, cut or damaged",
        base: Base::Hot,
        times: 6,
        apply: |_, files, time| match time {
            0 => files.journal().truncate(SECTOR),
            1 => files.journal().push(0),
            2 => files.journal()[11] = 0,
            _ => damage(&mut files.journal()[SECTOR..], time - 3),
        },
        native: &[Refused("corrupt")],
        turso: &[Refused("corrupt")],
    },
];
