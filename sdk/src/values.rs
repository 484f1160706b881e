//! Values of columns that Rust has no type for.
//!
//! Each is as small as what crosses the boundary: a number, or a text that is borrowed from the batch. They print and
//! read as Postgres writes them, which is what the tables of [`testing`](crate::testing) are made of.

use std::fmt;
use std::str::FromStr;

/// Microseconds of a second.
pub const SECOND_US: i64 = 1_000_000;
/// Microseconds of a day of 24 hours.
pub const DAY_US: i64 = 86_400 * SECOND_US;

/// A `timestamp`, in microseconds since 1970-01-01 00:00.
///
/// From a column of type `timestamptz` it is the time in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Postgres's `-infinity`.
    pub const MIN: Self = Self(i64::MIN);
    /// Postgres's `infinity`.
    pub const MAX: Self = Self(i64::MAX);

    /// Returns the day that the time belongs to. Infinite times have infinite days.
    pub fn date(self) -> Date {
        match self {
            Self::MIN => Date::MIN,
            Self::MAX => Date::MAX,
            Self(us) => Date(i32::try_from(us.div_euclid(DAY_US)).unwrap_or(i32::MAX)),
        }
    }

    /// Returns the time `us` microseconds later, earlier if negative; the nearest time where there is none.
    #[must_use]
    #[inline]
    pub fn plus_us(self, us: i64) -> Self {
        Self(self.0.saturating_add(us))
    }

    /// Returns how many microseconds have passed since `earlier`; negative if it lies after this time, and the nearest
    /// number where none is large enough.
    #[inline]
    pub fn us_since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// A `timestamptz`, in microseconds since 1970-01-01 00:00 UTC. For output columns that shall have this type; as input
/// [`Timestamp`] does as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TimestampTz(pub i64);

/// A `date`, in days since 1970-01-01.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Date(pub i32);

impl Date {
    /// Postgres's `-infinity`.
    pub const MIN: Self = Self(i32::MIN);
    /// Postgres's `infinity`.
    pub const MAX: Self = Self(i32::MAX);

    /// Returns the day's first moment. Infinite days have infinite ones, and so have those too far off to be counted in
    /// microseconds.
    #[inline]
    pub fn start(self) -> Timestamp {
        // Not `saturating_mul`, which WebAssembly has to do in 128 bits.
        const DAYS_MAX: i32 = (i64::MAX / DAY_US) as i32;
        match self {
            Self(days) if days > DAYS_MAX => Timestamp::MAX,
            Self(days) if days < -DAYS_MAX => Timestamp::MIN,
            Self(days) => Timestamp(i64::from(days) * DAY_US),
        }
    }
}

/// A `numeric` in its text form: `12.50`, `NaN`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Decimal<'a>(pub &'a str);

/// A `jsonb`, or from a column of type `json` that, in its text form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Json<'a>(pub &'a str);

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::MIN => f.write_str("-infinity"),
            Self::MAX => f.write_str("infinity"),
            Self(days) => {
                let (year, month, day) = civil(days.into());
                // Postgres has no year 0.
                match year {
                    1.. => write!(f, "{year:04}-{month:02}-{day:02}"),
                    _ => write!(f, "{:04}-{month:02}-{day:02} BC", 1 - year),
                }
            }
        }
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if matches!(*self, Self::MIN | Self::MAX) {
            return self.date().fmt(f);
        }
        let us = self.0.rem_euclid(DAY_US);
        let (seconds, fraction) = (us / SECOND_US, us % SECOND_US);
        let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        let date = self.date().to_string();
        let (date, era) = match date.strip_suffix(" BC") {
            Some(date) => (date, " BC"),
            None => (date.as_str(), ""),
        };
        write!(f, "{date} {hour:02}:{minute:02}:{second:02}")?;
        if fraction > 0 {
            let digits = format!("{fraction:06}");
            write!(f, ".{}", digits.trim_end_matches('0'))?;
        }
        f.write_str(era)
    }
}

impl fmt::Display for TimestampTz {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Timestamp(self.0) {
            time @ (Timestamp::MIN | Timestamp::MAX) => time.fmt(f),
            time => write!(f, "{time}+00"),
        }
    }
}

impl FromStr for Date {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let error = || format!("expected a date such as 2024-12-31, found \"{text}\"");
        match text {
            "-infinity" => return Ok(Self::MIN),
            "infinity" => return Ok(Self::MAX),
            _ => {}
        }
        let mut parts = text.splitn(3, '-').map(|part| part.parse::<i64>().ok());
        let mut part = || parts.next().flatten().ok_or_else(error);
        let (year, month, day) = (part()?, part()?, part()?);
        if !(1..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
            return Err(error());
        }
        let days = days(year, month, day);
        // A day that the month does not have comes back as another one.
        match civil(days) == (year, month, day) {
            true => i32::try_from(days).map(Self).map_err(|_| error()),
            false => Err(error()),
        }
    }
}

