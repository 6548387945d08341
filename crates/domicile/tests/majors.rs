//! Do regions of different major versions of PostgreSQL understand each other, both ways?
//!
//! The other version's programs are named in `DOMICILE_PG_BIN_OTHER`; without it both regions run
//! the same one.

use std::path::Path;

use domicile::lab::cluster::PgBin;
use domicile::lab::regions::Regions;
use tokio_postgres::Client;

mod regions;
use regions::{assert_alike, config, settle, start};

/// Every type that one meets, and types of one's own.
const SEED: &str = "
    CREATE TYPE mood AS ENUM ('glad', 'so-so', 'sad');
    CREATE TYPE place AS (street text, number int);
    CREATE DOMAIN positive AS int CHECK (value > 0);
    CREATE TABLE kept (
        home text, id int,
        a bool, b smallint, c int, d bigint, e real, f double precision, g numeric, h money,
        i text, j varchar(20), k char(10), l bytea, m date, n time, o timetz, p timestamp,
        q timestamptz, r interval, s uuid, t json, u jsonb, v inet, w cidr, x macaddr, y bit(5),
        z varbit, aa point, ab box, ac polygon, ad tsvector, ae tsquery, af int4range,
        ag tstzrange, ah int4multirange, ai int[], aj text[], ak mood, al place, am positive,
        an xid8, ao pg_lsn, ap jsonpath, aq xml,
        ar int GENERATED ALWAYS AS (id * 2) STORED,
        PRIMARY KEY (home, id));
    CREATE TABLE entry (home text, note text) PARTITION BY LIST (home);
    CREATE TABLE entry_eu PARTITION OF entry FOR VALUES IN ('eu');
    CREATE TABLE entry_us PARTITION OF entry FOR VALUES IN ('us');
    ALTER TABLE entry REPLICA IDENTITY FULL;
    ALTER TABLE entry_eu REPLICA IDENTITY FULL;
    ALTER TABLE entry_us REPLICA IDENTITY FULL";

const TABLES: &str = "[[table]]\nname = \"kept\"\n[[table]]\nname = \"entry\"\n";

const SHOW: &str = "SHOW server_version";

fn writes(home: &str) -> String {
    format!(
        "INSERT INTO kept VALUES ('{home}', 1,
             true, -32768, 2147483647, -9223372036854775808, 'NaN', '-Infinity', 'NaN', '12.34',
             E'line\\nüñí\\\\ \\'quoted\\'', 'varying', 'padded', '\\x00ff5c', '4713-01-01 BC',
             '24:00', '12:00:00.123456+05:30', 'infinity', '2026-03-29 02:30:00.000001+02',
             '-1 year 2 mons -3 days 04:05:06.789', '00000000-0000-0000-0000-00000000000a',
             '{{\"a\":  1, \"a\": 2}}', '{{\"b\": [1.50, null, \"x\"]}}', '::1/128', '10.0.0.0/8',
             '08:00:2b:01:02:03', '10101', '101', '(1.5,-2)', '((1,2),(3,4))',
             '((0,0),(1,1),(2,0))', 'fat:1A cat:3', 'fat & (rat | cat)', '[1,10)',
             '(,2026-01-01 00:00:00+00]', '{{[1,3),[5,7)}}', '[-2:-1]={{7,NULL}}',
             '{{a,NULL,\"\",\"NULL\",\"c,d\"}}', 'so-so', '(\"High, street\",7)', 7, '42', '16/B374D848',
             '$.a[*] ? (@ > 1)', '<a>b</a>');
         INSERT INTO kept (home, id) SELECT '{home}', id FROM generate_series(2, 9) id;
         INSERT INTO kept (home, id, i, u)
             SELECT '{home}', 10, string_agg(md5(n::text), ''), '1' FROM generate_series(1, 999) n;
         UPDATE kept SET u = '2' WHERE home = '{home}' AND id = 10;
         UPDATE kept SET c = id, g = 1e-20 WHERE home = '{home}' AND id < 5;
         UPDATE kept SET id = 100 WHERE home = '{home}' AND id = 6;
         DELETE FROM kept WHERE home = '{home}' AND id = 7;
         INSERT INTO entry VALUES ('{home}', 'kept'), ('{home}', 'gone'), ('{home}', NULL);
         UPDATE entry SET note = 'changed' WHERE home = '{home}' AND note IS NULL;
         DELETE FROM entry WHERE home = '{home}' AND note = 'gone'"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_written_in_a_region_of_either_version_arrive_unchanged_in_the_other() {
    let mut config = config(&["eu", "us"], "home(home)", 2);
    config.seed_sql = SEED.to_owned();
    config.tables = TABLES.to_owned();
    if let Some(folder) = std::env::var_os("DOMICILE_PG_BIN_OTHER") {
        config.other_bins.insert("us".to_owned(), PgBin::find(Some(Path::new(&folder))).unwrap());
    }
    let mut regions = Regions::create(config).await.unwrap();
    start(&mut regions).await;
    let (eu, us) = (regions.connect("eu").await.unwrap(), regions.connect("us").await.unwrap());
    println!("eu: {}, us: {}", one(&eu, SHOW).await, one(&us, SHOW).await);

    eu.batch_execute(&writes("eu")).await.unwrap();
    us.batch_execute(&writes("us")).await.unwrap();
    settle(&regions, "both have written").await;

    assert_alike(&regions, &["kept", "entry"]).await;
    for client in [&eu, &us] {
        assert_eq!(one(client, "SELECT count(*)::text FROM kept").await, "18");
        let sql = "SELECT coalesce(string_agg(to_jsonb(j)::text, ' '), '') FROM domicile.journal j";
        assert_eq!(one(client, sql).await, "", "conflicts");
    }
}

async fn one(client: &Client, sql: &str) -> String {
    client.query_one(sql, &[]).await.unwrap().get(0)
}
