//! Which figures does an agent give to whoever watches it?
//!
//! All of them stand here, with what they mean; the page in docs/reference is printed from the same
//! list. They are read from the status, so they say what `domicile status` says.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use domicile_core::id::PartitionRange;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};
use tokio::sync::watch;

use crate::status::{PeerStatus, RegionStatus};

const PREFIX: &str = "domicile";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics of a region.
fn metrics(status: &RegionStatus) -> Vec<Metric> {
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

/// One metric and its values.
struct Metric {
    /// Without prefix and unit.
    name: &'static str,
    unit: Option<Unit>,
    kind: MetricType,
    labels: &'static [&'static str],
    help: &'static str,
    /// Values by what their labels are.
    values: Vec<(Vec<String>, f64)>,
}

fn gauge(name: &'static str, help: &'static str) -> Metric {
    Metric { name, unit: None, kind: MetricType::Gauge, labels: &[], help, values: Vec::new() }
}

fn counter(name: &'static str, help: &'static str) -> Metric {
    Metric { kind: MetricType::Counter, ..gauge(name, help) }
}

fn number(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}

impl Metric {
    fn in_unit(self, unit: Unit) -> Self {
        Self { unit: Some(unit), ..self }
    }

    fn of(self, value: f64) -> Self {
        self.by(&[], vec![(Vec::new(), value)])
    }

    fn is(self, holds: bool) -> Self {
        self.of(number(holds))
    }

    /// Of a witness it would say nothing.
    fn of_regions_only(self, status: &RegionStatus) -> Self {
        if status.witness { Self { values: Vec::new(), ..self } } else { self }
    }

    fn of_peers(self, status: &RegionStatus, value: impl Fn(&PeerStatus) -> f64) -> Self {
        let each = status.peers.iter().map(|peer| (vec![peer.region.clone()], value(peer)));
        self.by(&["peer"], each.collect())
    }

    fn by(self, labels: &'static [&'static str], values: Vec<(Vec<String>, f64)>) -> Self {
        Self { labels, values, ..self }
    }

    fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> std::fmt::Result {
        let mut all =
            encoder.encode_descriptor(self.name, self.help, self.unit.as_ref(), self.kind)?;
        let put = |encoder: &mut MetricEncoder<'_>, value: f64| match self.kind {
            MetricType::Counter => encoder.encode_counter::<NoLabelSet, f64, f64>(&value, None),
            _ => encoder.encode_gauge(&value),
        };
        for (labels, value) in &self.values {
            let labels: Vec<(&str, &str)> =
                self.labels.iter().copied().zip(labels.iter().map(String::as_str)).collect();
            match labels.is_empty() {
                true => put(&mut all, *value)?,
                false => put(&mut all.encode_family(&labels)?, *value)?,
            }
        }
        Ok(())
    }
}

/// Reads the status whenever it is asked.
#[derive(Debug)]
struct Figures(watch::Receiver<Arc<RegionStatus>>);

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let status = self.0.borrow().clone();
        metrics(&status).iter().try_for_each(|metric| metric.encode(&mut encoder))
    }
}

/// Answers `GET /metrics` in the form of OpenMetrics, which Prometheus reads.
pub fn router(
    status: watch::Receiver<Arc<RegionStatus>>,
    (cluster, region): (String, String),
) -> Router {
    let labels = [("cluster", cluster), ("region", region)];
    let labels = labels.into_iter().map(|(name, value)| (name.into(), value.into()));
    let mut registry = Registry::with_prefix_and_labels(PREFIX, labels);
    registry.register_collector(Box::new(Figures(status)));
    let registry = Arc::new(registry);
    let answer = move || {
        let registry = registry.clone();
        async move { page(&registry) }
    };
    Router::new().route("/metrics", get(answer))
}

