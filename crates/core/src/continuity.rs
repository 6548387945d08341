//! Does what the slot sends next follow on what we hold of this PostgreSQL's history?
//!
//! A slot tells where it was confirmed to, not by whom; a server tells a position, not whose. So
//! the agent remembers what it read and from where, and compares before it reads on:
//!
//! ```text
//!   our log ───────────┤ held                    slot ──┤ confirmed <= held: goes on
//!                      │                         slot ────────┤ confirmed > held: skipped
//!   server, timeline 2 ┴──── parted >= held: goes on
//!   server, timeline 2 ──┴── parted <  held: behind, its positions mean something else from there
//! ```
//!
//! **Invariant:** nobody but us moves a slot up to `held` unnoticed, because `held` is durable
//! before the slot is told.

use std::fmt;

use crate::lsn::Lsn;
use crate::time::Millis;

/// The output plugin that every slot of ours has.
pub const PLUGIN: &str = "pgoutput";

/// PostgreSQL ends the stream at a change that it cannot send, again and again.
pub const CAPTURE_FAILS: &str = "capture_fails";
/// A part of a region's own log is gone that no other region holds.
pub const LOG_LOST: &str = "log_lost";

/// Another cluster answers than the one whose history this is.
const OTHER_SYSTEM: &str = "other_system";

/// The states after which another incarnation of the log may begin in the same system.
pub const RESEEDABLE: [&str; 5] =
    ["slot_lost", "slot_skipped", "timeline_behind", CAPTURE_FAILS, LOG_LOST];

/// Is nothing captured in a region that shows the state `name`, and nothing owned for long?
pub fn halts(name: &str) -> bool {
    name == OTHER_SYSTEM || RESEEDABLE.contains(&name)
}

/// What we remember of the slot that we read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Of our log; see [`crate::id::Origin`].
    pub incarnation: u32,
    /// The cluster's system identifier.
    pub system: u64,
    pub timeline: u32,
    pub slot: String,
    /// Everything up to here was read and judged, and what belongs in the log is in it.
    pub read: Lsn,
    /// The timeline was once found to end here, before what was read: however far it has grown
    /// since, that is not our history.
    pub behind: Option<Lsn>,
}

/// What a server says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    pub system: u64,
    pub timeline: u32,
    /// The timelines before this one, and where each of them ended in this server's history; `None`
    /// when that could not be read.
    pub ended: Option<Vec<(u32, Lsn)>>,
    pub wal_end: Lsn,
    /// A slot was read here in this incarnation or a later one, says the database.
    pub read_before: bool,
    pub slot: Option<Slot>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// `None` for a physical slot.
    pub plugin: Option<String>,
    /// The WAL that it needs is gone.
    pub invalidated: bool,
    /// `None` for a slot that is still being made.
    pub confirmed: Option<Lsn>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing was ever read here in this incarnation: the slot may be made.
    New,
    GoesOn,
    Broken(Break),
}

/// Why what the slot would send does not follow on what we hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Break {
    OtherSystem {
        known: u64,
        found: u64,
    },
    /// The server's history left ours at `parted`, and we hold it up to `held`.
    TimelineBehind {
        timeline: u32,
        parted: Lsn,
        held: Lsn,
    },
    SlotLost(Lost),
    /// The slot sends nothing of what lies between.
    SlotSkipped {
        held: Lsn,
        confirmed: Lsn,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lost {
    Missing,
    Invalidated,
    /// The slot has our name and is not one of ours.
    Foreign,
    /// We have read from a slot of another name.
    Renamed {
        from: String,
    },
}

impl Break {
    /// The state that is shown.
    pub fn name(&self) -> &'static str {
        match self {
            Self::OtherSystem { .. } => OTHER_SYSTEM,
            Self::TimelineBehind { .. } => "timeline_behind",
            Self::SlotLost(_) => "slot_lost",
            Self::SlotSkipped { .. } => "slot_skipped",
        }
    }

    /// Do our tables still belong to the history that other regions' logs go on with?
    pub fn may_apply(&self) -> bool {
        match self {
            // Nothing there is ours to write.
            Self::OtherSystem { .. } => false,
            // The checkpoints of apply are as old or as new as the rows.
            Self::TimelineBehind { .. } | Self::SlotLost(_) | Self::SlotSkipped { .. } => true,
        }
    }
}

/// May the log begin anew without a person?
///
/// `why` has stood for `stands`, `after` is what the configuration grants, and `all_answer` says whether every other
/// member can be compared with. Only where this server has all that it ever committed and this machine knows what it
/// read: a person has to say whether a server that has the end of a timeline comes back, a folder that is missing is
/// mounted, and whose a slot is that is not ours.
pub fn begins_anew(
    why: &Break,
    known: Option<&Known>,
    stands: Millis,
    after: Millis,
    all_answer: bool,
) -> bool {
    let has_all = match why {
        Break::SlotLost(Lost::Missing | Lost::Invalidated) | Break::SlotSkipped { .. } => true,
        Break::SlotLost(Lost::Foreign | Lost::Renamed { .. }) => false,
        Break::TimelineBehind { .. } | Break::OtherSystem { .. } => false,
    };
    has_all && known.is_some() && stands >= after && all_answer
}

