//! Is a directory that was restored from an older copy, or that is empty, ever believed?

use std::fs;
use std::path::Path;
use std::process::Command;

use domicile::lab::regions::Regions;

// Not all of it is of use here.
#[allow(dead_code)]
mod regions;
use regions::{config, eventually, settle, start};

const SEED: &str = "
    CREATE TABLE account (id int PRIMARY KEY, branch text NOT NULL, balance int);
    INSERT INTO account VALUES (1, 'eu', 0), (2, 'us', 0);";

const TABLES: &str = "
[[table]]
name = \"account\"
key = \"branch\"
";

const NAMES: [&str; 2] = ["eu", "us"];

fn switch(regions: &Regions, range: &str, to: &str) {
    let mut command = Command::new(regions.binary());
    command.args(["switchover", "--partitions", range, "--to", to, "--config"]);
    let done = command.arg(regions.config_file("us")).output().unwrap();
    assert!(done.status.success(), "{done:?}");
}

/// Stops all and puts `kept` in the place of what the directory keeps.
fn replace_directory(regions: &mut Regions, kept: Option<&Path>) {
    for region in NAMES {
        regions.kill_agent(region);
    }
    regions.kill_directory();
    let file = regions.folder().join("directory/directory.redb");
    match kept {
        Some(kept) => drop(fs::copy(kept, file).unwrap()),
        None => fs::remove_file(file).unwrap(),
    }
    regions.start_directory().unwrap();
    for region in NAMES {
        regions.start_agent(region).unwrap();
    }
}

/// Nobody writes, nobody acts, everybody says why.
async fn is_refused(regions: &Regions) {
    for region in NAMES {
        eventually("the directory is refused", async || {
            let status = regions.status(region).await.map_err(|e| e.to_string())?;
            let said = status.conditions.iter().any(|c| c.name == "directory_regressed");
            let writes = status.lease_live;
            if said && !writes { Ok(()) } else { Err(format!("{status:?}")) }
        })
        .await;
        let client = regions.connect(region).await.unwrap();
        let sql = format!("UPDATE account SET balance = 1 WHERE branch = '{region}'");
        let refused = client.execute(&sql, &[]).await.unwrap_err();
        let refused = refused.as_db_error().expect("a refusal of the guard");
        assert_eq!(refused.code().code(), "25006", "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_region_acts_on_a_directory_that_knows_less_than_it_does() {
    let mut config = config(&NAMES, "home(branch)", 2);
    config.seed_sql = SEED.to_owned();
    config.tables = TABLES.to_owned();
    config.rpo = "none".to_owned();
    let mut regions = Regions::create(config).await.unwrap();
    start(&mut regions).await;
    settle(&regions, "start").await;

    let kept = tempfile::tempdir().unwrap();
    let (old, new) = (kept.path().join("old"), kept.path().join("new"));
    let file = regions.folder().join("directory/directory.redb");
    regions.kill_directory();
    fs::copy(&file, &old).unwrap();
    regions.start_directory().unwrap();
    regions.wait_until_ready().await.unwrap();
    switch(&regions, "0", "us");
    switch(&regions, "1", "eu");
    for region in NAMES {
        let memory = regions.folder().join(region).join("agent/examined.json");
        eventually("a region remembers the last epochs", async || {
            let text = fs::read_to_string(&memory).map_err(|e| e.to_string())?;
            if text.matches("\"epoch\":2").count() == 2 { Ok(()) } else { Err(text) }
        })
        .await;
    }
    regions.kill_directory();
    fs::copy(&file, &new).unwrap();

    replace_directory(&mut regions, Some(&old));
    is_refused(&regions).await;
    replace_directory(&mut regions, None);
    is_refused(&regions).await;

    replace_directory(&mut regions, Some(&new));
    regions.wait_until_ready().await.unwrap();
    for (region, branch) in [("us", "eu"), ("eu", "us")] {
        let client = regions.connect(region).await.unwrap();
        let sql = format!("UPDATE account SET balance = 2 WHERE branch = '{branch}'");
        eventually("a region writes what it owns", async || {
            client.execute(&sql, &[]).await.map_err(|e| e.to_string())
        })
        .await;
    }
}
