//! Where has every write to a shared row gone?
//!
//! Of writes to one row in several regions one wins. Every other one is explained: a later writer saw it and wrote over
//! it, or it stands in the journal. A trigger of each region, which does not fire for what comes from others, notes
//! in a table of that region alone which value a write put in the place of which: so it is known of every write
//! that was committed, also where nobody was told.

use std::collections::BTreeSet;

use domicile::lab::regions::Regions;

pub const SEED_SQL: &str = "
    CREATE TABLE note (id int PRIMARY KEY, body text NOT NULL);
    INSERT INTO note SELECT i, '' FROM generate_series(1, 50) i;
    CREATE TABLE overwritten (id int, body text, by text);
    CREATE FUNCTION note_overwritten() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO overwritten VALUES (new.id, old.body, new.body); RETURN NULL; END $$;
    CREATE TRIGGER note_overwritten AFTER UPDATE ON note
        FOR EACH ROW EXECUTE FUNCTION note_overwritten();";

/// Fails with the writes that nobody saw, that did not win and that no journal has.
pub async fn are_explained(regions: &Regions) {
    let (mut written, mut explained) = (BTreeSet::new(), BTreeSet::new());
    let mut journaled = 0;
    for region in regions.names() {
        let client = regions.connect(region).await.unwrap();
        let read = async |sql: &str| -> Vec<(i32, String)> {
            let rows = client.query(sql, &[]).await.unwrap();
            rows.iter().map(|row| (row.get(0), row.get(1))).collect()
        };
        written.extend(read("SELECT id, by FROM overwritten").await);
        explained.extend(read("SELECT id, body FROM overwritten").await);
        explained.extend(read("SELECT id, body FROM note").await);
        let images = "SELECT (image->>'id')::int, image->>'body'
                      FROM domicile.journal, unnest(ARRAY[new, local]) image
                      WHERE relation = 'public.note' AND image ? 'body'";
        let images = read(images).await;
        journaled += images.len();
        explained.extend(images);
    }
    let lost: Vec<_> = written.difference(&explained).collect();
    let count = written.len();
    println!("{count} notes were written, {journaled} images of them are in the journals");
    assert!(count > 0, "somebody wrote notes");
    assert!(lost.is_empty(), "{} of {count} writes are nowhere: {lost:?}", lost.len());
}
