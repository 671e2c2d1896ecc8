//! The tenants that a receive takes messages of, where several share a queue.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

/// Which groups of a queue without order a receive takes messages of.
///
/// A broker that can (the local one; [`Limits::takes_turns`](super::Limits::takes_turns)) keeps to
/// it, and takes the groups that remain in turns. Others deliver what there is, and who receives
/// puts back what he cannot take. The default takes everything.
#[derive(Debug, Clone)]
pub struct Turn {
    each: usize,
    usual: Arc<HashMap<Arc<str>, usize>>,
    room: HashMap<Arc<str>, usize>,
    avoid: HashSet<Arc<str>>,
}

impl Default for Turn {
    fn default() -> Self {
        Self::new(usize::MAX, Arc::default())
    }
}

impl Turn {
    /// Takes up to `each` messages of each group, and of some as many as `usual` says.
    pub fn new(each: usize, usual: Arc<HashMap<Arc<str>, usize>>) -> Self {
        Self { each, usual, room: HashMap::new(), avoid: HashSet::new() }
    }

    /// Takes no more than so many messages of this group; none where it is 0.
    pub fn at_most(&mut self, group: Arc<str>, room: usize) {
        self.room.insert(group, room);
    }

    /// Takes messages of this group only if nothing else is ready.
    pub fn avoid(&mut self, group: Arc<str>) {
        self.avoid.insert(group);
    }

    /// How many messages of a group it takes.
    pub fn room(&self, group: &str) -> usize {
        self.room.get(group).or_else(|| self.usual.get(group)).copied().unwrap_or(self.each)
    }

    /// Returns true if messages of the group are taken only if nothing else is ready.
    pub fn avoids(&self, group: &str) -> bool {
        self.avoid.contains(group)
    }

    /// Returns true if there may be groups of which nothing is taken.
    pub fn is_choosy(&self) -> bool {
        self.each == 0 || self.usual.values().chain(self.room.values()).any(|room| *room == 0)
    }
}
