//! Parses the lifetime of a token, in the API's notation for durations, such as `2w1d30m`.

use std::time::Duration;

/// Maximum lifetime of a token that expires: 100 years.
const LIFETIME_MAX: u64 = 100 * 365 * 24 * 60 * 60;

/// Parses a duration of weeks, days, hours, minutes and seconds, in this order and each at most once, such as `7d3h2m1s`.
/// Returns `None` for `never` and its synonyms `none`, `default` and the empty string.
///
/// # Errors
///
/// Returns the documented error message for any other text.
pub(super) fn parse(text: &str) -> Result<Option<Duration>, &'static str> {
    const INVALID: &str = "Invalid expiration format";
    if matches!(text, "" | "never" | "none" | "default") {
        return Ok(None);
    }
    let mut units = [('w', 604_800), ('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)].into_iter();
    let mut seconds: u64 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let count: u64 = rest[..digits].parse().map_err(|_| INVALID)?;
        let unit = rest[digits..].chars().next().ok_or(INVALID)?;
        let (_, factor) = units.find(|(name, _)| *name == unit).ok_or(INVALID)?;
        seconds = count.checked_mul(factor).and_then(|more| seconds.checked_add(more)).ok_or(INVALID)?;
        rest = &rest[digits + unit.len_utf8()..];
    }
    if (1..=LIFETIME_MAX).contains(&seconds) { Ok(Some(Duration::from_secs(seconds))) } else { Err(INVALID) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duration_parses_units_in_order() {
        let seconds = |text| parse(text).map(|lifetime| lifetime.map(|lifetime| lifetime.as_secs()));
        assert_eq!(seconds("2w1d30m"), Ok(Some(2 * 604_800 + 86_400 + 1_800)));
        assert_eq!(seconds("7d3h2m1s"), Ok(Some(7 * 86_400 + 3 * 3_600 + 121)));
        for never in ["", "never", "none", "default"] {
            assert_eq!(seconds(never), Ok(None), "{never}");
        }
        for invalid in
            ["0d", "d", "1", "1d2w", "1d1d", "-1d", "1.5h", "1é", "99999999999999999999d", "101w9999999d"]
        {
            assert!(seconds(invalid).is_err(), "{invalid}");
        }
    }
}