/// Do rows that differ become what their owners have without a person, where `after` is what the configuration grants?
///
/// Only where the slot alone has passed changes over: who has changed the publication may have changed the table, too.
pub fn repairs_by_itself(by_slot: bool, after: Option<Millis>) -> bool {
    by_slot && after.is_some()
}

impl fmt::Display for Break {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherSystem { known, found } => write!(
                f,
                "this PostgreSQL is system {found}, this region's history is that of system {known}"
            ),
            Self::TimelineBehind { timeline, parted, held } => write!(
                f,
                "timeline {timeline} of this PostgreSQL left this region's history at {parted}, \
                 which was read up to {held}"
            ),
            Self::SlotLost(Lost::Missing) => {
                write!(f, "the slot does not exist: what was committed since is not captured")
            }
            Self::SlotLost(Lost::Invalidated) => write!(
                f,
                "the slot is invalidated: WAL that it needed is gone, and what it held was not \
                 captured"
            ),
            Self::SlotLost(Lost::Foreign) => {
                write!(f, "the slot is not a logical one with plugin {PLUGIN}")
            }
            Self::SlotLost(Lost::Renamed { from }) => {
                write!(f, "this region's history was read from slot \"{from}\"")
            }
            Self::SlotSkipped { held, confirmed } => write!(
                f,
                "the slot goes on after {confirmed}, and was read up to {held}: somebody else \
                 made or moved it"
            ),
        }
    }
}

/// What is ours, by which a server is judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ours {
    pub incarnation: u32,
    /// The slot that capture reads.
    pub slot: String,
    /// Up to where everything was read and judged in this incarnation before the server was asked.
    /// Meanwhile capture may have read on, past what the server said of its WAL.
    pub held_before: Lsn,
    /// Where our log ends, or once ended before it was damaged. As of after the server was asked:
    /// whatever its slot was told by then is in here or in `known`.
    pub log_end: Lsn,
    pub known: Option<Known>,
}

/// Judges whether `server` goes on where we are.
pub fn judge(ours: &Ours, server: &Server) -> Verdict {
    let (name, log_end, known) = (&ours.slot, ours.log_end, ours.known.as_ref());
    if let Some(known) = known
        && known.system != server.system
    {
        let (known, found) = (known.system, server.system);
        return Verdict::Broken(Break::OtherSystem { known, found });
    }
    let known = known.filter(|known| known.incarnation == ours.incarnation);
    let held = known.map_or(log_end, |known| known.read.max(log_end));
    if let Some(known) = known {
        let (parted, held) = (shown(known, server), ours.held_before);
        if parted < held {
            let timeline = server.timeline;
            return Verdict::Broken(Break::TimelineBehind { timeline, parted, held });
        }
        if known.slot != *name {
            let from = known.slot.clone();
            return Verdict::Broken(Break::SlotLost(Lost::Renamed { from }));
        }
    }
    if known.is_none() && log_end == Lsn::ZERO && !server.read_before {
        return Verdict::New;
    }
    let Some(slot) = &server.slot else {
        return Verdict::Broken(Break::SlotLost(Lost::Missing));
    };
    if slot.plugin.as_deref() != Some(PLUGIN) {
        return Verdict::Broken(Break::SlotLost(Lost::Foreign));
    }
    if slot.invalidated {
        return Verdict::Broken(Break::SlotLost(Lost::Invalidated));
    }
    match slot.confirmed {
        Some(confirmed) if confirmed <= held => Verdict::GoesOn,
        Some(confirmed) => Verdict::Broken(Break::SlotSkipped { held, confirmed }),
        // Somebody is making it.
        None => Verdict::Broken(Break::SlotLost(Lost::Missing)),
    }
}

