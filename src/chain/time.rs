//! Time as the chain has it: seconds since 1970 and nanoseconds, from year 1 to year 9999.

use std::fmt;

use super::encode;

/// A point in time. Go's zero time is year 1, not 1970 (`protocol.md` 0.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Time {
    /// Seconds since 1970-01-01; negative before.
    pub seconds: i64,
    /// 0 to 999 999 999.
    pub nanos: i32,
}

impl Time {
    /// Year 1: what an absent timestamp field decodes to.
    pub const ZERO: Time = Time {
        seconds: -62_135_596_800,
        nanos: 0,
    };
    /// The first second that is not representable any more, year 10000.
    const END: i64 = 253_402_300_800;

    /// A time, when it lies within years 1 to 9999 and `nanos` within a second.
    #[must_use]
    pub fn new(seconds: i64, nanos: i32) -> Option<Self> {
        let ok = (Self::ZERO.seconds..Self::END).contains(&seconds)
            && (0..1_000_000_000).contains(&nanos);
        ok.then_some(Time { seconds, nanos })
    }

    /// Appends the message `google.protobuf.Timestamp`.
    pub fn encode(self, out: &mut Vec<u8>) {
        encode::int(1, self.seconds, out);
        encode::int(2, i64::from(self.nanos), out);
    }

    /// Reads RFC 3339 in UTC, which must end in `Z`, as Go does: two digits each, no leap second,
    /// decimals beyond nine cut off. `None` when it is anything else, or before year 1.
    #[must_use]
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        let (whole, fraction) = text.strip_suffix('Z')?.split_at_checked(19)?;
        let nanos = match fraction.strip_prefix('.') {
            Some(digits) => nanos(digits)?,
            None if fraction.is_empty() => 0,
            // Go wants a point before decimals, and at least one digit behind it.
            None => return None,
        };
        let mut fields = [0; 6];
        // Where each number begins and ends, and what stands behind it.
        let shape = [
            (0, 4, "-"),
            (5, 7, "-"),
            (8, 10, "T"),
            (11, 13, ":"),
            (14, 16, ":"),
            (17, 19, ""),
        ];
        for (field, (from, to, then)) in fields.iter_mut().zip(shape) {
            *field = digits(whole.get(from..to)?)?;
            if !whole.get(to..)?.starts_with(then) {
                return None;
            }
        }
        let [year, month, day, hour, minute, second] = fields;
        let days = days_from_civil(year, month, day);
        // An impossible date comes back as another one.
        if civil(days) != (year, month, day) || hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        Time::new(days * 86_400 + hour * 3600 + minute * 60 + second, nanos)
    }

    /// Reads RFC 3339 in any time zone: [`Time::parse_rfc3339`], or an offset like `+02:00` in
    /// place of the `Z`.
    #[must_use]
    pub fn parse_rfc3339_in_any_zone(text: &str) -> Option<Self> {
        if text.ends_with('Z') {
            return Time::parse_rfc3339(text);
        }
        let (local, offset) = text.split_at_checked(text.len().checked_sub(6)?)?;
        let (hours, minutes) = offset.get(1..)?.split_once(':')?;
        let (hours, minutes) = (digits(hours)?, digits(minutes)?);
        let east = match offset.get(..1)? {
            "+" => 1,
            "-" => -1,
            _ => return None,
        };
        if hours > 23 || minutes > 59 || offset.as_bytes()[3] != b':' {
            return None;
        }
        // The same checks of date and time, as if it were UTC; the offset only moves the result.
        let local = Time::parse_rfc3339(&format!("{local}Z"))?;
        let ahead = east * (hours * 3600 + minutes * 60);
        Time::new(local.seconds - ahead, local.nanos)
    }

    /// Nanoseconds since 1970.
    #[must_use]
    pub fn as_nanos(self) -> i128 {
        i128::from(self.seconds) * 1_000_000_000 + i128::from(self.nanos)
    }

    /// Nanoseconds from `earlier` to `self`; negative when `self` is the earlier one.
    #[must_use]
    pub fn since(self, earlier: Time) -> i128 {
        self.as_nanos() - earlier.as_nanos()
    }
}

impl Default for Time {
    fn default() -> Self {
        Self::ZERO
    }
}

