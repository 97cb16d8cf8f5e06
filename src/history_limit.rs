//! How much space a history may take: "256mb", "1gb", "none".

use std::{fmt, str::FromStr};

use crate::{
    error::{Error, ErrorKind, Result},
    size::{SMALLEST_DATABASE, parse_bytes},
};

/// The text for no limit.
const NONE: &str = "none";

/// The largest number of bytes that a history may take.
///
/// Maintenance removes the oldest instants of a history that exceeds its limit, even if they are within its
/// [window](crate::Retention). The size of a history is the one that
/// [`history_size`](crate::ControlPlane::history_size) returns; the database and its WAL do not count.
///
/// The limit never removes what the newest restorable instant needs: one snapshot of the database, and the newest WAL that is in
/// the archive. A history may exceed its limit by that, and between two runs of maintenance.
///
/// It parses from a number with an optional unit, as a [`SizeLimit`](crate::SizeLimit) does, or from `none`. It formats as a
/// plain number of bytes or as `none`. The default is no limit.
///
/// ```
/// let limit: litefleet::HistoryLimit = "256kb".parse()?;
/// assert_eq!(limit.bytes(), Some(262_144));
/// assert_eq!(limit.to_string(), "262144");
/// assert_eq!("none".parse::<litefleet::HistoryLimit>()?, litefleet::HistoryLimit::NONE);
/// # Ok::<(), litefleet::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct HistoryLimit(Option<u64>);

impl HistoryLimit {
    /// No limit.
    pub const NONE: Self = Self(None);

    /// Makes a limit of `bytes`.
    ///
    /// # Errors
    ///
    /// Fails with [`ErrorKind::Invalid`] below 4096, the size of the smallest snapshot, and above `i64::MAX`.
    pub fn from_bytes(bytes: u64) -> Result<Self> {
        if bytes < SMALLEST_DATABASE {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "invalid history limit: {bytes} bytes is less than the size of the smallest snapshot \
                     ({SMALLEST_DATABASE}); to keep no history, set the history window to off"
                ),
            ));
        }
        if i64::try_from(bytes).is_err() {
            let message = format!("invalid history limit: {bytes} bytes is too large");
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        Ok(Self(Some(bytes)))
    }

    /// The limit in bytes. `None` for no limit.
    #[must_use]
    pub const fn bytes(self) -> Option<u64> {
        self.0
    }
}

impl FromStr for HistoryLimit {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.trim().eq_ignore_ascii_case(NONE) {
            return Ok(Self::NONE);
        }
        let bytes = parse_bytes(text).ok_or_else(|| {
            let message = format!(
                "invalid history limit {text:?}: use a number of bytes, or a number with a unit, such as 256mb or 1gb, or none"
            );
            Error::new(ErrorKind::Invalid, message)
        })?;
        Self::from_bytes(bytes)
    }
}

impl fmt::Display for HistoryLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(bytes) => fmt::Display::fmt(&bytes, f),
            None => f.pad(NONE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_print_as_they_parse() {
        for (text, bytes, printed) in [
            ("none", None, "none"),
            (" None ", None, "none"),
            ("4096", Some(4096), "4096"),
            ("256kb", Some(262_144), "262144"),
            ("1 GiB", Some(1 << 30), "1073741824"),
            ("9223372036854775807", Some(i64::MAX as u64), "9223372036854775807"),
        ] {
            let limit: HistoryLimit = text.parse().unwrap();
            assert_eq!((limit.bytes(), limit.to_string().as_str()), (bytes, printed), "{text}");
            assert_eq!(printed.parse::<HistoryLimit>().unwrap(), limit);
        }
        assert_eq!(HistoryLimit::default(), HistoryLimit::NONE);
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "off",
            "default",
            "mb",
            "-1",
            "1.5gb",
            "0",
            "4095",
            "1pb",
            "9223372036854775808",
            "99999999999tb",
        ] {
            let error = text.parse::<HistoryLimit>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{text}");
            assert!(error.to_string().starts_with("invalid history limit"), "{error}");
        }
    }
}