/// Returns up to where the history of `server` is the one that we know; [`Lsn::ZERO`] when nothing
/// proves that any of it is.
pub fn shown(known: &Known, server: &Server) -> Lsn {
    if server.timeline == known.timeline {
        return known.behind.unwrap_or(server.wal_end).min(server.wal_end);
    }
    let ended = server.ended.iter().flatten().find(|(of, _)| *of == known.timeline);
    ended.map_or(Lsn::ZERO, |(_, at)| *at)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "domicile_lab";

    fn known() -> Known {
        let slot = NAME.to_owned();
        Known { incarnation: 1, system: 7, timeline: 3, slot, read: Lsn(100), behind: None }
    }

    fn ours(known: Option<Known>, log_end: u64) -> Ours {
        let log_end = Lsn(log_end);
        let held_before = known.as_ref().map_or(log_end, |known| known.read.max(log_end));
        Ours { incarnation: 1, slot: NAME.to_owned(), held_before, log_end, known }
    }

    fn server() -> Server {
        let slot =
            Slot { plugin: Some(PLUGIN.into()), invalidated: false, confirmed: Some(Lsn(100)) };
        Server {
            system: 7,
            timeline: 3,
            ended: Some(Vec::new()),
            wal_end: Lsn(200),
            read_before: true,
            slot: Some(slot),
        }
    }

    fn with_slot(change: impl FnOnce(&mut Slot)) -> Server {
        let mut server = server();
        change(server.slot.as_mut().unwrap());
        server
    }

    fn judged(server: &Server) -> Verdict {
        judge(&ours(Some(known()), 90), server)
    }

    fn broken(verdict: Verdict) -> Break {
        let Verdict::Broken(why) = verdict else { panic!("{verdict:?}") };
        why
    }

    #[test]
    fn a_slot_that_is_not_past_what_we_hold_goes_on() {
        assert_eq!(judged(&server()), Verdict::GoesOn);
        assert_eq!(judged(&with_slot(|slot| slot.confirmed = Some(Lsn(1)))), Verdict::GoesOn);
        let further = with_slot(|slot| slot.confirmed = Some(Lsn(150)));
        assert_eq!(judge(&ours(Some(known()), 150), &further), Verdict::GoesOn);
    }

    #[test]
    fn a_slot_that_somebody_moved_or_made_again_has_skipped_something() {
        let moved = with_slot(|slot| slot.confirmed = Some(Lsn(101)));
        let why = broken(judged(&moved));
        assert_eq!(why, Break::SlotSkipped { held: Lsn(100), confirmed: Lsn(101) });
        assert_eq!(why.name(), "slot_skipped");
    }

    #[test]
    fn a_slot_that_is_missing_invalidated_or_not_ours_is_lost() {
        let missing = Server { slot: None, ..server() };
        assert_eq!(broken(judged(&missing)), Break::SlotLost(Lost::Missing));
        let unfinished = with_slot(|slot| slot.confirmed = None);
        assert_eq!(broken(judged(&unfinished)), Break::SlotLost(Lost::Missing));
        let invalidated = with_slot(|slot| slot.invalidated = true);
        assert_eq!(broken(judged(&invalidated)), Break::SlotLost(Lost::Invalidated));
        for plugin in [None, Some("test_decoding".to_owned())] {
            let foreign = with_slot(|slot| slot.plugin = plugin);
            assert_eq!(broken(judged(&foreign)), Break::SlotLost(Lost::Foreign));
        }
        let renamed =
            judge(&Ours { slot: "domicile_other".into(), ..ours(Some(known()), 90) }, &server());
        let why = broken(renamed);
        assert_eq!(why, Break::SlotLost(Lost::Renamed { from: NAME.to_owned() }));
        assert_eq!(why.name(), "slot_lost");
    }

    #[test]
    fn a_log_begins_anew_by_itself_only_where_nothing_is_lost_and_everybody_answers() {
        let (missing, invalidated) =
            (Break::SlotLost(Lost::Missing), Break::SlotLost(Lost::Invalidated));
        let skipped = Break::SlotSkipped { held: Lsn(100), confirmed: Lsn(101) };
        let (known, after) = (known(), Millis(10));
        for why in [missing, invalidated, skipped] {
            assert!(begins_anew(&why, Some(&known), Millis(10), after, true), "{why}");
            assert!(!begins_anew(&why, Some(&known), Millis(9), after, true), "too soon: {why}");
            assert!(
                !begins_anew(&why, Some(&known), Millis(10), after, false),
                "somebody is silent: {why}"
            );
            assert!(
                !begins_anew(&why, None, Millis(10), after, true),
                "the folder may come back: {why}"
            );
        }
        let behind = Break::TimelineBehind { timeline: 2, parted: Lsn(5), held: Lsn(9) };
        let other = Break::OtherSystem { known: 7, found: 8 };
        let renamed = Break::SlotLost(Lost::Renamed { from: NAME.to_owned() });
        for why in [behind, other, renamed, Break::SlotLost(Lost::Foreign)] {
            assert!(!begins_anew(&why, Some(&known), Millis(1000), after, true), "{why}");
        }
    }

    #[test]
    fn rows_are_repaired_by_themselves_only_where_that_is_granted_and_nobody_touched_a_table() {
        assert!(repairs_by_itself(true, Some(Millis(0))));
        assert!(!repairs_by_itself(true, None), "nobody has asked for it");
        assert!(!repairs_by_itself(false, Some(Millis(0))), "the publication was changed");
    }

    #[test]
    fn another_system_is_told_whatever_else_it_looks_like() {
        let other = Server { system: 8, slot: None, wal_end: Lsn(1), timeline: 1, ..server() };
        let why = broken(judged(&other));
        assert_eq!(why, Break::OtherSystem { known: 7, found: 8 });
        assert!(!why.may_apply());
    }

    #[test]
    fn a_timeline_that_begins_where_we_are_or_later_goes_on() {
        let promoted = |ended| Server { timeline: 5, ended: Some(ended), ..server() };
        for at in [100, 150] {
            let history = vec![(1, Lsn(10)), (3, Lsn(at)), (4, Lsn(170))];
            assert_eq!(judged(&promoted(history)), Verdict::GoesOn);
        }
    }

    #[test]
    fn a_timeline_that_left_before_what_we_hold_is_behind() {
        let behind = |timeline, ended| Server { timeline, ended, ..server() };
        let told = [
            (behind(4, Some(vec![(3, Lsn(99))])), 99),
            // It left before our timeline began.
            (behind(4, Some(vec![(2, Lsn(50))])), 0),
            // It went back, or its history is not to be had.
            (behind(2, Some(vec![])), 0),
            (behind(4, None), 0),
        ];
        for (server, parted) in told {
            let (timeline, parted, held) = (server.timeline, Lsn(parted), Lsn(100));
            let why = broken(judged(&server));
            assert_eq!(why, Break::TimelineBehind { timeline, parted, held });
            assert!(why.may_apply());
        }
        // The same holds for what only our log knows.
        let promoted = behind(4, Some(vec![(3, Lsn(120))]));
        assert_eq!(judged(&promoted), Verdict::GoesOn);
        let longer = judge(&ours(Some(known()), 130), &promoted);
        assert_eq!(broken(longer).name(), "timeline_behind");
    }

    #[test]
    fn a_server_that_lost_the_end_of_its_wal_is_behind() {
        let restored = Server { wal_end: Lsn(99), ..server() };
        let why = broken(judged(&restored));
        let expected = Break::TimelineBehind { timeline: 3, parted: Lsn(99), held: Lsn(100) };
        assert_eq!(why, expected);
        // It has grown since, and is remembered.
        let ours = ours(Some(Known { behind: Some(Lsn(99)), ..known() }), 90);
        assert_eq!(broken(judge(&ours, &server())), expected);
        // The one that has the end was promoted.
        let promoted = Server { timeline: 4, ended: Some(vec![(3, Lsn(150))]), ..server() };
        assert_eq!(judge(&ours, &promoted), Verdict::GoesOn);
    }

    #[test]
    fn what_is_captured_while_the_server_is_asked_breaks_nothing() {
        let asked = with_slot(|slot| slot.confirmed = Some(Lsn(220)));
        let read_on = Ours { held_before: Lsn(200), ..ours(Some(known()), 230) };
        assert_eq!(judge(&read_on, &asked), Verdict::GoesOn);
        let lost = Ours { held_before: Lsn(201), ..read_on };
        assert_eq!(broken(judge(&lost, &asked)).name(), "timeline_behind");
    }

    #[test]
    fn another_incarnation_begins_with_a_slot_of_its_own_in_the_same_system() {
        let next = |known| Ours { incarnation: 2, ..ours(known, 0) };
        let lost = Server { slot: None, read_before: false, ..server() };
        assert_eq!(judge(&next(Some(known())), &lost), Verdict::New);
        let skipped = Server { read_before: false, ..server() };
        assert_eq!(judge(&next(Some(known())), &skipped), Verdict::New);
        let unusable = Server { read_before: false, ..with_slot(|slot| slot.invalidated = true) };
        assert_eq!(judge(&next(Some(known())), &unusable), Verdict::New);
        let other = Server { system: 8, ..lost };
        assert_eq!(broken(judge(&next(Some(known())), &other)).name(), "other_system");
    }

    #[test]
    fn the_slot_is_made_where_nothing_was_ever_read_and_only_there() {
        let fresh = Server { slot: None, read_before: false, ..server() };
        assert_eq!(judge(&ours(None, 0), &fresh), Verdict::New);
        // The agent died between making the slot and saying so.
        let made = Server { read_before: false, ..server() };
        assert_eq!(judge(&ours(None, 0), &made), Verdict::New);
        // What we remembered is gone, the database or the log still knows.
        let lost = Server { slot: None, ..server() };
        assert_eq!(broken(judge(&ours(None, 0), &lost)).name(), "slot_lost");
        assert_eq!(broken(judge(&ours(None, 90), &fresh)).name(), "slot_lost");
        assert_eq!(broken(judge(&ours(None, 0), &server())).name(), "slot_skipped");
        assert_eq!(judge(&ours(None, 100), &server()), Verdict::GoesOn);
    }
}
