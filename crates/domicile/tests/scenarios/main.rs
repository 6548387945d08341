//! Does everything that PostgreSQL can hold and do arrive in the other region as it was?
//!
//! The scenarios are the `.sql` files beside this one; `SCENARIO=C36` or a word of a title picks
//! some of them.

use std::time::Instant;

use domicile::lab::cluster::PgBin;

// Not all of it is of use here.
#[path = "../pages/mod.rs"]
mod pages;
#[allow(dead_code)]
#[path = "../regions/mod.rs"]
mod regions;
mod script;
mod table;
mod world;

use world::World;

#[tokio::test(flavor = "multi_thread")]
async fn every_scenario_ends_alike() {
    let wanted = std::env::var("SCENARIO").unwrap_or_default();
    let mut cases = script::all();
    cases.retain(|case| {
        case.part.contains(&wanted)
            || case.title.contains(&wanted)
            || case.numbers.contains(&wanted)
    });
    let major = PgBin::find(None).unwrap().major();
    cases.retain(|case| case.majors.contains(&major));
    let mut world = World::start(&cases).await;
    let mut failed = String::new();
    for case in &cases {
        let began = Instant::now();
        let ended = world.run(case).await;
        let (numbers, took) = (case.numbers.join(", "), began.elapsed().as_millis());
        println!("{} {numbers} {}: {took} ms", case.part, case.title);
        if let Err(wrong) = ended {
            println!("  FAILED: {wrong}");
            failed += &format!("\n{} {numbers}: {}\n  {wrong}\n", case.part, case.title);
            if wrong.starts_with("apply stalls") {
                failed += "\nwhat follows was not tried\n";
                break;
            }
        }
    }
    assert!(failed.is_empty(), "{failed}");
}
