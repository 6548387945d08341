//! Every case of the table, let go in two orders.

use std::collections::BTreeSet;

use domicile::lab::cluster::PgBin;
use domicile::lab::regions::Regions;

use crate::cases::{self, CASES, Case};
use crate::collisions::{self, COLLISIONS, COLLISIONS_15, COLLISIONS_17};
use crate::odd::{self, ODD};
use crate::regions::{assert_alike, config, eventually, settle, start};

/// Numbers that one case has for itself.
const NUMBERS: usize = 10;

#[tokio::test(flavor = "multi_thread")]
async fn every_conflict_ends_alike_in_every_order_and_is_journaled_once() {
    let mut config = config(&["eu", "us", "ap"], "hash(branch, 12)", 12);
    (config.seed_sql, config.tables) = schema();
    let cases = &cases();
    config.rpo = "none".to_owned();
    let mut regions = Regions::create(config).await.unwrap();
    start(&mut regions).await;
    settle(&regions, "start").await;
    for (round, order) in [["eu", "us", "ap"], ["ap", "us", "eu"]].into_iter().enumerate() {
        before(&regions, cases, round).await;
        apart(&regions, cases, round).await;
        together(&regions, round, &order).await;
        compare(&regions, cases).await;
        hidden(&regions).await;
        for (number, case) in cases.iter().enumerate() {
            check(&regions, case, base(round, number)).await;
        }
    }
}

/// What this PostgreSQL can hold.
fn cases() -> Vec<&'static Case> {
    let some = parts().into_iter().flat_map(|(_, _, cases)| cases);
    CASES.iter().chain(COLLISIONS).chain(ODD).chain(some).collect()
}

fn schema() -> (String, String) {
    let (mut seed, mut tables) = (String::new(), String::new());
    let all = [
        (cases::SEED, cases::TABLES),
        (collisions::SEED, collisions::TABLES),
        (odd::SEED, odd::TABLES),
    ];
    let some = parts().into_iter().map(|(seed, tables, _)| (seed, tables));
    for (more_seed, more_tables) in all.into_iter().chain(some) {
        seed += more_seed;
        tables += more_tables;
    }
    (seed, tables)
}

/// Tables that not every PostgreSQL has: what makes them, how they are listed, and their cases.
fn parts() -> Vec<(&'static str, &'static str, &'static [Case])> {
    let major = PgBin::find(None).unwrap().major();
    let nulls = (collisions::SEED_15, collisions::TABLES_15, COLLISIONS_15);
    let generated = (collisions::SEED_17, collisions::TABLES_17, COLLISIONS_17);
    [(major >= 15, nulls), (major <= 17, generated)]
        .into_iter()
        .filter_map(|(there, part)| there.then_some(part))
        .collect()
}

fn base(round: usize, number: usize) -> usize {
    1000 * (round + 1) + number * NUMBERS
}

fn fill(sql: &str, base: usize) -> String {
    (1..NUMBERS)
        .fold(sql.to_owned(), |sql, i| sql.replace(&format!("{{{i}}}"), &(base + i).to_string()))
}

async fn before(regions: &Regions, cases: &[&Case], round: usize) {
    let client = regions.connect("eu").await.unwrap();
    for (number, case) in cases.iter().enumerate() {
        for sql in case.before {
            let sql = fill(sql, base(round, number));
            client.batch_execute(&sql).await.unwrap_or_else(|e| panic!("{}: {e:?}", case.name));
        }
    }
    settle(regions, &format!("before {round}")).await;
}

/// Every region writes while none hears of another.
async fn apart(regions: &Regions, cases: &[&Case], round: usize) {
    for region in regions.names() {
        regions.links().stop_shipping(region);
    }
    for (number, case) in cases.iter().enumerate() {
        for (region, sql) in case.writes {
            let client = regions.connect(region).await.unwrap();
            let sql = fill(sql, base(round, number));
            client.batch_execute(&sql).await.unwrap_or_else(|e| panic!("{}: {e:?}", case.name));
        }
    }
}

