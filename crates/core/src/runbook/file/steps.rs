//! Which steps are there, what are they told, and what must stand before them?
//!
//! The one list of them: it refuses what is unknown or out of order, and it is the reference page
//! that `domicile runbook reference` prints.

use std::fmt::Write;

use super::order;
use super::value::Kind;

/// A step as a file may write it.
pub struct StepKind {
    /// After `do =`.
    pub name: &'static str,
    pub keys: &'static [Key],
    /// Of each group one must stand before it.
    pub after: &'static [Needs],
    /// Markdown; full sentences.
    pub meaning: &'static str,
}

/// What must stand before a step, and why.
pub struct Needs {
    pub one_of: &'static [&'static str],
    pub because: &'static str,
}

/// What a step is told.
pub struct Key {
    pub name: &'static str,
    pub kind: Kind,
    /// As one would write it; without one the key is required.
    pub default: Option<&'static str>,
    pub meaning: &'static str,
}

const ENDED: Needs = Needs {
    one_of: &["hand_over", "cut"],
    because: "nothing says where the old owner's history ends",
};
const GRANTED: Needs = Needs { one_of: &["grant"], because: "there is no new owner yet" };

const WEBHOOK: Key = Key {
    name: "webhook",
    kind: Kind::Name,
    default: None,
    meaning: "Which `[[webhook]]` of the configuration.",
};

