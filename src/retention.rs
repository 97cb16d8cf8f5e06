//! How long back a database can be restored: "24h", "7d", "off".

use std::{fmt, str::FromStr};

use crate::error::{Error, ErrorKind, Result};

/// Units by the seconds that they stand for, the largest first, and the least number that is printed in each.
const UNITS: &[(&str, u64, u64)] = &[("d", 24 * 60 * 60, 2), ("h", 60 * 60, 1), ("m", 60, 1), ("s", 1, 1)];

/// What stands for no history.
const OFF: &str = "off";

/// The longest window: its microseconds are a number of 64 bits with a sign.
const SECONDS_MAX: u64 = i64::MAX as u64 / 1_000_000;

/// How long back a database can be restored.
///
/// Every commit within the window is a point that the database can be restored to, at the least: what lies before it is
/// kept until [`maintain_database`](crate::ControlPlane::maintain_database) removes it. A window of zero keeps no history.
///
/// It parses as a number of days, hours, minutes or seconds (`7d`, `24h`, `90m`, `30s`), or as `0` or `off`, and prints in
/// the largest unit that has no fraction; one day prints as `24h`. The default is 24 hours.
///
/// ```
/// use litefleet::Retention;
///
/// let window: Retention = "90m".parse()?;
/// assert_eq!(window.seconds(), 5400);
/// assert_eq!(window.to_string(), "90m");
/// assert_eq!(Retention::default().to_string(), "24h");
/// assert!("0".parse::<Retention>()?.is_off());
/// # Ok::<(), litefleet::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Retention(u64);

impl Retention {
    /// No history.
    pub const OFF: Self = Self(0);

    /// A window of so many seconds.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] above 9,223,372,036,854, some 292,000 years.
    pub fn from_seconds(seconds: u64) -> Result<Self> {
        if seconds > SECONDS_MAX {
            let message = format!("invalid history window: {seconds} seconds is too long");
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        Ok(Self(seconds))
    }

    /// Its length in seconds.
    #[must_use]
    pub const fn seconds(self) -> u64 {
        self.0
    }

    /// Whether no history is kept.
    #[must_use]
    pub const fn is_off(self) -> bool {
        self.0 == 0
    }
}

impl Default for Retention {
    /// 24 hours.
    fn default() -> Self {
        Self(24 * 60 * 60)
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
            // Nothing is nothing in any unit.
            None if unit.is_empty() && number == 0 => 0,
            None => return Err(invalid()),
        };
        Self::from_seconds(number.checked_mul(seconds).ok_or_else(invalid)?)
    }
}

impl fmt::Display for Retention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |(_, seconds, least): &&(&str, u64, u64)| {
            self.0.is_multiple_of(*seconds) && self.0 / seconds >= *least
        };
        match UNITS.iter().find(fits) {
            Some((unit, seconds, _)) => f.pad(&format!("{}{unit}", self.0 / seconds)),
            None => f.pad(OFF),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_prints_as_it_is_read() {
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
    fn what_is_not_a_window_is_refused() {
        for text in
            ["", "h", "90", "-1h", "1.5h", "1w", "1 h h", "9223372036855s", "999999999999999999d", "on"]
        {
            let error = text.parse::<Retention>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{text}");
            assert!(error.to_string().starts_with("invalid history window"), "{error}");
        }
    }
}
