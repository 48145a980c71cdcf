//! Dates and times as texts of one form each, so that equal times are equal texts and later ones sort later:
//! `2026-11-26`, `2026-11-26T19:15:40.000000`, and with a zone always UTC, `2026-11-26T19:15:40.000000Z`.
//!
//! Pure; the calendar is the proleptic Gregorian one (RFC 3339), years 1 to 9999, as both engines take them.

/// A date and time without a zone, in microseconds since the year 1970 began.
type Microseconds = i64;

const DAY_US: i64 = 86_400_000_000;

/// Takes `YYYY-MM-DD`.
pub(crate) fn date(text: &str) -> Option<String> {
    let mut rest = text;
    let days = take_date(&mut rest)?;
    rest.is_empty().then(|| print_date(days)).flatten()
}

/// Takes a date and time without a zone. Between them stands `T` or a space, seconds may be missing, and what is finer than
/// a microsecond is cut.
pub(crate) fn local(text: &str) -> Option<String> {
    let mut rest = text;
    let at = take_time(&mut rest)?;
    rest.is_empty().then(|| print(at)).flatten()
}

/// Takes a date and time with a zone (RFC 3339).
pub(crate) fn zoned(text: &str) -> Option<String> {
    let mut rest = text;
    let at = take_time(&mut rest)?;
    let offset = take_offset(&mut rest)?;
    if !rest.is_empty() {
        return None;
    }
    Some(format!("{}Z", print(at.checked_sub(offset)?)?))
}

fn take_date(rest: &mut &str) -> Option<i64> {
    let year = take_number(rest, 4)?;
    take(rest, "-")?;
    let month = take_number(rest, 2)?;
    take(rest, "-")?;
    let day = take_number(rest, 2)?;
    let good = (1..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=month_days(year, month)).contains(&day);
    good.then(|| days(year, month, day))
}

fn take_time(rest: &mut &str) -> Option<Microseconds> {
    let days = take_date(rest)?;
    take(rest, "T").or_else(|| take(rest, "t")).or_else(|| take(rest, " "))?;
    let hour = take_number(rest, 2)?;
    take(rest, ":")?;
    let minute = take_number(rest, 2)?;
    let (mut second, mut fraction) = (0, 0);
    if take(rest, ":").is_some() {
        second = take_number(rest, 2)?;
        if take(rest, ".").is_some() {
            fraction = take_fraction(rest)?;
        }
    }
    let good = hour < 24 && minute < 60 && second < 60;
    good.then(|| days * DAY_US + ((hour * 60 + minute) * 60 + second) * 1_000_000 + fraction)
}

fn take_offset(rest: &mut &str) -> Option<Microseconds> {
    if take(rest, "Z").or_else(|| take(rest, "z")).is_some() {
        return Some(0);
    }
    let sign = if take(rest, "+").is_some() { 1 } else { take(rest, "-").map(|()| -1)? };
    let hours = take_number(rest, 2)?;
    take(rest, ":")?;
    let minutes = take_number(rest, 2)?;
    (hours < 24 && minutes < 60).then_some(sign * (hours * 60 + minutes) * 60_000_000)
}

fn take(rest: &mut &str, word: &str) -> Option<()> {
    *rest = rest.strip_prefix(word)?;
    Some(())
}

fn take_number(rest: &mut &str, digits: usize) -> Option<i64> {
    let (number, after) = rest.split_at_checked(digits)?;
    if !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    *rest = after;
    number.parse().ok()
}

/// One to nine digits as microseconds.
fn take_fraction(rest: &mut &str) -> Option<i64> {
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    if !(1..=9).contains(&digits) {
        return None;
    }
    let nanoseconds =
        take_number(rest, digits)? * 10_i64.pow(9_u32.saturating_sub(u32::try_from(digits).ok()?));
    Some(nanoseconds / 1_000)
}

fn print(at: Microseconds) -> Option<String> {
    let (days, us) = (at.div_euclid(DAY_US), at.rem_euclid(DAY_US));
    let (seconds, fraction) = (us / 1_000_000, us % 1_000_000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    Some(format!("{}T{hour:02}:{minute:02}:{second:02}.{fraction:06}", print_date(days)?))
}

fn print_date(days: i64) -> Option<String> {
    let (year, month, day) = civil(days);
    (1..=9999).contains(&year).then(|| format!("{year:04}-{month:02}-{day:02}"))
}

const fn month_days(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 (Howard Hinnant, "chrono-compatible low-level date algorithms").
const fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// The other way round.
const fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let years = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * years + years / 4 - years / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (years + era * 400 + if month <= 2 { 1 } else { 0 }, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_have_one_text() {
        for (text, wanted) in [
            ("2026-11-26T19:15:40Z", Some("2026-11-26T19:15:40.000000Z")),
            ("2026-11-26t19:15:40.1234567z", Some("2026-11-26T19:15:40.123456Z")),
            ("2026-03-01T00:30:00+01:00", Some("2026-02-28T23:30:00.000000Z")),
            ("2024-02-29 23:59:59.9-00:01", Some("2024-03-01T00:00:59.900000Z")),
            ("1969-12-31T23:59:59.5Z", Some("1969-12-31T23:59:59.500000Z")),
            ("2026-02-29T00:00:00Z", None),
            ("2026-11-26T24:00:00Z", None),
            ("2026-11-26T19:15:60Z", None),
            ("2026-11-26T19:15:40", None),
            ("2026-11-26T19:15:40. Z", None),
            ("0001-01-01T00:00:00+01:00", None),
            ("9999-12-31T23:59:59-01:00", None),
            ("infinity", None),
            ("", None),
        ] {
            assert_eq!(zoned(text).as_deref(), wanted, "{text}");
        }
        assert_eq!(local("2026-11-26 19:15").as_deref(), Some("2026-11-26T19:15:00.000000"));
        assert_eq!(local("2026-11-26T19:15:00Z"), None);
        assert_eq!(date("2000-02-29").as_deref(), Some("2000-02-29"));
        for bad in
            ["1900-02-29", "2000-13-01", "2000-00-01", "2000-01-32", "0000-01-01", "20000-01-01", "2000-1-1"]
        {
            assert_eq!(date(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn days_and_dates_agree(day in -719_162_i64..2_932_896) {
            let (year, month, date) = civil(day);
            prop_assert_eq!(days(year, month, date), day);
            prop_assert!(print_date(day) < print_date(day + 1));
        }

        #[test]
        fn no_text_breaks_it(text in ".{0,40}") {
            drop((date(&text), local(&text), zoned(&text)));
        }
    }
}
