//! What it may cost to check a payload by a schema, found out before anything is checked.
//!
//! Schemas come from components, and a short one can cost without end: definitions that use each
//! other twice stand for a million, and a recursive one that goes into the same member by two ways
//! takes twice as long for each level of the payload. So a schema is followed, references and all,
//! and its steps are counted: keywords, and what they list. In what follows, a step is done at most
//! once for each value of a payload, so that steps times values bound the work.
//!
//! A recursive schema is as good, if
//!
//! - each way from a definition back to itself goes into a member or an element: else it is endless;
//! - no two such ways go the same way through a payload: else each level doubles the work;
//! - it has no `unevaluatedProperties` or `unevaluatedItems`, which look a second time at what other
//!   keywords have looked at.
//!
//! What does not keep to that is not checked. It is told when the component is loaded.

use serde_json::{Map, Value};

use crate::text::one_line;

/// The most steps that a schema may come to.
pub const MAX_STEPS: u64 = 20_000;

/// The most levels of references in each other.
const MAX_LEVELS: usize = 256;

/// The most ways from a definition back to itself: they are compared with each other.
const MAX_WAYS: usize = 64;

/// Why payloads are not checked by a schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Not {
    /// It is at fault, and its component is refused.
    Wrong(String),
    /// It is more than is checked.
    Checked(String),
}

/// How many steps a schema comes to.
pub fn steps(schema: &Value) -> Result<u64, Not> {
    let mut walk = Walk {
        root: schema,
        left: MAX_STEPS,
        frames: vec![Frame { target: "#", entered: 0, ways: Vec::new() }],
        way: Vec::new(),
        recursive: false,
        unevaluated: false,
    };
    walk.schema(schema)?;
    if walk.recursive && walk.unevaluated {
        return Err(not("it is recursive, and has `unevaluatedProperties` or `unevaluatedItems`"));
    }
    Ok(MAX_STEPS - walk.left)
}

fn not(reason: impl Into<String>) -> Not {
    Not::Checked(reason.into())
}

/// A step from a value into one of its parts, as a keyword takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part<'s> {
    /// The member of that name.
    Member(&'s str),
    /// Members of any names.
    Members,
    /// The element at that place.
    Element(usize),
    /// Elements at any places.
    Elements,
    /// Names of members, which have no parts.
    Names,
}

impl Part<'_> {
    /// Whether both may go into the same part.
    fn meets(self, other: Self) -> bool {
        use Part::{Element, Elements, Member, Members, Names};
        match (self, other) {
            (Member(one), Member(other)) => one == other,
            (Element(one), Element(other)) => one == other,
            (Member(_) | Members, Member(_) | Members)
            | (Element(_) | Elements, Element(_) | Elements)
            | (Names, Names) => true,
            _ => false,
        }
    }
}

/// A definition that the walk is in.
struct Frame<'s> {
    target: &'s str,
    /// How far into the payload it began.
    entered: usize,
    /// The ways from it back to itself.
    ways: Vec<Vec<Part<'s>>>,
}

struct Walk<'s> {
    root: &'s Value,
    left: u64,
    frames: Vec<Frame<'s>>,
    way: Vec<Part<'s>>,
    recursive: bool,
    unevaluated: bool,
}

/// Keywords with schemas for the very value.
const LISTS: [&str; 3] = ["allOf", "anyOf", "oneOf"];
const SINGLE: [&str; 4] = ["not", "if", "then", "else"];

impl<'s> Walk<'s> {
    fn take(&mut self, steps: usize) -> Result<(), Not> {
        self.left = self.left.checked_sub(steps as u64).ok_or_else(|| {
            not(format!("with all that it refers to it comes to more than {MAX_STEPS} steps"))
        })?;
        Ok(())
    }

    fn schema(&mut self, schema: &'s Value) -> Result<(), Not> {
        self.take(1)?;
        let Value::Object(members) = schema else { return Ok(()) };
        let before = self.left;
        for (keyword, value) in members {
            // What is listed is compared one by one; a pattern's size is that of its automaton.
            self.take(match value {
                Value::Array(items) => 1 + items.len(),
                Value::String(text) if keyword == "pattern" => 1 + text.len(),
                _ => 1,
            })?;
            self.keyword(keyword, value, members)?;
        }
        if members.contains_key("unevaluatedProperties") || members.contains_key("unevaluatedItems")
        {
            self.unevaluated = true;
            self.take(usize::try_from(before - self.left).unwrap_or(usize::MAX))?;
        }
        Ok(())
    }

