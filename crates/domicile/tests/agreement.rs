//! Do PostgreSQL and this program agree on which partition a row belongs to?
//!
//! The guard asks `domicile.partition_of`, everything else asks `core::partition`: one answer.

use domicile::lab::cluster::temporary_cluster;
use domicile::postgres::guard;
use domicile::settings;
use domicile_core::partition::{KEY_SEPARATOR, Layout};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use tokio_postgres::Client;

const RANDOM_TEXTS: usize = 2000;
/// Ends of blocks of the hash, other alphabets, what looks like SQL, and regions' names.
const GOLDEN: &[&str] = &[
    "",
    " ",
    "0",
    "1",
    "42",
    "-1",
    "1.0",
    "eu",
    "us",
    "ap",
    "EU",
    "eu ",
    "é",
    "e\u{301}",
    "Grüße",
    "日本語",
    "🦀",
    "\u{10FFFF}",
    "\n",
    "\t",
    "'",
    "\"",
    "\\",
    "$$",
    "%",
    "--",
    "NULL",
    "null",
    "12345678",
    "0123456789a",
    "exactly12byt",
    "exactly 13 by",
    "\u{1F}",
    "a\u{1F}b",
    "a\u{1F}",
    "\u{1F}a",
    "\u{1F}\u{1F}",
    "018f2a64-7e2b-7b3c-9d7a-0123456789ab",
];

fn random_texts() -> Vec<String> {
    let text = prop_oneof![
        6 => "[^\\x00]{0,40}",
        2 => "[0-9]{1,12}",
        1 => "(eu|us|ap)",
        1 => "[^\\x00\\x1F]{0,9}\\x1F[^\\x00\\x1F]{0,9}",
        1 => ("[^\\x00]{1,8}", 1..4000_usize).prop_map(|(text, n)| text.repeat(n)),
    ];
    // The same texts on every run.
    let mut runner = TestRunner::deterministic();
    (0..RANDOM_TEXTS).map(|_| text.new_tree(&mut runner).unwrap().current()).collect()
}

async fn install(client: &Client, partition: &str) -> Layout {
    let region = |name: &str, port: u16| {
        format!(
            "[[region]]\nname = \"{name}\"\npostgres = \"host=localhost port={port}\"\npeer = \"localhost:{port}\"\n\
             gateway = \"localhost:1{port}\"\ndata = \"/nowhere/{name}\"\n"
        )
    };
    let regions: String =
        [("eu", 7401), ("us", 7402), ("ap", 7403)].map(|(n, p)| region(n, p)).concat();
    let text = format!(
        "cluster = \"test\"\npartition = \"{partition}\"\n[directory]\naddress = \"localhost:7400\"\n\
         data = \"/nowhere\"\n{regions}"
    );
    let config = settings::parse(&text).unwrap();
    guard::install(client, &config, &config.regions[0].id).await.unwrap();
    config.layout
}

#[tokio::test]
async fn postgresql_and_core_put_every_key_into_the_same_partition() {
    let (cluster, _folder) = temporary_cluster("agreement", &[]).await.unwrap();
    let client = cluster.connect().await.unwrap();
    let mut texts: Vec<String> = GOLDEN.iter().map(|text| (*text).to_owned()).collect();
    texts.extend(random_texts());
    for partition in ["hash(k, 1)", "hash(k, 48)", "hash(k, 1000000)", "home(k)", "whole"] {
        let layout = install(&client, partition).await;
        let answers = client
            .query(
                "SELECT domicile.partition_of(t) FROM unnest($1::text[]) WITH ORDINALITY AS x(t, n)
                 ORDER BY n",
                &[&texts],
            )
            .await
            .unwrap();
        assert_eq!(answers.len(), texts.len());
        for (text, answer) in texts.iter().zip(answers) {
            let columns: Vec<&[u8]> = text.as_bytes().split(|b| *b == KEY_SEPARATOR).collect();
            let ours = layout.partition_of(&columns).ok().map(|p| p.0 as i32);
            assert_eq!(answer.get::<_, Option<i32>>(0), ours, "{partition}: {text:?}");
        }
    }
}

#[tokio::test]
async fn a_column_is_the_same_text_for_the_guard_and_for_a_record() {
    let (cluster, _folder) = temporary_cluster("agreement", &[]).await.unwrap();
    let client = cluster.connect().await.unwrap();
    let layout = install(&client, "hash(k, 1000000)").await;
    // What the guard computes on: `column::text`. What a record carries: the type's output.
    for (literal, text) in [
        ("42::bigint", "42"),
        ("(-7)::smallint", "-7"),
        ("1.50::numeric", "1.50"),
        ("'018F2A64-7E2B-7B3C-9D7A-0123456789AB'::uuid", "018f2a64-7e2b-7b3c-9d7a-0123456789ab"),
        ("'Grüße'::varchar(20)", "Grüße"),
    ] {
        let sql = format!("SELECT domicile.partition_of({literal}::text)");
        let theirs: i32 = client.query_one(&sql, &[]).await.unwrap().get(0);
        let ours = layout.partition_of(&[text.as_bytes()]).unwrap();
        assert_eq!(theirs, ours.0 as i32, "{literal}");
    }
}
