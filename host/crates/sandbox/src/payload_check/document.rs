//! JSON as a flat list of nodes.
//!
//! A tree of values recurses when it is walked, compared, printed and dropped, and it cannot be left in
//! the middle of a walk. Nodes in one list, each followed by its descendants, need no recursion for any of
//! it, and a position in it is a number that can be kept. The JSON parser itself recurses, to 128 levels.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::hash::{BuildHasher, RandomState};

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::number::Number;

/// Objects with more members than this have an index by name.
const INDEXED: u32 = 8;

/// The memory that a node, a text and an entry of the index are counted as: a vector that grows holds
/// up to twice of each.
const NODE_BYTES: u64 = 2 * size_of::<Node>() as u64;
const TEXT_BYTES: u64 = 2 * size_of::<Cow<'_, str>>() as u64;
const INDEX_BYTES: u64 = 40;

/// No node and no text.
pub const NONE: u32 = u32::MAX;

/// A value without its parts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    Null,
    Bool(bool),
    Number(Number),
    /// The number of its text.
    Text(u32),
    /// How many elements it has.
    Array(u32),
    /// How many members it has.
    Object(u32),
}

#[derive(Debug, Clone, Copy)]
struct Node {
    kind: Kind,
    /// The text of the name of a member.
    key: u32,
    parent: u32,
    /// The node after its last descendant.
    end: u32,
    /// A later member has the same name.
    superseded: bool,
}

const NULL: Node = Node { kind: Kind::Null, key: NONE, parent: NONE, end: 0, superseded: false };

/// One JSON text.
#[derive(Debug, Default)]
pub struct Document<'a> {
    nodes: Vec<Node>,
    texts: Vec<Cow<'a, str>>,
    /// Members of large objects, by the hash of object and name.
    index: HashMap<u64, u32>,
    /// Members whose hash was taken.
    collided: Vec<u32>,
    hasher: RandomState,
    bytes: u64,
}

/// Why a text is not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unread {
    /// It is no JSON; in the parser's words, which quote nothing.
    Syntax(String),
    /// It would take more memory than is allowed.
    Memory,
    /// The attempt came to its end meanwhile.
    Stopped,
}

impl<'a> Document<'a> {
    /// Reads a text into at most so many bytes of memory. `goes_on` is asked now and then whether to go on.
    pub fn read(json: &'a [u8], max: u64, goes_on: &dyn Fn() -> bool) -> Result<Self, Unread> {
        let document = Self::default();
        let mut builder = Builder { document, max, full: false, stopped: false, goes_on };
        let text = std::str::from_utf8(json).map_err(|error| Unread::Syntax(error.to_string()))?;
        let mut reader = serde_json::Deserializer::from_str(text);
        let seed = Seed { builder: &mut builder, parent: NONE, key: NONE };
        match seed.deserialize(&mut reader).and_then(|()| reader.end()) {
            Ok(()) => Ok(builder.document),
            Err(_) if builder.full => Err(Unread::Memory),
            Err(_) if builder.stopped => Err(Unread::Stopped),
            Err(error) => Err(Unread::Syntax(error.to_string())),
        }
    }

