//! Can two regions draw the same number from "one" sequence?
//!
//! A sequence's position is not replicated. Two regions never collide when their sequences count
//! in steps at least as wide as there are regions, each from another start:
//!
//! ```text
//!   eu  1 4 7 10 ...     us  2 5 8 11 ...     ap  3 6 9 12 ...
//! ```

use std::collections::BTreeSet;

use domicile_core::config::{Config, TableKind};
use domicile_core::id::RegionId;

use super::{Findings, object, quoted_name, warn};
use crate::cli::check::survey::Reached;
use crate::postgres::catalog::{Column, Sequence};

pub fn judge(config: &Config, reached: &[(&RegionId, &Reached)], findings: &mut Findings) {
    let Some((_, first)) = reached.first() else { return };
    let owned = config.tables.iter().filter(|(_, kind)| matches!(kind, TableKind::Owned(_)));
    for (name, _) in owned {
        let Some(table) = first.catalog.table(name) else { continue };
        for column in table.columns.iter().filter(|column| draws(column)) {
            let sequences: Vec<Option<&Sequence>> = reached
                .iter()
                .filter_map(|(_, facts)| facts.catalog.table(name)?.column(&column.name))
                .map(|column| column.sequence.as_ref())
                .collect();
            if !disjoint(&sequences, config.regions.len()) {
                let what = format!(
                    "column \"{}\" draws from a sequence, and two regions may draw the same number",
                    column.name
                );
                let finding = warn(
                    "sequence_not_disjoint",
                    object(name),
                    what,
                    way_out(column, config.regions.len()),
                );
                findings.add(None, finding);
            }
        }
    }
}

fn draws(column: &Column) -> bool {
    let by_default = column.default.as_deref().is_some_and(|text| text.contains("nextval("));
    column.sequence.is_some() || by_default
}

fn disjoint(sequences: &[Option<&Sequence>], regions: usize) -> bool {
    let Some(known) = sequences.iter().copied().collect::<Option<Vec<&Sequence>>>() else {
        return false;
    };
    let steps: BTreeSet<i64> = known.iter().map(|sequence| sequence.increment).collect();
    let Some(step) = steps.first().filter(|step| steps.len() == 1 && **step != 0) else {
        return false;
    };
    let starts: BTreeSet<i64> = known
        .iter()
        .map(|sequence| sequence.last.unwrap_or(sequence.start).rem_euclid(*step))
        .collect();
    step.unsigned_abs() as usize >= regions && starts.len() == known.len()
}

fn way_out(column: &Column, regions: usize) -> String {
    match &column.sequence {
        Some(sequence) => format!(
            "In each region, with its own number from 1 to {regions}: ALTER SEQUENCE {}.{} \
             INCREMENT BY {regions} RESTART WITH (next multiple of {regions}) + number.",
            quoted_name(&sequence.schema),
            quoted_name(&sequence.name)
        ),
        None => format!(
            "Let the sequence belong to the column (ALTER SEQUENCE ... OWNED BY), with INCREMENT \
             BY {regions} and another start in each region."
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(increment: i64, start: i64, last: Option<i64>) -> Sequence {
        Sequence { schema: "public".into(), name: "ids".into(), increment, start, last }
    }

    #[test]
    fn steps_as_wide_as_the_regions_are_many_keep_numbers_apart() {
        let (a, b) = (sequence(2, 1, Some(101)), sequence(2, 2, None));
        assert!(disjoint(&[Some(&a), Some(&b)], 2));
        assert!(!disjoint(&[Some(&a), Some(&b)], 3), "a third region would have no number left");
        assert!(!disjoint(&[Some(&a), Some(&a)], 2));
        assert!(!disjoint(&[Some(&a), None], 2));
        assert!(!disjoint(&[Some(&a), Some(&sequence(3, 2, None))], 2));
    }
}
