//! Instants, and the only place that reads the clock.

use std::{fmt, str::FromStr, sync::Arc, time::SystemTime};

use chrono::{DateTime, SecondsFormat, TimeZone, Utc};

use crate::error::{Error, ErrorKind, Result};

/// An instant in UTC with a resolution of one microsecond.
///
/// It parses from RFC 3339, with a fraction and any offset, and from the output of SQLite's `datetime()`, which is UTC.
/// Seconds are optional. It prints in UTC:
///
/// ```
/// let at: litefleet::Timestamp = "2024-01-01T10:10:10.25-10:00".parse()?;
/// assert_eq!(at.to_string(), "2024-01-01T20:10:10.250000Z");
/// assert_eq!("2024-01-01 20:10:10.25".parse::<litefleet::Timestamp>()?, at);
/// # Ok::<(), litefleet::Error>(())
/// ```
///
/// It converts from [`SystemTime`] and from chrono's [`DateTime`] in any time zone, and back. Every conversion rounds down to
/// the microsecond, so that the result is never later than its source.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use litefleet::Timestamp;
///
/// let at: Timestamp = (SystemTime::UNIX_EPOCH + Duration::from_secs(90)).into();
/// assert_eq!(at.to_string(), "1970-01-01T00:01:30.000000Z");
/// assert_eq!(SystemTime::from(at), SystemTime::UNIX_EPOCH + Duration::from_secs(90));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(DateTime<Utc>);

impl Timestamp {
    /// Creates an instant from the microseconds since 1970-01-01T00:00:00Z; negative values precede it.
    ///
    /// # Errors
    ///
    /// Fails with [`ErrorKind::Invalid`] outside the range of chrono, about 262,000 years in either direction.
    pub fn from_micros(micros: i64) -> Result<Self> {
        DateTime::from_timestamp_micros(micros).map(Self).ok_or_else(|| {
            Error::new(ErrorKind::Invalid, format!("invalid timestamp: {micros} µs is out of range"))
        })
    }

    /// Returns the microseconds since 1970-01-01T00:00:00Z; negative values precede it.
    #[must_use]
    pub fn as_micros(self) -> i64 {
        self.0.timestamp_micros()
    }

    /// Reads the system clock, which can step backwards.
    #[expect(clippy::disallowed_methods, reason = "this is the one place where the clock is read")]
    #[must_use]
    pub fn now() -> Self {
        SystemTime::now().into()
    }
}

impl<Tz: TimeZone> From<DateTime<Tz>> for Timestamp {
    fn from(at: DateTime<Tz>) -> Self {
        let at = at.to_utc();
        Self(DateTime::from_timestamp_micros(at.timestamp_micros()).unwrap_or(at))
    }
}

impl From<Timestamp> for DateTime<Utc> {
    fn from(at: Timestamp) -> Self {
        at.0
    }
}

/// Saturates outside the range of chrono, about 262,000 years in either direction.
impl From<SystemTime> for Timestamp {
    fn from(at: SystemTime) -> Self {
        let since = |epoch: SystemTime, at: SystemTime| at.duration_since(epoch).ok();
        let instant = match since(SystemTime::UNIX_EPOCH, at) {
            Some(after) => i64::try_from(after.as_micros()).ok(),
            None => since(at, SystemTime::UNIX_EPOCH)
                .and_then(|before| i64::try_from(before.as_nanos().div_ceil(1000)).ok())
                .map(|micros| -micros),
        };
        let limit =
            if at < SystemTime::UNIX_EPOCH { DateTime::<Utc>::MIN_UTC } else { DateTime::<Utc>::MAX_UTC };
        instant.and_then(DateTime::from_timestamp_micros).unwrap_or(limit).into()
    }
}

impl From<Timestamp> for SystemTime {
    fn from(at: Timestamp) -> Self {
        at.0.into()
    }
}

/// The source of creation and commit times: the system clock, or one that a test harness supplies.
#[derive(Clone, Default)]
pub(crate) struct Clock(Option<Arc<ClockFn>>);

/// A clock supplied by a test harness.
///
/// Set it with [`ControlPlaneBuilder::clock`](crate::ControlPlaneBuilder::clock).
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

/// Completes a date and a time to RFC 3339. Seconds are optional; with a space in place of the `T`, the offset is too.
/// `None` if the text has another shape.
fn to_rfc3339(text: &str) -> Option<String> {
    const DATE: &str = "dddd-dd-dd";
    const MINUTES: &str = "dd:dd";
    const SECONDS: &str = ":dd";
    let (date, rest) = take(text, DATE)?;
    let is_from_sqlite = rest.starts_with(' ');
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
        // In the form of RFC 3339, a time without an offset is local to an unknown place.
        "" if is_from_sqlite => "Z",
        "Z" | "z" => "Z",
        offset => match take(offset.strip_prefix(['+', '-'])?, MINUTES)? {
            (_, "") => offset,
            _ => return None,
        },
    };
    Some(format!("{date}T{minutes}{seconds}{fraction}{offset}"))
}

/// Splits off a prefix of this shape, in which `d` matches a digit.
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
    fn conversions_round_down_to_the_microsecond() {
        let nanos = |nanos| std::time::Duration::from_nanos(nanos);
        let (epoch, micros) = (SystemTime::UNIX_EPOCH, |at: SystemTime| Timestamp::from(at).as_micros());
        assert_eq!((micros(epoch), micros(epoch + nanos(1999)), micros(epoch + nanos(2000))), (0, 1, 2));
        assert_eq!(
            (micros(epoch - nanos(1)), micros(epoch - nanos(1000)), micros(epoch - nanos(1001))),
            (-1, -1, -2)
        );
        let text = "2024-01-01T10:10:10.123456789-10:00";
        let zoned = DateTime::parse_from_rfc3339(text).unwrap();
        assert_eq!(Timestamp::from(zoned), text.parse().unwrap());
        assert_eq!(DateTime::<Utc>::from(Timestamp::from(zoned)).timestamp_subsec_nanos(), 123_456_000);
        assert_eq!(micros(SystemTime::from(Timestamp::from_micros(-5).unwrap())), -5);
    }

    #[test]
    fn system_times_beyond_the_range_saturate() {
        let far = std::time::Duration::from_secs(1 << 60);
        let micros = |at: SystemTime| Timestamp::from(at).as_micros();
        assert_eq!(micros(SystemTime::UNIX_EPOCH + far), DateTime::<Utc>::MAX_UTC.timestamp_micros());
        assert_eq!(micros(SystemTime::UNIX_EPOCH - far), DateTime::<Utc>::MIN_UTC.timestamp_micros());
    }

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
    fn other_texts_are_refused() {
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
