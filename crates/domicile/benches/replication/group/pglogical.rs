//! pglogical, as it is by default: a node at each end, and subscriptions.

use std::sync::Arc;

use anyhow::Context;
use domicile::lab::cluster::{Cluster, PgBin, TemporaryFolder, temporary_cluster};
use futures_util::future::try_join_all;
use tokio::process::Command;
use tokio::try_join;

use super::{End, connect, settings, wait_for, wait_until_alone};
use crate::workload::Workload;

pub struct Pglogical {
    source: (Cluster, Arc<TemporaryFolder>),
    targets: Vec<(Cluster, Arc<TemporaryFolder>)>,
}

impl Pglogical {
    /// Returns nothing when the server has no such extension.
    pub async fn create(workload: Workload, targets: usize) -> anyhow::Result<Option<Self>> {
        if !is_installed().await? {
            return Ok(None);
        }
        let mut settings = settings();
        settings.push(("shared_preload_libraries", "pglogical"));
        let (source, targets) = try_join!(
            temporary_cluster("pglogical-source", &settings),
            try_join_all((0..targets).map(|_| temporary_cluster("pglogical-target", &settings)))
        )?;
        let group = Self { source, targets };
        let (from, to) = (group.postgres(End::Source), group.targets());
        try_join!(workload.fill(&from), try_join_all(to.iter().map(|to| workload.fill(to))))?;
        group.node(End::Source).await?;
        let source = connect(&from).await?;
        for (table, has_key) in workload.tables().iter().chain(&[("marker", true)]) {
            let set = if *has_key { "default" } else { "default_insert_only" };
            let sql = "SELECT pglogical.replication_set_add_table($1, $2::text::regclass)";
            source.execute(sql, &[&set, table]).await.context("publish a table")?;
        }
        for (number, to) in to.iter().enumerate() {
            group.node(End::Target(number)).await?;
            let target = connect(to).await?;
            let subscribe = format!(
                "SELECT pglogical.create_subscription(
                     subscription_name := '{}', provider_dsn := '{from}',
                     synchronize_structure := false, synchronize_data := false)",
                subscription(number)
            );
            target.batch_execute(&subscribe).await.context("subscribe")?;
            let ready =
                "SELECT bool_and(status = 'replicating') FROM pglogical.show_subscription_status()";
            wait_for(&target, "pglogical replicates", ready).await?;
        }
        Ok(Some(group))
    }

    async fn node(&self, end: End) -> anyhow::Result<()> {
        let (postgres, name) = (self.postgres(end), end.name());
        let sql = format!(
            "CREATE EXTENSION pglogical;
             SELECT pglogical.create_node(node_name := '{name}', dsn := '{postgres}')"
        );
        connect(&postgres).await?.batch_execute(&sql).await.context("make a node")
    }

    pub fn postgres(&self, end: End) -> String {
        match end {
            End::Source => self.source.0.connection_string(),
            End::Target(number) => self.targets[number].0.connection_string(),
        }
    }

    pub fn targets(&self) -> Vec<String> {
        self.targets.iter().map(|(cluster, _)| cluster.connection_string()).collect()
    }

    pub async fn stop(&mut self) -> anyhow::Result<()> {
        self.alter("disable").await?;
        wait_until_alone(&connect(&self.postgres(End::Source)).await?).await
    }

    pub async fn start(&mut self) -> anyhow::Result<()> {
        self.alter("enable").await
    }

    async fn alter(&self, how: &str) -> anyhow::Result<()> {
        for (number, target) in self.targets().iter().enumerate() {
            let name = subscription(number);
            let sql = format!("SELECT pglogical.alter_subscription_{how}('{name}', true)");
            let target = connect(target).await?;
            target.batch_execute(&sql).await.with_context(|| format!("{how} the subscription"))?;
        }
        Ok(())
    }
}

/// The slot at the source is named after it, so each target has another.
fn subscription(number: usize) -> String {
    format!("bench_{number}")
}

async fn is_installed() -> anyhow::Result<bool> {
    let folder = PgBin::find(None)?.folder().to_owned();
    let config = Command::new(folder.join("pg_config")).arg("--pkglibdir").output().await;
    let libraries = match config {
        Ok(output) => String::from_utf8_lossy(&output.stdout).trim().into(),
        // Where Debian puts them.
        Err(_) => folder.join("../lib"),
    };
    Ok(libraries.join("pglogical.so").exists())
}