/// Lets one region after another be heard, each everywhere before the next.
async fn together(regions: &Regions, round: usize, order: &[&str]) {
    for origin in order {
        regions.links().resume_shipping(origin);
        for reader in regions.names().iter().filter(|name| name != origin) {
            shows(regions, reader, origin).await;
        }
    }
    settle(regions, &format!("after {round}")).await;
}

/// Waits until `reader` shows all that is in the log of `origin`.
pub async fn shows(regions: &Regions, reader: &str, origin: &str) {
    let log_end = regions.status(origin).await.unwrap().log_end;
    let client = regions.connect(reader).await.unwrap();
    let sql = "SELECT coalesce((SELECT applied >= $2::text::pg_lsn FROM domicile.progress
                                WHERE origin = $1), false)";
    eventually(&format!("{reader} shows what {origin} wrote"), async || {
        let row = client.query_one(sql, &[&format!("{origin}-1"), &log_end]).await;
        match row.map_err(|e| e.to_string())?.get::<_, bool>(0) {
            true => Ok(()),
            false => Err(format!("not up to {log_end}")),
        }
    })
    .await;
}

async fn compare(regions: &Regions, cases: &[&Case]) {
    let tables: BTreeSet<&str> = cases.iter().map(|case| case.table).collect();
    assert_alike(regions, &tables.into_iter().collect::<Vec<_>>()).await;
    // What a trigger writes and what an applier writes may say nothing in different ways.
    let sql = "SELECT string_agg(row_::text, E'\\n' ORDER BY relation, key)
               FROM (SELECT relation, key, hlc, deleted, image,
                            '{\"life\": 0}' || jsonb_strip_nulls(state) AS state
                     FROM domicile.version) row_";
    let mut all: Vec<String> = Vec::new();
    for region in regions.names() {
        let client = regions.connect(region).await.unwrap();
        all.push(client.query_one(sql, &[]).await.unwrap().get(0));
    }
    for (other, region) in all.iter().zip(regions.names()) {
        for (here, there) in all[0].lines().zip(other.lines()) {
            assert_eq!(here, there, "versions in {region} differ from those in the first region");
        }
    }
}

/// Waits until the journal calls those rows hidden that are, and no others: it may be a moment
/// behind.
async fn hidden(regions: &Regions) {
    let sql = "SELECT coalesce(string_agg(key, ' '), '') FROM (
                   (SELECT DISTINCT relation, jsonb_build_array(key ->> 'id')::text AS key
                    FROM domicile.journal WHERE status = 'hidden')
                   EXCEPT
                   (SELECT relation, key FROM domicile.version
                    WHERE NOT deleted AND image IS NOT NULL)) stale";
    for region in regions.names() {
        let client = regions.connect(region).await.unwrap();
        eventually(&format!("{region} tells which rows are hidden"), async || {
            let row = client.query_one(sql, &[]).await.map_err(|e| e.to_string())?;
            let stale: String = row.get(0);
            if stale.is_empty() { Ok(()) } else { Err(format!("{stale} are not")) }
        })
        .await;
    }
}

async fn check(regions: &Regions, case: &Case, base: usize) {
    for region in regions.names() {
        let client = regions.connect(region).await.unwrap();
        let name = format!("{} in {region}", case.name);
        let row = client.query_opt(&fill(case.ask, base), &[]).await.unwrap();
        let answer: Option<String> = row.and_then(|row| row.get(0));
        assert_eq!(answer, Some(fill(case.answer, base)), "{name}");
        let entries = client
            .query(
                "SELECT conflict, row_::text FROM domicile.journal row_
                 WHERE relation = 'public.' || $1 AND (key ->> 'id')::int BETWEEN $2 AND $3
                     AND status <> 'returned'
                 ORDER BY conflict",
                &[&case.table, &(base as i32), &((base + NUMBERS - 1) as i32)],
            )
            .await
            .unwrap();
        let found: Vec<&str> = entries.iter().map(|row| row.get(0)).collect();
        let meant = case.journal.len() == found.len()
            && case
                .journal
                .iter()
                .zip(&found)
                .all(|(meant, found)| meant.split('|').any(|name| name == *found));
        let all: Vec<&str> = entries.iter().map(|row| row.get(1)).collect();
        assert!(meant, "{name}: expected {:?}, found {all:#?}", case.journal);
    }
}
