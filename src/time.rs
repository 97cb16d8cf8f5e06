//! Instants, and the one place where the clock is read.

use std::{fmt, str::FromStr, sync::Arc, time::SystemTime};

use chrono::{DateTime, SecondsFormat, Utc};

use crate::error::{Error, ErrorKind, Result};

/// An instant, in microseconds of UTC.
///
/// It parses from RFC 3339, with a fraction and any offset, and from what SQLite's `datetime()` prints, which is UTC.
/// Seconds may be left out. It prints in UTC:
///
/// ```
/// let at: litefleet::Timestamp = "2024-01-01T10:10:10.25-10:00".parse()?;
/// assert_eq!(at.to_string(), "2024-01-01T20:10:10.250000Z");
/// assert_eq!("2024-01-01 20:10:10.25".parse::<litefleet::Timestamp>()?, at);
/// # Ok::<(), litefleet::Error>(())
/// ```
///
/// Digits beyond the microsecond are cut off, so that a parsed instant is never later than its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(DateTime<Utc>);

impl Timestamp {
    /// The instant `micros` microseconds after (or before) 1970-01-01T00:00:00Z.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] outside of the years that chrono can represent, some 262,000 either way.
    pub fn from_micros(micros: i64) -> Result<Self> {
        DateTime::from_timestamp_micros(micros).map(Self).ok_or_else(|| {
            Error::new(ErrorKind::Invalid, format!("invalid timestamp: {micros} µs is out of range"))
        })
    }

    /// Microseconds since 1970-01-01T00:00:00Z.
    #[must_use]
    pub fn as_micros(self) -> i64 {
        self.0.timestamp_micros()
    }

    /// The system clock's instant, which can step back.
    #[expect(clippy::disallowed_methods, reason = "this is the one place where the clock is read")]
    #[must_use]
    pub fn now() -> Self {
        let now = DateTime::<Utc>::from(SystemTime::now());
        Self(DateTime::from_timestamp_micros(now.timestamp_micros()).unwrap_or(now))
    }
}

/// The clock that tells when something is done: that of the system, or one that a test harness sets.
#[derive(Clone, Default)]
pub(crate) struct Clock(Option<Arc<ClockFn>>);

/// A clock that a test harness sets.
pub type ClockFn = dyn Fn() -> Timestamp + Send + Sync;

impl Clock {
    pub(crate) fn of(read: Arc<ClockFn>) -> Self {
        Self(Some(read))
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.0.as_ref().map_or_else(Timestamp::now, |read| read())
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock").field("set", &self.0.is_some()).finish()
    }
}

impl FromStr for Timestamp {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let invalid = |reason: &dyn fmt::Display| {
            let message = format!(
                "invalid timestamp {text:?}: give RFC 3339, such as 2023-09-29T10:16:13-03:00, or UTC as in \
                 2023-09-29 13:16:13 ({reason})"
            );
            Error::new(ErrorKind::Invalid, message)
        };
        let full = to_rfc3339(text.trim()).ok_or_else(|| invalid(&"it is neither"))?;
        let parsed = DateTime::parse_from_rfc3339(&full).map_err(|error| invalid(&error))?;
        Self::from_micros(parsed.timestamp_micros())
    }
}

