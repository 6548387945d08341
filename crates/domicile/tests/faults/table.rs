//! Which fault is tried where, how much of what is expected holds then, and what is still open?
//!
//! `docs/reference/faults.md` is made of this. Whoever renames a test hears of it here.

use std::fmt::Write as _;

use super::measured::{self, Run};
use super::pages::{assert_current, assert_stands, link};

/// What fails, and what is expected then; numbered from 1.
const FAULTS: [(&str, &str); 45] = [
    (
        "an owner's agent is killed and started again",
        "the guard admits until the lease ends; no failover when the agent is back before; nothing twice, nothing missing",
    ),
    (
        "an owner's agent is killed for good",
        "another region takes over; PostgreSQL refuses once the lease is over; the tail is journaled when the region returns",
    ),
    (
        "an owner's agent stands still across a failover and goes on (SIGSTOP, SIGCONT)",
        "it acknowledges nothing, renews nothing late, and gives up by itself",
    ),
    (
        "all of an owner's PostgreSQL stands still across a failover and goes on",
        "what commits late lies beyond the cut: no success is told, its rows are journaled",
    ),
    (
        "one backend stands still between its last check and its commit, across a failover",
        "the same for that one transaction",
    ),
    (
        "an owner's PostgreSQL is killed and recovers",
        "its lease ends with the postmaster; granted again at the same epoch; no failover when it is quick",
    ),
    (
        "PostgreSQL hangs: it accepts connections and does not answer",
        "found by a write through the guard, not by a connection; another region takes over",
    ),
    (
        "an owner is cut off from all others and from the directory",
        "another region takes over; the old owner is read-only once its lease is over; afterwards its tail is journaled and repaired",
    ),
    (
        "others cannot read an owner's log; it reads theirs and reaches the directory",
        "commits wait as the RPO says; no owner changes",
    ),
    (
        "an owner cannot reach the directory; the others reach both",
        "never two owners; its peers renew its lease in the directory's stead",
    ),
    (
        "an agent reaches the directory and not its PostgreSQL",
        "it gives its lease up, so that nobody has to wait for its end",
    ),
    (
        "clients are cut off from a region that is well",
        "seen from where clients are; they are led elsewhere",
    ),
    (
        "two regions lose sight of each other, a third sees both",
        "logs go over the third; no owner changes",
    ),
    ("a minority of the directory is lost", "nothing"),
    (
        "the directory is lost for minutes",
        "owners write on, renewed by their peers; no owner changes; afterwards all epochs are as before",
    ),
    ("the directory's leader is in the region that is lost", "writes resume in time all the same"),
    (
        "the directory is restored from an old copy",
        "it is not believed: told, and a person has to repair it",
    ),
    (
        "the clock of an owner's PostgreSQL jumps by an hour, or by half a lease again and again",
        "forward it refuses writes; backward the guard refuses a lease from the future",
    ),
    ("a clock runs wrong by 500 ppm", "no effect on safety; told beyond 200 ppm"),
    (
        "a disk is full: of the WAL, of an agent's logs, of the directory",
        "commits fail or wait, nothing is dropped, and all goes on once there is room",
    ),
    (
        "a disk under the logs gives errors",
        "nothing is acknowledged that is not durable; the log goes on from its slot or from peers",
    ),
    (
        "a slot is dropped or invalidated",
        "told; nothing is skipped in silence; others may take over; seeded again by comparison",
    ),
    (
        "a log is damaged or torn off",
        "noticed by its checksum; fetched again from a peer; told where no peer has it",
    ),
    (
        "a link is long, narrow or loses packets",
        "no failover; the RPO is kept by slowing writers down",
    ),
    (
        "a region comes and goes, again and again",
        "one failover; then it is on probation and nothing goes back and forth",
    ),
    (
        "the second owner is lost too, before the first is back",
        "the third takes over; each epoch is one higher and ends at its own cut; both tails are journaled",
    ),
    (
        "an owner is lost during a planned hand-over, at each of its points",
        "before the grant: the old owner goes on, or a failover ends at the same cut; after it: the new owner goes on",
    ),
    (
        "a target is lost during a planned hand-over",
        "called off; the old owner goes on one epoch higher",
    ),
    (
        "the agent that carries a run dies at any of its effects",
        "another one carries it on; each effect happens once",
    ),
    (
        "two runs are started for the same partitions at the same time",
        "one gets them, the other is refused",
    ),
    (
        "an old owner returns with a tail that clashes with newer rows on a unique key",
        "the tail is journaled, its rows give way, all regions are alike",
    ),
    (
        "an old owner returns, and clients write to it directly",
        "refused with 25006 and the name of the new owner",
    ),
    (
        "two regions and no witness: the link between them is cut",
        "the owner stays, the other one does not take over by itself; a person may say so",
    ),
    ("two regions and a witness: one is lost", "the other one takes over by itself"),
    (
        "a transaction stays open across a fence",
        "planned: terminated after its budget, others wait no longer than that; forced: refused at its commit",
    ),
    (
        "a REPEATABLE READ transaction from before a hand-over writes after it",
        "refused: the guard is not read by its snapshot",
    ),
    (
        "PREPARE TRANSACTION before a fence, COMMIT PREPARED after it",
        "refused up front, or kept out of the history",
    ),
    (
        "ways past the guard: a table partition, COPY, TRUNCATE, DDL, disabled triggers, the replica role, superusers",
        "refused, or known by its missing stamp and journaled",
    ),
    (
        "a standby is promoted, a backup restored or a disk cloned",
        "it admits no write before a lease is granted to it",
    ),
    (
        "a commit that waits for a remote copy is cancelled",
        "not told as a success: its outcome is unknown",
    ),
    (
        "agents of two versions take part in one hand-over",
        "versions that do not go together are refused",
    ),
    (
        "a certificate ends, or keys change, during a failover",
        "told 30 days before; old and new overlap",
    ),
    (
        "a target lacks connections, disk or CPU for what it would get",
        "the plan says so and needs a reason to go on",
    ),
    ("a target's schema is not the owner's", "the plan says so"),
    ("nobody can be notified", "the run goes on and says so"),
];

