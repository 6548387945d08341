//! What do the written values come to, with defaults filled in and relations checked?

use domicile_core::config::{
    Config, FailoverPolicy, Identity, MutualTls, REGIONS_MAX, Sequences, TableKind,
};
use domicile_core::frame::Compression;
use domicile_core::id::RegionId;
use domicile_core::lease::LeaseTerms;
use domicile_core::partition::{Layout, Scheme};
use domicile_core::progress::Rpo;
use domicile_core::retention::{LogTerms, OnFull};
use domicile_core::time::{DriftPpm, Millis};

use super::mistake::Mistakes;
use super::partition::Partition;
use super::written::{Written, WrittenFailover, WrittenLease, WrittenLog, WrittenRpo, WrittenTls};
use super::{directory, dns, drills, gateway, http, regions, tables, units, webhooks};

const CLUSTER_NAME_BYTES_MAX: usize = 32;
/// Shorter leases end whenever a machine is busy for a moment.
const LEASE_TTL_MIN: Millis = Millis(200);
/// Longer ones make every failover an outage.
const LEASE_TTL_MAX: Millis = Millis(600_000);
const DRIFT_PPM_MAX: i64 = 100_000;
const JOURNAL_KEEP: Millis = Millis(720 * 3_600_000);
const TOMBSTONES_KEEP: Millis = Millis(24 * 3_600_000);
const OBSERVERS_DEFAULT: usize = 2;
const SEGMENT_DEFAULT: u64 = 64 << 20;
/// Smaller ones are more files than records.
const SEGMENT_MIN: u64 = 64 << 10;
const SEGMENT_MAX: u64 = 1 << 30;
const LOG_SIZE_DEFAULT: u64 = 64 << 30;
/// Each log has a segment that is written to and one that is not trimmed yet, at the least.
const SEGMENTS_PER_REGION_MIN: u64 = 4;

/// Returns the configuration unless a part of it is too wrong to have a value; the caller looks
/// at the mistakes too.
pub(super) fn resolve(written: &Written, mistakes: &mut Mistakes) -> Option<Config> {
    let cluster = cluster(written, mistakes);
    let partition = partition(written, mistakes);
    let (regions, witnesses) = regions::resolve(&written.region, &written.witness, mistakes);
    let holders = written.region.len() + written.witness.len();
    holder_count(written.region.len(), holders, mistakes);
    let rpo = rpo(written, mistakes);
    let sequences = sequences(written, mistakes);
    let lease = lease(written.lease.as_ref().unwrap_or(&WrittenLease::default()), mistakes);
    let failover = written.failover.as_ref();
    let failover =
        failover_policy(failover.unwrap_or(&WrittenFailover::default()), holders, &lease, mistakes);
    let log = written.log.as_ref();
    let log = log_terms(log.unwrap_or(&WrittenLog::default()), written.region.len(), mistakes);
    let directory = directory::resolve(written.directory.as_ref(), mistakes);
    let tls = written.tls.as_ref().map(|tls| self::tls(tls, mistakes));
    let gateway = gateway::resolve(written, mistakes);
    let http = http::resolve(
        written.http.as_ref(),
        &written.region,
        written.tls.is_some(),
        partition.as_ref(),
        mistakes,
    );
    let dns = written.dns.as_ref().map(|written| dns::resolve(written, mistakes));
    dns::check(
        written.dns.as_ref(),
        &written.region,
        regions.as_deref().unwrap_or_default(),
        mistakes,
    );
    let ids: Vec<RegionId> = regions.iter().flatten().map(|r| r.id.clone()).collect();
    let tables = tables::resolve(&written.table, partition.as_ref(), &ids, mistakes);
    let after = written.reseed.as_ref().and_then(|reseed| reseed.after.as_deref());
    let reseed_after =
        after.map(|after| duration("reseed.after", Some(after), Millis(0), mistakes));
    let keep = written.journal.as_ref().and_then(|journal| journal.keep.as_deref());
    let journal_keep = duration("journal.keep", keep, JOURNAL_KEEP, mistakes);
    let keep = written.shared.as_ref().and_then(|shared| shared.tombstones.as_deref());
    let tombstones_keep = duration("shared.tombstones", keep, TOMBSTONES_KEEP, mistakes);
    let drills = written.drills.as_ref().map(|written| drills::resolve(written, mistakes));
    let programs = written.runbook.as_ref().and_then(|runbook| runbook.programs.clone());
    let webhooks = webhooks::resolve(&written.webhook, mistakes);
    regions::check_addresses(&written.region, &written.witness, directory.as_ref(), mistakes);
    let (regions, witnesses, partition) = (regions?, witnesses?, partition?);
    let has_reference = tables.values().any(|kind| *kind == TableKind::Reference);
    let layout = layout(&partition, ids, has_reference);
    Some(Config {
        cluster: cluster?,
        layout,
        rpo: rpo?,
        sequences: sequences?,
        lease,
        failover,
        log,
        directory: directory?,
        tls: match tls {
            None => None,
            Some(tls) => Some(tls?),
        },
        gateway,
        http,
        dns: match dns {
            None => None,
            Some(dns) => Some(dns?),
        },
        regions,
        witnesses,
        tables,
        reseed_after,
        journal_keep,
        tombstones_keep,
        programs,
        webhooks,
        drills,
    })
}