/// Every step, in the order in which they follow one another.
pub const STEPS: &[StepKind] = &[
    StepKind {
        name: "approve",
        keys: &[
            Key {
                name: "role",
                kind: Kind::Name,
                default: None,
                meaning: "Whose word counts. Domicile keeps no list of people: each says who he is and in which role, and the run's journal keeps it.",
            },
            Key {
                name: "count",
                kind: Kind::Number,
                default: Some("1"),
                meaning: "How many different people.",
            },
            Key {
                name: "within",
                kind: Kind::Duration,
                default: Some("1h"),
                meaning: "After the start of the run. When they have not come by then, the run ends as `unapproved` and nothing was done. Each agent goes by how long it has known of the run: one that was started anew begins to count again.",
            },
        ],
        after: &[],
        meaning: "Waits for people: `domicile runbook approve RUN --role dba`. Stands before `hand_over`, `fence`, `fence_canary` or `for_each`: nobody could write while people are waited for. When owners or epochs have changed meanwhile, the run ends as `overruled`, because it would not do any more what was approved. May stand several times, for several roles.",
    },
    StepKind {
        name: "check",
        keys: &[
            Key {
                name: "region",
                kind: Kind::Region,
                default: None,
                meaning: "Which region has to be well.",
            },
            Key {
                name: "lag",
                kind: Kind::Duration,
                default: Some("1s"),
                meaning: "How far it may be behind what each owner has committed.",
            },
        ],
        after: &[],
        meaning: "Waits until a region is well: a member whose agent answers, with a live lease, that need not be seeded again, and at most so far behind every owner that answers. Stands before `hand_over`, `fence`, `fence_canary` or `for_each`: nobody could write while a region is waited for. May stand several times.",
    },
    StepKind {
        name: "exec",
        keys: &[
            Key {
                name: "program",
                kind: Kind::Name,
                default: None,
                meaning: "Which program of the folder `runbook.programs` of the configuration.",
            },
            Key {
                name: "within",
                kind: Kind::Duration,
                default: Some("30s"),
                meaning: "When it has not ended by then, it is killed with all that it has started, and has failed.",
            },
            Key {
                name: "may_fail",
                kind: Kind::Flag,
                default: Some("false"),
                meaning: "The run goes on when it fails, and its journal says so: for a program that only tells somebody.",
            },
        ],
        after: &[],
        meaning: "Runs a program beside the agent that performs the run, with its rights, and `DOMICILE_RUN`, `DOMICILE_STEP` and `DOMICILE_TOKEN` in its environment. It passes with exit status 0; with any other the run ends as `failed`, unless it may fail. The end of what it prints stands in the run's journal. It runs at least once: when the agent dies, another one runs it again, perhaps while the first still runs. The token is the same each time, and no other step's: by it the program does its work once. Stands before `hand_over`, `fence`, `fence_canary` or `for_each`, or after `grant`: nobody could write while it runs. May stand several times.",
    },
    StepKind {
        name: "webhook",
        keys: &[
            WEBHOOK,
            Key {
                name: "within",
                kind: Kind::Duration,
                default: Some("30s"),
                meaning: "How long it is tried.",
            },
        ],
        after: &[],
        meaning: "Sends a `POST` with JSON to a webhook: the run and its token, what moves and how (docs/operating/webhooks.md). It passes with a status of 2xx. Where nobody answers, or with 408, 429 or 5xx, it is sent again until `within` is over; with any other status, or then, the run ends as `failed`, and the journal has the status and the first line of the answer. It is sent at least once: when the agent dies, another one sends it again. The token is the same each time, and no other step's: by it the receiver does its work once. Stands before `hand_over`, `fence`, `fence_canary` or `for_each`, or after `grant`: nobody could write while it is waited for. May stand several times.",
    },
    StepKind {
        name: "notify",
        keys: &[
            WEBHOOK,
            Key {
                name: "within",
                kind: Kind::Duration,
                default: Some("10s"),
                meaning: "How long it is tried; the run waits for it no longer.",
            },
        ],
        after: &[],
        meaning: "Sends the same to a webhook as the step `webhook`, in the same way, and never fails: what went wrong stands in the journal, and the run goes on. Chats like Slack and Mattermost show its sentence for people. Stands before `hand_over`, `fence`, `fence_canary` or `for_each`, or after `grant`: nobody could write while somebody is told. May stand several times.",
    },
    StepKind {
        name: "seed",
        keys: &[
            Key {
                name: "region",
                kind: Kind::Region,
                default: None,
                meaning: "The region that is added; its agent runs and says `not_a_member`.",
            },
            Key {
                name: "replace",
                kind: Kind::Flag,
                default: Some("false"),
                meaning: "Rows that its tables have already go.",
            },
        ],
        after: &[],
        meaning: "Has a region copy what the cluster shows, under writes, and become a member (docs/operating/regions.md); it waits until it is one. Aborted before that, it takes back what was asked. A runbook with this step moves nothing.",
    },
    StepKind {
        name: "confirm_outage",
        keys: &[Key {
            name: "attest",
            kind: Kind::Flag,
            default: Some("false"),
            meaning: "A person vouches that the region is gone; nobody else is asked.",
        }],
        after: &[],
        meaning: "Waits until so many other regions say that the region is gone as `failover.observers` asks for. Before the fence the run is called off when the region is back.",
    },
    StepKind {
        name: "warm_up",
        keys: &[Key {
            name: "within",
            kind: Kind::Duration,
            default: Some("10s"),
            meaning: "The run goes on after that, whatever is open.",
        }],
        after: &[],
        meaning: "Has every gateway that answers open the sessions of its clients at the new owner, so that they go on there at once and nobody waits until those of all others are open. Meanwhile they write at the old one. It never fails: what is not open in time is opened later, and the journal says how many are. Where a region serves its own clients, whoever owns what (many partitions), there is nothing to do; nor for clients that share servers. Stands before `hand_over`.",
    },
    StepKind {
        name: "hand_over",
        keys: &[
            Key {
                name: "partitions",
                kind: Kind::Partitions,
                default: None,
                meaning: "What moves.",
            },
            Key { name: "to", kind: Kind::Region, default: None, meaning: "The new owner." },
        ],
        after: &[],
        meaning: "Planned: the owner drains its writers and names its last one, where its history ends. New writers wait and are sent on. When `to` is lost before the grant, the owner gets the partitions back at a new epoch.",
    },
    StepKind {
        name: "fence",
        keys: &[
            Key { name: "from", kind: Kind::Region, default: None, meaning: "The lost region." },
            Key { name: "to", kind: Kind::Region, default: None, meaning: "The new owner." },
        ],
        after: &[Needs {
            one_of: &["confirm_outage"],
            because: "nobody has said that the region is gone",
        }],
        meaning: "Forced: takes everything that `from` owns away from it, by raising its epochs. There is no way back to `from` but another run after this one.",
    },
    StepKind {
        name: "fence_canary",
        keys: &[
            Key {
                name: "from",
                kind: Kind::Region,
                default: None,
                meaning: "The owner of the canary partition, which is well.",
            },
            Key { name: "to", kind: Kind::Region, default: None, meaning: "The new owner." },
        ],
        after: &[],
        meaning: "Drill: takes the canary partition, and nothing else, away from `from` as `fence` would if it were gone. When `to` is lost before the grant, or the run is aborted, `from` gets it back at a new epoch once the cut is known.",
    },
    StepKind {
        name: "for_each",
        keys: &[
            Key {
                name: "range_of",
                kind: Kind::Region,
                default: None,
                meaning: "Whose ranges move: all that it owns, also what it is given meanwhile.",
            },
            Key { name: "to", kind: Kind::Region, default: None, meaning: "The new owner." },
            Key {
                name: "at_once",
                kind: Kind::Number,
                default: Some("1"),
                meaning: "How many are on their way at the same time.",
            },
        ],
        after: &[],
        meaning: "Planned: starts a run of the ready-made `switchover` for each range that a region owns, in their order, and waits for them. A range that would be refused (the target is far behind) is waited for. When one does not succeed, no other is begun, and the run ends like that one. Paused or aborted, it begins no other; those on their way end, and what has moved stays where it is. Nothing follows it.",
    },
    StepKind {
        name: "seal",
        keys: &[],
        after: &[Needs {
            one_of: &["fence", "fence_canary"],
            because: "only a log that was fenced can be sealed",
        }],
        meaning: "Forced: the other regions promise to take no more of the lost region's log; where acknowledgements may run ahead of copies, the end of its lease is waited for, too.",
    },
    StepKind {
        name: "cut",
        keys: &[],
        after: &[Needs {
            one_of: &["seal"],
            because: "a log that is not sealed could still grow past its cut",
        }],
        meaning: "Forced: the lost region's history ends at the last record that a region which has sealed it holds.",
    },
    StepKind {
        name: "late_write",
        keys: &[],
        after: &[
            Needs {
                one_of: &["fence_canary"],
                because: "somebody's rows would be written past the guard",
            },
            Needs { one_of: &["cut"], because: "what is written before it may be history" },
        ],
        meaning: "Drill: the old owner commits a row of the canary past its guard, as one would that has not heard of the fence, and its journal has to have it as `beyond_cut`, settled. The row is read again from its owner before the old one may write it anew. Stands before `grant`.",
    },
    StepKind {
        name: "catch_up",
        keys: &[],
        after: &[ENDED],
        meaning: "Waits until the new owner shows everything up to that end.",
    },
    StepKind {
        name: "grant",
        keys: &[],
        after: &[
            ENDED,
            Needs {
                one_of: &["catch_up"],
                because: "the new owner may lack what the old one wrote",
            },
        ],
        meaning: "Makes the new owner the owner, at the next epoch. There is no way back after this.",
    },
    StepKind {
        name: "reroute",
        keys: &[],
        after: &[GRANTED],
        meaning: "Waits until every gateway that can be reached sends writes to the new owner.",
    },
    StepKind {
        name: "verify",
        keys: &[],
        after: &[GRANTED],
        meaning: "Writes a canary row through the guard of the new owner.",
    },
    StepKind {
        name: "give_back",
        keys: &[],
        after: &[
            Needs {
                one_of: &["hand_over", "fence_canary"],
                because: "only what was handed over is given back, and the canary",
            },
            GRANTED,
        ],
        meaning: "Planned: starts a run of the ready-made `switchover` for each range that was taken, back to whoever owned it before, and waits for it. One that would be refused (that region is far behind) is waited for. When one does not succeed, no other is begun, and the run ends like that one.",
    },
];

