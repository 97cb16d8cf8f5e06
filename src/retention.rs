//! How far back a database can be restored: "24h", "7d", "off".

use std::{fmt, str::FromStr, time::Duration};

use crate::{
    error::{Error, ErrorKind, Result},
    history_limit::HistoryLimit,
};

/// Units in seconds, largest first, with the smallest number that is printed in each.
const UNITS: &[(&str, u64, u64)] = &[("d", 24 * 60 * 60, 2), ("h", 60 * 60, 1), ("m", 60, 1), ("s", 1, 1)];

/// The text for no history.
const OFF: &str = "off";

/// The longest window in seconds: its microseconds must fit `i64`.
const SECONDS_MAX: u64 = i64::MAX as u64 / 1_000_000;

/// How far back a database can be restored.
///
/// Every commit within the window is a recovery point, unless the history exceeds its [limit](crate::HistoryLimit). Older history is kept until
/// [`maintain_database`](crate::ControlPlane::maintain_database) prunes it. A window of zero keeps no history.
///
/// It parses from a number of days, hours, minutes or seconds (`7d`, `24h`, `90m`, `30s`), or from `0` or `off`, and prints in
/// the largest unit without a fraction; one day prints as `24h`. The default is 24 hours. A [`Duration`] converts into it.
///
/// ```
/// use std::time::Duration;
/// use litefleet::Retention;
///
/// let window: Retention = "90m".parse()?;
/// assert_eq!(window.window(), Duration::from_secs(5400));
/// assert_eq!(window, Duration::from_secs(5400).try_into()?);
/// assert_eq!(window.to_string(), "90m");
/// assert_eq!(Retention::default().to_string(), "24h");
/// assert!("0".parse::<Retention>()?.is_off());
/// # Ok::<(), litefleet::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Retention {
    seconds: u64,
}

/// What maintenance keeps of a history: the instants in the window, as far as they fit in the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RetentionPolicy {
    pub(crate) window: Retention,
    pub(crate) limit: HistoryLimit,
}

impl Retention {
    /// No history.
    pub const OFF: Self = Self { seconds: 0 };

    /// Creates a window of this many seconds.
    ///
    /// # Errors
    ///
    /// Fails with [`ErrorKind::Invalid`] above 9,223,372,036,854 seconds, about 292,000 years.
    pub fn from_seconds(seconds: u64) -> Result<Self> {
        if seconds > SECONDS_MAX {
            let message = format!("invalid history window: {seconds} seconds is too long");
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        Ok(Self { seconds })
    }

    /// Returns the length of the window.
    #[must_use]
    pub const fn window(self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    /// Returns the length of the window in seconds.
    #[must_use]
    pub const fn seconds(self) -> u64 {
        self.seconds
    }

    /// Returns whether no history is kept.
    #[must_use]
    pub const fn is_off(self) -> bool {
        self.seconds == 0
    }
}

/// Rounds up to whole seconds, so that the window covers at least the duration.
///
/// Fails with [`ErrorKind::Invalid`] above the maximum of [`Retention::from_seconds`].
impl TryFrom<Duration> for Retention {
    type Error = Error;

    fn try_from(window: Duration) -> Result<Self> {
        Self::from_seconds(window.as_secs().saturating_add(u64::from(window.subsec_nanos() > 0)))
    }
}

impl Default for Retention {
    /// 24 hours.
    fn default() -> Self {
        Self { seconds: 24 * 60 * 60 }
    }
}

impl FromStr for Retention {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let invalid = || {
            let message =
                format!("invalid history window {text:?}: give a time, such as 24h, 7d or 90m, or off");
            Error::new(ErrorKind::Invalid, message)
        };
        let trimmed = text.trim().to_ascii_lowercase();
        if trimmed == OFF {
            return Ok(Self::OFF);
        }
        let digits = trimmed.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = trimmed.split_at(digits);
        let number: u64 = number.parse().map_err(|_| invalid())?;
        let unit = unit.trim_start();
        let seconds = match UNITS.iter().find(|(name, ..)| *name == unit) {
            Some((_, seconds, _)) => *seconds,
            // Zero needs no unit.
            None if unit.is_empty() && number == 0 => 0,
            None => return Err(invalid()),
        };
        Self::from_seconds(number.checked_mul(seconds).ok_or_else(invalid)?)
    }
}

impl fmt::Display for Retention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |(_, seconds, least): &&(&str, u64, u64)| {
            self.seconds.is_multiple_of(*seconds) && self.seconds / seconds >= *least
        };
        match UNITS.iter().find(fits) {
            Some((unit, seconds, _)) => f.pad(&format!("{}{unit}", self.seconds / seconds)),
            None => f.pad(OFF),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_print_as_they_parse() {
        for (text, seconds, printed) in [
            ("24h", 86_400, "24h"),
            ("1d", 86_400, "24h"),
            ("7d", 604_800, "7d"),
            ("36h", 129_600, "36h"),
            ("90m", 5400, "90m"),
            ("60m", 3600, "1h"),
            (" 30 S ", 30, "30s"),
            ("0", 0, "off"),
            ("0h", 0, "off"),
            ("Off", 0, "off"),
            ("9223372036854s", 9_223_372_036_854, "9223372036854s"),
        ] {
            let window: Retention = text.parse().unwrap();
            assert_eq!((window.seconds(), window.to_string().as_str()), (seconds, printed), "{text}");
            assert_eq!(printed.parse::<Retention>().unwrap(), window);
        }
    }

    #[test]
    fn durations_round_up_to_seconds() {
        for (millis, seconds) in [(0, 0), (1, 1), (1000, 1), (1001, 2)] {
            let window = Retention::try_from(Duration::from_millis(millis)).unwrap();
            assert_eq!(window.seconds(), seconds, "{millis} ms");
        }
        assert_eq!(Retention::try_from(Duration::MAX).unwrap_err().kind(), ErrorKind::Invalid);
    }

    #[test]
    fn other_texts_are_refused() {
        for text in
            ["", "h", "90", "-1h", "1.5h", "1w", "1 h h", "9223372036855s", "999999999999999999d", "on"]
        {
            let error = text.parse::<Retention>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{text}");
            assert!(error.to_string().starts_with("invalid history window"), "{error}");
        }
    }
}
