//! What became of the requests of HTTP that came to a region's door?

use prometheus_client::registry::Unit;

use super::{Metric, counter, gauge, histogram};
use crate::front::Tally;

pub fn metrics(tally: &Tally) -> Vec<Metric> {
    let (answered, refused) = tally.answers();
    let answered = answered.into_iter().map(|((by, status), count)| {
        let status = format!("{status}xx");
        (vec![by.map_or_else(String::new, |region| region.to_string()), status], count as f64)
    });
    let refused = refused.into_iter().map(|(why, count)| (vec![why], count as f64)).collect();
    vec![
        gauge("http_requests_under_way", "Requests at the front door that are not answered yet.")
            .of(tally.under_way() as f64),
        counter(
            "http_requests",
            "Requests that were answered, by the region whose application did so; none where the door did so itself.",
        )
        .by(&["answered_by", "status"], answered.collect()),
        counter(
            "http_refused_requests",
            "Of these, those that the door itself answered, by why (docs/operating/front-door.md).",
        )
        .by(&["why"], refused),
        histogram(
            "http_request_duration",
            "How long it took until an answer began, the way to another region included.",
            tally.times(),
        )
        .in_unit(Unit::Seconds),
    ]
}
