//! How does a proposal look as a file that a person goes on from?

use std::collections::BTreeMap;
use std::fmt::Write;

use domicile_core::id::RegionId;

use super::propose::{Place, Proposal, ProposedTable};
use crate::postgres::database::Database;
use crate::settings::Partition;

const COMMENT_WIDTH: usize = 98;
const PEER_PORT: u16 = 7401;
const GATEWAY_PORT: u16 = 6432;

/// A region as given on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenRegion {
    pub id: RegionId,
    pub postgres: String,
    /// A guess, to be corrected by a person.
    pub made_up: bool,
}

/// Returns the whole `domicile.toml`.
pub fn file(proposal: &Proposal, cluster: &str, regions: &[GivenRegion]) -> String {
    let mut text = String::new();
    comment(&mut text, "Proposed by `domicile init`. All keys: `domicile config reference`.");
    comment(&mut text, "Next: correct the addresses, then `domicile check`.");
    let _ = write!(text, "\ncluster = {}\n\n", quote(cluster));
    for sentence in &proposal.why {
        comment(&mut text, sentence);
    }
    let _ = writeln!(text, "partition = {}", quote(&proposal.partition.to_string()));
    text.push_str(RPO);
    let _ = write!(text, "\n[directory]\naddress = {}\n", quote(&directory_address(regions)));
    text.push_str("data = \"/var/lib/domicile/directory\"\n");
    let mut on_host: BTreeMap<String, u16> = BTreeMap::new();
    for region in regions {
        write_region(&mut text, region, &mut on_host);
    }
    for table in &proposal.tables {
        write_table(&mut text, table, &proposal.partition);
    }
    if !proposal.left_out.is_empty() {
        text.push('\n');
        comment(&mut text, "Not replicated:");
        for (name, reason) in &proposal.left_out {
            comment(&mut text, &format!("  {name}: {reason}"));
        }
    }
    text
}

const RPO: &str = "
# \"0\": a commit waits until another region holds it. \"none\": it does not, and a failover may lose
# the last moments.
rpo = \"0\"
";

fn directory_address(regions: &[GivenRegion]) -> String {
    let host = regions.first().map_or("127.0.0.1".to_owned(), |region| host(&region.postgres));
    format!("{host}:7400")
}

/// Regions on one host get ports of their own.
fn write_region(text: &mut String, region: &GivenRegion, on_host: &mut BTreeMap<String, u16>) {
    let host = host(&region.postgres);
    let before = on_host.entry(host.clone()).or_insert(0);
    let (peer, gateway) = (PEER_PORT + *before, GATEWAY_PORT + *before);
    *before += 1;
    text.push('\n');
    if region.made_up {
        comment(text, "A second region is needed: name it and say where its PostgreSQL is.");
    }
    let _ = write!(
        text,
        "[[region]]\nname = {}\npostgres = {}\npeer = {}\ngateway = {}\ndata = {}\n",
        quote(region.id.as_str()),
        quote(&region.postgres),
        quote(&format!("{host}:{peer}")),
        quote(&format!("{host}:{gateway}")),
        quote(&format!("/var/lib/domicile/{}", region.id)),
    );
}

fn write_table(text: &mut String, table: &ProposedTable, partition: &Partition) {
    text.push('\n');
    for note in &table.notes {
        comment(text, note);
    }
    let _ = write!(text, "[[table]]\nname = {}\n", quote(&table.name.to_string()));
    match &table.place {
        Place::Whole => {}
        Place::Key(columns) if *columns == partition.columns() => {}
        Place::Key(columns) => {
            let _ = writeln!(text, "key = {}", names(columns));
        }
        Place::Parent { table, columns, references } => {
            let _ = writeln!(
                text,
                "parent = {{ table = {}, columns = {}, references = {} }}",
                quote(&table.to_string()),
                list(columns),
                list(references)
            );
        }
        Place::Reference => text.push_str("kind = \"reference\"\n"),
        Place::Local => text.push_str("kind = \"local\"\n"),
    }
}

fn names(columns: &[String]) -> String {
    match columns {
        [one] => quote(one),
        several => list(several),
    }
}

fn list(names: &[String]) -> String {
    let names: Vec<String> = names.iter().map(|name| quote(name)).collect();
    format!("[{}]", names.join(", "))
}

fn quote(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// Breaks the text into comment lines.
fn comment(text: &mut String, sentence: &str) {
    let indent = &sentence[..sentence.len() - sentence.trim_start().len()];
    let mut line = format!("# {indent}");
    let start = line.len();
    for word in sentence.split_whitespace() {
        if line.len() > start && line.len() + 1 + word.len() > COMMENT_WIDTH {
            let _ = writeln!(text, "{line}");
            line = format!("# {indent}");
        }
        if line.len() > start {
            line.push(' ');
        }
        line.push_str(word);
    }
    let _ = writeln!(text, "{line}");
}

/// The machine that a connection string leads to.
fn host(connection: &str) -> String {
    let database = connection.parse::<Database>().ok();
    let tcp =
        database.iter().flat_map(|database| database.config.get_hosts()).find_map(
            |host| match host {
                tokio_postgres::config::Host::Tcp(name) if name.contains(':') => {
                    Some(format!("[{name}]"))
                }
                tokio_postgres::config::Host::Tcp(name) => Some(name.clone()),
                #[cfg(unix)]
                tokio_postgres::config::Host::Unix(_) => None,
            },
        );
    tcp.unwrap_or("127.0.0.1".to_owned())
}