/// The key of those steps that need not be part of every run.
pub const IF: &str = "if";

impl StepKind {
    /// May a flag leave it out of a run? What decides nothing about owners may be.
    pub fn is_optional(&self) -> bool {
        order::is_beside(self.name)
    }
}

/// Returns the step of this name.
pub fn step(name: &str) -> Option<&'static StepKind> {
    STEPS.iter().find(|step| step.name == name)
}

/// Prints the reference page.
pub fn reference() -> String {
    let mut page = String::from(INTRODUCTION);
    for step in STEPS {
        let _ = write!(page, "\n### `{}`\n\n{}\n", step.name, step.meaning);
        for needs in step.after {
            let names: Vec<String> = needs.one_of.iter().map(|name| format!("`{name}`")).collect();
            let _ = write!(
                page,
                "\nComes after {}: otherwise {}.\n",
                names.join(" or "),
                needs.because
            );
        }
        if step.keys.is_empty() {
            continue;
        }
        page.push_str("\n| key | type | default | meaning |\n| --- | --- | --- | --- |\n");
        for key in step.keys {
            let default = match key.default {
                Some(default) => format!("`{default}`"),
                None => "required".to_owned(),
            };
            let (name, kind) = (key.name, key.kind.name());
            let _ = writeln!(page, "| `{name}` | {kind} | {default} | {} |", key.meaning);
        }
        if step.is_optional() {
            let _ = writeln!(page, "| `{IF}` | a flag's name | always | {IF_MEANING} |");
        }
    }
    page
}

