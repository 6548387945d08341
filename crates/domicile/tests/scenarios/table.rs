//! Which scenario is tried where, or refused up front, or still open?
//!
//! `docs/reference/scenarios.md` is made of this. Whoever renames a test or drops a finding of
//! `domicile check` hears of it here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::pages::{assert_current, assert_stands, link, root};
use super::script;

const PARTS: [(&str, &str); 10] = [
    ("A", "Conflicts in shared tables"),
    ("B", "Three and more regions, cause and effect"),
    ("C", "Types and values"),
    ("D", "Large values and replica identity"),
    ("E", "Constraints, foreign keys, triggers, row security"),
    ("F", "DDL under way"),
    ("G", "TRUNCATE and table partitions"),
    ("H", "Transactions"),
    ("I", "Sequences and identity"),
    ("L", "Logs and agents"),
];
const LAST_PART: (&str, &str) = ("O", "Set-up, regions that come and go, comparison");

/// Numbers, what holds, the test's file under `crates/domicile`, its function.
const TRIED: &[(&str, &str, &str, &str)] = &[
    (
        "A1, A5, A7, A10, A16",
        "any causal order in any number of regions ends in the same rows",
        "../core/src/conflict/tests.rs",
        "any_causal_order_ends_in_the_same_rows",
    ),
    (
        "A3",
        "rows that hold one unique value: one is shown, the same everywhere",
        "../core/src/conflict/tests.rs",
        "any_order_at_all_ends_in_the_same_rows",
    ),
    (
        "A9, A10",
        "a deletion is forgotten when everybody knows of it, and its key is used again",
        "tests/shared/forgotten.rs",
        "a_deletion_is_forgotten_when_everybody_knows_of_it_and_not_before",
    ),
    (
        "A16",
        "counters whose commits wait for copies count every region",
        "tests/shared/journal.rs",
        "a_counter_that_waits_for_copies_counts_every_region",
    ),
    (
        "A19",
        "what lost is written again when a person says so",
        "tests/shared/journal.rs",
        "what_lost_is_written_again_when_a_person_says_so",
    ),
    (
        "A20",
        "a write past the guard is journaled, and the owner's row restored",
        "tests/guard.rs",
        "an_unstamped_write_is_journaled_and_repaired",
    ),
    (
        "A21, A22",
        "clocks that are wrong, step back or agree to the microsecond",
        "../core/src/conflict/tests.rs",
        "any_causal_order_ends_in_the_same_rows",
    ),
    (
        "B26, B27, B28",
        "in thousands of simulated worlds no region shows an effect before its cause",
        "../sim/tests/seeds.rs",
        "the_seeds_hold",
    ),
    (
        "B29, B30",
        "a survivor relays the log of a region that is away, each record once",
        "tests/retention.rs",
        "relayed_by_a_survivor",
    ),
    (
        "B31",
        "each change is applied once, and what was applied is not shipped again",
        "tests/kill_agent.rs",
        "every_acknowledged_write_is_everywhere_exactly_once_whoever_was_killed_and_when",
    ),
    (
        "D45",
        "large values where a region hears of one region and not of another",
        "tests/shared/links.rs",
        "large_values_end_alike_whoever_hears_of_whom_first",
    ),
    (
        "H80",
        "a large transaction shows at once, and is held in bounded memory",
        "tests/transactions.rs",
        "a_large_one_shows_at_once",
    ),
    (
        "H81, H84",
        "what is rolled back to a savepoint stays away",
        "tests/transactions.rs",
        "what_is_rolled_back_within_one_stays_away",
    ),
    (
        "H82",
        "a large transaction that is rolled back leaves nothing",
        "tests/transactions.rs",
        "a_large_one_that_is_rolled_back_leaves_nothing",
    ),
    (
        "H82",
        "several large ones at a time are kept apart",
        "tests/transactions.rs",
        "several_at_a_time_are_kept_apart",
    ),
    (
        "H82",
        "a stream that breaks in the middle begins again",
        "tests/transactions.rs",
        "a_stream_that_breaks_in_the_middle_begins_again",
    ),
    (
        "H83",
        "PREPARE TRANSACTION of a guarded write is refused with a hint",
        "tests/guard.rs",
        "nothing_is_prepared_for_two_phases",
    ),
    (
        "H85, H86, H89",
        "empty ones, DDL alone, hundreds of tables, the application's own messages",
        "tests/transactions.rs",
        "odd_ones_hold_nobody_up",
    ),
    (
        "H87",
        "what PostgreSQL cannot send, as a row whose text is longer than 1 GB, is told by name",
        "tests/continuity.rs",
        "what_postgres_cannot_decode",
    ),
    (
        "H88",
        "a statement of two owners is refused quickly",
        "tests/gateway/refusal.rs",
        "a_statement_of_two_owners_is_refused_quickly",
    ),
    (
        "I90",
        "no two regions ever draw the same value",
        "tests/sequences.rs",
        "no_two_regions_ever_draw_the_same_value",
    ),
    (
        "I90",
        "a sequence that was set finds back to its place",
        "tests/sequences.rs",
        "a_sequence_that_was_set_finds_back_to_its_place",
    ),
    (
        "I91",
        "a new owner goes on behind the old one",
        "tests/sequences.rs",
        "a_new_owner_goes_on_behind_the_old_one",
    ),
    (
        "L115",
        "agents die at random moments: every acknowledged write is everywhere once",
        "tests/kill_agent.rs",
        "every_acknowledged_write_is_everywhere_exactly_once_whoever_was_killed_and_when",
    ),
    (
        "L115, L116",
        "a torn tail is removed wherever the write stopped",
        "tests/log.rs",
        "a_torn_tail_is_removed_wherever_the_write_stopped",
    ),
    (
        "L116",
        "damage in any segment is named, and nothing is dropped",
        "tests/log.rs",
        "damage_in_any_segment_is_named_and_nothing_is_dropped",
    ),
    (
        "L116",
        "a damaged log is made whole from a peer",
        "tests/log_damage.rs",
        "a_damaged_log_is_made_whole_from_a_peer_and_hostile_bytes_end_nothing",
    ),
    (
        "L116",
        "logs that share a room stop when it is used up",
        "tests/log.rs",
        "logs_that_share_a_room_stop_when_it_is_used_up",
    ),
    (
        "L117",
        "a log is kept for as long as a region needs it, and no longer",
        "tests/retention.rs",
        "a_log_is_kept_for_as_long_as_a_region_needs_it_and_no_longer",
    ),
    (
        "L118",
        "a region that was left behind says so and is seeded again",
        "tests/retention.rs",
        "left_behind_and_seeded_again",
    ),
    (
        "O142",
        "planted problems are found, each with a way out",
        "src/cli/check/tests.rs",
        "planted_problems_are_found",
    ),
    (
        "O143",
        "every true difference is found among changes on their way, and repaired from its owner",
        "tests/verify.rs",
        "every_true_difference_is_found_among_changes_on_their_way_and_repaired_from_its_owner",
    ),
    (
        "O142",
        "what drifts apart between regions is told",
        "src/cli/check/tests.rs",
        "what_drifts_apart_between_regions_is_told",
    ),
    (
        "O144",
        "regions with other schemas are refused",
        "src/cli/check/tests.rs",
        "regions_with_other_schemas_or_one_database_are_refused",
    ),
    (
        "F64, F65, F67",
        "what would diverge is refused, with how to do it, and nothing changes",
        "tests/migrate.rs",
        "what_would_diverge_is_refused_and_nothing_changes",
    ),
    (
        "F65, F67",
        "a migration is one place in every region's history",
        "tests/migrate.rs",
        "a_migration_is_one_place_in_every_regions_history_or_is_refused",
    ),
    (
        "L116",
        "a disk that is full is named and outlasted, and nothing acknowledged is lost",
        "tests/log_damage.rs",
        "a_full_disk_is_named_and_outlasted_and_nothing_that_was_acknowledged_is_lost",
    ),
    (
        "L104, L116",
        "agents, servers and links are killed, cut, paused and moved under writers, disks of logs and of WAL are full",
        "tests/chaos.rs",
        "what_was_acknowledged_is_there_and_alike_whatever_failed",
    ),
    (
        "L125",
        "every message takes a time of its own, in thousands of simulated worlds",
        "../sim/tests/seeds.rs",
        "the_seeds_hold",
    ),
    (
        "L118",
        "a slot that is lost, was moved or is another server's is told, and nothing is skipped",
        "tests/continuity.rs",
        "a_slot_that_does_not_follow_on_what_was_read_is_told_and_nothing_is_skipped",
    ),
    (
        "L118",
        "a log whose slot is lost begins anew by itself where that is asked for, and what it passed over is repaired",
        "tests/continuity.rs",
        "a_log_begins_anew_by_itself_where_its_server_has_everything",
    ),
    (
        "L118",
        "whatever somebody does to the publication is put back, and what it passed over is told until \
         every region has it",
        "tests/publication.rs",
        "what_a_publication_passed_over_is_told_until_every_region_has_it",
    ),
    (
        "L118",
        "what a local failover lost is applied again from the region's own log",
        "tests/continuity.rs",
        "what_a_local_failover_lost_is_applied_again",
    ),
    (
        "E59",
        "a trigger that would make its owner a superuser is refused up front",
        "src/cli/check/tests.rs",
        "code_of_strangers_that_would_run_as_the_agent_is_refused",
    ),
    (
        "F69",
        "two regions run different DDL on one table at the same time: each waits for the other's",
        "tests/hindered.rs",
        "ddl_of_two_regions_waits_for_each_other",
    ),
    (
        "L119",
        "a slot moves on while only other databases of the server are written",
        "tests/refusals.rs",
        "a_slot_moves_on_while_only_other_databases_of_the_server_are_written",
    ),
    (
        "L120",
        "certificates and their authority change while a region is lost and taken over",
        "tests/encrypted.rs",
        "certificates_and_their_authority_change_during_a_failover",
    ),
    (
        "L120",
        "a certificate that cannot be read or that ends soon is told, and the old one holds",
        "tests/encrypted.rs",
        "what_is_wrong_with_a_certificate_is_told",
    ),
    (
        "L122",
        "what passes by itself is tried again, and what does not lets the rest by",
        "tests/refusals.rs",
        "what_passes_by_itself_is_tried_again_and_what_does_not_lets_the_rest_by",
    ),
    (
        "L121",
        "an applier that is the victim of a deadlock with a client tries again",
        "tests/hindered.rs",
        "a_deadlock_costs_one_side_a_retry_and_nobody_a_row",
    ),
    (
        "L123",
        "apply that waits for a lock names who holds it, and the way out",
        "tests/hindered.rs",
        "apply_that_waits_names_who_holds_it_up",
    ),
    (
        "L124",
        "time limits of the agents' role are not theirs, and its connection limit is enough",
        "tests/hindered.rs",
        "limits_of_its_role_are_not_its_own",
    ),
    (
        "B33",
        "two regions that are added at the same time both come in",
        "tests/members.rs",
        "two_regions_that_are_added_at_the_same_time_both_come_in",
    ),
    (
        "O141",
        "a region changes its addresses under writes; under another name it is refused",
        "tests/members.rs",
        "a_region_may_change_every_address_and_not_its_name",
    ),
    (
        "O138",
        "a region is added under writes, and copying goes on where it broke off",
        "tests/members.rs",
        "a_region_is_added_under_writes_and_copying_goes_on_where_it_broke_off",
    ),
    (
        "O139",
        "rows that a region has when it is added are refused, or replaced",
        "tests/members.rs",
        "a_region_that_is_gone_is_removed_under_writes_and_nobody_waits_for_it",
    ),
    (
        "O140",
        "a region that is gone is removed under writes, and nobody waits for it",
        "tests/members.rs",
        "a_region_that_is_gone_is_removed_under_writes_and_nobody_waits_for_it",
    ),
];

