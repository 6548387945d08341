//! How large may keys, values and reads be? The same in either directory.
//!
//! etcd takes requests of 1.5 MiB unless it is told otherwise: a value of the largest size fits,
//! with its key and its condition.

use bytes::Bytes;
use thiserror::Error;

use super::{Document, KEY_BYTES_MAX, READ_BYTES_MAX, VALUE_BYTES_MAX};

/// What neither directory takes.
#[derive(Debug, PartialEq, Eq, Error)]
pub(super) enum OutOfLimits {
    #[error("key is empty")]
    KeyEmpty,
    #[error("key has {len} bytes, more than {KEY_BYTES_MAX}")]
    KeyTooLong { len: usize },
    #[error("key has a control character")]
    KeyControl,
    #[error("document {key:?} would have {len} bytes, more than {VALUE_BYTES_MAX}")]
    ValueTooLong { key: String, len: usize },
    #[error("a delete must name the revision of the document it deletes")]
    DeleteOfNothing,
    #[error("documents under prefix {prefix:?} are more than {READ_BYTES_MAX} bytes")]
    ReadTooLong { prefix: String },
}

pub(super) fn check_write(
    key: &str,
    expected: u64,
    value: Option<&Bytes>,
) -> Result<(), OutOfLimits> {
    if key.is_empty() {
        return Err(OutOfLimits::KeyEmpty);
    }
    check_prefix(key)?;
    match value {
        None if expected == 0 => Err(OutOfLimits::DeleteOfNothing),
        Some(value) if value.len() > VALUE_BYTES_MAX => {
            Err(OutOfLimits::ValueTooLong { key: key.to_owned(), len: value.len() })
        }
        None | Some(_) => Ok(()),
    }
}

/// Refuses a prefix that no key could have.
pub(super) fn check_prefix(prefix: &str) -> Result<(), OutOfLimits> {
    if prefix.len() > KEY_BYTES_MAX {
        return Err(OutOfLimits::KeyTooLong { len: prefix.len() });
    }
    if prefix.chars().any(char::is_control) {
        return Err(OutOfLimits::KeyControl);
    }
    Ok(())
}

pub(super) fn check_read(prefix: &str, documents: &[Document]) -> Result<(), OutOfLimits> {
    let bytes: usize = documents.iter().map(|d| d.key.len() + d.value.len()).sum();
    if bytes > READ_BYTES_MAX {
        return Err(OutOfLimits::ReadTooLong { prefix: prefix.to_owned() });
    }
    Ok(())
}