const IF_MEANING: &str = "`\"{urgent}\"`: it is skipped by runs that are told `urgent=false`; `\"!{urgent}\"`: by those that are told `urgent=true`. The plan and the report say so.";

const INTRODUCTION: &str = "\
# Runbooks

<!-- Printed by `domicile runbook reference`; do not edit. -->

A runbook is a TOML file. How to use one is told in docs/operating/runbooks.md. Unknown keys, values of the wrong type,
parameters that nobody declared or uses, and steps in an order that could lose a write or leave nobody as the owner are refused;
`domicile runbook lint` tells all mistakes at once, each with its line.

## The file

| key | meaning |
| --- | --- |
| `name` | required: lowercase letters, digits and hyphens, at most 64 |
| `about` | required: one sentence |
| `[objectives]` | what is promised of a run: `rto` and `rpo` |
| `[parameter.NAME]` | what a run is told: `type` (required), `about` (required), `default` |
| `[[step]]` | one step: `do` says which, the other keys what it is told |

A step's key has a value (`to = \"us\"`) or names a parameter (`to = \"{to}\"`).

| type | values |
| --- | --- |
| `region` | the name of a region, as in `\"eu\"` |
| `partitions` | one or several, as in `\"4\"` or `\"4-7\"`, or `\"canary\"`: the one that carries nobody's rows |
| `flag` | `true` or `false` |
| `number` | 1 to 1000 |
| `duration` | `\"500ms\"`, `\"30s\"`, `\"15m\"`, `\"2h\"`, at most 30 days |
| `name` | lowercase letters, digits, hyphens and underscores, as in `\"dba\"` |

## Objectives

| key | type | meaning |
| --- | --- | --- |
| `rto` | duration | For how long nobody may be able to write: from when the lost region was last heard or, where partitions are taken from an owner that is well, from when they are taken, until there is a new owner. |
| `rpo` | duration, or `\"0\"` | For a runbook with a `fence`: how old the oldest acknowledged write may be that is lost. |

An objective decides nothing. `domicile runbook plan` says which would be missed, `domicile runbook history` and `domicile runbook report` which was; a run that
has missed one has succeeded all the same.

## Steps

A runbook moves something once: it has one `hand_over`, `fence` or `fence_canary` with a `grant` after it, or else one `for_each`. Or it adds a region, with one `seed`. No step but `approve`, `check`, `exec`, `webhook` and `notify` stands in it twice. A step is asked,
never remembered: each looks at the facts and says whether it is done, what it waits for, or what to do. So any agent goes on with a run
from wherever it is.
";
