//! Which figures does an agent give to whoever watches it?
//!
//! All of them stand in the modules below, with what they mean; the page in docs/reference is printed from the same
//! lists. Nothing is counted here: what is asked for is read from whoever knows it.

use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeMetric as _, MetricEncoder, NoLabelSet, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use tokio::sync::watch;

use crate::front;
use crate::gateway;
use crate::status::RegionStatus;

mod of_front;
mod of_gateway;
mod of_region;

const PREFIX: &str = "domicile";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Who knows what is asked for.
#[derive(Debug)]
pub struct Sources {
    pub status: watch::Receiver<Arc<RegionStatus>>,
    /// Absent where there is none, as at a witness.
    pub gateway: Option<gateway::Tally>,
    pub front: Option<front::Tally>,
}

impl Sources {
    fn metrics(&self) -> Vec<Metric> {
        let mut all = of_region::metrics(&self.status.borrow());
        all.extend(
            self.gateway.as_ref().map(|it| of_gateway::metrics(&it.count())).into_iter().flatten(),
        );
        all.extend(self.front.as_ref().map(of_front::metrics).into_iter().flatten());
        all
    }
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
    /// In their place, where it is one.
    histogram: Option<Histogram>,
}

fn gauge(name: &'static str, help: &'static str) -> Metric {
    Metric {
        name,
        unit: None,
        kind: MetricType::Gauge,
        labels: &[],
        help,
        values: Vec::new(),
        histogram: None,
    }
}

fn counter(name: &'static str, help: &'static str) -> Metric {
    Metric { kind: MetricType::Counter, ..gauge(name, help) }
}

fn histogram(name: &'static str, help: &'static str, histogram: Histogram) -> Metric {
    Metric { kind: MetricType::Histogram, histogram: Some(histogram), ..gauge(name, help) }
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
        if let Some(histogram) = &self.histogram {
            return histogram.encode(all);
        }
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

/// They are read whenever they are asked for.
impl Collector for Sources {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        self.metrics().iter().try_for_each(|metric| metric.encode(&mut encoder))
    }
}

/// Answers `GET /metrics` in the form of OpenMetrics, which Prometheus reads.
pub fn router(sources: Sources, (cluster, region): (String, String)) -> Router {
    let labels = [("cluster", cluster), ("region", region)];
    let labels = labels.into_iter().map(|(name, value)| (name.into(), value.into()));
    let mut registry = Registry::with_prefix_and_labels(PREFIX, labels);
    registry.register_collector(Box::new(sources));
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
    use crate::status::{Condition, DrillsStatus, JournalCount, OwnedRange, PeerStatus};

    impl Metric {
        /// As it stands in queries.
        fn full_name(&self) -> String {
            let unit = self.unit.iter().map(|unit| format!("_{}", unit.as_str()));
            let total = if let MetricType::Counter = self.kind { "_total" } else { "" };
            format!("{PREFIX}_{}{}{total}", self.name, unit.collect::<String>())
        }
    }

    /// With a gateway and a door that nobody has come to.
    fn sources(status: RegionStatus) -> Sources {
        let (_, status) = watch::channel(Arc::new(status));
        Sources {
            status,
            gateway: Some(gateway::Tally::default()),
            front: Some(front::Tally::default()),
        }
    }

    /// The page in docs/reference.
    fn reference() -> String {
        let mut page = String::from(
            "# Metrics\n\n<!-- Printed from the lists in `crates/domicile/src/metrics`; do not edit. -->\n\n\
             An agent answers `GET /metrics` at its region's `metrics` address (see [config](config.md)) in the \
             form of\nOpenMetrics, which Prometheus reads. Every metric has the labels `cluster` and `region`; \
             an agent speaks\nof its own region, and of each peer as that region sees it.\n\n\
             | metric | kind | more labels | meaning |\n| --- | --- | --- | --- |\n",
        );
        for metric in sources(RegionStatus::default()).metrics() {
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
            sources(RegionStatus::default()).metrics().iter().map(Metric::full_name).collect();
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
        registry.register_collector(Box::new(sources(status)));
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
        for metric in sources(RegionStatus::default()).metrics() {
            let name = metric.full_name();
            let described = format!("# HELP {}", name.trim_end_matches("_total"));
            assert!(page.contains(&described), "{name} is not on the page:\n{page}");
        }
    }
}
