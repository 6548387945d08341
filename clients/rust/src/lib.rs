//! How are the cases of a driver run, and told to `clients/run.py`? As `clients/python/cases.py` says.

use std::error::Error;
use std::future::Future;
use std::time::Duration;

use serde_json::json;

/// A case passes unless it returns an error or panics.
pub type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

/// A case that takes longer has failed.
const CASE_WAIT_MAX: Duration = Duration::from_secs(60);

/// Tells of the driver; its version is what `Cargo.lock` has.
pub fn driver(name: &str) {
    let locked = include_str!("../Cargo.lock");
    let version =
        locked.split_once(&format!("name = \"{name}\"\nversion = \"")).map(|(_, rest)| rest);
    let version = version.and_then(|rest| rest.split('"').next());
    println!("{}", json!({ "driver": name, "version": version }));
}

/// Runs one case, in a task of its own so that a panic is its own, too.
pub async fn case(name: &str, body: impl Future<Output = Outcome> + Send + 'static) {
    let detail = match tokio::time::timeout(CASE_WAIT_MAX, tokio::spawn(body)).await {
        Ok(Ok(Ok(()))) => None,
        Ok(Ok(Err(error))) => Some(format!("{error:?}")),
        Ok(Err(panic)) => Some(panic.to_string()),
        Err(late) => Some(late.to_string()),
    };
    let outcome = if detail.is_none() { "passed" } else { "failed" };
    println!(
        "{}",
        json!({ "case": name, "outcome": outcome, "detail": detail.unwrap_or_default() })
    );
}

/// `postgres://user:password@host:port/database`
pub fn url() -> String {
    let of = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"));
    let (user, password) = (of("PGUSER"), of("PGPASSWORD"));
    format!("postgres://{user}:{password}@{}:{}/{}", of("PGHOST"), of("PGPORT"), of("PGDATABASE"))
}

/// Ten million bytes that do not compress to nothing.
pub fn large_bytes() -> Vec<u8> {
    (0..10_000_000u32).map(|i| (i.wrapping_mul(i) % 251) as u8).collect()
}

pub fn large_text() -> String {
    "žluťoučký 🐎 ".repeat(700_000)
}

/// Fails a case where two things differ.
#[macro_export]
macro_rules! same {
    ($one:expr, $other:expr) => {
        match (&$one, &$other) {
            (one, other) if one != other => {
                return Err(format!("{}:{}: {one:?} is not {other:?}", file!(), line!()).into());
            }
            _ => {}
        }
    };
}