/// Numbers, what is refused or warned of, the finding of `domicile check`.
const FOUND: &[(&str, &str, &str)] = &[
    ("A15", "a shared table with a deferrable unique constraint", "shared_deferrable_unique"),
    ("A15", "a shared table with an exclusion constraint", "shared_exclusion"),
    ("A15", "a unique index that one table partition has alone", "shared_unique_of_part"),
    ("A16", "a counter of a type that cannot be added up", "shared_counter_type"),
    (
        "A18",
        "a function that is to decide conflicts and is missing or not immutable",
        "shared_function",
    ),
    ("D46", "rows that are updated and have no identity", "no_replica_identity"),
    ("D46", "a row's identity that is generated, and so not shipped", "generated_in_key"),
    ("C36", "a partition key by whose collation different texts are equal", "key_collation"),
    ("E60", "a value that two owners may take until the end of a transaction", "deferrable_unique"),
    ("G78", "children by plain inheritance that nobody has listed", "heirs_not_listed"),
    ("D49", "a table without a primary key", "no_primary_key"),
    (
        "E52",
        "a foreign key between rows that may have different owners",
        "foreign_key_across_owners",
    ),
    ("E53", "a foreign key into a table that is not replicated", "foreign_key_to_local"),
    ("E58", "row security that the agent's role cannot pass", "row_security"),
    (
        "E59",
        "triggers and rules of strangers that would run with the agent's rights",
        "runs_as_agent",
    ),
    ("E59", "tables whose owners a superuser's session should not trust", "owner_not_trusted"),
    ("E60", "a generated partition key", "key_generated"),
    (
        "E60",
        "generated columns beside identity FULL, with PostgreSQL 18 and newer",
        "generated_in_identity",
    ),
    ("F66", "a unique index whose rows may have different owners", "unique_per_owner"),
    ("G78", "a table partition that is listed by itself", "table_partition"),
    ("G78", "tables that inherit from another", "inheritance"),
    ("G79", "temporary and unlogged tables", "not_logged"),
    ("G79", "views and foreign tables", "not_a_table"),
    ("I90", "a sequence that cycles", "sequence_cycles"),
    ("I90", "a sequence that is nearly used up", "sequence_used_up"),
    ("L124", "too few sessions for the role, the database or the server", "connection_limit"),
    ("L124", "too few replication origins", "replication_origins"),
    ("L119", "a standby instead of a primary", "standby"),
    ("E55", "triggers and rules that fire for applied rows in one region alone", "fires_differ"),
    ("E54", "a check or a unique index that one region alone has", "demands_differ"),
    ("E60", "generated columns that are computed otherwise in another region", "generated_differs"),
    (
        "D46",
        "another replica identity in another region, of table partitions too",
        "identity_differs",
    ),
    ("F68", "enums whose labels differ", "enum_differs"),
    ("F71", "extensions whose versions differ", "extension_differs"),
    ("O142", "other collations, providers or versions of them", "collation_differs"),
    ("O142", "a collation that the system has changed underneath", "collation_version"),
    ("O142", "large objects, which PostgreSQL does not decode", "large_objects"),
    ("O142", "another encoding", "encoding"),
    ("O142", "schemas that differ", "schema_differs"),
    ("O142", "a role without the rights that are needed", "may_not_replicate"),
    ("O142", "a server whose WAL is not logical", "wal_level"),
];

