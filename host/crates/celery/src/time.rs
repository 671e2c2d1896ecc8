//! Times as Python's `datetime.isoformat` writes them.

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};

/// Reads a time. One without an offset is taken as UTC, which is Celery's default.
pub fn parse(text: &str) -> Option<Timestamp> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Some(time);
    }
    let civil: DateTime = text.parse().ok()?;
    Some(civil.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

/// Writes a time, in UTC, to the microsecond.
pub fn print(time: Timestamp) -> String {
    let micros = time.as_microsecond();
    let time = Timestamp::from_microsecond(micros).unwrap_or(time);
    let micros = micros.rem_euclid(1_000_000);
    let seconds = time.strftime("%Y-%m-%dT%H:%M:%S");
    if micros == 0 { format!("{seconds}+00:00") } else { format!("{seconds}.{micros:06}+00:00") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_written_as_python_does() {
        for text in ["2026-11-22T08:45:51.154078+00:00", "2026-11-22T08:45:51+00:00"] {
            assert_eq!(print(parse(text).unwrap()), text);
        }
        let same = parse("2026-11-22T08:45:51+00:00");
        for text in [
            "2026-11-22T08:45:51",
            "2026-11-22 08:45:51Z",
            "2026-11-22T10:45:51+02:00",
            "2026-11-22T08:45:51.000+00:00",
        ] {
            assert_eq!(parse(text), same, "{text}");
        }
        for text in ["", "soon", "1700000000", "2026-13-01T00:00:00"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
