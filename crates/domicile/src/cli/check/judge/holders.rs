//! Are there enough who hold logs, and can say that a region is gone?

use domicile_core::config::Config;
use domicile_core::progress::Rpo;

use super::{Findings, warn};

pub fn judge(config: &Config, findings: &mut Findings) {
    let way_out = "Add a witness, in a third place: docs/operating/witness.md.";
    let mut add = |what: &str| {
        findings.add(None, warn("no_witness", "cluster".into(), what, way_out));
    };
    let copies = config.rpo.copies();
    let holders = config.holders().count();
    if config.rpo != Rpo::None && holders < copies + 2 {
        add(
            "once a region is lost, too few are left to hold copies: commits wait until it is back",
        );
    } else if config.failover.automatic && config.failover.observers < 2 {
        add("one region alone says that the other is gone, and takes over (failover.observers)");
    }
    if !config.failover.automatic && holders < 3 {
        add(
            "neither of two regions takes over by itself: a person has to say that the other is gone",
        );
    }
}
