//! PostgreSQL's own logical replication: a publication and a subscription, as they are by default.

use std::sync::Arc;

use domicile::lab::cluster::{Cluster, TemporaryFolder, temporary_cluster};
use tokio::try_join;

use super::{End, connect, settings, wait_for, wait_until_alone};
use crate::workload::Workload;

pub struct Native {
    source: (Cluster, Arc<TemporaryFolder>),
    target: (Cluster, Arc<TemporaryFolder>),
}

impl Native {
    pub async fn create(workload: Workload) -> anyhow::Result<Self> {
        let settings = settings();
        let (source, target) = try_join!(
            temporary_cluster("native-source", &settings),
            temporary_cluster("native-target", &settings)
        )?;
        let pair = Self { source, target };
        let (from, to) = (pair.postgres(End::Source), pair.postgres(End::Target));
        try_join!(workload.fill(&from), workload.fill(&to))?;
        connect(&from).await?.batch_execute("CREATE PUBLICATION bench FOR ALL TABLES").await?;
        let subscribe = format!(
            "CREATE SUBSCRIPTION bench CONNECTION '{from}' PUBLICATION bench WITH (copy_data = false)"
        );
        let target = connect(&to).await?;
        target.batch_execute(&subscribe).await?;
        let ready = "SELECT NOT EXISTS (SELECT FROM pg_subscription_rel WHERE srsubstate <> 'r')";
        wait_for(&target, "every table is subscribed to", ready).await?;
        Ok(pair)
    }

    pub fn postgres(&self, end: End) -> String {
        match end {
            End::Source => self.source.0.connection_string(),
            End::Target => self.target.0.connection_string(),
        }
    }

    pub async fn stop(&mut self) -> anyhow::Result<()> {
        let target = connect(&self.postgres(End::Target)).await?;
        target.batch_execute("ALTER SUBSCRIPTION bench DISABLE").await?;
        wait_until_alone(&connect(&self.postgres(End::Source)).await?).await
    }

    pub async fn start(&mut self) -> anyhow::Result<()> {
        let target = connect(&self.postgres(End::Target)).await?;
        Ok(target.batch_execute("ALTER SUBSCRIPTION bench ENABLE").await?)
    }
}