/// Completes a date and a time to RFC 3339: seconds may be missing, a space may stand for the `T`, and then the offset may be
/// missing too. `None` if the text has another shape.
fn to_rfc3339(text: &str) -> Option<String> {
    const DATE: &str = "dddd-dd-dd";
    const MINUTES: &str = "dd:dd";
    const SECONDS: &str = ":dd";
    let (date, rest) = take(text, DATE)?;
    let is_sqlites = rest.starts_with(' ');
    let rest = rest.strip_prefix(['T', 't', ' '])?;
    let (minutes, rest) = take(rest, MINUTES)?;
    let (seconds, fraction, rest) = match take(rest, SECONDS) {
        None => (":00", "", rest),
        Some((seconds, rest)) => match rest.strip_prefix('.') {
            None => (seconds, "", rest),
            Some(digits) => {
                let len = digits.bytes().take_while(u8::is_ascii_digit).count();
                let (fraction, rest) = (len > 0).then(|| rest.split_at(len + 1))?;
                (seconds, fraction, rest)
            }
        },
    };
    let offset = match rest.trim_start() {
        // In RFC 3339's form, a time without an offset is somebody's local time.
        "" if is_sqlites => "Z",
        "Z" | "z" => "Z",
        offset => match take(offset.strip_prefix(['+', '-'])?, MINUTES)? {
            (_, "") => offset,
            _ => return None,
        },
    };
    Some(format!("{date}T{minutes}{seconds}{fraction}{offset}"))
}

/// Splits off a beginning of this shape, in which `d` is a digit.
fn take<'a>(text: &'a str, shape: &str) -> Option<(&'a str, &'a str)> {
    let (begin, rest) = text.split_at_checked(shape.len())?;
    let fits = |(byte, shape): (u8, u8)| if shape == b'd' { byte.is_ascii_digit() } else { byte == shape };
    begin.bytes().zip(shape.bytes()).all(fits).then_some((begin, rest))
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0.to_rfc3339_opts(SecondsFormat::Micros, true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_and_offsets_are_read() {
        for (text, utc) in [
            ("2024-01-01T00:00:00.000Z", "2024-01-01T00:00:00.000000Z"),
            ("2024-01-01t10:10:10-10:00", "2024-01-01T20:10:10.000000Z"),
            ("2025-04-15T13:14:34.468213117Z", "2025-04-15T13:14:34.468213Z"),
            ("2106-02-07T06:28:16+00:00", "2106-02-07T06:28:16.000000Z"),
            ("1969-12-31T23:59:59.9999999Z", "1969-12-31T23:59:59.999999Z"),
        ] {
            let at: Timestamp = text.parse().unwrap();
            assert_eq!(at.to_string(), utc);
            assert_eq!(Timestamp::from_micros(at.as_micros()).unwrap(), at);
        }
    }

    #[test]
    fn sqlite_datetimes_are_read_as_utc_and_seconds_may_be_missing() {
        for (text, utc) in [
            ("2026-11-30 13:38:51", "2026-11-30T13:38:51.000000Z"),
            ("2026-11-30 13:38:51.25", "2026-11-30T13:38:51.250000Z"),
            ("2026-11-30 13:38", "2026-11-30T13:38:00.000000Z"),
            ("2026-11-30T13:38Z", "2026-11-30T13:38:00.000000Z"),
            ("2026-11-30T13:38+02:00", "2026-11-30T11:38:00.000000Z"),
            (" 2026-11-30 13:38:51 -01:30 ", "2026-11-30T15:08:51.000000Z"),
        ] {
            assert_eq!(text.parse::<Timestamp>().unwrap().to_string(), utc, "{text}");
        }
    }

    #[test]
    fn what_is_not_an_instant_is_refused() {
        for text in [
            "",
            "yesterday",
            "1704067200",
            "2024-01-01",
            "2024-01-01T",
            "2024-01-01T00:00:00",
            "2024-01-01T00:00",
            "2024-01-01 10",
            "2024-1-1 10:00",
            "+024-01-01 10:00",
            "2024-01-01_10:00",
            "2024-01-01 10:00:",
            "2024-01-01 10:00:00.",
            "2024-01-01 10:00.5",
            "2024-01-01 24:00",
            "2024-01-01 10:60",
            "2024-02-30T00:00:00Z",
            "2024-01-01T10:00:00 02:00",
            "2024-01-01T10:00:00+2",
            "2024-01-01T10:00:00+02:00 x",
            "2024-01-01T10:00:00ü",
        ] {
            let error = text.parse::<Timestamp>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{text}");
            assert!(error.to_string().starts_with("invalid timestamp"), "{error}");
        }
    }
}
