//! How is a region, as `domicile status` says it?

use std::collections::BTreeMap;

use domicile_core::id::PartitionRange;
use prometheus_client::registry::Unit;

use super::{Metric, counter, gauge, number};
use crate::status::{PeerStatus, RegionStatus};

pub fn metrics(status: &RegionStatus) -> Vec<Metric> {
    let owned = status.owns.iter().filter_map(|range| range.partitions.parse().ok());
    let owned: u64 = owned.map(|range: PartitionRange| u64::from(range.count())).sum();
    let journal = status.journal.iter().map(|counted| {
        let labels = vec![counted.conflict.clone(), counted.status.clone()];
        (labels, counted.entries as f64)
    });
    let readiness = status.readiness.iter().map(|of| (vec![of.lost.clone()], number(of.ready)));
    let last_drill = status.drills.last_success_at_ms.map(|ms| (Vec::new(), ms as f64 / 1000.0));
    let conditions: BTreeMap<&str, f64> =
        status.conditions.iter().map(|condition| (condition.name.as_str(), 1.0)).collect();
    let conditions = conditions.into_iter().map(|(name, one)| (vec![name.to_owned()], one));
    vec![
        gauge("postgres_reachable", "1 while the agent reaches its region's PostgreSQL.")
            .is(status.postgres_reachable)
            .of_regions_only(status),
        gauge("directory_reachable", "1 while the agent hears the directory.")
            .is(status.directory_connected),
        gauge("lease_live", "1 while this region may write what it owns.")
            .is(status.lease_live)
            .of_regions_only(status),
        gauge(
            "lease_promised",
            "1 while other regions renew this region's lease because the directory does not.",
        )
        .is(!status.promised_by.is_empty()),
        gauge("partitions_owned", "Partitions that this region owns.").of(owned as f64),
        counter("captured_transactions", "Transactions read from this region's WAL.")
            .of(status.captured_transactions_total as f64),
        counter("applied_transactions", "Transactions of other regions that were applied here.")
            .of(status.applied_transactions_total as f64),
        gauge("log", "Size of all logs on this region's disk.")
            .in_unit(Unit::Bytes)
            .of(status.log_bytes as f64),
        gauge("peer_connected", "1 while the peer follows this region's log.")
            .of_peers(status, |peer| number(peer.connected))
            .of_regions_only(status),
        gauge("peer_lag", "WAL of this region that the peer's tables do not show yet.")
            .in_unit(Unit::Bytes)
            .of_peers(status, |peer| peer.lag_bytes as f64),
        gauge(
            "peer_exposure",
            "Age of this region's oldest commit that the peer's log does not hold. The least of all \
             peers is what losing this region may cost.",
        )
        .in_unit(Unit::Seconds)
        .of_peers(status, |peer| peer.exposure_ms as f64 / 1000.0),
        gauge("peer_staleness", "Age of this region's oldest commit that the peer does not show.")
            .in_unit(Unit::Seconds)
            .of_peers(status, |peer| peer.staleness_ms as f64 / 1000.0),
        gauge("peer_lease_silent", "How long no renewal of the peer's lease was seen.")
            .in_unit(Unit::Seconds)
            .of_peers(status, |peer| peer.lease_silent_ms as f64 / 1000.0),
        gauge(
            "peer_probation",
            "How long no failover chooses the peer by itself where there is another, because it came and went.",
        )
        .in_unit(Unit::Seconds)
        .of_peers(status, |peer| peer.probation_ms as f64 / 1000.0),
        counter("peer_losses", "How often the peer was suspected and heard again.")
            .of_peers(status, |peer| peer.losses as f64),
        counter(
            "peer_brief_losses",
            "Of these, how often within ten seconds: a failover that began was hardly needed. \
             With many, `failover.suspect_after` is too short for this link.",
        )
        .of_peers(status, |peer| peer.brief_losses as f64),
        gauge("peer_reseed_needed", "1 when the peer was left behind and must be seeded again.")
            .of_peers(status, |peer| number(peer.reseed_needed)),
        gauge(
            "journal_entries",
            "Entries of the conflict journal, by the kind of conflict and by what became of them. \
             Those that are `open` or `parked` wait for a person.",
        )
        .by(&["conflict", "status"], journal.collect()),
        gauge("repairs_pending", "Rows that wait to be repaired from a peer.")
            .of(status.repairs_pending as f64),
        gauge(
            "failover_ready",
            "1 while another region could take over what the region `lost` owns, as this one sees it. Asked \
             every minute; `domicile status` tells what is in the way.",
        )
        .by(&["lost"], readiness.collect()),
        gauge(
            "drill_last_success_timestamp",
            "When the last drill was started that has succeeded, as Unix time; none before there was one.",
        )
        .in_unit(Unit::Seconds)
        .by(&[], last_drill.into_iter().collect()),
        gauge(
            "condition",
            "1 for each named state that the region is in. `domicile status` tells what it means and \
             the way out.",
        )
        .by(&["condition"], conditions.collect()),
    ]
}

impl Metric {
    /// Of a witness it would say nothing.
    fn of_regions_only(self, status: &RegionStatus) -> Self {
        if status.witness { Self { values: Vec::new(), ..self } } else { self }
    }

    fn of_peers(self, status: &RegionStatus, value: impl Fn(&PeerStatus) -> f64) -> Self {
        let each = status.peers.iter().map(|peer| (vec![peer.region.clone()], value(peer)));
        self.by(&["peer"], each.collect())
    }
}