    /// The same with texts of its own.
    pub fn into_owned(self) -> Document<'static> {
        let texts = self.texts.into_iter().map(|text| Cow::Owned(text.into_owned())).collect();
        Document {
            nodes: self.nodes,
            texts,
            index: self.index,
            collided: self.collided,
            hasher: self.hasher,
            bytes: self.bytes,
        }
    }

    /// What it takes of memory.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many nodes it has.
    pub fn len(&self) -> u32 {
        u32::try_from(self.nodes.len()).unwrap_or(NONE)
    }

    fn node(&self, at: u32) -> Node {
        self.nodes.get(at as usize).copied().unwrap_or(NULL)
    }

    /// What a node is.
    pub fn kind(&self, at: u32) -> Kind {
        self.node(at).kind
    }

    /// A text by its number.
    pub fn text(&self, number: u32) -> &str {
        self.texts.get(number as usize).map_or("", |text| text)
    }

    /// The text that a node is.
    pub fn string(&self, at: u32) -> Option<&str> {
        match self.kind(at) {
            Kind::Text(number) => Some(self.text(number)),
            _ => None,
        }
    }

    /// The number of the text that is a member's name.
    pub fn key(&self, at: u32) -> u32 {
        self.node(at).key
    }

    /// A member's name.
    pub fn name(&self, at: u32) -> &str {
        self.text(self.key(at))
    }

    /// The node after the last descendant of a node.
    pub fn end(&self, at: u32) -> u32 {
        self.node(at).end
    }

    /// The first child of a node.
    pub fn first(&self, parent: u32) -> Option<u32> {
        self.live(parent.saturating_add(1), parent)
    }

    /// The child after a child.
    pub fn next(&self, parent: u32, child: u32) -> Option<u32> {
        self.live(self.node(child).end, parent)
    }

    fn live(&self, mut at: u32, parent: u32) -> Option<u32> {
        let end = self.node(parent).end;
        while at < end {
            let node = self.node(at);
            if !node.superseded {
                return Some(at);
            }
            at = node.end;
        }
        None
    }

    /// All children of a node.
    pub fn children(&self, parent: u32) -> impl Iterator<Item = u32> {
        std::iter::successors(self.first(parent), move |child| self.next(parent, *child))
    }

    /// The member of an object with that name.
    pub fn member(&self, object: u32, name: &str) -> Option<u32> {
        let Kind::Object(members) = self.kind(object) else { return None };
        if members <= INDEXED {
            return self.children(object).find(|member| self.name(*member) == name);
        }
        let is_it = |member: &u32| {
            let node = self.node(*member);
            node.parent == object && !node.superseded && self.text(node.key) == name
        };
        let found = self.index.get(&self.hasher.hash_one((object, name))).copied();
        found.filter(is_it).or_else(|| self.collided.iter().copied().find(is_it))
    }

    /// Where a node is: a JSON pointer (RFC 6901).
    pub fn pointer(&self, mut at: u32) -> String {
        let mut steps = Vec::new();
        while self.node(at).parent != NONE {
            let node = self.node(at);
            steps.push(if node.key == NONE {
                let before = self.children(node.parent).take_while(|child| *child != at);
                before.count().to_string()
            } else {
                self.text(node.key).replace('~', "~0").replace('/', "~1")
            });
            at = node.parent;
        }
        steps.iter().rev().fold(String::new(), |pointer, step| pointer + "/" + step)
    }

    /// The node at a JSON pointer.
    pub fn at(&self, pointer: &str) -> Option<u32> {
        let mut at = 0;
        for step in pointer.split('/').skip(1) {
            let step = step.replace("~1", "/").replace("~0", "~");
            at = match self.kind(at) {
                Kind::Object(_) => self.member(at, &step)?,
                Kind::Array(_) => self.children(at).nth(step.parse().ok()?)?,
                _ => return None,
            };
        }
        Some(at)
    }

    /// The beginning of the JSON of a node, of about so many bytes.
    pub fn shown(&self, root: u32, most: usize) -> String {
        let mut out = String::new();
        // Containers that are not closed yet, with where each ends.
        let mut open: Vec<(u32, char)> = Vec::new();
        let mut at = root;
        while out.len() <= most {
            while let Some((end, close)) = open.last().copied()
                && at >= end
            {
                out.push(close);
                open.pop();
            }
            if at >= self.end(root) {
                break;
            }
            let node = self.node(at);
            if node.superseded {
                at = node.end;
                continue;
            }
            if !out.is_empty() && !out.ends_with(['[', '{']) {
                out.push(',');
            }
            if at != root && node.key != NONE {
                write_text(&mut out, self.text(node.key), most);
                out.push(':');
            }
            at = match node.kind {
                Kind::Array(_) | Kind::Object(_) => {
                    let is_array = matches!(node.kind, Kind::Array(_));
                    out.push(if is_array { '[' } else { '{' });
                    open.push((node.end, if is_array { ']' } else { '}' }));
                    at.saturating_add(1)
                }
                scalar => {
                    match scalar {
                        Kind::Text(number) => write_text(&mut out, self.text(number), most),
                        Kind::Bool(truth) => out.push_str(if truth { "true" } else { "false" }),
                        // Writing to a string cannot fail.
                        Kind::Number(number) => drop(write!(out, "{number}")),
                        _ => out.push_str("null"),
                    }
                    node.end
                }
            };
        }
        out
    }

    /// Counts the members of an object, and finds those that a later one replaces.
    fn close(&mut self, object: u32, members: u32) -> u32 {
        let mut left = members;
        let all: Vec<u32> =
            if members <= INDEXED { self.children(object).collect() } else { Vec::new() };
        for (at, member) in all.iter().enumerate() {
            let again =
                all.iter().skip(at + 1).any(|later| self.name(*later) == self.name(*member));
            if again && let Some(node) = self.nodes.get_mut(*member as usize) {
                node.superseded = true;
                left -= 1;
            }
        }
        if members <= INDEXED {
            return left;
        }
        let mut next = self.first(object);
        while let Some(member) = next {
            let hash = self.hasher.hash_one((object, self.name(member)));
            if let Some(before) = self.index.insert(hash, member) {
                if self.node(before).parent == object && self.name(before) == self.name(member) {
                    if let Some(node) = self.nodes.get_mut(before as usize) {
                        node.superseded = true;
                        left -= 1;
                    }
                } else {
                    self.collided.push(before);
                }
            }
            next = self.next(object, member);
        }
        left
    }
}

