//! What became of the requests of HTTP that came to a region's door?

use prometheus_client::registry::Unit;

use super::{Metric, counter, gauge, histogram};
use crate::front::Tally;

pub fn metrics(tally: &Tally) -> Vec<Metric> {
    let (ended, refused) = tally.ended();
    let ended = ended.into_iter().map(|((by, ending), count)| {
        let by = by.map_or_else(String::new, |region| region.to_string());
        (vec![by, ending.to_string()], count as f64)
    });
    let refused = refused.into_iter().map(|(why, count)| (vec![why], count as f64)).collect();
    vec![
        gauge("http_requests_under_way", "Requests at the front door that are not answered yet.")
            .of(tally.under_way() as f64),
        counter(
            "http_requests",
            "Requests that came to their end, by the region whose application answered; none where the door did so itself. \
             `gone`: nobody waited for the answer any more.",
        )
        .by(&["answered_by", "status"], ended.collect()),
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
