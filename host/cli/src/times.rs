//! Points in time as they are written on the command line.

use jiff::civil::DateTime;
use jiff::{Timestamp, tz::TimeZone};

use crate::failed::Failed;

/// Refuses a stretch of time in which no time lies: nothing would be found there, which would look like good news.
///
/// # Errors
///
/// [`Failed::Usage`] that names both options.
pub(crate) fn check_stretch(
    since: Option<Timestamp>,
    until: Option<Timestamp>,
) -> Result<(), Failed> {
    match (since, until) {
        (Some(since), Some(until)) if since >= until => Err(Failed::Usage {
            message: format!(
                "--since {since} is not before --until {until}: no time lies between them"
            ),
            help: "The time of --since is included, that of --until is not; give a later --until."
                .into(),
        }),
        _ => Ok(()),
    }
}

/// Reads a point in time; without a zone it is in UTC, and a date is its beginning.
pub(crate) fn parse_time(text: &str) -> Result<Timestamp, String> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    let civil = text.parse::<DateTime>().ok();
    let zoned = civil.and_then(|civil| civil.to_zoned(TimeZone::UTC).ok());
    let time = zoned.map(|zoned| zoned.timestamp());
    time.ok_or_else(|| "expected a time as 2026-01-31T06:00:00Z, or a date".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stretch_of_time_has_a_time_in_it() {
        let time = |text: &str| Some(parse_time(text).expect("a time"));
        let (early, late) = (time("2026-01-31"), time("2026-02-01"));
        for (since, until) in [(early, late), (early, None), (None, early), (None, None)] {
            assert!(check_stretch(since, until).is_ok(), "{since:?} {until:?}");
        }
        for (since, until) in [(early, early), (late, early)] {
            let Err(Failed::Usage { message, .. }) = check_stretch(since, until) else {
                panic!("{since:?} {until:?}")
            };
            assert!(message.contains("--since 2026-0") && message.contains("--until 2026-01-31"));
        }
    }

    #[test]
    fn times_are_in_utc_unless_they_have_a_zone() {
        for (text, time) in [
            ("2026-01-31T06:00:00Z", "2026-01-31T06:00:00Z"),
            ("2026-01-31T06:00:00+02:00", "2026-01-31T04:00:00Z"),
            ("2026-01-31 06:00:00", "2026-01-31T06:00:00Z"),
            ("2026-01-31", "2026-01-31T00:00:00Z"),
        ] {
            assert_eq!(parse_time(text).map(|t| t.to_string()), Ok(time.to_owned()));
        }
        assert!(parse_time("yesterday").is_err());
        assert!(parse_time("2026-02-30").is_err());
    }
}
