//! Do rows with large values end alike where a region hears of one region and not of another?
//!
//! PostgreSQL does not send a large value again that a write left alone. Whoever wins over a write
//! that it had not seen must bring along its own.

use domicile::lab::regions::Regions;

use crate::regions::{assert_alike, config, eventually, settle, start};

const SEED: &str = "
    CREATE TABLE whole (id int PRIMARY KEY, v text, w text, big text);
    ALTER TABLE whole ALTER COLUMN big SET STORAGE EXTERNAL;
    CREATE TABLE columns (LIKE whole INCLUDING ALL);";

const TABLES: &str = "
[[table]]
name = \"whole\"
kind = \"shared\"

[[table]]
name = \"columns\"
kind = \"shared\"
columns = { \"*\" = \"last_write_wins\" }
";

/// Table, what eu writes first of all, what us writes, what ap writes once it knows of that, what
/// eu writes last, and what comes of it. `$` is the row.
type Row = (&'static str, [&'static str; 4], &'static str);

const ROWS: &[Row] = &[
    (
        "columns",
        [
            "UPDATE columns SET big = repeat('y', 20000) WHERE id = $",
            "UPDATE columns SET v = 'us' WHERE id = $",
            "UPDATE columns SET w = 'ap' WHERE id = $",
            "",
        ],
        "us ap y20000",
    ),
    (
        "columns",
        [
            "",
            "UPDATE columns SET big = repeat('y', 20000) WHERE id = $",
            "UPDATE columns SET v = 'ap' WHERE id = $",
            "UPDATE columns SET w = 'eu' WHERE id = $",
        ],
        "ap eu y20000",
    ),
    (
        "whole",
        [
            "UPDATE whole SET big = repeat('y', 20000) WHERE id = $",
            "UPDATE whole SET v = 'us' WHERE id = $",
            "UPDATE whole SET w = 'ap' WHERE id = $",
            "",
        ],
        "us ap x10000",
    ),
    (
        "whole",
        [
            "UPDATE whole SET v = 'eu' WHERE id = $",
            "UPDATE whole SET big = repeat('y', 20000) WHERE id = $",
            "UPDATE whole SET w = 'ap' WHERE id = $",
            "",
        ],
        "old ap y20000",
    ),
    (
        "whole",
        [
            "",
            "UPDATE whole SET big = repeat('y', 20000) WHERE id = $",
            "UPDATE whole SET w = 'ap' WHERE id = $",
            "UPDATE whole SET v = 'eu' WHERE id = $",
        ],
        "eu old x10000",
    ),
    // Of another life.
    (
        "whole",
        [
            "DELETE FROM whole WHERE id = $;
             INSERT INTO whole VALUES ($, 'eu', 'eu', repeat('z', 30000))",
            "UPDATE whole SET v = 'us' WHERE id = $",
            "UPDATE whole SET w = 'ap' WHERE id = $",
            "",
        ],
        "eu eu z30000",
    ),
    (
        "whole",
        [
            "",
            "DELETE FROM whole WHERE id = $",
            "INSERT INTO whole VALUES ($, 'ap', 'ap', repeat('z', 30000))",
            "UPDATE whole SET v = 'eu' WHERE id = $",
        ],
        "ap ap z30000",
    ),
    // A deletion that somebody has seen, and somebody has not.
    (
        "whole",
        [
            "",
            "UPDATE whole SET big = repeat('y', 20000) WHERE id = $",
            "DELETE FROM whole WHERE id = $",
            "UPDATE whole SET v = 'eu' WHERE id = $",
        ],
        "eu old x10000",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn large_values_end_alike_whoever_hears_of_whom_first() {
    let mut config = config(&["eu", "us", "ap"], "hash(branch, 12)", 12);
    config.seed_sql = SEED.to_owned();
    config.tables = TABLES.to_owned();
    config.rpo = "none".to_owned();
    let mut regions = Regions::create(config).await.unwrap();
    start(&mut regions).await;
    for (round, (near, away)) in [("us", "ap"), ("ap", "us")].into_iter().enumerate() {
        let first = 100 * (round + 1);
        let insert = |table| {
            format!(
                "INSERT INTO {table}
                 SELECT id, 'old', 'old', repeat('x', 10000) FROM generate_series({first}, {}) id;",
                first + ROWS.len() - 1
            )
        };
        write(&regions, "eu", &(insert("whole") + &insert("columns"))).await;
        settle(&regions, &format!("start {round}")).await;

        // Nobody hears of eu and eu of nobody, ap hears of us and us of nobody.
        regions.links().stop_shipping("eu");
        regions.links().stop_reading("eu");
        regions.links().stop_shipping("ap");
        write(&regions, "eu", &statements(first, 0)).await;
        write(&regions, "us", &statements(first, 1)).await;
        heard(&regions, "ap", "us", first).await;
        write(&regions, "ap", &statements(first, 2)).await;
        write(&regions, "eu", &statements(first, 3)).await;

        // One region meets what eu wrote while another is still away.
        regions.links().stop_reading(away);
        regions.links().resume_shipping("eu");
        heard(&regions, near, "eu", first).await;
        regions.links().resume_reading("eu");
        heard(&regions, "eu", near, first).await;
        regions.links().resume_shipping("ap");
        regions.links().resume_reading(away);
        settle(&regions, &format!("end {round}")).await;
        assert_alike(&regions, &["whole", "columns"]).await;
        for region in regions.names() {
            check(&regions, region, first).await;
        }
    }
}

fn statements(first: usize, of: usize) -> String {
    let filled = ROWS.iter().zip(first..).map(|(row, id)| row.1[of].replace('$', &id.to_string()));
    filled.collect::<Vec<_>>().join(";\n")
}

async fn write(regions: &Regions, region: &str, sql: &str) {
    regions.connect(region).await.unwrap().batch_execute(sql).await.unwrap();
}

/// Waits until `reader` shows what `origin` wrote before this call.
async fn heard(regions: &Regions, reader: &str, origin: &str, first: usize) {
    let mark = format!("{origin} to {reader} {first}");
    let sql = format!("INSERT INTO columns SELECT min(id) - 1, '{mark}' FROM columns");
    write(regions, origin, &sql).await;
    let client = regions.connect(reader).await.unwrap();
    eventually(&format!("{reader} hears of {origin}"), async || {
        let sql = "SELECT count(*) FROM columns WHERE v = $1";
        match client.query_one(sql, &[&mark]).await.map_err(|e| e.to_string())?.get::<_, i64>(0) {
            0 => Err("not yet".to_owned()),
            _ => Ok(()),
        }
    })
    .await;
}

/// Each row is what it should be, and the journal tells of those of which something was lost.
async fn check(regions: &Regions, region: &str, first: usize) {
    let client = regions.connect(region).await.unwrap();
    for ((table, writes, meant), id) in ROWS.iter().zip(first..) {
        let sql = format!(
            "SELECT coalesce((SELECT v || ' ' || w || ' ' || left(big, 1) || length(big)
                              FROM {table} WHERE id = {id}), 'nothing'),
                    EXISTS (SELECT FROM domicile.journal
                            WHERE relation = 'public.{table}' AND key ->> 'id' = '{id}')"
        );
        let row = client.query_one(&sql, &[]).await.unwrap();
        let found: (String, bool) = (row.get(0), row.get(1));
        assert_eq!(found, ((*meant).to_owned(), *table == "whole"), "in {region}: {writes:?}");
    }
}