/// The fault, what holds, the test's file under `crates/domicile`, its function.
const TRIED: &[(usize, &str, &str, &str)] = &[
    (
        1,
        "agents die at random moments and are started again: each acknowledged write is everywhere once",
        "tests/kill_agent.rs",
        "every_acknowledged_write_is_everywhere_exactly_once_whoever_was_killed_and_when",
    ),
    (
        1,
        "the same among all other faults, where regions fail over by themselves",
        "tests/chaos.rs",
        "what_was_acknowledged_is_there_and_alike_whatever_failed",
    ),
    (
        1,
        "an agent that is started again at once: its region stays the owner",
        "tests/faults/cuts.rs",
        "an_agent_that_is_back_at_once_stays_the_owner",
    ),
    (
        2,
        "once the lease is over, a transaction that was open is refused at its commit",
        "tests/guard.rs",
        "a_lease_may_end_before_the_commit",
    ),
    (
        2,
        "PostgreSQL refuses by itself, another region takes over, and what nobody else had is journaled on return",
        "tests/faults/tails.rs",
        "what_an_old_owner_brings_back_gives_way",
    ),
    (
        3,
        "agents stand still and go on in thousands of simulated worlds: no epoch has two writers",
        "../sim/tests/seeds.rs",
        "the_seeds_hold",
    ),
    (
        3,
        "the guard closes without it; when it goes on, it names the new owner, and nothing that was told is lost",
        "tests/faults/standstill.rs",
        "an_agent_that_was_dead_to_the_world_gives_up_by_itself",
    ),
    (
        4,
        "PostgreSQL stands still and goes on in thousands of simulated worlds",
        "../sim/tests/seeds.rs",
        "the_seeds_hold",
    ),
    (
        4,
        "another region takes over; when it goes on, it refuses in the new owner's favour, and nothing that was told is lost",
        "tests/faults/standstill.rs",
        "a_postgres_that_was_dead_to_the_world_commits_nothing_late",
    ),
    (
        4,
        "whoever waits there through a gateway, the region's own or another's, is told that the outcome is unknown",
        "tests/gateway/silence.rs",
        "nobody_waits_for_a_server_that_is_silent_and_owns_nothing_any_more",
    ),
    (
        5,
        "it commits, too late: its client is told no success, its row is journaled and gone",
        "tests/faults/standstill.rs",
        "a_backend_that_is_held_behind_its_last_check_is_told_no_success",
    ),
    (
        6,
        "the lease does not outlive the postmaster, though its deadline lies ahead",
        "tests/guard.rs",
        "a_lease_ends_with_its_postmaster",
    ),
    (
        6,
        "killed under writers and started again: each acknowledged write is everywhere once",
        "tests/kill_agent.rs",
        "every_acknowledged_write_is_everywhere_exactly_once_whoever_was_killed_and_when",
    ),
    (
        7,
        "a region that takes writes is not taken over, however silent its lease; one that refuses them is",
        "../core/src/outage.rs",
        "a_region_that_still_takes_writes_is_not_failed_over",
    ),
    (
        7,
        "all of it hangs, sockets open: another region takes over",
        "tests/faults/standstill.rs",
        "a_postgres_that_was_dead_to_the_world_commits_nothing_late",
    ),
    (
        7,
        "the postmaster alone hangs: the lease is given up, another region takes over, and sessions that stand are refused in its favour",
        "tests/faults/standstill.rs",
        "a_postmaster_that_hangs_alone_is_taken_over",
    ),
    (
        8,
        "others write on meanwhile; afterwards every acknowledged write is there and all are alike",
        "tests/chaos.rs",
        "what_was_acknowledged_is_there_and_alike_whatever_failed",
    ),
    (
        8,
        "with `rpo = \"none\"` each acknowledged write that was lost is in the journal",
        "tests/demo.rs",
        "without_an_rpo_what_was_lost_is_in_the_journal_and_its_rows_are_repaired",
    ),
    (
        8,
        "its guard closes by itself, the others write everything, and it comes back",
        "tests/faults/cuts.rs",
        "an_owner_that_is_cut_off_is_taken_over",
    ),
    (
        9,
        "commits run ahead of their copies as far as the RPO allows, then wait, and go on when the link is back",
        "tests/bounded_rpo.rs",
        "a_bounded_rpo_lets_commits_run_ahead_and_then_makes_them_wait",
    ),
    (
        9,
        "at RPO 0 none returns without a copy",
        "tests/bounded_rpo.rs",
        "at_rpo_zero_no_commit_returns_without_a_copy",
    ),
    (
        9,
        "its commits wait for longer than a lease lasts, the others write, no owner changes, and all are told in the end",
        "tests/faults/cuts.rs",
        "an_owner_that_nobody_can_read_waits_and_stays",
    ),
    (
        10,
        "links are cut one way, the directory's too, in thousands of simulated worlds: never two owners",
        "../sim/tests/seeds.rs",
        "the_seeds_hold",
    ),
    (
        10,
        "the others renew its lease, so it writes on and stays the owner",
        "tests/faults/cuts.rs",
        "an_owner_without_the_directory_lives_on_promises",
    ),
    (
        10,
        "then the others do not hear it either: once what they promised is over they own what it had, and it refuses",
        "tests/faults/cuts.rs",
        "an_owner_on_promises_that_is_cut_off_is_taken_over",
    ),
    (
        11,
        "another region takes over once the lease is silent",
        "tests/faults/standstill.rs",
        "an_agent_without_its_postgres_is_taken_over",
    ),
    (
        12,
        "names lead to regions that own something and are up, by the directory's word",
        "tests/names.rs",
        "names_lead_to_who_owns_something_and_is_up",
    ),
    (
        13,
        "a survivor relays the log of a region that is out of sight",
        "tests/retention.rs",
        "relayed_by_a_survivor",
    ),
    (
        13,
        "between two owners, under writers: each shows what the other wrote, no owner changes",
        "tests/faults/cuts.rs",
        "two_that_do_not_see_each_other_hear_of_each_other_over_the_third",
    ),
    (
        14,
        "a member of etcd is lost, or hangs: calls go to the next",
        "tests/directory/etcd.rs",
        "a_member_that_hangs_is_passed_over_within_one_read",
    ),
    (
        15,
        "killed and started again: followers go on where they were",
        "tests/directory/suite.rs",
        "a_follower_outlives_a_restart_and_ends_with_the_same_documents",
    ),
    (
        15,
        "silence of the directory counts as nobody's",
        "../core/src/lease.rs",
        "silence_of_the_directory_is_not_silence_of_the_holder",
    ),
    (
        15,
        "for longer than leases last: all write, nobody is given anything, epochs are what they were",
        "tests/faults/cuts.rs",
        "without_the_directory_owners_write_on_and_none_changes",
    ),
    (
        15,
        "etcd without its majority: nothing moves, owners write on; one that is lost meanwhile is taken over afterwards",
        "tests/etcd.rs",
        "without_a_majority_nothing_moves_and_owners_write_on",
    ),
    (
        16,
        "etcd's leader is killed under writers; then regions move and fail over",
        "tests/etcd.rs",
        "regions_move_and_fail_over_on_etcd_and_outlive_its_leader",
    ),
    (
        17,
        "a follower notices, whether the copy is shorter or has grown past what was seen",
        "tests/directory/suite.rs",
        "a_follower_notices_a_directory_restored_from_an_older_copy",
    ),
    (
        17,
        "every region says so and refuses to write; with the newest copy all goes on at the newest epochs",
        "tests/faults/cuts.rs",
        "an_old_copy_of_the_directory_is_not_believed",
    ),
    (
        17,
        "agents that are started beside the old copy do not believe it either",
        "tests/old_directory.rs",
        "no_region_acts_on_a_directory_that_knows_less_than_it_does",
    ),
    (
        18,
        "clocks jump within the lease's margin and by up to an hour in thousands of simulated worlds",
        "../sim/tests/seeds.rs",
        "the_seeds_hold",
    ),
    (
        19,
        "clocks run wrong by up to 500 ppm in thousands of simulated worlds",
        "../sim/tests/seeds.rs",
        "the_seeds_hold",
    ),
    (
        20,
        "an agent's logs: told, outlasted, and nothing that was acknowledged is lost",
        "tests/log_damage.rs",
        "a_full_disk_is_named_and_outlasted_and_nothing_that_was_acknowledged_is_lost",
    ),
    (
        20,
        "the WAL and an agent's logs, under writers, with other regions lost meanwhile",
        "tests/chaos.rs",
        "what_was_acknowledged_is_there_and_alike_whatever_failed",
    ),
    (
        20,
        "the directory: nothing is taken back, and it goes on once there is room",
        "src/directory/store.rs",
        "a_full_disk_takes_back_nothing_and_is_enough_for_a_new_start_once_it_has_room",
    ),
    (
        21,
        "a write that fails moves nothing, and the log takes no more until it is opened again",
        "tests/log.rs",
        "a_failed_append_moves_nothing_and_poisons_the_log",
    ),
    (
        21,
        "a byte that the disk changes gives an error and no record",
        "tests/log.rs",
        "a_disk_that_changes_a_byte_of_a_running_log_gives_an_error_and_no_record",
    ),
    (
        22,
        "dropped, made again, moved, invalidated or another server's: told, nothing is skipped, `domicile reseed` mends it",
        "tests/continuity.rs",
        "a_slot_that_does_not_follow_on_what_was_read_is_told_and_nothing_is_skipped",
    ),
    (
        23,
        "a log that was damaged is made whole from a peer",
        "tests/log_damage.rs",
        "a_damaged_log_is_made_whole_from_a_peer_and_hostile_bytes_end_nothing",
    ),
    (
        23,
        "a region that has lost its agent's folder: nothing that it held alone is lost unless a person says so",
        "tests/copies.rs",
        "no_failover_goes_on_before_what_was_lost_with_a_folder_was_had_again",
    ),
    (
        23,
        "damage in any segment is named, and nothing is dropped",
        "tests/log.rs",
        "damage_in_any_segment_is_named_and_nothing_is_dropped",
    ),
    (
        23,
        "a torn end is removed wherever the write stopped",
        "tests/log.rs",
        "a_torn_tail_is_removed_wherever_the_write_stopped",
    ),
    (
        24,
        "links of 80 ms: writes go on, and nothing that was acknowledged is lost",
        "tests/demo.rs",
        "an_active_passive_world_loses_nothing_that_was_acknowledged",
    ),
    (
        24,
        "a link of 8 Mbit/s: a row that takes it seconds arrives",
        "tests/narrow.rs",
        "a_row_that_takes_longer_than_any_silence_arrives",
    ),
    (
        24,
        "links of 200 ms: no owner changes, all writes go on",
        "tests/faults/cuts.rs",
        "long_links_move_no_owner",
    ),
    (
        25,
        "one failover; a region that comes and goes then gets nothing back by itself, nor takes over from another while there is a third",
        "tests/faults/standstill.rs",
        "an_agent_that_was_dead_to_the_world_gives_up_by_itself",
    ),
    (
        25,
        "a metric counts who was taken for lost and heard again at once",
        "../core/src/probation.rs",
        "a_renewal_after_a_suspicion_is_a_loss_and_others_are_none",
    ),
    (
        26,
        "with one of the two back, another region takes over, two epochs further",
        "tests/faults/tails.rs",
        "two_owners_are_lost_one_after_the_other",
    ),
    (
        27,
        "a failover takes what was being handed over, too",
        "../core/src/ownership/tests.rs",
        "a_fence_overrules_a_hand_over",
    ),
    (
        27,
        "agents and regions are killed during hand-overs in thousands of simulated worlds",
        "../sim/tests/seeds.rs",
        "the_seeds_hold",
    ),
    (
        27,
        "before it has drained: a failover takes everything, the run ends",
        "tests/faults/hand_over.rs",
        "an_owner_that_is_lost_while_it_hands_over_is_taken_over",
    ),
    (
        27,
        "behind the barrier, of which a third region alone has all: nothing is missing",
        "tests/faults/hand_over.rs",
        "an_owner_that_is_lost_behind_its_barrier_costs_nothing",
    ),
    (
        27,
        "once the new owner is named: the run ends without it",
        "tests/faults/hand_over.rs",
        "an_owner_that_is_lost_as_its_partition_is_granted_is_not_missed",
    ),
    (
        27,
        "and a person may have that very run forced: once, whoever is killed as it begins",
        "tests/escalate.rs",
        "a_run_is_escalated_once_wherever_the_agent_that_performs_it_is_killed",
    ),
    (
        28,
        "the partitions are given back one epoch higher",
        "../core/src/runbook/run/tests.rs",
        "a_switchover_whose_target_dies_gives_the_partitions_back",
    ),
    (
        28,
        "before it has applied the barrier: called off, back one epoch higher, and written on",
        "tests/faults/hand_over.rs",
        "a_target_that_is_lost_gets_nothing",
    ),
    (
        29,
        "a run that another agent continues at any point ends the same",
        "../core/src/runbook/run/tests.rs",
        "a_run_that_another_agent_continues_at_any_point_ends_the_same",
    ),
    (
        29,
        "killed before, within and after every effect of every ready-made runbook: another goes on, each epoch is one higher",
        "tests/carried_on.rs",
        "wherever_the_agent_that_performs_a_run_is_killed_another_carries_it_on",
    ),
    (
        29,
        "agents die at their effects in thousands of simulated worlds",
        "../sim/tests/seeds.rs",
        "the_seeds_hold",
    ),
    (
        30,
        "of two failovers of one region the slower one ends",
        "../core/src/runbook/run/tests.rs",
        "of_two_failovers_of_one_region_the_slower_one_ends",
    ),
    (
        30,
        "several hand-overs at one moment, of different partitions, all come to an end",
        "tests/switchover.rs",
        "hand_overs_that_the_owner_learns_of_together_all_come_to_an_end",
    ),
    (
        30,
        "of two for one partition each gets it in turn and says so, or is refused; each epoch is one region's",
        "tests/faults/hand_over.rs",
        "two_runs_for_one_partition_leave_one_owner",
    ),
    (
        31,
        "by its key or by another unique value: journaled, the new owner's rows stand, all are alike",
        "tests/faults/tails.rs",
        "what_an_old_owner_brings_back_gives_way",
    ),
    (
        31,
        "it is refused as a target before that; what it is given all the same it opens by itself afterwards",
        "tests/returns.rs",
        "a_region_that_is_back_opens_nothing_before_its_tail_is_journaled_and_repaired",
    ),
    (
        32,
        "after a hand-over the old owner's PostgreSQL names the new one",
        "tests/guard.rs",
        "an_old_snapshot_sees_the_new_owner",
    ),
    (
        32,
        "after a failover, too",
        "tests/faults/tails.rs",
        "what_an_old_owner_brings_back_gives_way",
    ),
    (
        33,
        "the link is cut, the directory is reached by both: the owner writes on, no owner changes",
        "tests/faults/two.rs",
        "of_two_regions_the_one_that_the_directory_sees_goes_on",
    ),
    (
        34,
        "with `rpo = \"none\"` and the directory as the witness",
        "tests/faults/two.rs",
        "of_two_regions_the_one_that_the_directory_sees_goes_on",
    ),
    (
        34,
        "without a witness at RPO 0: a person has it taken over, its commits wait for a copy, and it says so",
        "tests/alone.rs",
        "a_region_whose_commits_wait_fills_no_server_with_its_own_sessions",
    ),
    (
        34,
        "with `rpo = \"0\"` and a witness that alone has copies when the region is lost: nothing is missing",
        "tests/witness.rs",
        "what_the_witness_alone_holds_of_a_lost_region_is_there_at_the_one_that_takes_over",
    ),
    (
        35,
        "planned: terminated, and the run succeeds",
        "tests/faults/hand_over.rs",
        "a_transaction_that_stays_open_is_terminated",
    ),
    (
        35,
        "forced: refused at its commit",
        "tests/faults/tails.rs",
        "what_an_old_owner_brings_back_gives_way",
    ),
    (
        36,
        "after a planned hand-over it is refused, with the new owner's name",
        "tests/guard.rs",
        "an_old_snapshot_sees_the_new_owner",
    ),
    (
        36,
        "after a forced one, too",
        "tests/faults/tails.rs",
        "what_an_old_owner_brings_back_gives_way",
    ),
    (
        37,
        "PREPARE TRANSACTION of a guarded write is refused with a hint",
        "tests/guard.rs",
        "nothing_is_prepared_for_two_phases",
    ),
    (
        38,
        "refused on every way",
        "tests/guard.rs",
        "a_write_that_is_not_ours_is_refused_on_every_way_and_none_enters_the_history",
    ),
    (
        38,
        "what slips past disabled triggers is journaled, its rows are repaired, and the guard is put back",
        "tests/guard.rs",
        "an_unstamped_write_is_journaled_and_repaired",
    ),
    (39, "a lease belongs to one postmaster", "tests/guard.rs", "a_lease_ends_with_its_postmaster"),
    (
        39,
        "a standby that was promoted goes on where it has everything, and stands still where it lacks the end",
        "tests/continuity.rs",
        "a_standby_that_lacks_the_end_is_behind",
    ),
    (
        40,
        "through a gateway it is an error, 08007, in any way of committing and of cancelling; the session goes on",
        "tests/gateway/unconfirmed.rs",
        "a_commit_whose_wait_is_cancelled_has_an_unknown_outcome_and_its_session_goes_on",
    ),
    (
        40,
        "with real agents, from any region, also for who wants to hear of errors only",
        "tests/cancelled.rs",
        "a_commit_without_a_copy_is_told_no_success_when_its_wait_is_cancelled",
    ),
    (
        40,
        "its session is terminated: no success either",
        "tests/gateway/unconfirmed.rs",
        "a_commit_whose_session_is_terminated_is_told_no_success",
    ),
    (
        42,
        "all certificates and their authority are exchanged while a region is lost; strangers learn nothing",
        "tests/encrypted.rs",
        "certificates_and_their_authority_change_during_a_failover",
    ),
    (
        42,
        "told 30 days before; files that do not go together are told and not taken up",
        "tests/encrypted.rs",
        "what_is_wrong_with_a_certificate_is_told",
    ),
    (
        42,
        "an agent whose PostgreSQL nobody vouches for says so, and goes on when somebody does; a failover where nobody is taken in the clear",
        "tests/encrypted_database.rs",
        "regions_replicate_and_fail_over_where_postgresql_takes_nobody_in_the_clear",
    ),
    (
        44,
        "`domicile check` refuses it up front",
        "src/cli/check/tests.rs",
        "regions_with_other_schemas_or_one_database_are_refused",
    ),
    (
        43,
        "plans say that the target would get more than it is made for, and a region that could hardly take over says so before",
        "../core/src/runbook/caution.rs",
        "a_region_that_could_hardly_take_over_from_another_says_so_before_it_must",
    ),
    (
        44,
        "nothing is handed over to a region that waits for DDL, and a lost one is taken over by another where one can",
        "tests/hindered.rs",
        "ddl_of_two_regions_waits_for_each_other",
    ),
    (
        44,
        "rows whose schema is missing wait and are told",
        "tests/migrate.rs",
        "where_it_fails_a_region_waits_and_says_so",
    ),
    (
        45,
        "a program that was to tell somebody fails: the run succeeds, and its journal says so",
        "tests/runbook.rs",
        "programs_run_for_a_run_and_whoever_goes_on_calls_them_by_the_same_token",
    ),
    (
        45,
        "so it does where the webhook of a `notify` says no or does not answer",
        "tests/webhook.rs",
        "whoever_cannot_be_told_holds_no_run_up",
    ),
];

