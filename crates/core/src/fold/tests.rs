use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::change::Column;
use crate::id::TableName;

fn relation(name: &str, identity: Identity) -> Relation {
    let column = |name: &str, key| Column { name: name.into(), key };
    let key = identity == Identity::Default;
    let columns = vec![column("id", key), column("a", false), column("b", false)];
    Relation { table: TableName::new("public", name), identity, columns }
}

fn transaction(changes: Vec<Change>) -> Transaction {
    let relations = [
        ("accounts", Identity::Default),
        ("history", Identity::Nothing),
        ("other", Identity::Default),
    ];
    let relations = relations.map(|(name, identity)| Arc::new(relation(name, identity))).into();
    Transaction { relations, changes, ..Transaction::default() }
}

fn row(id: u8, a: Option<u8>, b: Option<u8>) -> Row {
    let value = |v: Option<u8>| v.map_or(Value::Unchanged, |v| Value::text(v.to_string()));
    vec![value(Some(id)), value(a), value(b)]
}

fn insert(id: u8, a: u8) -> Change {
    Change::Insert { relation: 0, new: row(id, Some(a), Some(0)) }
}

fn update(id: u8, a: Option<u8>, b: Option<u8>) -> Change {
    Change::Update { relation: 0, old: None, new: row(id, a, b) }
}

fn delete(id: u8) -> Change {
    Change::Delete { relation: 0, old: row(id, None, None) }
}

#[test]
fn updates_of_one_row_become_one_with_every_value_that_was_sent() {
    let changes =
        vec![update(1, Some(5), None), update(2, Some(6), None), update(1, None, Some(9))];
    let transactions = [transaction(changes)];
    let relation = &transactions[0].relations[0];
    let update = |columns: Vec<usize>, row: Row| Step::Rows {
        relation,
        deed: Deed::Update { columns },
        rows: vec![Cow::Owned(row)],
    };
    assert_eq!(
        fold(&transactions),
        [
            update(vec![0, 1], row(2, Some(6), None)),
            update(vec![0, 1, 2], row(1, Some(5), Some(9)))
        ]
    );
}

#[test]
fn a_row_that_comes_and_goes_is_not_forgotten() {
    let transactions = [transaction(vec![insert(1, 5), delete(1)])];
    assert_eq!(fold(&transactions).len(), 2);
}

#[test]
fn rows_without_a_key_are_only_added_together() {
    let added = |id| Change::Insert { relation: 1, new: row(id, Some(1), Some(1)) };
    let transactions = [transaction(vec![added(1), added(1)]), transaction(vec![added(1)])];
    let steps = fold(&transactions);
    assert!(matches!(&steps[..], [Step::Rows { rows, .. }] if rows.len() == 3), "{steps:?}");
}

#[test]
fn a_new_key_keeps_its_place() {
    let moved = Change::Update {
        relation: 0,
        old: Some(row(1, None, None)),
        new: row(2, Some(1), Some(1)),
    };
    let transactions = [transaction(vec![delete(2), moved.clone(), insert(1, 7)])];
    let steps = fold(&transactions);
    assert!(matches!(&steps[1], Step::One { change, .. } if **change == moved), "{steps:?}");
    assert_eq!(steps.len(), 3);
}

/// What the table holds, change by change, as PostgreSQL would do it.
fn rows_after(steps: &[Step<'_>]) -> Result<BTreeMap<Value2, Row>, String> {
    let mut table = BTreeMap::new();
    for step in steps {
        match step {
            Step::One { change, .. } => one(&mut table, change)?,
            Step::Rows { deed, rows, .. } => {
                for row in rows {
                    let change = match deed {
                        Deed::Delete => Change::Delete { relation: 0, old: row.to_vec() },
                        Deed::Update { columns } => {
                            assert_eq!(*columns, sent(row));
                            Change::Update { relation: 0, old: None, new: row.to_vec() }
                        }
                        Deed::Insert => Change::Insert { relation: 0, new: row.to_vec() },
                    };
                    one(&mut table, &change)?;
                }
            }
        }
    }
    Ok(table)
}

type Value2 = Bytes;

fn one(table: &mut BTreeMap<Value2, Row>, change: &Change) -> Result<(), String> {
    let id = |row: &Row| match &row[0] {
        Value::Text(text) => text.clone(),
        other => panic!("{other:?} is no key"),
    };
    match change {
        Change::Insert { new, .. } => match table.insert(id(new), new.clone()) {
            None => Ok(()),
            Some(_) => Err("it was there".into()),
        },
        Change::Update { new, .. } => {
            let row = table.get_mut(&id(new)).ok_or("it is not there")?;
            for (value, new) in row.iter_mut().zip(new) {
                if *new != Value::Unchanged {
                    *value = new.clone();
                }
            }
            Ok(())
        }
        Change::Delete { old, .. } => {
            table.remove(&id(old)).map(drop).ok_or("it is not there".into())
        }
        Change::Truncate { .. } => {
            table.clear();
            Ok(())
        }
    }
}

fn change() -> impl Strategy<Value = Change> {
    let id = 0..4_u8;
    prop_oneof![
        (id.clone(), 0..9_u8).prop_map(|(id, a)| insert(id, a)),
        (id.clone(), any::<Option<u8>>(), any::<Option<u8>>())
            .prop_map(|(id, a, b)| update(id, a, b)),
        id.prop_map(delete),
        Just(Change::Truncate { relations: vec![0], restart_identity: false }),
    ]
}

proptest! {
    /// For every history that could have happened, folded or not is the same; and a history that
    /// cannot go on from here is still noticed.
    #[test]
    fn folded_changes_leave_the_same_rows(
        changes in proptest::collection::vec(proptest::collection::vec(change(), 0..6), 0..6),
        kept in any::<bool>(),
    ) {
        let mut table = BTreeMap::new();
        let mut transactions = Vec::new();
        for changes in changes {
            let possible: Vec<Change> = if kept {
                changes.into_iter().filter(|change| one(&mut table, change).is_ok()).collect()
            } else {
                changes
            };
            transactions.push(transaction(possible));
        }
        let each = transactions.iter().flat_map(|t| {
            t.changes.iter().map(|change| Step::One { transaction: t, change })
        });
        let each: Vec<Step> = each.collect();
        let (plain, folded) = (rows_after(&each), rows_after(&fold(&transactions)));
        if kept || plain.is_ok() {
            prop_assert_eq!(folded, plain);
        }
    }
}
