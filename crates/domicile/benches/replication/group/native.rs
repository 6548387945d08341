//! PostgreSQL's own logical replication: a publication and subscriptions, as they are by default.

use std::sync::Arc;

use domicile::lab::cluster::{Cluster, TemporaryFolder, temporary_cluster};
use futures_util::future::try_join_all;
use tokio::try_join;

use super::{End, connect, settings, wait_for, wait_until_alone};
use crate::workload::Workload;

pub struct Native {
    source: (Cluster, Arc<TemporaryFolder>),
    targets: Vec<(Cluster, Arc<TemporaryFolder>)>,
}

impl Native {
    pub async fn create(workload: Workload, targets: usize) -> anyhow::Result<Self> {
        let settings = settings();
        let (source, targets) = try_join!(
            temporary_cluster("native-source", &settings),
            try_join_all((0..targets).map(|_| temporary_cluster("native-target", &settings)))
        )?;
        let group = Self { source, targets };
        let (from, to) = (group.postgres(End::Source), group.targets());
        try_join!(workload.fill(&from), try_join_all(to.iter().map(|to| workload.fill(to))))?;
        connect(&from).await?.batch_execute("CREATE PUBLICATION bench FOR ALL TABLES").await?;
        for (number, to) in to.iter().enumerate() {
            let subscribe = format!(
                "CREATE SUBSCRIPTION bench CONNECTION '{from}' PUBLICATION bench
                 WITH (copy_data = false, slot_name = 'bench_{number}')"
            );
            let target = connect(to).await?;
            target.batch_execute(&subscribe).await?;
            let ready =
                "SELECT NOT EXISTS (SELECT FROM pg_subscription_rel WHERE srsubstate <> 'r')";
            wait_for(&target, "every table is subscribed to", ready).await?;
        }
        Ok(group)
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
        self.alter("DISABLE").await?;
        wait_until_alone(&connect(&self.postgres(End::Source)).await?).await
    }

    pub async fn start(&mut self) -> anyhow::Result<()> {
        self.alter("ENABLE").await
    }

    async fn alter(&self, how: &str) -> anyhow::Result<()> {
        for target in self.targets() {
            let sql = format!("ALTER SUBSCRIPTION bench {how}");
            connect(&target).await?.batch_execute(&sql).await?;
        }
        Ok(())
    }
}
