//! Which values of a payload are the same, for `uniqueItems`.
//!
//! Each node is given a hash of 128 bits that is made of those of its parts: so all are made in one pass
//! from the last node to the first, and arrays in arrays cost no more than their nodes. The hash is keyed
//! with random numbers, so nobody can make two values that differ and have the same.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, Hash, RandomState};

use super::document::{Document, Kind};

/// The hashes of a document's nodes, as far as they are made, and the arrays that were looked at.
#[derive(Debug, Default)]
pub struct Identities {
    hashers: [RandomState; 2],
    /// From the last node on.
    hashes: Vec<u128>,
    /// Of the array that is being looked at.
    seen: HashSet<u128>,
    unique: HashMap<u32, bool>,
}

/// What a node takes here: its hash, and its place among those that were seen.
pub const NODE_BYTES: u64 = 2 * size_of::<u128>() as u64 + 40;

impl Identities {
    /// What they take of memory when all are made.
    pub fn bytes(document: &Document<'_>) -> u64 {
        u64::from(document.len()).saturating_mul(NODE_BYTES)
    }

    /// What is known of an array.
    pub fn is_unique(&self, array: u32) -> Option<bool> {
        self.unique.get(&array).copied()
    }

    /// Says what was found out of an array.
    pub fn set_unique(&mut self, array: u32, is_unique: bool) {
        self.seen.clear();
        self.unique.insert(array, is_unique);
    }

    /// Notes an element of the array that is being looked at. Gives whether it is the first of its kind.
    pub fn insert(&mut self, document: &Document<'_>, element: u32) -> bool {
        let at = document.len().saturating_sub(element).saturating_sub(1);
        let hash = self.hashes.get(at as usize).copied().unwrap_or_default();
        self.seen.insert(hash)
    }

    /// Makes one hash more. Gives the steps it took; `None` when all are made.
    pub fn advance(&mut self, document: &Document<'_>) -> Option<u64> {
        let made = u32::try_from(self.hashes.len()).unwrap_or(u32::MAX);
        let at = document.len().checked_sub(made)?.checked_sub(1)?;
        let (hash, steps) = match document.kind(at) {
            Kind::Null => (self.hash(&0_u8), 1),
            Kind::Bool(truth) => (self.hash(&(1_u8, truth)), 1),
            Kind::Number(number) => (self.hash(&(2_u8, number.key())), 1),
            Kind::Text(text) => {
                let text = document.text(text);
                (self.hash(&(3_u8, text)), 1 + text.len() as u64 / 32)
            }
            // Where containers are large this is one long step; but all are one pass over the payload.
            Kind::Array(count) => {
                let each = document.children(at).map(|child| self.of(document, child));
                (self.hash(&(4_u8, each.collect::<Vec<_>>())), 1 + u64::from(count))
            }
            Kind::Object(count) => {
                // Their order does not count.
                let each = document
                    .children(at)
                    .map(|child| self.hash(&(document.name(child), self.of(document, child))));
                let sum = each.fold(0_u128, u128::wrapping_add);
                (self.hash(&(5_u8, sum)), 1 + 2 * u64::from(count))
            }
        };
        self.hashes.push(hash);
        Some(steps)
    }

    fn of(&self, document: &Document<'_>, node: u32) -> u128 {
        let at = document.len().saturating_sub(node).saturating_sub(1);
        self.hashes.get(at as usize).copied().unwrap_or_default()
    }

    fn hash(&self, value: &impl Hash) -> u128 {
        self.hashers.iter().fold(0, |hash, state| hash << 64 | u128::from(state.hash_one(value)))
    }
}

/// Whether a node of one document is the same value as one of another, and the steps it took.
///
/// It recurses as deep as the second document, which the parser lets be 128 levels.
pub fn same(one: (&Document<'_>, u32), other: (&Document<'_>, u32)) -> (bool, u64) {
    let ((document, node), (others, of)) = (one, other);
    let mut steps = 1;
    let is_same = match (document.kind(node), others.kind(of)) {
        (Kind::Null, Kind::Null) => true,
        (Kind::Bool(one), Kind::Bool(other)) => one == other,
        (Kind::Number(one), Kind::Number(other)) => one.key() == other.key(),
        (Kind::Text(one), Kind::Text(other)) => {
            let (one, other) = (document.text(one), others.text(other));
            steps += one.len().min(other.len()) as u64 / 32;
            one == other
        }
        (Kind::Array(count), Kind::Array(other)) => {
            count == other
                && document.children(node).zip(others.children(of)).all(|(one, other)| {
                    let (is_same, more) = same((document, one), (others, other));
                    steps += more;
                    is_same
                })
        }
        (Kind::Object(count), Kind::Object(other)) => {
            count == other
                && others.children(of).all(|other| {
                    let name = others.name(other);
                    steps += 1 + name.len() as u64 / 32;
                    document.member(node, name).is_some_and(|one| {
                        let (is_same, more) = same((document, one), (others, other));
                        steps += more;
                        is_same
                    })
                })
        }
        _ => false,
    };
    (is_same, steps)
}
