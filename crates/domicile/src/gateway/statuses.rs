//! What has a server said of its settings, in as little memory as that takes?
//!
//! Every client has its own, also one that does nothing for hours. They are few and change seldom, so they lie one
//! behind the other as on the wire, and are read from the beginning.

use domicile_pg::backend;

/// By name, in the order in which they were said last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statuses {
    /// Names and values, each ended by a zero byte.
    text: Vec<u8>,
}

impl Statuses {
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut rest = self.text.as_slice();
        std::iter::from_fn(move || Some((taken(&mut rest)?, taken(&mut rest)?)))
    }

    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.iter().find_map(|(known, value)| (known == name).then_some(value))
    }

    /// Neither has a zero byte in it.
    pub fn insert(&mut self, name: &[u8], value: &[u8]) {
        if self.get(name) == Some(value) {
            return;
        }
        self.remove(name);
        self.text.reserve_exact(name.len() + value.len() + 2);
        for part in [name, value] {
            self.text.extend_from_slice(part);
            self.text.push(0);
        }
    }

    pub fn remove(&mut self, name: &[u8]) {
        let bytes = |(name, value): (&[u8], &[u8])| name.len() + value.len() + 2;
        let before: usize = self.iter().take_while(|(known, _)| *known != name).map(bytes).sum();
        if let Some(value) = self.get(name) {
            let end = before + bytes((name, value));
            self.text.drain(before..end);
        }
    }

    /// Remembers what the body of a ParameterStatus says.
    pub fn note(&mut self, body: &[u8]) {
        if let Ok((name, value)) = backend::parameter_status(body) {
            self.insert(name, value);
        }
    }
}

/// Takes what stands before the next zero byte.
fn taken<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = rest.iter().position(|byte| *byte == 0)?;
    let (taken, after) = (&rest[..end], &rest[end + 1..]);
    *rest = after;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn text() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(1..4_u8, 0..4)
    }

    proptest! {
        #[test]
        fn they_are_what_was_said_last(said in prop::collection::vec((text(), prop::option::of(text())), 0..20)) {
            let (mut statuses, mut expected) = (Statuses::default(), BTreeMap::new());
            for (name, value) in said {
                match value {
                    Some(value) => {
                        let body = [name.as_slice(), &[0], &value, &[0]].concat();
                        statuses.note(&body);
                        expected.insert(name, value);
                    }
                    None => {
                        statuses.remove(&name);
                        expected.remove(&name);
                    }
                }
            }
            let known: BTreeMap<Vec<u8>, Vec<u8>> =
                statuses.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
            prop_assert_eq!(statuses.iter().count(), known.len());
            prop_assert_eq!(known, expected);
        }
    }
}