    fn keyword(
        &mut self,
        keyword: &str,
        value: &'s Value,
        members: &'s Map<String, Value>,
    ) -> Result<(), Not> {
        match (keyword, value) {
            ("$ref", Value::String(target)) => self.reference(target)?,
            ("$dynamicRef" | "$recursiveRef", _) => {
                return Err(not(format!("it has a `{keyword}`")));
            }
            // It changes what references mean.
            ("$id", _) if !std::ptr::eq(members, self.root_members()) => {
                return Err(not("it has an `$id` within"));
            }
            (_, Value::Array(schemas)) if LISTS.contains(&keyword) => {
                for schema in schemas {
                    self.schema(schema)?;
                }
            }
            (_, schema) if SINGLE.contains(&keyword) => self.schema(schema)?,
            ("dependentSchemas" | "dependencies", Value::Object(schemas)) => {
                for schema in schemas.values() {
                    self.schema(schema)?;
                }
            }
            ("properties", Value::Object(schemas)) => {
                for (name, schema) in schemas {
                    self.part(Part::Member(name), schema)?;
                }
            }
            ("patternProperties", Value::Object(schemas)) => {
                for (pattern, schema) in schemas {
                    self.take(pattern.len())?;
                    self.part(Part::Members, schema)?;
                }
            }
            ("additionalProperties" | "unevaluatedProperties", schema) => {
                self.part(Part::Members, schema)?;
            }
            ("propertyNames", schema) => self.part(Part::Names, schema)?,
            ("prefixItems" | "items", Value::Array(schemas)) => {
                for (place, schema) in schemas.iter().enumerate() {
                    self.part(Part::Element(place), schema)?;
                }
            }
            ("items" | "additionalItems" | "unevaluatedItems" | "contains", schema) => {
                self.part(Part::Elements, schema)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn root_members(&self) -> *const Map<String, Value> {
        self.root.as_object().map_or(std::ptr::null(), std::ptr::from_ref)
    }

    fn part(&mut self, part: Part<'s>, schema: &'s Value) -> Result<(), Not> {
        self.way.push(part);
        self.schema(schema)?;
        self.way.pop();
        Ok(())
    }

    fn reference(&mut self, target: &'s str) -> Result<(), Not> {
        let shown = || one_line(target, 200);
        let Some(pointer) = target.strip_prefix('#') else {
            return Err(Not::Wrong(format!(
                "refers to `{}`: a schema may refer to its own parts only (`#/$defs/NAME`)",
                shown()
            )));
        };
        if !pointer.is_empty() && !pointer.starts_with('/') {
            return Err(not(format!("it refers to an anchor, `{}`", shown())));
        }
        if let Some(at) = self.frames.iter().position(|frame| frame.target == target) {
            return self.recursion(at, target);
        }
        // As it is in an URI: `%25` is a percent sign.
        if pointer.contains('%') {
            return Err(not(format!("it has a reference with an escape, `{}`", shown())));
        }
        let Some(schema) = self.root.pointer(pointer) else {
            return Err(Not::Wrong(format!("refers to `{}`, which is not there", shown())));
        };
        if self.frames.len() > MAX_LEVELS {
            return Err(not(format!("it has references in each other for {MAX_LEVELS} levels")));
        }
        self.frames.push(Frame { target, entered: self.way.len(), ways: Vec::new() });
        self.schema(schema)?;
        self.frames.pop();
        Ok(())
    }

    /// It is in the definition that it refers to.
    fn recursion(&mut self, at: usize, target: &str) -> Result<(), Not> {
        self.recursive = true;
        let shown = || one_line(target, 200);
        let Some(frame) = self.frames.get_mut(at) else { return Ok(()) };
        let way = self.way.get(frame.entered..).unwrap_or_default();
        if way.is_empty() {
            return Err(Not::Wrong(format!("refers from `{}` to itself, without end", shown())));
        }
        let meets =
            |other: &Vec<Part<'_>>| way.iter().zip(other).all(|(one, other)| one.meets(*other));
        if frame.ways.iter().any(meets) {
            return Err(not(format!(
                "it is recursive by two ways through one part of a payload (from `{}` back to \
                 itself), so that each level could take twice as long",
                shown()
            )));
        }
        if frame.ways.len() >= MAX_WAYS {
            return Err(not(format!("it is recursive by more than {MAX_WAYS} ways")));
        }
        frame.ways.push(way.to_vec());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn reason(schema: &Value) -> String {
        match steps(schema) {
            Err(Not::Checked(reason)) => reason,
            other => panic!("{other:?}: {schema}"),
        }
    }

    #[test]
    fn what_stands_for_much_is_counted_as_much() {
        let doubling = |levels: usize| {
            let mut defs = Map::new();
            defs.insert("d0".to_owned(), json!({"type": "integer"}));
            for level in 1..=levels {
                let inner = json!({"$ref": format!("#/$defs/d{}", level - 1)});
                defs.insert(format!("d{level}"), json!({"allOf": [inner, inner]}));
            }
            json!({"$defs": defs, "$ref": format!("#/$defs/d{levels}")})
        };
        assert!(steps(&doubling(8)).unwrap() > 256);
        assert!(reason(&doubling(40)).contains("more than 20000 steps"));
        // As deep as JSON may be.
        let mut deep = json!({"type": "integer"});
        for _ in 0..100 {
            deep = json!({"unevaluatedProperties": false, "allOf": [deep]});
        }
        assert!(reason(&deep).contains("more than 20000 steps"));
    }

    #[test]
    fn recursion_is_checked_where_each_level_is_looked_at_once() {
        for good in [
            json!({"$defs": {"node": {"type": "object", "properties": {
                "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
                "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}
            }}}, "$ref": "#/$defs/node"}),
            json!({"anyOf": [
                {"type": ["null", "boolean", "number", "string"]},
                {"type": "array", "items": {"$ref": "#"}},
                {"type": "object", "additionalProperties": {"$ref": "#"}}
            ]}),
            json!({"$defs": {"expr": {"oneOf": [
                {"properties": {"add": {"prefixItems": [
                    {"$ref": "#/$defs/expr"}, {"$ref": "#/$defs/expr"}]}}},
                {"properties": {"neg": {"$ref": "#/$defs/expr"}}}
            ]}}, "$ref": "#/$defs/expr"}),
        ] {
            assert!(steps(&good).unwrap() < 100, "{good}");
        }
        for doubling in [
            json!({"properties": {"a": {"$ref": "#"}}, "allOf": [{"properties": {"a": {"$ref": "#"}}}]}),
            json!({"anyOf": [{"items": {"$ref": "#"}}, {"prefixItems": [{"$ref": "#"}]}]}),
            json!({"$defs": {"two": {"properties": {"a": {"$ref": "#"}}}},
                   "allOf": [{"properties": {"a": {"$ref": "#/$defs/two"}}}],
                   "properties": {"a": {"$ref": "#"}}}),
        ] {
            assert!(reason(&doubling).contains("by two ways"), "{doubling}");
        }
        let unevaluated =
            json!({"properties": {"a": {"$ref": "#"}}, "unevaluatedProperties": false});
        assert!(reason(&unevaluated).contains("it is recursive, and has `unevaluated"));
    }

    #[test]
    fn what_refers_elsewhere_or_without_end_is_wrong() {
        for (schema, words) in [
            (json!({"$ref": "https://example.com/a.json"}), "may refer to its own parts only"),
            (json!({"items": {"$ref": "file:///etc/passwd"}}), "may refer to its own parts only"),
            (json!({"$ref": "#/$defs/gone"}), "`#/$defs/gone`, which is not there"),
            (json!({"allOf": [{"$ref": "#"}]}), "to itself, without end"),
            (
                json!({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
                       "$ref": "#/$defs/a"}),
                "to itself, without end",
            ),
        ] {
            match steps(&schema) {
                Err(Not::Wrong(reason)) => assert!(reason.contains(words), "{reason}"),
                other => panic!("{other:?}: {schema}"),
            }
        }
        assert!(reason(&json!({"$ref": "#name"})).contains("an anchor"));
        assert!(reason(&json!({"$dynamicRef": "#x"})).contains("`$dynamicRef`"));
        assert!(reason(&json!({"items": {"$id": "x"}})).contains("an `$id` within"));
        steps(&json!({"$id": "https://example.com/mine", "type": "object"})).unwrap();
    }
}