/// Half of it would encrypt nothing.
fn tls(written: &WrittenTls, mistakes: &mut Mistakes) -> Option<MutualTls> {
    let [ca, certificate, key] = [
        ("tls.ca", &written.ca),
        ("tls.certificate", &written.certificate),
        ("tls.key", &written.key),
    ]
    .map(|(path, text)| required(path, text.as_deref(), mistakes).map(str::to_owned));
    let identity = Identity { certificate: certificate?, key: key? };
    Some(MutualTls { ca: ca?, identity })
}

fn layout(partition: &Partition, ids: Vec<RegionId>, has_reference: bool) -> Layout {
    let scheme = match partition {
        Partition::Whole => Scheme::Whole,
        Partition::Hash { count, .. } => Scheme::Hash { count: *count },
        Partition::Home { .. } => Scheme::Home { regions: ids },
    };
    // A whole database already has one owner, reference tables included.
    Layout { has_reference: has_reference && scheme != Scheme::Whole, scheme }
}

fn cluster(written: &Written, mistakes: &mut Mistakes) -> Option<String> {
    let name = required("cluster", written.cluster.as_deref(), mistakes)?;
    let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    if name.is_empty() || name.len() > CLUSTER_NAME_BYTES_MAX || !name.chars().all(letters) {
        mistakes.add(
            "cluster",
            format!(
                "\"{name}\" is not a cluster name: use 1 to {CLUSTER_NAME_BYTES_MAX} lowercase \
                 letters, digits, hyphens and underscores"
            ),
        );
        return None;
    }
    Some(name.to_owned())
}

fn partition(written: &Written, mistakes: &mut Mistakes) -> Option<Partition> {
    let text = required("partition", written.partition.as_deref(), mistakes)?;
    match text.parse::<Partition>() {
        Ok(partition) => Some(partition),
        Err(wrong) => {
            mistakes.add("partition", wrong);
            None
        }
    }
}

fn holder_count(regions: usize, holders: usize, mistakes: &mut Mistakes) {
    if !(2..=REGIONS_MAX).contains(&regions) {
        let text = format!("expected 2 to {REGIONS_MAX} regions, found {regions}");
        mistakes.add("region", text);
    } else if holders > REGIONS_MAX {
        let text = format!("expected at most {REGIONS_MAX} regions and witnesses, found {holders}");
        mistakes.add("witness", text);
    }
}

