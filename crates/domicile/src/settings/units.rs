//! How long is `"500ms"`, how much is `"64MiB"`? A value always names its unit; a bare number is
//! refused, since the reader would have to guess.

use domicile_core::time::Millis;

const TIMES: &[(&str, u64)] =
    &[("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
const SIZES: &[(&str, u64)] =
    &[("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];

pub(crate) fn duration(text: &str) -> Result<Millis, String> {
    measure(text, TIMES).map(Millis).ok_or_else(|| {
        format!(
            "\"{text}\" is not a duration: expected a number and ms, s, m, h or d, as in \"500ms\""
        )
    })
}

/// Returns a number of bytes.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    measure(text, SIZES).ok_or_else(|| {
        format!(
            "\"{text}\" is not a size: expected a number and B, KiB, MiB, GiB or TiB, as in \
             \"64MiB\""
        )
    })
}

/// The shortest bound of an RPO: the clock that ages are measured by counts milliseconds.
const RPO_MIN: Millis = Millis(10);

/// What is said of a text that is no RPO.
pub(super) const NO_RPO: &str = "is neither \"0\", nor \"none\", nor a duration, as in \"250ms\"";

/// Reads the bound of an RPO, 0 or no shorter than can be kept; or says what is wrong with it.
pub(crate) fn rpo(text: &str) -> Result<Millis, String> {
    match duration(text).ok().or_else(|| (text == "0").then_some(Millis(0))) {
        Some(age) if age == Millis(0) || age >= RPO_MIN => Ok(age),
        Some(_) => Err(format!("is too short: below {}ms it is \"0\"", RPO_MIN.0)),
        None => Err(NO_RPO.to_owned()),
    }
}

fn measure(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// Prints a duration as one would write it in the file.
pub(crate) fn written(duration: Millis) -> String {
    with_unit(duration.0, TIMES)
}

/// Prints a number of bytes as one would write it in the file.
pub(super) fn written_size(bytes: u64) -> String {
    with_unit(bytes, SIZES)
}

fn with_unit(value: u64, units: &[(&str, u64)]) -> String {
    let fits = |factor: u64| value >= factor && value.is_multiple_of(factor);
    let fitting = units.iter().rev().find(|(_, factor)| fits(*factor));
    let (unit, factor) = fitting.unwrap_or(&units[0]);
    format!("{}{unit}", value / factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_says_its_unit() {
        assert_eq!(duration("500ms"), Ok(Millis(500)));
        assert_eq!(duration("3 s"), Ok(Millis(3000)));
        assert_eq!(duration("2h"), Ok(Millis(7_200_000)));
        assert_eq!(duration("7d"), Ok(Millis(604_800_000)));
        for wrong in ["", "3", "s", "-1s", "1.5s", "3 days", "99999999999999999999s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_size_says_its_unit() {
        assert_eq!(size("64KiB"), Ok(65_536));
        assert_eq!(size("2 TiB"), Ok(2 << 40));
        for wrong in ["", "64", "64MB", "1.5GiB", "-1B", "99999999TiB"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_value_is_printed_with_the_largest_unit_that_fits() {
        assert_eq!(written(Millis(3000)), "3s");
        assert_eq!(written(Millis(2500)), "2500ms");
        assert_eq!(written(Millis(60_000)), "1m");
        assert_eq!(written(Millis(0)), "0ms");
        assert_eq!(written_size(64 << 20), "64MiB");
        assert_eq!(written_size(1500), "1500B");
    }
}