impl FromStr for Timestamp {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let error = || format!("expected a time such as 2024-12-31 23:59:59.5, found \"{text}\"");
        let (date, time) = match text {
            "-infinity" => return Ok(Self::MIN),
            "infinity" => return Ok(Self::MAX),
            _ => text.split_once([' ', 'T']).unwrap_or((text, "00:00:00")),
        };
        let date: Date = date.parse().map_err(|_| error())?;
        let (whole, fraction) = time.split_once('.').unwrap_or((time, ""));
        let mut parts = whole.split(':');
        let mut part = |below: i64| {
            let number = parts.next().filter(|part| part.len() == 2)?.parse().ok()?;
            (0..below).contains(&number).then_some(number)
        };
        let (hour, minute) = (part(24).ok_or_else(error)?, part(60).ok_or_else(error)?);
        let second = part(60).ok_or_else(error)?;
        let us = match fraction.len() {
            0 => 0,
            1..=6 if fraction.bytes().all(|byte| byte.is_ascii_digit()) => {
                format!("{fraction:0<6}").parse().map_err(|_| error())?
            }
            _ => return Err(error()),
        };
        if parts.next().is_some() {
            return Err(error());
        }
        let seconds = (hour * 60 + minute) * 60 + second;
        Ok(date.start().plus_us(seconds * SECOND_US + us))
    }
}

impl FromStr for TimestampTz {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let utc = text.strip_suffix("+00").unwrap_or(text);
        utc.parse::<Timestamp>().map(|time| Self(time.0))
    }
}

/// Returns the days from 1970-01-01 to a day of the Gregorian calendar, by counting years from March, so that the day
/// that some of them have more is their last one.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// The inverse of [`days`]: year, month and day.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_those_of_the_calendar() {
        for (text, day) in [
            ("1970-01-01", 0),
            ("1969-12-31", -1),
            ("2000-02-29", 11_016),
            ("2024-12-31", 20_088),
            ("0001-01-01", -719_162),
            ("infinity", i32::MAX),
        ] {
            assert_eq!(text.parse(), Ok(Date(day)), "{text}");
            assert_eq!(Date(day).to_string(), text);
        }
        for day in (-800_000..800_000).step_by(37) {
            let (year, month, of_month) = civil(day);
            assert_eq!(days(year, month, of_month), day);
        }
        for text in ["2023-02-29", "2024-13-01", "24-1", "", "x-y-z"] {
            assert!(text.parse::<Date>().is_err(), "{text}");
        }
        assert_eq!(Date(-719_163).to_string(), "0001-12-31 BC");
    }

    #[test]
    fn a_day_begins_where_its_time_can_be_counted() {
        for (day, start) in [
            (Date(20_088), Timestamp(20_088 * DAY_US)),
            (Date(106_751_991), Timestamp(106_751_991 * DAY_US)),
            (Date(106_751_992), Timestamp::MAX),
            (Date(-106_751_992), Timestamp::MIN),
            (Date::MAX, Timestamp::MAX),
            (Date::MIN, Timestamp::MIN),
        ] {
            assert_eq!(day.start(), start, "{day:?}");
        }
    }

    #[test]
    fn times_are_written_as_postgres_writes_them() {
        for (text, us) in [
            ("1970-01-01 00:00:00", 0),
            ("1970-01-01 00:00:00.5", 500_000),
            ("1969-12-31 23:59:59.999999", -1),
            ("2024-05-06 07:08:09.12", 1_714_979_289_120_000),
            ("-infinity", i64::MIN),
        ] {
            assert_eq!(text.parse(), Ok(Timestamp(us)), "{text}");
            assert_eq!(Timestamp(us).to_string(), text);
        }
        assert_eq!(TimestampTz(0).to_string(), "1970-01-01 00:00:00+00");
        assert_eq!("1970-01-01 00:00:00+00".parse(), Ok(TimestampTz(0)));
        for text in [
            "2024-05-06 24:00:00",
            "2024-05-06 7:08:09",
            "2024-05-06 07:08",
            "2024-05-06 07:08:09.1234567",
            "2024-05-06 07:08:09.-1",
        ] {
            assert!(text.parse::<Timestamp>().is_err(), "{text}");
        }
        assert_eq!(Timestamp(-1).date(), Date(-1));
        assert_eq!(Date(-1).start(), Timestamp(-DAY_US));
    }
}
