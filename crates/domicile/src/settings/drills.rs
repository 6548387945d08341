//! How often is a drill wanted, and when may one start?

use std::collections::BTreeSet;

use domicile_core::runbook::drill::{Day, DrillTerms, Hours};
use domicile_core::time::Millis;

use super::mistake::Mistakes;
use super::resolve::duration;
use super::units;
use super::written::{Names, WrittenDrills};

const EVERY_DEFAULT: Millis = Millis(7 * 86_400_000);
/// The directory keeps what became of each.
const EVERY_MIN: Millis = Millis(86_400_000);
const EVERY_MAX: Millis = Millis(365 * 86_400_000);
/// Shorter periods do not hold every day of a week.
const EVERY_MIN_WITH_DAYS: Millis = Millis(7 * 86_400_000);

const DAY_NAMES: &str = "mon, tue, wed, thu, fri, sat or sun";
const DAYS: [(&str, Day); 7] = [
    ("mon", Day::Mon),
    ("tue", Day::Tue),
    ("wed", Day::Wed),
    ("thu", Day::Thu),
    ("fri", Day::Fri),
    ("sat", Day::Sat),
    ("sun", Day::Sun),
];

/// What of it is wrong is left out.
pub(super) fn resolve(written: &WrittenDrills, mistakes: &mut Mistakes) -> DrillTerms {
    let every = duration("drills.every", written.every.as_deref(), EVERY_DEFAULT, mistakes);
    let days = days(written.days.as_ref(), mistakes);
    let hours = written.hours.as_deref().and_then(|text| {
        let hours = hours(text);
        if hours.is_none() {
            let text = format!(
                "\"{text}\" are no hours of a day: expected two different times, as in \"02:00-04:30\""
            );
            mistakes.add("drills.hours", text);
        }
        hours
    });
    if !(EVERY_MIN..=EVERY_MAX).contains(&every) {
        let (min, max) = (units::written(EVERY_MIN), units::written(EVERY_MAX));
        let every = units::written(every);
        mistakes.add("drills.every", format!("{every}: expected {min} to {max}"));
    } else if written.days.is_some() && every < EVERY_MIN_WITH_DAYS {
        let (every, min) = (units::written(every), units::written(EVERY_MIN_WITH_DAYS));
        let text = format!("{every}: with drills.days it is {min} at least");
        mistakes.add("drills.every", text);
    }
    DrillTerms { every, days, hours }
}

fn days(written: Option<&Names>, mistakes: &mut Mistakes) -> BTreeSet<Day> {
    let mut days = BTreeSet::new();
    for text in written.map(Names::list).unwrap_or_default() {
        match DAYS.iter().find(|(name, _)| *name == text) {
            Some((_, day)) => _ = days.insert(*day),
            None => {
                let text = format!("\"{text}\" is not a day: expected {DAY_NAMES}");
                mistakes.add("drills.days", text);
            }
        }
    }
    if written.is_some() && days.is_empty() {
        mistakes.add("drills.days", "names no day");
    }
    days
}

fn hours(text: &str) -> Option<Hours> {
    let (from, until) = text.split_once('-')?;
    let hours = Hours { from: minutes(from)?, until: minutes(until)? };
    (hours.from != hours.until).then_some(hours)
}

/// Returns the minutes since midnight, of `02:30`.
fn minutes(time: &str) -> Option<u64> {
    let (hour, minute) = time.split_once(':')?;
    let below = |text: &str, end: u64| {
        let digits = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u64>().ok().filter(|number| digits && *number < end)
    };
    Some(below(hour, 24)? * 60 + below(minute, 60)?)
}
