//! How are rows divided, as one writes it? `whole`, `hash(column, n)` or `home(column)`.

use std::fmt;
use std::str::FromStr;

use domicile_core::partition::PARTITIONS_MAX;

/// The partition scheme as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Partition {
    Whole,
    Hash { columns: Vec<String>, count: u32 },
    Home { column: String },
}

impl Partition {
    /// The key of a table that names none.
    pub fn columns(&self) -> Vec<String> {
        match self {
            Self::Whole => Vec::new(),
            Self::Hash { columns, .. } => columns.clone(),
            Self::Home { column } => vec![column.clone()],
        }
    }
}

impl FromStr for Partition {
    type Err = String;

    /// Reads `whole`, `hash(column, n)` or `home(column)`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || {
            format!("\"{text}\" is not a scheme: expected whole, hash(column, n) or home(column)")
        };
        let text = text.trim();
        if text == "whole" {
            return Ok(Partition::Whole);
        }
        let (name, rest) = text.split_once('(').ok_or_else(refused)?;
        let inner = rest.strip_suffix(')').ok_or_else(refused)?;
        let arguments: Vec<&str> = inner.split(',').map(str::trim).collect();
        if arguments.iter().any(|argument| argument.is_empty()) {
            return Err(refused());
        }
        match (name.trim(), arguments.as_slice()) {
            ("home", [column]) => Ok(Partition::Home { column: (*column).to_owned() }),
            ("hash", [columns @ .., count]) if !columns.is_empty() => {
                let number = count.parse().ok().filter(|n| (1..=PARTITIONS_MAX).contains(n));
                let count = number.ok_or_else(|| {
                    format!("\"{count}\" partitions: expected a number from 1 to {PARTITIONS_MAX}")
                })?;
                Ok(Partition::Hash {
                    columns: columns.iter().map(|c| c.to_string()).collect(),
                    count,
                })
            }
            _ => Err(refused()),
        }
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole => f.write_str("whole"),
            Self::Hash { columns, count } => write!(f, "hash({}, {count})", columns.join(", ")),
            Self::Home { column } => write!(f, "home({column})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scheme_survives_printing() {
        for text in ["whole", "hash(branch_id, 48)", "hash(tenant, project, 1000000)", "home(r)"] {
            assert_eq!(text.parse::<Partition>().unwrap().to_string(), text);
        }
        for wrong in
            ["", "hash", "hash(48)", "hash(a, 0)", "hash(a, 1000001)", "home(a, b)", "hash(a,)"]
        {
            assert!(wrong.parse::<Partition>().is_err(), "{wrong}");
        }
    }
}
