//! What do the clients of a region's gateway do, as its console shows it?

use std::collections::BTreeMap;

use domicile_core::time::Millis;
use prometheus_client::registry::Unit;

use super::{Metric, counter, gauge};
use crate::gateway::{Counted, Figures};

pub fn metrics(counted: &Counted) -> Vec<Metric> {
    let count = |counts: &BTreeMap<&'static str, usize>| {
        let counts = counts.iter();
        counts.map(|(label, count)| (vec![(*label).to_owned()], *count as f64)).collect()
    };
    let per_database = |metric: Metric, figure: fn(&Figures) -> f64| {
        let databases = counted.databases.iter();
        let values = databases.map(|(name, figures)| (vec![name.clone()], figure(figures)));
        metric.by(&["database"], values.collect())
    };
    let led = counted.databases.iter().flat_map(|(name, figures)| {
        let led = &figures.led;
        [("key", led.by_key), ("statement", led.by_statement), ("guard", led.by_guard)]
            .map(|(by, count)| (vec![name.clone(), by.to_owned()], count as f64))
    });
    vec![
        gauge("gateway_clients", "Clients at the gateway, by what they are at (`SHOW CLIENTS`).")
            .by(&["state"], count(&counted.clients)),
        gauge("gateway_wait_max", "How long the client has waited that waits longest: for an owner, for a server, for fresh rows. What is paused does not count.")
            .in_unit(Unit::Seconds)
            .of(seconds(counted.wait_max)),
        gauge(
            "gateway_shared_servers",
            "Servers that clients share, `in_use` and `idle`. Where clients wait and none is idle, \
             `gateway.servers_max` is too low, or something keeps them.",
        )
        .by(&["state"], count(&counted.shared_servers)),
        counter(
            "gateway_refused_clients",
            "Clients that `gateway.allow` or a limit of `gateway.connections` did not let in.",
        )
        .by(&["why"], count(&counted.refused)),
        per_database(
            counter("gateway_transactions", "Transactions that have ended, of clients and of other gateways."),
            |figures| figures.transactions as f64,
        ),
        per_database(
            counter("gateway_queries", "Queries that were answered, of clients and of other gateways."),
            |figures| figures.queries as f64,
        ),
        counter(
            "gateway_led_transactions",
            "Transactions that went on in another region: led there by a `key`, by a `statement` that names one, or \
             by the `guard` that refused them first. What the guard leads has been tried twice.",
        )
        .by(&["database", "by"], led.collect()),
        per_database(
            counter("gateway_transaction", "How long transactions took, all together.")
                .in_unit(Unit::Seconds),
            |figures| seconds(figures.transaction_time),
        ),
        per_database(
            counter("gateway_query", "How long queries took, all together, with their waiting.")
                .in_unit(Unit::Seconds),
            |figures| seconds(figures.query_time),
        ),
        per_database(
            counter("gateway_wait", "How long clients have waited in the gateway, all together.")
                .in_unit(Unit::Seconds),
            |figures| seconds(figures.wait_time),
        ),
        per_database(
            counter("gateway_received", "What came from clients.").in_unit(Unit::Bytes),
            |figures| figures.received_bytes as f64,
        ),
        per_database(
            counter("gateway_sent", "What went to clients.").in_unit(Unit::Bytes),
            |figures| figures.sent_bytes as f64,
        ),
    ]
}

fn seconds(time: Millis) -> f64 {
    time.0 as f64 / 1000.0
}
