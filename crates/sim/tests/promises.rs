//! Does an owner go on without the directory, and stop where it must?
//!
//! What must never happen is for the seeded worlds to find; here is what is to happen.

use domicile_core::progress::Rpo;
use domicile_core::time::Millis;
use domicile_sim::Stage;

const RPOS: [Rpo; 3] =
    [Rpo::Zero { copies: 1 }, Rpo::Within { copies: 1, age: Millis(250) }, Rpo::None];

#[test]
fn a_lost_directory_stops_nobody_and_changes_no_owner() {
    for rpo in RPOS {
        let mut stage = Stage::new(rpo);
        stage.pass(3);
        let before = stage.owners();
        stage.lose_directory(&[0, 1, 2]);
        for _ in 0..6 {
            stage.pass(10);
            for region in 0..3 {
                assert!(stage.acknowledged_lately(region, 2) > 20, "{rpo:?}: region {region}");
            }
        }
        stage.mend();
        stage.pass(10);
        assert_eq!(stage.owners(), before, "{rpo:?}");
    }
}

#[test]
fn an_owner_that_reaches_too_few_peers_stops_at_the_end_of_its_lease() {
    for rpo in RPOS {
        let mut stage = Stage::new(rpo);
        stage.pass(3);
        stage.lose_directory(&[0, 1, 2]);
        stage.cut(0, 1);
        stage.pass(8);
        // One peer is enough where one copy is; without copies all must promise.
        let goes_on = rpo != Rpo::None;
        for region in 0..2 {
            let wrote = stage.acknowledged_lately(region, 2) > 20;
            assert_eq!(wrote, goes_on, "{rpo:?}: region {region}");
        }
        stage.cut(0, 2);
        stage.pass(8);
        assert_eq!(stage.acknowledged_lately(0, 2), 0, "{rpo:?}");
    }
}

#[test]
fn an_owner_that_alone_has_lost_the_directory_stays_the_owner() {
    for rpo in RPOS {
        let mut stage = Stage::new(rpo);
        stage.pass(3);
        let before = stage.owners();
        stage.lose_directory(&[0]);
        stage.pass(30);
        assert!(stage.acknowledged_lately(0, 2) > 20, "{rpo:?}");
        assert_eq!(stage.owners(), before, "{rpo:?}");
    }
}

#[test]
fn who_dies_while_the_directory_is_lost_is_taken_over_when_it_is_back() {
    for rpo in RPOS {
        let mut stage = Stage::new(rpo);
        stage.pass(3);
        let before = stage.owners();
        stage.lose_directory(&[0, 1, 2]);
        stage.pass(5);
        stage.kill(0);
        stage.pass(20);
        assert_eq!(stage.owners(), before, "{rpo:?}: nobody can without the directory");
        stage.mend();
        stage.pass(15);
        let owners = stage.owners();
        let lost = before[0].split(' ').next_back().unwrap();
        assert!(owners.iter().all(|owner| !owner.ends_with(lost)), "{rpo:?}: {owners:?}");
    }
}