/// Numbers and what is neither tried nor refused yet.
const OPEN: &[(&str, &str)] = &[
    ("B32", "a region is removed over which others get the log of one that is out of sight"),
    ("H87", "a row of nearly 1 GB: tried by hand alone"),
];

/// The numbers of each part: nothing is left out in silence.
const NUMBERS: &[(&str, std::ops::RangeInclusive<u32>)] = &[
    ("A", 1..=25),
    ("B", 26..=33),
    ("C", 34..=41),
    ("D", 42..=50),
    ("E", 51..=60),
    ("F", 61..=71),
    ("G", 72..=79),
    ("H", 80..=89),
    ("I", 90..=91),
    ("L", 115..=125),
    ("O", 138..=144),
];

#[test]
fn the_table_of_scenarios_is_current() {
    let text = page_text(root());
    let cells = text.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    let told: BTreeSet<&str> = cells.flat_map(|numbers| numbers.split(", ")).collect();
    for (part, numbers) in NUMBERS {
        for number in numbers.clone().map(|number| format!("{part}{number}")) {
            assert!(told.contains(number.as_str()), "nothing is said of {number}");
        }
    }
    assert_current("scenarios.md", &text);
}

/// Part, number, what holds, where.
type Row = (usize, u32, String, String);

fn page_text(root: &Path) -> String {
    let mut rows: Vec<Row> = Vec::new();
    let mut add = |numbers: &str, what: &str, place: String| {
        let (part, number) = place_of(numbers);
        rows.push((part, number, format!("{numbers} | {what}"), place));
    };
    for case in script::all() {
        let file = format!("tests/scenarios/{}.sql", case.part);
        add(&case.numbers.join(", "), &case.title, link(&file));
    }
    for file in ["tests/shared/cases.rs", "tests/shared/collisions.rs"] {
        for name in names_of_shared_cases(&root.join(file)) {
            if let Some((number, what)) = name.split_once(' ').filter(|(n, _)| is_number(n)) {
                add(number, what, link(file));
            }
        }
    }
    for (numbers, what, file, function) in TRIED {
        assert_stands(file, function);
        add(numbers, what, link(file));
    }
    let findings = sources(&root.join("src/cli/check/judge"));
    for (numbers, what, finding) in FOUND {
        assert!(findings.contains(&format!("\"{finding}\"")), "check finds no {finding}");
        add(numbers, what, format!("found by `domicile check`: `{finding}`"));
    }
    for (numbers, what) in OPEN {
        add(numbers, what, "not yet".to_owned());
    }
    rows.sort();

    let mut text =
        "# Scenarios\n\nWhat has to hold, and the test that tries it, or the finding of \
                    `domicile check` that speaks of it\nup front. Tests of `core` and `sim` try \
                    decisions alone, all others real files, processes and PostgreSQL. Made by\n\
                    `crates/domicile/tests/scenarios/table.rs`.\n"
            .to_owned();
    let parts: Vec<(&str, &str)> = PARTS.into_iter().chain([LAST_PART]).collect();
    for (i, (letter, title)) in parts.iter().enumerate() {
        writeln!(text, "\n## {letter}. {title}\n\n| | What holds | Where |\n|---|---|---|")
            .unwrap();
        for (_, _, what, place) in rows.iter().filter(|row| row.0 == i) {
            writeln!(text, "| {what} | {place} |").unwrap();
        }
    }
    text
}

/// Orders by the first number, as in `C36`.
fn place_of(numbers: &str) -> (usize, u32) {
    let first = numbers.split(", ").next().unwrap_or_default();
    let letters: BTreeMap<&str, usize> =
        PARTS.iter().chain([&LAST_PART]).enumerate().map(|(i, part)| (part.0, i)).collect();
    let part = letters.get(&first[..1]).unwrap_or_else(|| panic!("{numbers} is of no part"));
    (*part, first[1..].parse().unwrap_or_else(|_| panic!("{numbers} has no number")))
}

fn is_number(word: &str) -> bool {
    word.len() > 1 && word[1..].bytes().all(|b| b.is_ascii_digit())
}

fn names_of_shared_cases(file: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(file).unwrap();
    let names = text.lines().filter_map(|line| {
        Some(line.trim().strip_prefix("name: \"")?.strip_suffix("\",")?.to_owned())
    });
    names.collect()
}

fn sources(folder: &Path) -> String {
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let mut files: Vec<PathBuf> = files.collect();
    files.sort();
    files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect()
}