/// The fault, and what of it nothing tries, or what does not exist.
const OPEN: &[(usize, &str)] = &[
    (
        4,
        "where nobody takes over, as without `failover.automatic`, who waits there through its gateway waits on",
    ),
    (6, "that it is quick enough not to be suspected, where regions fail over by themselves"),
    (10, "once anybody's partitions move its peers know a newer ownership, and renew nothing"),
    (11, "an agent gives no lease up before its end"),
    (12, "nobody looks from where clients are"),
    (15, "an agent that is started meanwhile neither owns nor promises"),
    (17, "what to do when no copy is new enough"),
    (19, "a wrong rate is not told"),
    (21, "an error of fsync"),
    (24, "packets that are lost; writers are made to wait, not slowed down"),
    (26, "the last of three alone: two must agree on an outage, and seal"),
    (33, "the directory is lost together with the owner"),
    (39, "a clone of a disk beside its original"),
    (40, "past the gateways PostgreSQL tells a success with a warning"),
    (41, "messages carry no version"),
    (45, "runs notify nobody by themselves: a `notify` of one's own runbook does"),
];

#[test]
fn the_table_of_faults_is_current() {
    assert_current("faults.md", &page_text());
}

fn page_text() -> String {
    let mut text = "# Faults\n\nWhat may fail, what is expected then, and the test that tries it: how much of what \
                    is expected it shows stands beside it.\nTests of `core` and `sim` try decisions alone, all \
                    others real files, processes and PostgreSQL.\nAfter each fault of `tests/faults` everything that clients \
                    were told is checked: no acknowledged write is missing (set), no\nsnapshot shows half a transfer (bank), \
                    each list and register is strictly serialisable, and no region shows an effect\nwithout its cause. Made by\n`crates/domicile/tests/faults/table.rs`.\n\n"
        .to_owned();
    let mut sheet = measured::read().expect("what was measured last stands beside this file");
    if let (Some(said), Some(_)) = (std::env::var_os("PASSED"), std::env::var_os("UPDATE")) {
        let run = Run::read(said.as_ref());
        for (_, _, file, function) in TRIED {
            if run.passed(file, function) {
                sheet.passed.insert((*function).to_owned(), run.day.clone());
            }
        }
        sheet.passed.retain(|function, _| TRIED.iter().any(|tried| tried.3 == *function));
        measured::write(&sheet);
    }
    writeln!(
        text,
        "Measured on {}. An entity is tried about once a second, so that is how long one goes \
                    unwritten without any fault. Of what measures nothing stands the day of the last run \
                    of all tests in which it passed.\n",
        sheet.made
    )
    .unwrap();
    text.push_str(
        "| | Fault | Expected | What holds | Where | Measured last |\n|---|---|---|---|---|---|\n",
    );
    for (number, (fault, expected)) in (1..).zip(FAULTS) {
        let tried =
            TRIED.iter().filter(|tried| tried.0 == number).map(|(_, what, file, function)| {
                assert_stands(file, function);
                let felt =
                    sheet.faults.get(*function).filter(|_| file.starts_with("tests/faults/"));
                let passed = || sheet.passed.get(*function).map(|day| format!("passed, {day}"));
                let result = felt.map(ToString::to_string).or_else(passed);
                (*what, link(file), result.unwrap_or_default())
            });
        let open = OPEN.iter().filter(|open| open.0 == number);
        let rows: Vec<_> = tried
            .chain(open.map(|(_, what)| (*what, "not yet".to_owned(), String::new())))
            .collect();
        assert!(!rows.is_empty(), "nothing is said of F{number:02}");
        let mut named = format!("F{number:02} | {fault} | {expected}");
        for (what, place, felt) in rows {
            writeln!(text, "| {named} | {what} | {place} | {felt} |").unwrap();
            named = " | | ".to_owned();
        }
    }
    for number in TRIED.iter().map(|tried| tried.0).chain(OPEN.iter().map(|open| open.0)) {
        assert!((1..=FAULTS.len()).contains(&number), "there is no F{number:02}");
    }
    text
}