fn page(registry: &Registry) -> Response {
    let mut page = String::new();
    match text::encode(&mut page, registry) {
        Ok(()) => ([(CONTENT_TYPE, OPEN_METRICS)], page).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::path::Path;

    use super::*;
    use crate::status::{Condition, DrillsStatus, JournalCount, OwnedRange};

    impl Metric {
        /// As it stands in queries.
        fn full_name(&self) -> String {
            let unit = self.unit.iter().map(|unit| format!("_{}", unit.as_str()));
            let total = if let MetricType::Counter = self.kind { "_total" } else { "" };
            format!("{PREFIX}_{}{}{total}", self.name, unit.collect::<String>())
        }
    }

    /// The page in docs/reference.
    fn reference() -> String {
        let mut page = String::from(
            "# Metrics\n\n<!-- Printed from the list in `crates/domicile/src/metrics.rs`; do not edit. -->\n\n\
             An agent answers `GET /metrics` at its region's `metrics` address (see [config](config.md)) in the \
             form of\nOpenMetrics, which Prometheus reads. Every metric has the labels `cluster` and `region`; \
             an agent speaks\nof its own region, and of each peer as that region sees it.\n\n\
             | metric | kind | more labels | meaning |\n| --- | --- | --- | --- |\n",
        );
        for metric in metrics(&RegionStatus::default()) {
            let labels: Vec<String> =
                metric.labels.iter().map(|label| format!("`{label}`")).collect();
            let (name, labels) = (metric.full_name(), labels.join(", "));
            let kind = metric.kind.as_str();
            let _ = writeln!(page, "| `{name}` | {kind} | {labels} | {} |", metric.help);
        }
        page
    }

    #[test]
    fn the_reference_page_is_current() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/metrics.md");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&page, reference()).unwrap();
        }
        let expected = std::fs::read_to_string(&page).unwrap_or_default();
        assert_eq!(expected, reference(), "{} is stale: UPDATE=1 rewrites it", page.display());
    }

    #[test]
    fn the_alerts_speak_of_metrics_that_there_are() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/operating/alerts.yml");
        let alerts = std::fs::read_to_string(file).unwrap();
        let known: Vec<String> =
            metrics(&RegionStatus::default()).iter().map(Metric::full_name).collect();
        let words = alerts.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let named: Vec<&str> = words.filter(|word| word.starts_with("domicile_")).collect();
        assert!(named.len() > 5, "{named:?}");
        for name in named {
            assert!(known.iter().any(|known| known == name), "{name} is not a metric");
        }
    }

    #[test]
    fn every_value_has_its_labels() {
        let status = RegionStatus {
            owns: vec![OwnedRange { partitions: "4-7".into(), epoch: 1 }],
            captured_transactions_total: 12,
            peers: vec![PeerStatus {
                region: "us".into(),
                exposure_ms: 250,
                ..PeerStatus::default()
            }],
            journal: vec![JournalCount {
                conflict: "insert_exists".into(),
                status: "open".into(),
                entries: 3,
            }],
            drills: DrillsStatus { last_success_at_ms: Some(1500), next_at_ms: None },
            conditions: vec![Condition { name: "log_full".into(), detail: String::new() }; 2],
            ..RegionStatus::default()
        };
        let labels = [("region".into(), "eu".into())];
        let mut registry = Registry::with_prefix_and_labels(PREFIX, labels.into_iter());
        let (_, status) = watch::channel(Arc::new(status));
        registry.register_collector(Box::new(Figures(status)));
        let mut page = String::new();
        text::encode(&mut page, &registry).unwrap();
        for line in [
            "# UNIT domicile_peer_exposure_seconds seconds",
            "domicile_partitions_owned{region=\"eu\"} 4.0",
            "domicile_captured_transactions_total{region=\"eu\"} 12.0",
            "domicile_peer_exposure_seconds{region=\"eu\",peer=\"us\"} 0.25",
            "domicile_journal_entries{region=\"eu\",conflict=\"insert_exists\",status=\"open\"} 3.0",
            "domicile_drill_last_success_timestamp_seconds{region=\"eu\"} 1.5",
            "domicile_condition{region=\"eu\",condition=\"log_full\"} 1.0",
        ] {
            assert_eq!(page.lines().filter(|found| *found == line).count(), 1, "{line}\n{page}");
        }
        for metric in metrics(&RegionStatus::default()) {
            let name = metric.full_name();
            let described = format!("# HELP {}", name.trim_end_matches("_total"));
            assert!(page.contains(&described), "{name} is not on the page:\n{page}");
        }
    }
}