fn rpo(written: &Written, mistakes: &mut Mistakes) -> Option<Rpo> {
    let copies = written.copies.unwrap_or(1);
    let holders = written.region.len() + written.witness.len();
    let fits = usize::try_from(copies).ok().filter(|n| *n >= 1 && *n < holders.max(2));
    if fits.is_none() {
        let text = match holders {
            0..=2 => format!("{copies}: one region has only one other to hold copies"),
            _ => format!("{copies}: there are 1 to {} others to hold copies", holders - 1),
        };
        mistakes.add("copies", text);
    }
    match &written.rpo {
        None | Some(WrittenRpo::Number(0)) => Some(Rpo::Zero { copies: fits? }),
        Some(WrittenRpo::Text(text)) if text == "none" => Some(Rpo::None),
        Some(WrittenRpo::Text(text)) => match units::rpo(text) {
            Ok(Millis(0)) => Some(Rpo::Zero { copies: fits? }),
            Ok(age) => Some(Rpo::Within { copies: fits?, age }),
            Err(why) => {
                mistakes.add("rpo", format!("\"{text}\" {why}"));
                None
            }
        },
        Some(WrittenRpo::Number(number)) => {
            mistakes.add("rpo", format!("{number} {}", units::NO_RPO));
            None
        }
    }
}

fn sequences(written: &Written, mistakes: &mut Mistakes) -> Option<Sequences> {
    match written.sequences.as_deref() {
        None | Some("interleave") => Some(Sequences::Interleave),
        Some("leave") => Some(Sequences::Leave),
        Some(other) => {
            let text = format!("\"{other}\" is neither \"interleave\" nor \"leave\"");
            mistakes.add("sequences", text);
            None
        }
    }
}

fn lease(written: &WrittenLease, mistakes: &mut Mistakes) -> LeaseTerms {
    let terms = LeaseTerms {
        ttl: duration("lease.ttl", written.ttl.as_deref(), Millis(3000), mistakes),
        renew_every: duration("lease.renew", written.renew.as_deref(), Millis(500), mistakes),
        margin: duration("lease.margin", written.margin.as_deref(), Millis(100), mistakes),
        drift: DriftPpm(drift(written.drift_ppm, mistakes)),
    };
    let ttl = units::written(terms.ttl);
    if terms.ttl < LEASE_TTL_MIN || terms.ttl > LEASE_TTL_MAX {
        let (min, max) = (units::written(LEASE_TTL_MIN), units::written(LEASE_TTL_MAX));
        mistakes.add("lease.ttl", format!("{ttl}: expected {min} to {max}"));
    } else if terms.margin >= terms.ttl {
        let margin = units::written(terms.margin);
        mistakes.add("lease.margin", format!("{margin} is not less than lease.ttl ({ttl})"));
    } else if terms.renew_every.0 == 0 {
        mistakes.add("lease.renew", "0 is not a time between renewals");
    } else if terms.renew_every + terms.renew_every >= terms.ttl - terms.margin {
        mistakes.add(
            "lease.renew",
            format!(
                "{} leaves no room for a lost renewal: two must fit into lease.ttl less \
                 lease.margin ({})",
                units::written(terms.renew_every),
                units::written(terms.ttl - terms.margin)
            ),
        );
    }
    terms
}

fn drift(written: Option<i64>, mistakes: &mut Mistakes) -> u64 {
    let ppm = written.unwrap_or(500);
    if !(0..=DRIFT_PPM_MAX).contains(&ppm) {
        mistakes.add("lease.drift_ppm", format!("{ppm}: expected 0 to {DRIFT_PPM_MAX}"));
    }
    ppm.unsigned_abs()
}

