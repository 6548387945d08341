//! What came of it: figures for a machine, sentences for a person?
//!
//! A figure that was not measured is absent, never zero. The demo succeeds only if every promise
//! was kept.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use domicile_core::time::Time;
use serde::Serialize;

use super::proof::Proof;
use super::tally::{Phase, Tally};

/// How much later than another client one may hear of a commit that was acknowledged before.
const HEARD_WITHIN_MS: u64 = 100;

#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    pub pattern: String,
    pub rpo: String,
    /// What a bounded RPO allows.
    #[serde(skip)]
    pub loss_max_ms: Option<u64>,
    pub round_trip_ms: u64,
    pub duration_s: f64,
    pub acknowledged: u64,
    pub reads: u64,
    /// Acknowledged, and not in the tables of every region in the end.
    pub lost_acknowledged: u64,
    /// How many of those are in the conflict journal.
    pub journaled: u64,
    /// Writes at the wrong region that PostgreSQL refused in the promised words.
    pub refused_as_promised: u64,
    /// Operations whose answer never arrived.
    pub unknown: u64,
    pub switchover: Switchover,
    pub failover: Failover,
    pub rejoin: Rejoin,
    pub checksums_equal: bool,
    /// Table -> region -> `rows:sum of hashes`.
    pub tables: BTreeMap<String, BTreeMap<String, String>>,
    pub errors: Vec<ClientError>,
    pub promises: Vec<Promise>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Switchover {
    pub from: String,
    pub to: String,
    pub partitions: Vec<u32>,
    /// From the last answer of the old owner to the first of the new one.
    pub pause_ms: Option<u64>,
    pub slowest_statement_ms: u64,
    pub client_errors: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Failover {
    pub lost: String,
    pub partitions: Vec<u32>,
    /// From the last answer before the outage to the first one after it.
    pub rto_ms: Option<u64>,
    /// Until every one of the partitions had answered.
    pub rto_all_ms: Option<u64>,
    /// What the plan of the failover expected.
    pub estimated_loss: Option<Loss>,
    /// What the surviving history does not contain of what was acknowledged.
    pub measured_loss: Loss,
    pub client_errors: u64,
    #[serde(skip)]
    pub killed_at: Time,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Loss {
    /// From the first commit that was lost to the last, as clients heard of them.
    pub ms: u64,
    /// How many acknowledged operations; an estimate does not know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operations: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Rejoin {
    /// From the start of its processes until it was back to normal.
    pub took_ms: u64,
    /// Entries in its conflict journal.
    pub journaled: u64,
    /// Rows that were read again from the new owner.
    pub repaired: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClientError {
    pub phase: Phase,
    pub error: String,
    pub count: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Promise {
    pub promise: String,
    pub held: bool,
    pub detail: String,
}

impl Report {
    pub fn kept(&self) -> bool {
        !self.promises.is_empty() && self.promises.iter().all(|promise| promise.held)
    }

    /// Takes over what clients and tables say, and judges the promises by it.
    pub fn judge(&mut self, tally: &Tally, proof: &Proof) {
        let totals = tally.totals();
        self.acknowledged = totals.acknowledged;
        self.reads = totals.reads;
        self.unknown = totals.unknown;
        self.refused_as_promised = totals.refused_as_promised;
        self.lost_acknowledged = proof.lost.len() as u64;
        self.journaled = proof.journaled;
        let heard = proof.lost.iter().map(|ack| ack.at.0);
        let span = heard.clone().max().zip(heard.min()).map(|(last, first)| last - first);
        self.failover.measured_loss =
            Loss { ms: span.unwrap_or(0), operations: Some(self.lost_acknowledged) };
        self.checksums_equal = proof.checksums_equal();
        self.tables = proof.tables();
        let texts = tally.error_texts().into_iter();
        self.errors =
            texts.map(|(phase, error, count)| ClientError { phase, error, count }).collect();
        self.promises = vec![
            self.nothing_lost(),
            self.no_error_in_switchover(),
            self.failed_over(),
            refusals(tally),
            self.same_rows(),
            money(proof),
        ];
        self.promises.extend(self.no_more_lost_than_allowed());
    }

    fn nothing_lost(&self) -> Promise {
        let (acknowledged, lost, journaled) =
            (self.acknowledged, self.lost_acknowledged, self.journaled);
        if self.rpo == "0" {
            return Promise {
                promise: "nothing that was acknowledged is lost".to_owned(),
                held: lost == 0 && acknowledged > 0,
                detail: format!("{acknowledged} acknowledged, {lost} missing"),
            };
        }
        Promise {
            promise: "nothing is lost silently: what is not in the tables is in the journal"
                .to_owned(),
            held: lost == journaled && acknowledged > 0,
            detail: format!(
                "{acknowledged} acknowledged, {lost} not shipped in time, {journaled} of them journaled"
            ),
        }
    }

    /// What a bounded RPO promises.
    fn no_more_lost_than_allowed(&self) -> Option<Promise> {
        let most = self.loss_max_ms?;
        let lost = self.failover.measured_loss.ms;
        Some(Promise {
            promise: format!("no more than {most} ms of acknowledged writes is lost"),
            held: lost <= most + HEARD_WITHIN_MS,
            detail: format!("{lost} ms between the first and the last"),
        })
    }

    fn no_error_in_switchover(&self) -> Promise {
        let Switchover { pause_ms, slowest_statement_ms, client_errors, .. } = &self.switchover;
        let pause = pause_ms.map_or("not measured".to_owned(), |ms| format!("{ms} ms"));
        Promise {
            promise: "a planned switchover is a pause, not an error".to_owned(),
            held: *client_errors == 0 && pause_ms.is_some(),
            detail: format!(
                "pause {pause}, slowest statement {slowest_statement_ms} ms, {client_errors} errors"
            ),
        }
    }

    fn failed_over(&self) -> Promise {
        let rto = self.failover.rto_ms;
        let estimated = self.failover.estimated_loss.map_or(0, |loss| loss.ms);
        let detail = rto.map_or("no write was answered again".to_owned(), |ms| {
            format!(
                "writes answered again after {:.1} s; loss estimated {estimated} ms, measured {} ms",
                ms as f64 / 1000.0,
                self.failover.measured_loss.ms
            )
        });
        Promise {
            promise: "a lost region's partitions get a new owner without a person".to_owned(),
            held: rto.is_some() && self.failover.rto_all_ms.is_some(),
            detail,
        }
    }

    fn same_rows(&self) -> Promise {
        let regions = self.tables.values().map(BTreeMap::len).max().unwrap_or(0);
        let differing: Vec<&str> = self
            .tables
            .iter()
            .filter(|(_, sums)| sums.values().any(|sum| Some(sum) != sums.values().next()))
            .map(|(table, _)| table.as_str())
            .collect();
        let detail = if differing.is_empty() {
            format!("{} tables, {regions} regions, equal checksums", self.tables.len())
        } else {
            format!("different rows in {}", differing.join(", "))
        };
        let promise = "every region ends with the same rows".to_owned();
        Promise { promise, held: self.checksums_equal && regions > 1, detail }
    }

    /// The last page, for a person.
    pub fn summary(&self) -> String {
        let mut text = format!(
            "\n{} rpo {} round trip {} ms: {} writes and {} reads in {:.0} s, {} outcomes unknown\n",
            self.pattern,
            self.rpo,
            self.round_trip_ms,
            self.acknowledged,
            self.reads,
            self.duration_s,
            self.unknown
        );
        let rejoin = &self.rejoin;
        let _ = writeln!(
            text,
            "{} came back in {:.1} s: {} entries in its conflict journal, {} rows repaired\n",
            self.failover.lost,
            rejoin.took_ms as f64 / 1000.0,
            rejoin.journaled,
            rejoin.repaired
        );
        for Promise { promise, held, detail } in &self.promises {
            let mark = if *held { "kept  " } else { "BROKEN" };
            let _ = writeln!(text, "  {mark}  {promise}\n          {detail}");
        }
        if !self.kept() {
            for ClientError { phase, error, count } in &self.errors {
                let _ = writeln!(text, "  {count} x {error} ({})", phase.title());
            }
        }
        text
    }
}

fn refusals(tally: &Tally) -> Promise {
    let refused = tally.totals().refused_as_promised;
    let broken = tally.broken();
    let detail = match broken.first() {
        None => format!("{refused} refused past the gateway, each naming the owner"),
        Some(first) => format!("{refused} refused, {} not as promised: {first}", broken.len()),
    };
    Promise {
        promise: "a write at the wrong region is refused and told where to go".to_owned(),
        held: refused > 0 && broken.is_empty(),
        detail,
    }
}

fn money(proof: &Proof) -> Promise {
    let missing = proof.money_missing();
    let detail = match missing.first() {
        None => "every balance is the sum of its operations, in every region".to_owned(),
        Some(_) => missing.join("; "),
    };
    Promise {
        promise: "no money appears or disappears".to_owned(),
        held: missing.is_empty(),
        detail,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::proof::Books;
    use crate::demo::tally::Acknowledged;
    use uuid::Uuid;

    fn ack() -> Acknowledged {
        let op = Uuid::now_v7();
        Acknowledged { op, partition: 0, region: 0, at: Time(1), took_ms: 1 }
    }

    /// A report in which all went well, but for one acknowledged operation.
    fn judged(rpo: &str, journaled: bool) -> Report {
        judged_losing(rpo, journaled, &[ack()])
    }

    fn judged_losing(rpo: &str, journaled: bool, gone: &[Acknowledged]) -> Report {
        let kept = ack();
        let tally = Tally::new(2);
        tally.acknowledge(kept);
        gone.iter().for_each(|gone| tally.acknowledge(*gone));
        tally.refuse_as_promised();
        let mut books = Books::default();
        books.checksums.insert("ledger".to_owned(), "1:7".to_owned());
        books.operations.insert(kept.op);
        if journaled {
            books.journaled.extend(gone.iter().map(|gone| gone.op));
        }
        let regions = BTreeMap::from([("eu".to_owned(), books.clone()), ("us".to_owned(), books)]);
        let loss_max_ms = rpo.strip_suffix("ms").map(|ms| ms.parse().expect("a number"));
        let mut report = Report { rpo: rpo.to_owned(), loss_max_ms, ..Report::default() };
        report.switchover.pause_ms = Some(40);
        (report.failover.rto_ms, report.failover.rto_all_ms) = (Some(4000), Some(4100));
        report.judge(&tally, &Proof::of(regions, &tally.acknowledged(), 0));
        report
    }

    #[test]
    fn a_lost_acknowledged_write_breaks_rpo_zero_even_when_it_is_journaled() {
        let report = judged("0", true);
        assert!(!report.kept());
        assert!(report.summary().contains("BROKEN  nothing that was acknowledged is lost"));
    }

    #[test]
    fn a_bounded_rpo_may_lose_so_much_and_no_more() {
        let lost = |ms: u64| [ack(), Acknowledged { at: Time(1 + ms), ..ack() }];
        assert!(judged_losing("250ms", true, &lost(240)).kept());
        assert!(!judged_losing("250ms", false, &lost(240)).kept(), "silently");
        assert!(!judged_losing("250ms", true, &lost(1000)).kept());
        assert!(judged_losing("none", true, &lost(1000)).kept());
    }

    #[test]
    fn without_an_rpo_a_write_may_be_missing_but_not_silently() {
        assert!(judged("none", true).kept());
        assert!(!judged("none", false).kept());
    }
}
