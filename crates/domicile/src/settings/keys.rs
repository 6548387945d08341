//! Which keys may stand in the file, and what does each one mean?
//!
//! The one list of them: it refuses unknown keys and wrong types, and it is the reference page
//! that `domicile config reference` prints. No key reloads yet: each is read when a command or an
//! agent starts.

use std::fmt::Write;

/// One key of the file.
pub struct Key {
    /// As in `lease.ttl` or `region[].name`.
    pub path: &'static str,
    pub kind: Kind,
    pub default: Fallback,
    /// Markdown; full sentences.
    pub meaning: &'static str,
}

/// What is written after the equals sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Text,
    Number,
    Flag,
    Duration,
    Size,
    /// One text or a list of them.
    Names,
    /// A table of texts.
    Texts,
    /// `"0"`, a duration, `"none"` or the number 0.
    Rpo,
}

/// What holds when the key is absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// The file is refused.
    Required,
    /// This, as one would write it.
    Value(&'static str),
    /// This, in words.
    Words(&'static str),
}

use Fallback::{Required, Value, Words};
use Kind::{Duration, Flag, Names, Number, Rpo, Size, Text, Texts};

const fn key(path: &'static str, kind: Kind, default: Fallback, meaning: &'static str) -> Key {
    Key { path, kind, default, meaning }
}

/// Every key, in the order in which one would write them.
pub const KEYS: &[Key] = &[
    key(
        "cluster",
        Text,
        Required,
        "Name of the cluster; an agent refuses peers of another one. Lowercase letters, digits, hyphens and underscores, at most 32.",
    ),
    key(
        "partition",
        Text,
        Required,
        "How rows are divided among owner regions: `whole` (one partition, the whole database), `hash(column, n)` (n partitions by the hash of a column, 1 to 1,000,000) or `home(column)` (the column names the region).",
    ),
    key(
        "rpo",
        Rpo,
        Value("\"0\""),
        "What a failover may lose of acknowledged work: `\"0\"` nothing, a commit waits until other regions hold it; a duration at most so much, a commit waits only while the oldest one that other regions do not hold is older than that; `\"none\"` what was not shipped yet.",
    ),
    key(
        "copies",
        Number,
        Value("1"),
        "How many other regions' logs must hold a commit before it is acknowledged, with an `rpo`. Less than the number of regions.",
    ),
    key(
        "sequences",
        Text,
        Value("\"interleave\""),
        "What becomes of the sequences that columns of replicated tables draw from (`serial`, identity columns, defaults). `interleave`: each agent sets them to steps of 16 from the region's own place, so that no two regions draw the same value. `leave`: they are not touched.",
    ),
    key(
        "directory.address",
        Text,
        Words("required without `endpoints`"),
        "`host:port` at which agents reach the embedded directory, and at which `domicile directory` listens.",
    ),
    key(
        "directory.data",
        Text,
        Words("required without `endpoints`"),
        "Folder in which `domicile directory` keeps its data.",
    ),
    key(
        "directory.endpoints",
        Names,
        Words("none: the embedded directory"),
        "`host:port` of each member of an etcd cluster (3.4 or newer), which is the directory then; beside `address` and `data` as soon as `domicile directory migrate` has moved everything there. The first one is asked until it does not answer; each region may have its own order.",
    ),
    key(
        "directory.ca",
        Text,
        Words("none: no TLS"),
        "File with the certificates, in PEM, of those who may sign the certificates of etcd's members. With it etcd is spoken to by TLS only.",
    ),
    key(
        "directory.certificate",
        Text,
        Words("none"),
        "File with the certificate, in PEM, that is shown to etcd (`--client-cert-auth`).",
    ),
    key(
        "directory.key",
        Text,
        Words("required with `certificate`"),
        "File with the private key of `certificate`, in PEM.",
    ),
    key(
        "directory.user",
        Text,
        Words("none: no login"),
        "User of etcd, which may read and write the keys that begin with `domicile/<cluster>/`.",
    ),
    key(
        "directory.password_file",
        Text,
        Words("required with `user`"),
        "File that holds this user's password and nothing else.",
    ),
    key(
        "tls.ca",
        Text,
        Words("required with `[tls]`"),
        "File with the certificates, in PEM, of those who may sign the certificates of regions. Whoever shows one takes part in the cluster: it should sign nothing else.",
    ),
    key(
        "tls.certificate",
        Text,
        Words("required with `[tls]`"),
        "File with the certificate, in PEM, that is shown to others. It names the host of this region's `peer`, and of `directory.address` where the directory runs.",
    ),
    key(
        "tls.key",
        Text,
        Words("required with `[tls]`"),
        "File with the private key of `tls.certificate`, in PEM.",
    ),
    key(
        "gateway.certificate",
        Text,
        Words("none: in the clear"),
        "File with the certificate, in PEM, that the gateway shows its clients, with those that signed it. It names the host that clients connect to.",
    ),
    key(
        "gateway.key",
        Text,
        Words("required with `certificate`"),
        "File with the private key of `gateway.certificate`, in PEM.",
    ),
    key(
        "gateway.require_tls",
        Flag,
        Value("false"),
        "Refuse sessions that are not encrypted. Needs `[tls]`, by which gateways know each other.",
    ),
    key(
        "gateway.admins",
        Names,
        Words("none"),
        "Roles of PostgreSQL, one or a list, that may do everything in the console: the database `domicile` of each gateway (docs/operating/console.md). They log in as they do anywhere else.",
    ),
    key(
        "gateway.viewers",
        Names,
        Words("none"),
        "Roles that may look at everything there and change nothing.",
    ),
    key(
        "gateway.connections",
        Number,
        Value("10000"),
        "How many clients each gateway serves at once, 1 to 100,000; one more is refused with 53300. Other gateways, and who is in the console, do not count.",
    ),
    key(
        "gateway.connections_per_user",
        Number,
        Words("no limit"),
        "How many of them log in as the same user.",
    ),
    key(
        "gateway.connections_per_database",
        Number,
        Words("no limit"),
        "How many of them use the same database.",
    ),
    key(
        "gateway.allow[].address",
        Names,
        Words("all"),
        "Addresses that the rule is of, one or a list: `10.0.0.0/8`, `2001:db8::/32`, `10.1.2.3`. With `[[gateway.allow]]` only those clients come in that a rule is of; the first one decides, the others are refused with 28000. Other gateways need none.",
    ),
    key(
        "gateway.allow[].database",
        Names,
        Words("all"),
        "Databases that the rule is of; the console is called `domicile`.",
    ),
    key("gateway.allow[].user", Names, Words("all"), "Users that the rule is of."),
    key(
        "gateway.allow[].tls",
        Flag,
        Value("false"),
        "Refuse those clients that the rule is of while they are not encrypted. Needs `gateway.certificate`.",
    ),
    key(
        "gateway.sharing",
        Text,
        Value("\"none\""),
        "How clients share the servers of the region's PostgreSQL: `none`, each has its own; `session`, each has one from its first statement until it leaves; or `transaction`, each has one while its transaction lasts (docs/operating/gateway.md).",
    ),
    key(
        "gateway.servers_max",
        Number,
        Value("20"),
        "With `sharing`: so many servers at most for each role, database and set of startup parameters, and as many again for those of them who come in by other regions. 1 to 10000.",
    ),
    key(
        "gateway.servers_idle",
        Duration,
        Value("\"10m\""),
        "With `sharing`: a server that nobody has used for so long is closed. 1s at least.",
    ),
    key(
        "gateway.shutdown_timeout",
        Duration,
        Value("\"5s\""),
        "How long transactions that are open, and requests of HTTP, may go on when the agent is told to stop (SIGTERM, SIGINT); who is idle then is told to connect again at once. A second signal ends it without waiting.",
    ),
    key(
        "http.certificate",
        Text,
        Words("none: in the clear"),
        "File with the certificate, in PEM, that the door shows its clients, with those that signed it. With it clients have to speak TLS.",
    ),
    key(
        "http.key",
        Text,
        Words("required with `certificate`"),
        "File with the private key of `http.certificate`, in PEM.",
    ),
    key(
        "http.replay_body_max",
        Size,
        Value("\"1MiB\""),
        "How much of a body is kept until its request is answered, at most `64MiB`: what is longer cannot be replayed in another region.",
    ),
    key(
        "http.wait",
        Duration,
        Value("\"10s\""),
        "How long a request waits for an owner, during a switchover or a failover, before it is answered with 503.",
    ),
    key(
        "http.answer_within",
        Duration,
        Value("\"1m\""),
        "How long the application may take to begin its answer, after it got the last of the request, before that is answered with 504. Longer than `wait`.",
    ),
    key("http.access_log", Flag, Value("false"), "Log a line for each request."),
    key(
        "http.route[].path",
        Text,
        Required,
        "Which paths: as in `/accounts/{id}/*`, where `{id}` is any one segment and `*`, at the end, any rest or none.",
    ),
    key("http.route[].methods", Names, Words("all"), "Which methods, in capital letters."),
    key(
        "http.route[].key",
        Names,
        Words("none"),
        "Where the partition key stands: `path:NAME` (a segment in braces), `header:NAME`, `cookie:NAME` or `query:NAME`; a list of them where the key has several columns, in the order of `partition`.",
    ),
    key(
        "http.route[].owner",
        Text,
        Value("\"writes\""),
        "What goes to the owner of the key, or of everything: `writes` (all methods but GET, HEAD, OPTIONS and TRACE), `always`, or `never`, where reads stay where they arrive, too. A request without its key is answered where it arrives.",
    ),
    key(
        "dns.zone",
        Text,
        Words("required with `[dns]`"),
        "The zone, as in `db.example.com`: this name leads to the gateways of the regions that own something and are up, `REGION.db.example.com` to one region's.",
    ),
    key(
        "dns.ttl",
        Duration,
        Value("\"10s\""),
        "How long an answer may be kept, in whole seconds from `1s` to `60s`.",
    ),
    key(
        "dns.answer",
        Text,
        Value("\"all\""),
        "`all`: the zone's name leads to every region that takes clients; `one`: to one of them, as often as its `region[].capacity` is a part of theirs.",
    ),
    key(
        "lease.ttl",
        Duration,
        Value("\"3s\""),
        "How long a region may write after its last renewal. A failover waits this long at most.",
    ),
    key(
        "lease.renew",
        Duration,
        Value("\"500ms\""),
        "How often a region renews its lease. At most half of what `lease.ttl` leaves after `lease.margin`.",
    ),
    key(
        "lease.margin",
        Duration,
        Value("\"100ms\""),
        "How much before the end of its lease a region stops writing.",
    ),
    key(
        "lease.drift_ppm",
        Number,
        Value("500"),
        "How far the rates of two machines' clocks may be apart, in parts per million, 0 to 100,000.",
    ),
    key(
        "failover.automatic",
        Flag,
        Words("`true`, or `false` with two regions and no witness"),
        "Fail over a confirmed outage without a person. Of two regions, one alone says that the other is gone, and takes over: with a directory in a third place the one that it sees.",
    ),
    key(
        "failover.observers",
        Number,
        Words("2, or 1 with two regions"),
        "How many other regions must agree that a region is gone.",
    ),
    key(
        "failover.suspect_after",
        Duration,
        Value("\"2s\""),
        "How long no renewal was seen before an observer calls a region silent. At least two renewals.",
    ),
    key(
        "log.keep",
        Duration,
        Value("\"1h\""),
        "How long a record stays in the log at least, even when every region shows it. After a restart of the agent what it finds counts as new.",
    ),
    key(
        "log.size_max",
        Size,
        Value("\"64GiB\""),
        "The most that all logs of a region take together. When it is near, records that every region shows go first, however young. At least four segments for each region.",
    ),
    key(
        "log.on_full",
        Text,
        Value("\"drop_peer\""),
        "What gives way when the records that a region still lacks fill the logs. `drop_peer`: that region is left behind and has to be seeded again (state `reseed_needed`). `block`: nothing more is captured, PostgreSQL keeps its WAL, and commits that need a copy wait (state `log_full`). Records that no other region holds are never dropped.",
    ),
    key(
        "log.drop_after",
        Duration,
        Value("\"1m\""),
        "How long a region must have shown nothing more of a log before `on_full = \"drop_peer\"` leaves it behind: one that moves on, however slowly, is waited for.",
    ),
    key(
        "log.compression",
        Text,
        Value("\"lz4\""),
        "How records are packed when they enter the region's own log, in which form they are also shipped and kept by every other region: `lz4` or `none`. Those that were committed at the same time are packed together. Every region reads both, whatever it says here.",
    ),
    key(
        "log.segment",
        Size,
        Value("\"64MiB\""),
        "Size of one file of the log, 64KiB to 1GiB: the step in which it is trimmed.",
    ),
    key(
        "reseed.after",
        Duration,
        Words("never"),
        "How long a region's slot has to be lost or skipped (`slot_lost`, `slot_skipped`) before its log begins anew without a person, as by `domicile reseed`: once all members answer, every table is compared, and rows that differ become what their owners have. Not where its folder is lost, too, nor where its PostgreSQL lacks what was committed (`timeline_behind`): there a person has to say whether that comes back.",
    ),
    key(
        "journal.keep",
        Duration,
        Value("\"720h\""),
        "How long an entry of the conflict journal is kept. Those that wait for something are kept longer.",
    ),
    key(
        "shared.tombstones",
        Duration,
        Value("\"24h\""),
        "How long a deleted row of a shared table is remembered at least. It is forgotten when, besides, every region has applied the deletion.",
    ),
    key(
        "runbook.programs",
        Text,
        Words("none"),
        "Folder of the programs that the step `exec` of a runbook may run. Without one it runs none: who may write into the directory would run them with the agents' rights.",
    ),
    key(
        "webhook[].name",
        Text,
        Required,
        "By which runbooks name it: lowercase letters, digits, hyphens and underscores.",
    ),
    key(
        "webhook[].url",
        Text,
        Required,
        "Its `http://` or `https://` address; or `file:PATH` or `env:NAME`, where whoever knows the address may send to it. A file or a variable of the agent's environment is read each time.",
    ),
    key(
        "webhook[].headers",
        Texts,
        Words("none"),
        "More headers of the request, as in `{ Authorization = \"file:/etc/domicile/pager\" }`. A value is `file:PATH` or `env:NAME`, never the secret itself; it is read each time.",
    ),
    key(
        "webhook[].ca",
        Text,
        Words("those that the system trusts"),
        "File with the certificates, in PEM, of those who may sign the webhook's, where it is `https://`.",
    ),
    key(
        "drills.every",
        Duration,
        Value("\"7d\""),
        "How often a drill has to succeed, `1d` to `365d`. Periods of this length follow on one another from a Monday on; in each of them a drill starts by itself unless one has succeeded. Where none does in a whole period, the state is `drill_overdue`.",
    ),
    key(
        "drills.days",
        Names,
        Words("every day"),
        "The days of the week, in UTC, on which a drill may start by itself: `mon`, `tue`, `wed`, `thu`, `fri`, `sat`, `sun`. With them `every` is at least `7d`.",
    ),
    key(
        "drills.hours",
        Text,
        Words("at any time"),
        "The hours of these days, in UTC, as in `\"02:00-04:30\"`. Those that end before they begin go on past midnight, if the next day is one of `days`, too.",
    ),
    key(
        "region[].name",
        Text,
        Required,
        "Name of the region: lowercase letters, digits and hyphens, at most 32, starting with a letter. With `home(column)` this is what stands in the column.",
    ),
    key(
        "region[].postgres",
        Text,
        Required,
        "Connection string of the region's PostgreSQL as its own agent reaches it, `key=value` or `postgres://`. `sslmode` (`disable`, `prefer`, `require`, `verify-ca`, `verify-full`), `sslrootcert` (a file, or `system`), `sslcert` and `sslkey` are libpq's. Without `sslmode` it is `verify-full` where `sslrootcert` is given, else `prefer`, and on this machine `disable`.",
    ),
    key("region[].peer", Text, Required, "`host:port` at which the other agents reach this one."),
    key(
        "region[].peer_listen",
        Text,
        Words("`peer`"),
        "`host:port` at which this agent listens for peers, when that differs.",
    ),
    key(
        "region[].gateway",
        Text,
        Required,
        "`host:port` of the region's gateway, where applications connect.",
    ),
    key(
        "region[].gateway_listen",
        Text,
        Words("`gateway`"),
        "`host:port` at which the gateway listens, when that differs.",
    ),
    key(
        "region[].gateway_port[].listen",
        Text,
        Required,
        "`host:port` at which the region's gateway listens, too.",
    ),
    key(
        "region[].gateway_port[].freshness",
        Text,
        Required,
        "How new reads have to be of sessions that come in there: `strong`, `bounded(5s)`, `session` or `eventual` (docs/operating/freshness.md). What their role has set, the connection string, `SET` and comments count before it.",
    ),
    key(
        "region[].metrics",
        Text,
        Words("none"),
        "`host:port` at which the agent answers `GET /metrics`, for Prometheus; nowhere unless given. It is not encrypted and asks for no password.",
    ),
    key(
        "region[].dns",
        Text,
        Words("none"),
        "`host:port` at which the agent answers for the zone of `[dns]`, over UDP and TCP; nowhere unless given. Its own name there is `ns-REGION`.",
    ),
    key(
        "region[].addresses",
        Names,
        Words("the host of `gateway`, where that is an address"),
        "The IP addresses that names of this region are answered with: those at which clients reach its gateway, and resolvers its `dns`.",
    ),
    key(
        "region[].clients",
        Names,
        Words("none"),
        "Networks, as in `203.0.113.0/24`, whose clients the zone's name leads to this region alone, while it takes any. Of several the smallest counts. A client is known by what its resolver tells of it (EDNS client subnet), or else by its resolver's address.",
    ),
    key(
        "region[].health",
        Text,
        Words("none"),
        "`host:port` at which the agent answers load balancers (`GET /primary` and others), whether clients may be sent to the region; nowhere unless given. It is not encrypted and asks for no password.",
    ),
    key(
        "region[].http",
        Text,
        Words("none"),
        "`host:port` of the region's door for HTTP, where clients and the other regions' doors connect. All regions have one, or none.",
    ),
    key(
        "region[].http_listen",
        Text,
        Words("`http`"),
        "`host:port` at which the door listens, when that differs.",
    ),
    key(
        "region[].app",
        Text,
        Words("required with `http`"),
        "`host:port` of the region's application, as its agent reaches it; it is spoken to in the clear, in HTTP/1.1.",
    ),
    key(
        "region[].capacity",
        Number,
        Words("none"),
        "How many commits a second the region is made for. Plans, and the region itself, then say when it would be more than it can take after another one is lost (`little_headroom`).",
    ),
    key(
        "region[].data",
        Text,
        Required,
        "Folder of the agent's replication logs. Needs room for all origins' logs.",
    ),
    key(
        "witness[].name",
        Text,
        Required,
        "Name of the witness: like a region's, and none of theirs.",
    ),
    key("witness[].peer", Text, Required, "`host:port` at which the other agents reach this one."),
    key(
        "witness[].peer_listen",
        Text,
        Words("`peer`"),
        "`host:port` at which this agent listens for peers, when that differs.",
    ),
    key(
        "witness[].metrics",
        Text,
        Words("none"),
        "`host:port` at which the agent answers `GET /metrics`, for Prometheus; nowhere unless given. It is not encrypted and asks for no password.",
    ),
    key(
        "witness[].data",
        Text,
        Required,
        "Folder of the agent's replication logs. Needs room for all origins' logs.",
    ),
    key(
        "table[].name",
        Text,
        Required,
        "The table as `schema.table`; without a schema, in `public`. Tables that are not listed are not replicated.",
    ),
    key(
        "table[].kind",
        Text,
        Value("\"owned\""),
        "`owned`: each row has one owner region, by its key. `reference`: the whole table has one owner, the first region at the beginning. `shared`: every region writes it, and `policy` decides conflicts. `local`: neither replicated nor guarded.",
    ),
    key(
        "table[].key",
        Names,
        Words("the column of `partition`"),
        "Column, or list of columns, of the partition key in this table. Only for `owned` tables, and not with `partition = \"whole\"`.",
    ),
    key(
        "table[].parent.table",
        Text,
        Words("no parent"),
        "The table whose row owns this table's row, for a table that does not carry the partition key itself. Instead of `key`.",
    ),
    key(
        "table[].parent.columns",
        Names,
        Words("required with `parent`"),
        "This table's columns that name the parent row.",
    ),
    key(
        "table[].parent.references",
        Names,
        Words("required with `parent`"),
        "The parent's columns that they are equal to, in the same order.",
    ),
    key(
        "table[].policy",
        Text,
        Value("\"last_write_wins\""),
        "What becomes of a row of a `shared` table that two regions wrote without knowing of each other's write. `last_write_wins`: the later one is kept, by a clock that never puts a write before one that its region had seen. `delta`, `greatest`, `least`: that for every column outside the primary key, see `columns`. `owner_wins`: that of the region that comes first in `prefer`. `sql`: what `function` makes of both. `manual`: a person decides with `domicile journal resolve` or `replay`; until then every region shows the later one.",
    ),
    key(
        "table[].columns",
        Texts,
        Words("none"),
        "Policies of single columns of a `shared` table, as in `{ hits = \"delta\" }`. `last_write_wins`: decided for this column alone, where all other columns are decided together. `delta`: what each region adds counts, exactly; for integers and numeric. `greatest`, `least`: the greatest or least value ever written stays. `*` stands for every column that is not named. Not with `owner_wins`, `sql` and `manual`, which decide about whole rows.",
    ),
    key(
        "table[].update_delete",
        Text,
        Value("\"latest\""),
        "What a deletion and a write come to that did not know of each other: `latest` (what the later of both did), `delete_wins` or `update_wins`. Only for `shared` tables, and not with `owner_wins`.",
    ),
    key(
        "table[].prefer",
        Names,
        Words("required with `owner_wins`"),
        "The region whose writes win, or several, the first one first.",
    ),
    key(
        "table[].function",
        Text,
        Words("required with `sql`"),
        "The function as `schema.name`, called as `name(local jsonb, incoming jsonb, old jsonb)`; it returns the row, or null to leave `incoming` out. It must be immutable and belong to the agent's role.",
    ),
];

const SECTIONS: &[(&str, &str, &str)] = &[
    ("", "Cluster", ""),
    ("directory.", "`[directory]`", "Where the owners of all partitions are agreed on."),
    (
        "tls.",
        "`[tls]`",
        "How agents, the embedded directory and commands encrypt what they say to each other (TLS 1.3), and know each other. \
         Without this section they speak in the clear. All regions have it or none; `domicile certificates` makes the files. \
         New files are taken up without a restart.",
    ),
    (
        "gateway.",
        "`[gateway]`",
        "How the gateway speaks with clients, and with whom, and whether they share servers (docs/operating/gateway.md). New files are taken up without a restart.",
    ),
    (
        "gateway.allow[].",
        "`[[gateway.allow]]`",
        "Who may come in: the first rule that is of a client decides (docs/operating/gateway.md).",
    ),
    (
        "http.",
        "`[http]`",
        "How doors take requests of HTTP to their owners (docs/operating/front-door.md). New certificates are taken up without a restart.",
    ),
    (
        "http.route[].",
        "`[[http.route]]`",
        "Whose requests are; the first one that fits holds. A request that fits none goes to the owner of everything, if there is one, \
         unless it only reads.",
    ),
    ("dns.", "`[dns]`", "Names that lead clients to the right region (docs/operating/dns.md)."),
    ("lease.", "`[lease]`", "The owner's right to write, and how clocks are trusted."),
    ("failover.", "`[failover]`", "When a region counts as gone."),
    ("log.", "`[log]`", "How long replication logs are kept, and how large they may get."),
    (
        "reseed.",
        "`[reseed]`",
        "What becomes of a region whose slot is lost (docs/operating/recover.md).",
    ),
    ("journal.", "`[journal]`", "What lost, and was kept."),
    ("shared.", "`[shared]`", "Tables that every region writes."),
    ("runbook.", "`[runbook]`", "What runbooks may do."),
    (
        "webhook[].",
        "`[[webhook]]`",
        "Whom the steps `webhook` and `notify` of a runbook may tell (docs/operating/webhooks.md). A runbook names one and \
         never an address: who may write into the directory would have agents send to anybody.",
    ),
    (
        "drills.",
        "`[drills]`",
        "When a switchover is tried with the canary partition, without being asked for (docs/operating/runbooks.md). Without \
         this section no drill starts by itself.",
    ),
    (
        "region[].",
        "`[[region]]`",
        "Once for each region, 2 to 16 of them, in the same order in every region's file.",
    ),
    (
        "region[].gateway_port[].",
        "`[[region.gateway_port]]`",
        "Further addresses of a region's gateway, for programs that cannot say themselves how new what they read has to be.",
    ),
    (
        "witness[].",
        "`[[witness]]`",
        "Once for each place without a PostgreSQL whose agent holds every region's log, observes and seals \
         (docs/operating/witness.md). Regions and witnesses together are at most 16.",
    ),
    ("table[].", "`[[table]]`", "Once for each table."),
];

impl Kind {
    fn words(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Number => "whole number",
            Self::Flag => "`true` or `false`",
            Self::Duration => "duration",
            Self::Size => "size",
            Self::Names => "text or list of texts",
            Self::Texts => "table of texts",
            Self::Rpo => "`\"0\"`, duration or `\"none\"`",
        }
    }

    /// What was expected, in an error.
    pub(super) fn expected(self) -> &'static str {
        match self {
            Self::Text => "a text in quotes",
            Self::Number => "a whole number",
            Self::Flag => "true or false",
            Self::Duration => "a duration in quotes, as in \"500ms\"",
            Self::Size => "a size in quotes, as in \"64MiB\"",
            Self::Names => "a text in quotes, or a list of them",
            Self::Texts => "a table of texts, as in { hits = \"delta\" }",
            Self::Rpo => "\"0\", a duration in quotes, or \"none\"",
        }
    }
}

