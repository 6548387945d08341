//! Can two regions draw the same number from "one" sequence, and will there be numbers to draw?
//!
//! A sequence's position is not replicated. Agents keep sequences apart by themselves (see
//! `core::sequence`), unless the configuration says to leave them; then two regions never collide
//! when their sequences count in steps at least as wide as there are regions, each from another
//! start.

use std::collections::BTreeSet;

use domicile_core::config::{Config, Sequences, TableKind};
use domicile_core::id::RegionId;
use domicile_core::sequence;

use super::{Findings, blocker, object, quoted_name, warn};
use crate::cli::check::survey::Reached;
use crate::postgres::catalog::{Column, Sequence};

/// A sequence with less than this part of its values left is worth a warning.
const PART_LEFT_MIN: u64 = 5;

pub fn judge(config: &Config, reached: &[(&RegionId, &Reached)], findings: &mut Findings) {
    match config.sequences {
        Sequences::Interleave => judge_kept(config, reached, findings),
        Sequences::Leave => judge_left(config, reached, findings),
    }
}

/// What no agent can do for a sequence.
fn judge_kept(config: &Config, reached: &[(&RegionId, &Reached)], findings: &mut Findings) {
    for (region, facts) in reached {
        for name in super::replicated(config) {
            let Some(table) = facts.catalog.table(name) else { continue };
            for column in table.columns.iter().filter(|column| draws(column)) {
                let Some(drawn) = &column.sequence else {
                    let what = format!(
                        "column \"{}\" draws from a sequence that its default does not name: two \
                         regions may draw the same number",
                        column.name
                    );
                    let way_out = "Let the default be nextval('name'::regclass).";
                    findings
                        .add(Some(region), warn("sequence_unknown", object(name), what, way_out));
                    continue;
                };
                let sequence =
                    format!("{}.{}", quoted_name(&drawn.schema), quoted_name(&drawn.name));
                if drawn.cycles {
                    let what = format!(
                        "column \"{}\" draws from a sequence that cycles: it would give out values \
                         again that other regions have used",
                        column.name
                    );
                    let way_out = format!("ALTER SEQUENCE {sequence} NO CYCLE.");
                    findings
                        .add(Some(region), blocker("sequence_cycles", object(name), what, way_out));
                }
                let (left, of) = values_left(column, drawn);
                if left < of / PART_LEFT_MIN {
                    let what = format!(
                        "column \"{}\" has {left} values left of {of}, in steps of {}",
                        column.name,
                        sequence::STEP
                    );
                    let way_out = format!(
                        "Make it bigint everywhere (ALTER TABLE ... ALTER COLUMN {} TYPE bigint; \
                         ALTER SEQUENCE {sequence} AS bigint).",
                        quoted_name(&column.name)
                    );
                    findings
                        .add(Some(region), warn("sequence_used_up", object(name), what, way_out));
                }
            }
        }
    }
}

/// How many values the column may still draw, and of how many.
fn values_left(column: &Column, drawn: &Sequence) -> (u64, u64) {
    let max = match column.type_name.as_str() {
        "smallint" => i64::from(i16::MAX),
        "integer" => i64::from(i32::MAX),
        _ => i64::MAX,
    };
    let sequence = sequence::Sequence {
        increment: drawn.increment,
        min: drawn.min,
        max: drawn.max,
        start: drawn.start,
        cycles: drawn.cycles,
        last: drawn.last.unwrap_or(drawn.start),
        is_called: drawn.last.is_some(),
    };
    sequence.left(max)
}

fn judge_left(config: &Config, reached: &[(&RegionId, &Reached)], findings: &mut Findings) {
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
        let (schema, name) = ("public".into(), "ids".into());
        let (min, max) = (1, i64::MAX);
        Sequence { schema, name, increment, start, min, max, cycles: false, last }
    }

    #[test]
    fn a_narrow_column_runs_out_before_its_sequence() {
        let mut column = Column {
            name: "id".into(),
            type_name: "integer".into(),
            element_type: String::new(),
            not_null: true,
            generated: false,
            nondeterministic: false,
            default: None,
            sequence: None,
        };
        let drawn = sequence(1, 1, Some(2_000_000_000));
        assert_eq!(values_left(&column, &drawn), (9_217_727, 134_217_727));
        column.type_name = "bigint".into();
        let (left, of) = values_left(&column, &drawn);
        assert!(left > of / PART_LEFT_MIN);
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
