//! Where do load balancers ask whether they may send somebody here?
//!
//! `GET`, `HEAD` or `OPTIONS`; 200 is yes and 503 is no, with the reason in the body. The paths are
//! those of Patroni, so that what asks it can ask us. Each agent answers for its own region, by what it
//! knows: nothing else is asked meanwhile.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use axum::{Json, Router};
use domicile_core::health::{DRAINED, Lag, Question, Seen, answer};
use domicile_core::id::{PartitionId, PartitionRange};
use domicile_core::opening::without;
use serde_json::json;
use tokio::sync::watch;

use crate::clock::Clock;
use crate::observe::Observer;
use crate::settings::units;
use crate::status::RegionStatus;

/// What answers are made of.
#[derive(Clone)]
pub struct Sources {
    /// How many partitions there are.
    pub partitions: u32,
    pub status: watch::Receiver<Arc<RegionStatus>>,
    pub observer: Observer,
    pub clock: Clock,
}

type Parameters = HashMap<String, String>;

/// Returns the pages of one region.
pub fn router(sources: Sources) -> Router {
    let primary = async |method: Method, State(sources): State<Sources>| {
        reply(&method, "primary", &Parameters::new(), &sources)
    };
    let named = async |method: Method,
                       Path(name): Path<String>,
                       Query(parameters): Query<Parameters>,
                       State(sources): State<Sources>| {
        reply(&method, &name, &parameters, &sources)
    };
    Router::new().route("/", any(primary)).route("/{name}", any(named)).with_state(sources)
}

fn reply(method: &Method, name: &str, parameters: &Parameters, sources: &Sources) -> Response {
    if ![Method::GET, Method::HEAD, Method::OPTIONS].contains(method) {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    let question = match question(name, parameters, sources.partitions) {
        Ok(Some(question)) => question,
        Ok(None) => return StatusCode::NOT_FOUND.into_response(),
        Err(wrong) => return (StatusCode::BAD_REQUEST, wrong + "\n").into_response(),
    };
    let status = sources.status.borrow().clone();
    let no = answer(question, &sources.seen(&status)).err();
    let code = if no.is_some() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let owns = status.owns.iter().map(|owned| &owned.partitions);
    let body = json!({
        "region": status.region,
        "yes": no.is_none(),
        "why_not": no.map(|no| no.to_string()),
        "owns": owns.collect::<Vec<_>>(),
    });
    (code, Json(body)).into_response()
}

/// Returns what is asked at this path; `None` where nothing is.
fn question(
    name: &str,
    parameters: &Parameters,
    partitions: u32,
) -> Result<Option<Question>, String> {
    let lag = || parameters.get("lag").map(|text| lag(text)).transpose();
    let question = match name {
        "liveness" => Question::Alive,
        "readiness" => Question::Ready,
        "health" => Question::Healthy,
        "primary" | "leader" | "master" => Question::Primary,
        "read-write" => {
            let wanted = parameters.get("partition");
            Question::Writable(wanted.map(|text| partition(text, partitions)).transpose()?)
        }
        "read-only" => Question::Readable(lag()?),
        "replica" => Question::Replica(lag()?),
        _ => return Ok(None),
    };
    Ok(Some(question))
}

fn partition(text: &str, partitions: u32) -> Result<PartitionId, String> {
    let number = text.parse().ok().filter(|number| *number < partitions);
    number.map(PartitionId).ok_or_else(|| {
        format!("partition={text}: expected a number from 0 to {}", partitions.saturating_sub(1))
    })
}

/// A duration as in the configuration, or bytes as PostgreSQL and Patroni count them.
fn lag(text: &str) -> Result<Lag, String> {
    if let Ok(age) = units::duration(text) {
        return Ok(Lag::Age(age));
    }
    let text = text.trim();
    let binary = match text.find(|c: char| !c.is_ascii_digit()).map(|end| text.split_at(end)) {
        None => format!("{text}B"),
        Some((number, unit)) => match unit.trim() {
            "kB" | "KB" => format!("{number}KiB"),
            "MB" => format!("{number}MiB"),
            "GB" => format!("{number}GiB"),
            _ => text.to_owned(),
        },
    };
    units::size(&binary)
        .map(Lag::Bytes)
        .map_err(|_| format!("lag={text}: expected a duration, as in 5s, or bytes, as in 16MB"))
}

impl Sources {
    fn seen(&self, status: &RegionStatus) -> Seen {
        let range = |text: &String| text.parse::<PartitionRange>().ok();
        let closed: Vec<PartitionRange> = status.not_opened.iter().filter_map(range).collect();
        let owned = status.owns.iter().filter_map(|owned| range(&owned.partitions));
        let open = owned.flat_map(|range| without(range, closed.iter().copied()));
        Seen {
            postgres_reachable: status.postgres_reachable,
            member: !status.region.is_empty() && status.seeding.is_none(),
            drained: status.says(DRAINED),
            lease_live: status.lease_live,
            partitions: self.partitions,
            open: open.collect(),
            behind: self.observer.behind(self.clock.now()),
        }
    }
}

#[cfg(test)]
mod tests {
    use domicile_core::time::Millis;

    use super::*;

    fn asked(name: &str, of: &[(&str, &str)]) -> Result<Option<Question>, String> {
        let parameters = of.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        question(name, &parameters.collect(), 6)
    }

    #[test]
    fn a_lag_is_a_duration_or_bytes() {
        assert_eq!(lag("5s"), Ok(Lag::Age(Millis(5000))));
        assert_eq!(lag("0"), Ok(Lag::Bytes(0)));
        assert_eq!(lag("1048576"), lag("1MB"));
        assert_eq!(lag("16MB"), Ok(Lag::Bytes(16 << 20)));
        assert_eq!(lag("16 MiB"), lag("16384kB"));
        for wrong in ["", "-1", "5 parsecs", "1e9", "99999999999999999999GB"] {
            assert!(lag(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused_and_what_nobody_asks_is_not_there() {
        assert_eq!(asked("read-write", &[]), Ok(Some(Question::Writable(None))));
        let third = Question::Writable(Some(PartitionId(3)));
        assert_eq!(asked("read-write", &[("partition", "3")]), Ok(Some(third)));
        for wrong in ["6", "-1", "x"] {
            assert!(asked("read-write", &[("partition", wrong)]).is_err(), "{wrong}");
        }
        assert_eq!(asked("replica", &[("lag", "x")]).unwrap_err().lines().count(), 1);
        assert_eq!(asked("patroni", &[]), Ok(None));
    }
}
