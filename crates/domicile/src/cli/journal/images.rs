//! How do up to three images of one row look beside each other?

use serde_json::Value;

/// What stands for a value that an image does not have.
const ABSENT: &str = "-";

/// One column of the row, in each image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub column: String,
    pub old: String,
    pub new: String,
    pub local: String,
    /// What lost is not what stayed.
    pub differs: bool,
}

/// Returns a line for every column that any image has, in the images' own order.
pub fn side_by_side(old: &Option<Value>, new: &Option<Value>, local: &Option<Value>) -> Vec<Line> {
    let images = [old, new, local];
    let mut columns: Vec<&String> = Vec::new();
    for image in images {
        let object = image.as_ref().and_then(Value::as_object);
        for column in object.into_iter().flat_map(|object| object.keys()) {
            if !columns.contains(&column) {
                columns.push(column);
            }
        }
    }
    let value = |image: &Option<Value>, column: &str| {
        image.as_ref().and_then(|image| image.get(column)).map_or(ABSENT.to_owned(), plain)
    };
    columns
        .into_iter()
        .map(|column| {
            let (old, new, local) = (value(old, column), value(new, column), value(local, column));
            let differs = new != ABSENT && new != local;
            Line { column: column.clone(), old, new, local, differs }
        })
        .collect()
}

/// Prints a key as `id=7, branch=2`.
pub fn short(key: &Option<Value>) -> String {
    match key {
        None | Some(Value::Null) => String::new(),
        Some(Value::Object(columns)) => {
            let parts = columns.iter().map(|(name, value)| format!("{name}={}", plain(value)));
            parts.collect::<Vec<_>>().join(", ")
        }
        Some(other) => plain(other),
    }
}

/// A text without its quotes, anything else as JSON.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn images_are_compared_column_by_column() {
        let lines = side_by_side(
            &Some(json!({"id": 7})),
            &Some(json!({"id": 7, "name": "Ann", "note": null})),
            &Some(json!({"id": 7, "name": "Anna"})),
        );
        let printed: Vec<String> =
            lines.iter().map(|l| [&*l.column, &l.old, &l.new, &l.local].join("|")).collect();
        assert_eq!(printed, ["id|7|7|7", "name|-|Ann|Anna", "note|-|null|-"]);
        assert_eq!(lines.iter().filter(|l| l.differs).count(), 2);
    }

    #[test]
    fn a_key_is_printed_in_short() {
        assert_eq!(short(&Some(json!({"tenant": "a", "id": 7}))), "id=7, tenant=a");
        assert_eq!(short(&None), "");
    }
}
