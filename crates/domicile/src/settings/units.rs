//! How long is `"500ms"`? A duration always names its unit; a bare number is refused, since the
//! reader would have to guess.

use domicile_core::time::Millis;

const UNITS: &[(&str, u64)] = &[("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];

pub(crate) fn duration(text: &str) -> Result<Millis, String> {
    let refused = || {
        format!(
            "\"{text}\" is not a duration: expected a number and ms, s, m or h, as in \"500ms\""
        )
    };
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| refused())?;
    let (_, factor) =
        UNITS.iter().find(|(name, _)| *name == unit.trim_start()).ok_or_else(refused)?;
    number.checked_mul(*factor).map(Millis).ok_or_else(refused)
}

/// Prints a duration as one would write it in the file.
pub(super) fn written(duration: Millis) -> String {
    let fits = |factor: u64| duration.0 >= factor && duration.0.is_multiple_of(factor);
    let fitting = UNITS.iter().rev().find(|(_, factor)| fits(*factor));
    let (unit, factor) = fitting.unwrap_or(&UNITS[0]);
    format!("{}{unit}", duration.0 / factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_says_its_unit() {
        assert_eq!(duration("500ms"), Ok(Millis(500)));
        assert_eq!(duration("3 s"), Ok(Millis(3000)));
        assert_eq!(duration("2h"), Ok(Millis(7_200_000)));
        for wrong in ["", "3", "s", "-1s", "1.5s", "3 days", "99999999999999999999s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_duration_is_printed_with_the_largest_unit_that_fits() {
        assert_eq!(written(Millis(3000)), "3s");
        assert_eq!(written(Millis(2500)), "2500ms");
        assert_eq!(written(Millis(60_000)), "1m");
        assert_eq!(written(Millis(0)), "0ms");
    }
}
