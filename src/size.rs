//! Size limits of databases, written as "10000", "256kb" or "1gb".

use std::{fmt, str::FromStr};

use crate::error::{Error, ErrorKind, Result};

const UNITS: &[(&str, u64)] = &[
    ("", 1),
    ("b", 1),
    ("kb", 1 << 10),
    ("kib", 1 << 10),
    ("mb", 1 << 20),
    ("mib", 1 << 20),
    ("gb", 1 << 30),
    ("gib", 1 << 30),
    ("tb", 1 << 40),
    ("tib", 1 << 40),
];

/// The size of the smallest database. No limit is smaller.
pub(crate) const SMALLEST_DATABASE: u64 = 4096;

/// The largest number of bytes that a database may grow to.
///
/// The size is the number of pages times the page size, which is the size of `data.db` after a checkpoint. The WAL does not count.
///
/// It parses from a number with an optional unit (`b`, `kb`, `mb`, `gb`, `tb`, or `kib` and so on, in any case). **Units are
/// powers of 1024**: `1mb` is 1,048,576 bytes. It formats as a plain number of bytes.
///
/// ```
/// let limit: litefleet::SizeLimit = "256kb".parse()?;
/// assert_eq!(limit.bytes(), 262_144);
/// assert_eq!(limit.to_string(), "262144");
/// # Ok::<(), litefleet::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SizeLimit(u64);

impl SizeLimit {
    /// Makes a limit of `bytes`.
    ///
    /// # Errors
    ///
    /// Fails with [`ErrorKind::Invalid`] below 4096, the size of an empty database, and above `i64::MAX`.
    pub fn from_bytes(bytes: u64) -> Result<Self> {
        if bytes < SMALLEST_DATABASE {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "invalid size limit: {bytes} bytes is less than the size of an empty database ({SMALLEST_DATABASE})"
                ),
            ));
        }
        if i64::try_from(bytes).is_err() {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("invalid size limit: {bytes} bytes is too large"),
            ));
        }
        Ok(Self(bytes))
    }

    /// The limit in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// Whether a database of `bytes` is within the limit.
    #[must_use]
    pub const fn admits(self, bytes: u64) -> bool {
        bytes <= self.0
    }
}

impl FromStr for SizeLimit {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bytes = parse_bytes(text).ok_or_else(|| {
            let message = format!(
                "invalid size limit {text:?}: use a number of bytes, or a number with a unit, such as 10000, 256mb or 1gb"
            );
            Error::new(ErrorKind::Invalid, message)
        })?;
        Self::from_bytes(bytes)
    }
}

/// Parses a number of bytes with an optional unit. Returns `None` if it is not valid or exceeds `u64`.
pub(crate) fn parse_bytes(text: &str) -> Option<u64> {
    let trimmed = text.trim();
    let digits = trimmed.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = trimmed.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let unit = unit.trim_start().to_ascii_lowercase();
    let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(*factor)
}

impl fmt::Display for SizeLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_powers_of_1024_in_any_case() {
        for (text, bytes) in [
            ("10000", 10_000),
            ("4096b", 4096),
            ("256kb", 262_144),
            ("256 KiB", 262_144),
            ("1mb", 1_048_576),
            ("256MB", 268_435_456),
            (" 1gb ", 1_073_741_824),
            ("2tib", 2_199_023_255_552),
        ] {
            assert_eq!(text.parse::<SizeLimit>().unwrap().bytes(), bytes, "{text}");
        }
    }

    #[test]
    fn invalid_sizes_are_refused() {
        for text in [
            "",
            "mb",
            "-1",
            "1.5gb",
            "1 m b",
            "1pb",
            "99999999999tb",
            "0",
            "4095",
            "0x1000",
            "9223372036854775808",
        ] {
            let error = text.parse::<SizeLimit>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{text}");
            assert!(error.to_string().starts_with("invalid size limit"), "{error}");
        }
    }
}
