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

#[test]
fn rows_are_looked_for_in_the_order_of_their_keys_and_added_in_that_of_their_arrival() {
    let ids = [100, 9, 20];
    let changes = ids.iter().map(|id| update(*id, Some(1), None));
    let added = [7, 30, 5].map(|id| insert(id, 1));
    let transactions = [transaction(changes.chain(added).collect())];
    let steps = fold(&transactions);
    let order: Vec<Vec<&Bytes>> = steps.iter().map(keys).collect();
    assert_eq!(order, [["9", "20", "100"], ["7", "30", "5"]]);
}

#[test]
fn what_the_batch_ahead_changes_waits_for_it() {
    let ahead = [transaction(vec![update(1, Some(1), None), insert(2, 1), delete(3)])];
    let batch = [transaction((1..=4).map(|id| update(id, Some(7), None)).collect())];
    let ahead = part(fold(&ahead), &Touched::Everything);
    assert_eq!((ahead.early.len(), ahead.late.len()), (0, 3), "{ahead:?}");
    let Parted { early, late, .. } = part(fold(&batch), &ahead.touched);
    assert_eq!(early.iter().map(keys).collect::<Vec<_>>(), [["4"]]);
    assert_eq!(late.iter().map(keys).collect::<Vec<_>>(), [["1", "2", "3"]]);
}

fn keys<'s>(step: &'s Step<'_>) -> Vec<&'s Bytes> {
    match step {
        Step::Rows { rows, .. } => rows.iter().map(|row| id(row)).collect(),
        Step::One { .. } => panic!("{step:?}"),
    }
}

/// What the table holds, change by change, as PostgreSQL would do it.
fn rows_after(steps: &[Step<'_>]) -> Result<BTreeMap<Bytes, Row>, String> {
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

fn id(row: &Row) -> &Bytes {
    match &row[0] {
        Value::Text(text) => text,
        other => panic!("{other:?} is no key"),
    }
}

fn one(table: &mut BTreeMap<Bytes, Row>, change: &Change) -> Result<(), String> {
    let id = |row: &Row| id(row).clone();
    match change {
        Change::Insert { new, .. } if table.contains_key(&id(new)) => Err("it was there".into()),
        Change::Insert { new, .. } => {
            table.insert(id(new), new.clone());
            Ok(())
        }
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
    /// Steps that may be made early leave the same rows when all of the batch ahead comes after
    /// them.
    #[test]
    fn a_batch_that_begins_early_ends_as_if_it_had_not(
        changes in proptest::collection::vec(proptest::collection::vec(change(), 0..4), 2..8),
        ahead in 0..8_usize,
    ) {
        let mut table = BTreeMap::new();
        let transactions: Vec<Transaction> = changes
            .into_iter()
            .map(|changes| {
                let possible = changes.into_iter().filter(|change| one(&mut table, change).is_ok());
                transaction(possible.collect())
            })
            .collect();
        let (ahead, batch) = transactions.split_at(ahead.min(transactions.len()));
        let ahead = part(fold(ahead), &Touched::Everything);
        let Parted { early, late, .. } = part(fold(batch), &ahead.touched);
        let order: Vec<Step<'_>> = early.into_iter().chain(ahead.late).chain(late).collect();
        prop_assert_eq!(rows_after(&order), Ok(table));
    }
}
