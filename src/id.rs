//! The ids of databases and groups: UUIDs of version 7, which sort by their creation time.

use uuid::{NoContext, Uuid};

use crate::{
    error::{Error, ErrorKind, Result},
    time::Timestamp,
};

/// The byte of an id by which Turso's clients distinguish engines, and its value for an engine other than SQLite.
const ENGINE_BYTE: usize = 5;
const OTHER_ENGINE: u8 = 0x10;

/// Makes an id with the creation time `now`.
pub(crate) fn new_id(now: Timestamp) -> String {
    let micros = u64::try_from(now.as_micros()).unwrap_or(0);
    let made =
        |millis: u64| Uuid::new_v7(uuid::Timestamp::from_unix(NoContext, millis / 1000, nanos(millis)));
    let id = made(micros / 1000);
    // The byte is the last of the milliseconds, so the next millisecond has another one.
    let id = if id.as_bytes()[ENGINE_BYTE] == OTHER_ENGINE { made(micros / 1000 + 1) } else { id };
    id.hyphenated().to_string()
}

/// Parses an id of the catalog. Fails with [`ErrorKind::Corrupt`] if it is invalid.
pub(crate) fn number(id: &str) -> Result<u128> {
    Uuid::parse_str(id).map(|id| id.as_u128()).map_err(|error| {
        Error::new(ErrorKind::Corrupt, format!("control.db has the invalid id {id:?}: {error}"))
    })
}

/// Formats an id. Inverse of [`number`].
pub(crate) fn text(number: u128) -> String {
    Uuid::from_u128(number).hyphenated().to_string()
}

/// The creation time of an id in milliseconds. `None` if its UUID version has no time.
pub(crate) fn made_at(id: &str) -> Option<Timestamp> {
    let (seconds, nanos) = Uuid::parse_str(id).ok()?.get_timestamp()?.to_unix();
    let micros = i64::try_from(seconds).ok()?.checked_mul(1_000_000)? + i64::from(nanos / 1000);
    Timestamp::from_micros(micros).ok()
}

fn nanos(millis: u64) -> u32 {
    u32::try_from(millis % 1000 * 1_000_000).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_never_have_the_byte_of_another_engine() {
        for millis in 0..512 {
            let id: Uuid = new_id(Timestamp::from_micros(1_764_000_000_000_000 + millis * 1000).unwrap())
                .parse()
                .unwrap();
            assert_ne!(id.as_bytes()[ENGINE_BYTE], OTHER_ENGINE);
            assert_eq!(id.get_version_num(), 7);
        }
    }

    #[test]
    fn error_contains_invalid_id() {
        let error = number("x").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().starts_with("control.db has the invalid id \"x\": "), "{error}");
    }
}
