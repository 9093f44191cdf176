//! Pure: durations like `250ms` and sizes like `64KiB`, as people write them in the configuration.
//! The schema checks values with these, and `raw` reads them; both give the same error text.

use std::time::Duration;

/// What a duration must look like, for error texts.
pub const DURATION: &str = "a duration such as \"250ms\", \"5s\", \"10min\" or \"1h\"";
/// What a size must look like, for error texts.
pub const SIZE: &str = "a size such as \"64KiB\", \"1MiB\" or a number of bytes";

/// Splits `12.5ms` into the number and its unit.
fn split(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..end].parse().ok()?;
    Some((number, text[end..].trim()))
}

/// Reads a duration; `None` if it is none. A bare `0` needs no unit, any other number does: 5 what?
pub fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    let seconds = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "min" | "m" => 60.0,
        "h" => 3600.0,
        "d" => 86400.0,
        "" if number == 0.0 => 0.0,
        _ => return None,
    };
    let nanos = (number * seconds * 1e9).round();
    // A century: longer ones overflow clocks, and are typing errors.
    if nanos > 3.2e18 { None } else { Some(Duration::from_nanos(nanos as u64)) }
}

/// Reads a size in bytes; `None` if it is none.
pub fn size(text: &str) -> Option<usize> {
    let (number, unit) = split(text)?;
    let factor: u64 = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return None,
    };
    let bytes = number * factor as f64;
    if bytes > (1u64 << 46) as f64 || bytes.fract() != 0.0 { None } else { Some(bytes as usize) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, expect) in [
            ("250ms", Some(Duration::from_millis(250))),
            ("5s", Some(Duration::from_secs(5))),
            ("1.5s", Some(Duration::from_millis(1500))),
            ("10min", Some(Duration::from_secs(600))),
            ("1h", Some(Duration::from_secs(3600))),
            ("2 d", Some(Duration::from_secs(172_800))),
            ("0", Some(Duration::ZERO)),
            ("5", None),
            ("s", None),
            ("-5s", None),
            ("5 seconds", None),
            ("1.2.3s", None),
            ("99999999999d", None),
        ] {
            assert_eq!(duration(text), expect, "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, expect) in [
            ("64KiB", Some(65_536)),
            ("1MiB", Some(1_048_576)),
            ("1.5KiB", Some(1536)),
            ("2GiB", Some(2_147_483_648)),
            ("10kB", Some(10_000)),
            ("512", Some(512)),
            ("64kib", None),
            ("0.3B", None),
            ("KiB", None),
            ("-1", None),
            ("9999999GiB", None),
        ] {
            assert_eq!(size(text), expect, "{text}");
        }
    }
}