fn failover_policy(
    written: &WrittenFailover,
    holders: usize,
    lease: &LeaseTerms,
    mistakes: &mut Mistakes,
) -> FailoverPolicy {
    let others = holders.saturating_sub(1).max(1);
    let observers = match written.observers {
        None => OBSERVERS_DEFAULT.min(others),
        Some(number) => match usize::try_from(number) {
            Ok(number) if (1..=others).contains(&number) => number,
            _ => {
                mistakes.add(
                    "failover.observers",
                    format!("{number}: there are 1 to {others} others that can observe a region"),
                );
                others
            }
        },
    };
    let path = "failover.suspect_after";
    let suspect_after = duration(path, written.suspect_after.as_deref(), Millis(2000), mistakes);
    if suspect_after < lease.renew_every + lease.renew_every && !mistakes.has("lease.renew") {
        mistakes.add(
            path,
            format!(
                "{} is less than two renewals of the lease ({} each): a healthy region would be \
                 suspected",
                units::written(suspect_after),
                units::written(lease.renew_every)
            ),
        );
    }
    // Of two, one alone would say that the other is gone, and take over.
    let automatic = written.automatic.unwrap_or(holders > 2);
    FailoverPolicy { automatic, observers, suspect_after }
}

fn log_terms(written: &WrittenLog, regions: usize, mistakes: &mut Mistakes) -> LogTerms {
    let segment = size("log.segment", written.segment.as_deref(), SEGMENT_DEFAULT, mistakes);
    if !(SEGMENT_MIN..=SEGMENT_MAX).contains(&segment) {
        let (min, max) = (units::written_size(SEGMENT_MIN), units::written_size(SEGMENT_MAX));
        let segment = units::written_size(segment);
        mistakes.add("log.segment", format!("{segment}: expected {min} to {max}"));
    }
    let size_max = size("log.size_max", written.size_max.as_deref(), LOG_SIZE_DEFAULT, mistakes);
    let least = segment.saturating_mul(SEGMENTS_PER_REGION_MIN).saturating_mul(regions as u64);
    if size_max < least && !mistakes.has("log.segment") {
        mistakes.add(
            "log.size_max",
            format!(
                "{}: with {regions} regions and segments of {} it takes at least {}",
                units::written_size(size_max),
                units::written_size(segment),
                units::written_size(least)
            ),
        );
    }
    let on_full = match written.on_full.as_deref() {
        None | Some("drop_peer") => OnFull::DropPeer,
        Some("block") => OnFull::Block,
        Some(other) => {
            let text = format!("\"{other}\" is neither \"drop_peer\" nor \"block\"");
            mistakes.add("log.on_full", text);
            OnFull::Block
        }
    };
    let compression = match written.compression.as_deref() {
        None | Some("lz4") => Compression::Lz4,
        Some("none") => Compression::None,
        Some(other) => {
            let text = format!("\"{other}\" is neither \"lz4\" nor \"none\"");
            mistakes.add("log.compression", text);
            Compression::None
        }
    };
    let keep = duration("log.keep", written.keep.as_deref(), Millis(3_600_000), mistakes);
    let drop_after =
        duration("log.drop_after", written.drop_after.as_deref(), Millis(60_000), mistakes);
    LogTerms { keep, size_max, segment_bytes: segment, on_full, drop_after, compression }
}

/// Returns a text that must be there and not be empty.
pub(super) fn required<'a>(
    path: &str,
    value: Option<&'a str>,
    mistakes: &mut Mistakes,
) -> Option<&'a str> {
    match value {
        None => mistakes.add(path, "is missing"),
        Some(text) if text.trim().is_empty() => mistakes.add(path, "is empty"),
        Some(text) => return Some(text),
    }
    None
}

pub(super) fn size(path: &str, value: Option<&str>, default: u64, mistakes: &mut Mistakes) -> u64 {
    match value.map_or(Ok(default), units::size) {
        Ok(size) => size,
        Err(wrong) => {
            mistakes.add(path, wrong);
            default
        }
    }
}

pub(super) fn duration(
    path: &str,
    value: Option<&str>,
    default: Millis,
    mistakes: &mut Mistakes,
) -> Millis {
    match value.map_or(Ok(default), units::duration) {
        Ok(duration) => duration,
        Err(wrong) => {
            mistakes.add(path, wrong);
            default
        }
    }
}
