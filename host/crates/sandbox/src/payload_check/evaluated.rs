//! What of a value the keywords of a schema have looked at, for `unevaluatedProperties` and
//! `unevaluatedItems` (JSON Schema 2020-12, section 11).

use std::collections::HashSet;

/// The members and elements that were looked at.
#[derive(Debug, Default)]
pub struct Evaluated {
    /// All members were.
    pub members: bool,
    /// All elements were.
    pub elements: bool,
    /// So many elements from the first one were.
    pub first: u32,
    /// Nodes that were, besides.
    nodes: HashSet<u32>,
}

impl Evaluated {
    /// How many members or elements are noted one by one.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// One member or element more.
    pub fn insert(&mut self, node: u32) {
        self.nodes.insert(node);
    }

    /// Whether a member or element, the one at that place, was looked at.
    pub fn has_element(&self, place: u32, node: u32) -> bool {
        self.elements || place < self.first || self.nodes.contains(&node)
    }

    /// The same of a member.
    pub fn has_member(&self, node: u32) -> bool {
        self.members || self.nodes.contains(&node)
    }

    /// Adds what another schema has looked at of the same value. Gives how many steps that took.
    pub fn merge(&mut self, mut other: Self) -> u64 {
        if other.nodes.len() > self.nodes.len() {
            std::mem::swap(&mut self.nodes, &mut other.nodes);
        }
        let steps = other.nodes.len() as u64;
        self.nodes.extend(other.nodes);
        self.members |= other.members;
        self.elements |= other.elements;
        self.first = self.first.max(other.first);
        steps
    }
}