/// Prints the reference page.
pub fn reference() -> String {
    let mut page = String::from(INTRODUCTION);
    for (prefix, title, about) in SECTIONS {
        let _ = write!(page, "\n## {title}\n\n");
        if !about.is_empty() {
            let _ = write!(page, "{about}\n\n");
        }
        page.push_str("| key | type | default | meaning |\n| --- | --- | --- | --- |\n");
        for key in KEYS.iter().filter(|key| section(key.path) == *prefix) {
            let name = &key.path[prefix.len()..];
            let default = match key.default {
                Required => "required".to_owned(),
                Value(value) => format!("`{value}`"),
                Words(words) => words.to_owned(),
            };
            let _ =
                writeln!(page, "| `{name}` | {} | {default} | {} |", key.kind.words(), key.meaning);
        }
    }
    page
}

/// Up to the last list that the key is in, or the first table.
fn section(path: &str) -> &str {
    let list = path.rfind("[].").map(|at| at + 2);
    list.or_else(|| path.find('.')).map_or("", |dot| &path[..=dot])
}

const INTRODUCTION: &str = "\
# domicile.toml

<!-- Printed by `domicile config reference`; do not edit. -->

One file describes the cluster, and is the same in every region. It is read at the start of a
command or an agent: a change needs a restart. Unknown keys are refused, and all mistakes are
reported at once; `domicile config check` shows them without doing anything else.

Durations are texts with a unit: `\"500ms\"`, `\"3s\"`, `\"2m\"`, `\"1h\"`, `\"7d\"`. So are sizes: `\"64KiB\"`, `\"64MiB\"`,
`\"2GiB\"`, `\"1TiB\"`. All keys exist since 0.1.0.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_a_section() {
        for key in KEYS {
            assert!(
                SECTIONS.iter().any(|(prefix, ..)| *prefix == section(key.path)),
                "{}",
                key.path
            );
        }
    }
}
