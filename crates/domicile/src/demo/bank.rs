//! What does the demo's application store, and which statements does it send?
//!
//! A bank: every branch belongs to one partition. A client names each operation itself, so that
//! what was acknowledged can be looked for, one by one, in every region afterwards; and each
//! operation moves money, so that one applied twice or by half shows in the books.

use domicile_core::id::PartitionId;
use domicile_core::partition::{Layout, Scheme};
use uuid::Uuid;

/// Every partition has this many branches, so none is idle.
const BRANCHES_PER_PARTITION: u32 = 2;
/// The whole database is one partition; more branches spread its rows.
const BRANCHES_WHEN_WHOLE: u32 = 12;
pub const ACCOUNTS_PER_BRANCH: u32 = 8;
pub const START_BALANCE: i64 = 1000;

/// The tables whose rows must be the same everywhere, with how to order by identity.
pub const TABLES: [&str; 5] = ["branches", "accounts", "ledger", "transfers", "receipts"];

/// Active-passive has one partition for everything; active-active divides by branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Division {
    Whole,
    ByBranch(u32),
}

/// One branch, and the partition that its rows belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Branch {
    pub id: u32,
    pub partition: u32,
}

impl Division {
    pub fn partitions(self) -> u32 {
        match self {
            Self::Whole => 1,
            Self::ByBranch(partitions) => partitions,
        }
    }

    /// As the configuration spells it.
    pub fn setting(self) -> String {
        match self {
            Self::Whole => "whole".to_owned(),
            Self::ByBranch(partitions) => format!("hash(branch_id, {partitions})"),
        }
    }

    /// Returns branches such that no partition is without one.
    pub fn branches(self) -> Vec<Branch> {
        let (scheme, each) = match self {
            Self::Whole => (Scheme::Whole, BRANCHES_WHEN_WHOLE),
            Self::ByBranch(count) => (Scheme::Hash { count }, BRANCHES_PER_PARTITION),
        };
        let layout = Layout { scheme, has_reference: false };
        let mut room = vec![each; self.partitions() as usize];
        let mut branches = Vec::new();
        for id in 1.. {
            let key = id.to_string();
            let Ok(PartitionId(partition)) = layout.partition_of(&[key.as_bytes()]) else { break };
            if let Some(left) = room.get_mut(partition as usize).filter(|left| **left > 0) {
                *left -= 1;
                branches.push(Branch { id, partition });
            }
            if room.iter().all(|left| *left == 0) {
                break;
            }
        }
        branches
    }

    /// The `[[table]]` part of the configuration.
    pub fn tables_toml(self) -> String {
        let key = |table: &str| match (self, table) {
            (Self::Whole, _) => String::new(),
            (Self::ByBranch(_), "receipts") => {
                "parent = { table = \"ledger\", columns = \"op_id\", references = \"op_id\" }\n"
                    .to_owned()
            }
            (Self::ByBranch(_), _) => "key = \"branch_id\"\n".to_owned(),
        };
        let table =
            |name| format!("[[table]]\nname = \"{name}\"\nkind = \"owned\"\n{}\n", key(name));
        TABLES.map(table).concat()
    }

    /// Schema and first rows, the same in every region. The application has a role of its own,
    /// so nothing here depends on being a superuser.
    pub fn seed_sql(self) -> String {
        let branches: Vec<String> = self
            .branches()
            .iter()
            .map(|branch| format!("({id}, 'branch {id}')", id = branch.id))
            .collect();
        format!(
            "{}\nINSERT INTO branches VALUES {};\n\
             INSERT INTO accounts SELECT branch_id, account, {START_BALANCE} \
             FROM branches, generate_series(1, {ACCOUNTS_PER_BRANCH}) AS account;\n",
            include_str!("bank.sql"),
            branches.join(", "),
        )
    }

    /// All the money there is before the first deposit.
    pub fn start_money(self) -> i64 {
        self.branches().len() as i64 * i64::from(ACCOUNTS_PER_BRANCH) * START_BALANCE
    }
}

/// Pays money in: account, ledger and receipt in one statement. Answers with the region that
/// committed it.
pub fn deposit(op: Uuid, branch: u32, account: u32, amount: u32) -> String {
    let receipt = Uuid::now_v7();
    format!(
        "WITH credited AS (UPDATE accounts SET balance = balance + {amount} \
         WHERE branch_id = {branch} AND account_id = {account} RETURNING branch_id), \
         written AS (INSERT INTO ledger (op_id, branch_id, account_id, amount) \
         SELECT '{op}', branch_id, {account}, {amount} FROM credited RETURNING op_id), \
         receipt AS (INSERT INTO receipts (receipt_id, op_id) SELECT '{receipt}', op_id FROM written) \
         SELECT current_setting('cluster_name') FROM written"
    )
}

/// Moves money between two accounts of one branch.
pub fn transfer(op: Uuid, branch: u32, from: u32, to: u32, amount: u32) -> String {
    format!(
        "WITH moved AS (UPDATE accounts SET balance = balance + \
         CASE account_id WHEN {from} THEN -{amount} ELSE {amount} END \
         WHERE branch_id = {branch} AND account_id IN ({from}, {to}) RETURNING account_id), \
         written AS (INSERT INTO transfers (op_id, branch_id, from_account, to_account, amount) \
         SELECT '{op}', {branch}, {from}, {to}, {amount} FROM moved WHERE account_id = {from} \
         RETURNING op_id) SELECT current_setting('cluster_name') FROM written"
    )
}

/// Moves money between two branches; refused when they have two owners.
pub fn transfer_between(from: u32, to: u32, amount: u32) -> String {
    format!(
        "UPDATE accounts SET balance = balance + \
         CASE branch_id WHEN {from} THEN -{amount} ELSE {amount} END \
         WHERE account_id = 1 AND branch_id IN ({from}, {to})"
    )
}

pub fn balance(branch: u32, account: u32) -> String {
    format!("SELECT balance FROM accounts WHERE branch_id = {branch} AND account_id = {account}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_partition_has_its_branches() {
        for partitions in [1, 3, 12, 50] {
            let branches = Division::ByBranch(partitions).branches();
            for partition in 0..partitions {
                let there = branches.iter().filter(|branch| branch.partition == partition).count();
                assert_eq!(there, 2, "partition {partition} of {partitions}");
            }
        }
        assert_eq!(Division::Whole.branches().len(), 12);
    }

    #[test]
    fn only_a_divided_bank_names_keys() {
        let toml: toml::Table = Division::ByBranch(12).tables_toml().parse().unwrap();
        let tables = toml["table"].as_array().unwrap();
        assert_eq!(tables.len(), TABLES.len());
        assert_eq!(tables[4]["parent"]["table"].as_str(), Some("ledger"));
        assert!(!Division::Whole.tables_toml().contains("key"));
    }
}
