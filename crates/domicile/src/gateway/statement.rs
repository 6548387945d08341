//! Where do the keys in a statement lead?
//!
//! A statement that writes, and says whose rows, begins at their owner: there it meets rows that this
//! region may not have yet, and no refusal. What [`sql`](super::sql) reads of it is given its meaning by
//! [`domicile_core::route::rows`]; both may know nothing, and then the statement is tried here.

use std::collections::BTreeSet;

use bytes::Bytes;
use domicile_core::id::PartitionId;
use domicile_core::route::rows::{Given, Operand, keys, partitions};
use domicile_pg::frontend::{self, Frontend, Value, tag as from_client};

use super::session::Session;
use super::{cut, sql};

/// Behind a Parse its Bind is looked for among so many messages.
const AHEAD_MAX: usize = 4;

impl Session {
    /// Returns to which partitions belongs what the client's next message writes, none where nobody owns
    /// that; `None` where it is not known.
    pub async fn written(&self, tag: u8, raw: &Bytes) -> Option<BTreeSet<PartitionId>> {
        let body = cut::body(raw);
        let (text, bind) = self.statement(tag, &body)?;
        let touched = sql::touched(&text).filter(|touched| !touched.is_empty())?;
        let config = &self.shared.config;
        let (tables, types) = config.columns.known().await?;
        let values = match &bind {
            Some(bind) => frontend::bind_values(bind).ok()?,
            None => Vec::new(),
        };
        partitions(&keys(&touched, tables)?, &config.layout, |table, column, operand| {
            types.get(table, column)?.text(match operand {
                Operand::Literal(text) => Given::Text(text.as_bytes()),
                Operand::Parameter(number) => match values.get(*number)? {
                    Value { is_binary: true, bytes } => Given::Binary((*bytes)?),
                    Value { is_binary: false, bytes } => Given::Text((*bytes)?),
                },
            })
        })
    }

    /// The text that a message prepares or runs. What the unnamed statement is, is not known here.
    pub fn text(&self, tag: u8, body: &Bytes) -> Option<Bytes> {
        match frontend::read(tag, body).ok()? {
            Frontend::Query(text) | Frontend::Parse { sql: text, .. } => Some(body.slice_ref(text)),
            Frontend::Bind { statement, .. } => {
                let parse = cut::body(self.memory.prepared().get(statement)?);
                match frontend::read(from_client::PARSE, &parse).ok()? {
                    Frontend::Parse { sql, .. } => Some(parse.slice_ref(sql)),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// The text that a message runs, with the Bind that gives it values. Behind a Parse that is what the
    /// client has sent with it, if it has.
    fn statement(&self, tag: u8, body: &Bytes) -> Option<(Bytes, Option<Bytes>)> {
        match frontend::read(tag, body).ok()? {
            Frontend::Query(text) => Some((body.slice_ref(text), None)),
            Frontend::Parse { statement: parsed, sql } => {
                let mut ahead = cut::ahead(&self.client.incoming).take(AHEAD_MAX);
                let bind = ahead.find(|(tag, _)| *tag == from_client::BIND);
                let bind = bind.filter(|(tag, bind)| {
                    let bound = frontend::read(*tag, bind);
                    matches!(bound, Ok(Frontend::Bind { statement, .. }) if statement == parsed)
                });
                Some((body.slice_ref(sql), Some(Bytes::copy_from_slice(bind?.1))))
            }
            Frontend::Bind { statement, .. } => {
                let raw = self.memory.prepared().get(statement)?;
                let parse = cut::body(raw);
                match frontend::read(from_client::PARSE, &parse).ok()? {
                    Frontend::Parse { sql, .. } => Some((parse.slice_ref(sql), Some(body.clone()))),
                    _ => None,
                }
            }
            _ => None,
        }
    }
}
