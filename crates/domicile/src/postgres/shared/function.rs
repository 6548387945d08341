//! May this function decide conflicts: is it there, will it say the same in every region, and is it
//! safe to call?

use tokio_postgres::{GenericClient, Row};

use crate::postgres::session::quote_name;

/// Looks a function up by its [`signature`]; [`doubt`] understands the answer.
pub const LOOK_UP: &str = "SELECT prorettype = 'jsonb'::regtype, provolatile = 'i',
                                  pg_has_role(proowner, 'USAGE')
                           FROM pg_proc WHERE oid = to_regprocedure($1)";

/// As it is called, with its schema.
pub fn signature(function: &str) -> String {
    format!("{}(jsonb, jsonb, jsonb)", quoted(function))
}

pub fn quoted(function: &str) -> String {
    function.split('.').map(quote_name).collect::<Vec<_>>().join(".")
}

/// Says why the function may not be called, if so.
pub fn doubt(found: &[Row]) -> Option<&'static str> {
    let Some(row) = found.first() else { return Some("does not exist") };
    match (row.get(0), row.get(1), row.get(2)) {
        (true, true, true) => None,
        (false, _, _) => Some("does not return jsonb"),
        (_, false, _) => Some("is not immutable: regions could end differently"),
        (_, _, false) => Some("does not belong to the agent's role, which would run it"),
    }
}

/// Looks a function up and says why it may not be called, if so.
pub async fn look_up(
    client: &impl GenericClient,
    function: &str,
) -> Result<Option<&'static str>, tokio_postgres::Error> {
    Ok(doubt(&client.query(LOOK_UP, &[&signature(function)]).await?))
}