impl fmt::Display for Time {
    /// RFC 3339 in UTC, with as many decimals as needed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, second) = (
            self.seconds.div_euclid(86_400),
            self.seconds.rem_euclid(86_400),
        );
        let (year, month, day) = civil(days);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}",
            second / 3600,
            second / 60 % 60,
            second % 60
        )?;
        if self.nanos != 0 {
            let digits = format!("{:09}", self.nanos);
            write!(f, ".{}", digits.trim_end_matches('0'))?;
        }
        f.write_str("Z")
    }
}

/// A number of digits alone.
fn digits(text: &str) -> Option<i64> {
    let all = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if all { text.parse().ok() } else { None }
}

/// Nanoseconds of a fraction's digits, those beyond nine cut off.
fn nanos(fraction: &str) -> Option<i32> {
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let nine = format!("{:0<9}", fraction.get(..9).unwrap_or(fraction));
    if fraction.is_empty() {
        None
    } else {
        nine.parse().ok()
    }
}

/// The day number of a date, counted from 1970-01-01; of a month or day that does not exist, some
/// day.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    // Years begin in March here, so that the leap day is their last; 400 of them always have
    // 146 097 days.
    let (month_from_march, year) = if month > 2 {
        (month - 3, year)
    } else {
        (month + 9, year - 1)
    };
    let of_era = year.rem_euclid(400);
    let of_year = (153 * month_from_march + 2) / 5 + day - 1;
    year.div_euclid(400) * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// Year, month and day of a day number counted from 1970-01-01, in the Gregorian calendar.
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468; // days since 0000-03-01
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_as_go_does() {
        assert_eq!(Time::ZERO.to_string(), "0001-01-01T00:00:00Z");
        assert_eq!(
            Time::new(1_767_225_600, 123_000_000).unwrap().to_string(),
            "2026-01-01T00:00:00.123Z"
        );
        assert_eq!(
            Time::new(-1, 1).unwrap().to_string(),
            "1969-12-31T23:59:59.000000001Z"
        );
        assert_eq!(
            Time::new(1_709_164_800, 0).unwrap().to_string(),
            "2024-02-29T00:00:00Z"
        );
    }

    #[test]
    fn reads_what_it_prints() {
        for text in [
            "0001-01-01T00:00:00Z",
            "1969-12-31T23:59:59.000000001Z",
            "2000-02-29T12:00:00Z",
            "2024-02-29T00:00:00.5Z",
            "9999-12-31T23:59:59.999999999Z",
        ] {
            assert_eq!(Time::parse_rfc3339(text).unwrap().to_string(), text);
        }
        let cut = Time::parse_rfc3339("2026-01-01T00:00:00.1234567899Z").unwrap();
        assert_eq!(cut.nanos, 123_456_789);
    }

    #[test]
    fn reads_other_zones_where_they_are_allowed() {
        let read = |text| Time::parse_rfc3339_in_any_zone(text).map(|time| time.to_string());
        let utc = Some("2025-12-31T23:30:00.25Z".to_owned());
        for text in [
            "2025-12-31T23:30:00.25Z",
            "2026-01-01T01:00:00.25+01:30",
            "2025-12-31T15:30:00.25-08:00",
        ] {
            assert_eq!(read(text), utc, "{text}");
        }
        for text in [
            "",
            "+01:00",
            "2026-01-01T01:00:00",
            "2026-01-01T01:00:00+24:00",
            "2026-01-01T01:00:00+01:60",
            "2026-01-01T01:00:00*01:00",
            "2026-01-01T01:00:00+1:000",
            "2026-01-01T01:00:00Z+01:00",
            "0001-01-01T00:00:00+01:00",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn reads_no_other_time() {
        for text in [
            "",
            "Z",
            "2026-01-01T00:00:00",
            "2026-01-01T00:00:00z",
            "2026-01-01t00:00:00Z",
            "2026-01-01T00:00:00+00:00",
            "2026-01-01T00:00:00.Z",
            "2026-01-01T00:00:00,5Z",
            "2026-01-01T00:00:60Z",
            "2026-01-01T24:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-01-00T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "1900-02-29T00:00:00Z",
            "0000-01-01T00:00:00Z",
            "+026-01-01T00:00:00Z",
            "2026-01-01T00:00:0éZ",
        ] {
            assert_eq!(Time::parse_rfc3339(text), None, "{text}");
        }
    }

    #[test]
    fn refuses_what_go_refuses() {
        assert_eq!(Time::new(Time::ZERO.seconds - 1, 0), None);
        assert_eq!(Time::new(253_402_300_800, 0), None);
        assert_eq!(Time::new(0, 1_000_000_000), None);
        assert_eq!(Time::new(0, -1), None);
    }
}