/// Writes a text as JSON, up to about so many bytes of it.
fn write_text(out: &mut String, text: &str, most: usize) {
    let text = text.get(..text.floor_char_boundary(most)).unwrap_or_default();
    out.push_str(&serde_json::Value::from(text).to_string());
}

/// After so many nodes it is asked whether to go on: less than a millisecond.
const NODES: u32 = 8192;

struct Builder<'a, 'g> {
    document: Document<'a>,
    max: u64,
    /// There was not enough memory.
    full: bool,
    stopped: bool,
    goes_on: &'g dyn Fn() -> bool,
}

impl<'a> Builder<'a, '_> {
    fn take<E: Error>(&mut self, bytes: u64) -> Result<(), E> {
        self.document.bytes = self.document.bytes.saturating_add(bytes);
        self.full |= self.document.bytes > self.max || self.document.len() == NONE;
        if self.full { Err(E::custom("")) } else { Ok(()) }
    }

    fn text<E: Error>(&mut self, text: Cow<'a, str>) -> Result<u32, E> {
        self.take(TEXT_BYTES + if let Cow::Owned(owned) = &text { owned.len() as u64 } else { 0 })?;
        self.document.texts.push(text);
        Ok(u32::try_from(self.document.texts.len() - 1).unwrap_or(NONE))
    }

    fn node<E: Error>(&mut self, kind: Kind, parent: u32, key: u32) -> Result<u32, E> {
        self.take(NODE_BYTES)?;
        let at = self.document.len();
        if at % NODES == NODES - 1 && !(self.goes_on)() {
            self.stopped = true;
            return Err(E::custom(""));
        }
        let end = at.saturating_add(1);
        self.document.nodes.push(Node { kind, key, parent, end, superseded: false });
        Ok(at)
    }

    /// A container is whole.
    fn end<E: Error>(&mut self, at: u32, parts: u32, is_object: bool) -> Result<(), E> {
        let end = self.document.len();
        if let Some(node) = self.document.nodes.get_mut(at as usize) {
            node.end = end;
            node.kind = if is_object { Kind::Object(parts) } else { Kind::Array(parts) };
        }
        if is_object {
            if parts > INDEXED {
                self.take(INDEX_BYTES.saturating_mul(u64::from(parts)))?;
            }
            let members = self.document.close(at, parts);
            if let Some(node) = self.document.nodes.get_mut(at as usize) {
                node.kind = Kind::Object(members);
            }
        }
        Ok(())
    }
}

struct Seed<'b, 'a, 'g> {
    builder: &'b mut Builder<'a, 'g>,
    parent: u32,
    key: u32,
}

impl Seed<'_, '_, '_> {
    fn leaf<E: Error>(self, kind: Kind) -> Result<(), E> {
        self.builder.node(kind, self.parent, self.key).map(|_| ())
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_, 'de, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_, 'de, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.leaf(Kind::Null)
    }

    fn visit_bool<E: Error>(self, truth: bool) -> Result<(), E> {
        self.leaf(Kind::Bool(truth))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<(), E> {
        self.leaf(Kind::Number(Number::Unsigned(number)))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<(), E> {
        self.leaf(Kind::Number(Number::Signed(number)))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<(), E> {
        self.leaf(Kind::Number(Number::Float(number)))
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<(), E> {
        let text = self.builder.text(Cow::Borrowed(text))?;
        self.leaf(Kind::Text(text))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        let text = self.builder.text(Cow::Owned(text.to_owned()))?;
        self.leaf(Kind::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        let at = self.builder.node(Kind::Array(0), self.parent, self.key)?;
        let mut parts = 0;
        loop {
            let seed = Seed { builder: &mut *self.builder, parent: at, key: NONE };
            if elements.next_element_seed(seed)?.is_none() {
                return self.builder.end(at, parts, false);
            }
            parts += 1;
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let at = self.builder.node(Kind::Object(0), self.parent, self.key)?;
        let mut parts = 0;
        while let Some(name) = members.next_key_seed(Name)? {
            let key = self.builder.text(name)?;
            members.next_value_seed(Seed { builder: &mut *self.builder, parent: at, key })?;
            parts += 1;
        }
        self.builder.end(at, parts, true)
    }
}

/// A member's name.
struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Name {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_borrowed_str<E: Error>(self, name: &'de str) -> Result<Self::Value, E> {
        Ok(name.into())
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
        Ok(name.to_owned().into())
    }
}
