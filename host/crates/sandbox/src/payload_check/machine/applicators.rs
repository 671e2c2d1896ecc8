//! The keywords that hold a value, or its parts, to other schemas.

use super::super::document::{Document, Kind};
use super::super::schema::{Check, Items, Members};
use super::{Frame, Machine, NAMES, NOTED_BYTES, Next};

/// The keyword of a check by which a frame holds a value to a schema.
pub(super) fn keyword(
    check: &Check,
    frame: &Frame,
    payload: &Document<'_>,
    instance: u32,
) -> &'static str {
    match check {
        Check::Names(_) => "propertyNames",
        Check::DependentSchemas(keyword, _) => keyword,
        Check::Members(members) => {
            if members.named.contains_key(payload.name(instance)) {
                "properties"
            } else if frame.flag {
                "patternProperties"
            } else {
                "additionalProperties"
            }
        }
        Check::Items(items) => {
            if frame.count <= items.first.len() as u64 {
                items.first_keyword
            } else {
                items.rest_keyword
            }
        }
        Check::Contains { .. } => "contains",
        Check::All(_) => "allOf",
        Check::Any(_) => "anyOf",
        Check::One(_) => "oneOf",
        Check::Not(_) => "not",
        Check::If { .. } if frame.flag => "then",
        Check::If { .. } => "else",
        Check::Reference(_) => "$ref",
        Check::UnevaluatedItems(_) => "unevaluatedItems",
        Check::UnevaluatedMembers(_) => "unevaluatedProperties",
        _ => "",
    }
}

/// The value that is at fault where a part of it may not be there at all.
pub(super) fn blamed(check: &Check, frame: &Frame, instance: u32) -> u32 {
    match check {
        Check::Members(_) if instance != frame.instance && !frame.flag => frame.instance,
        Check::Items(items) if frame.count > items.first.len() as u64 => frame.instance,
        Check::UnevaluatedItems(_) | Check::UnevaluatedMembers(_) | Check::Names(_) => {
            frame.instance
        }
        _ => instance,
    }
}

impl<'p> Machine<'p> {
    /// One step of such a check.
    pub(super) fn apply(&mut self, check: &'p Check, kind: Kind, frame: &mut Frame) -> Next {
        match (check, kind) {
            (Check::All(schemas), _) => self.all(schemas, frame),
            (Check::Any(schemas), _) => self.any(schemas, frame),
            (Check::One(schemas), _) => self.one(schemas, frame),
            (Check::Not(schema), _) => match self.answer.take() {
                None => in_place(*schema, frame),
                Some(valid) => self.kept_if(!valid, "not", frame),
            },
            (Check::Reference(schema), _) => match self.answer.take() {
                None => in_place(*schema, frame),
                Some(valid) => settled(valid),
            },
            (Check::If { condition, then, otherwise }, _) => {
                self.condition(*condition, [*otherwise, *then], frame)
            }
            (Check::DependentSchemas(_, schemas), Kind::Object(_)) => {
                if self.answer.take() == Some(false) {
                    return Next::Broken;
                }
                let Some((name, schema)) = schemas.get(frame.cursor as usize) else {
                    return Next::Kept;
                };
                frame.cursor += 1;
                if self.has(frame.instance, name) { in_place(*schema, frame) } else { Next::Again }
            }
            (Check::Names(schema), Kind::Object(_)) => {
                if self.answer.take() == Some(false) {
                    return Next::Broken;
                }
                match self.following(frame) {
                    Some(member) => {
                        let instance = NAMES | self.payload.key(member);
                        Next::Ask { schema: *schema, instance, in_place: false }
                    }
                    None => Next::Kept,
                }
            }
            (Check::Members(members), Kind::Object(_)) => self.members(members, frame),
            (Check::Items(items), Kind::Array(_)) => self.items(items, frame),
            (Check::Contains { schema, least, most }, Kind::Array(_)) => {
                self.contains(*schema, *least, *most, frame)
            }
            (Check::UnevaluatedMembers(schema), Kind::Object(_))
            | (Check::UnevaluatedItems(schema), Kind::Array(_)) => {
                self.unevaluated(*schema, kind, frame)
            }
            _ => Next::Kept,
        }
    }

    /// The child of the frame's value after the one that its cursor is at.
    fn following(&mut self, frame: &mut Frame) -> Option<u32> {
        let next = if frame.cursor == 0 {
            self.payload.first(frame.instance)
        } else {
            self.payload.next(frame.instance, frame.cursor)
        };
        // No child is node 0.
        frame.cursor = next.unwrap_or(0);
        next
    }

    fn all(&mut self, schemas: &[u32], frame: &mut Frame) -> Next {
        if self.answer.take() == Some(false) {
            return Next::Broken;
        }
        let next = schemas.get(frame.cursor as usize);
        frame.cursor += 1;
        next.map_or(Next::Kept, |schema| in_place(*schema, frame))
    }

    fn any(&mut self, schemas: &[u32], frame: &mut Frame) -> Next {
        frame.count += u64::from(self.answer.take() == Some(true));
        // What else fits matters where somebody asks what was looked at.
        if frame.count > 0 && frame.evaluated.is_none() {
            return Next::Kept;
        }
        let next = schemas.get(frame.cursor as usize);
        frame.cursor += 1;
        match next {
            Some(schema) => in_place(*schema, frame),
            None => self.kept_if(frame.count > 0, "anyOf", frame),
        }
    }

    fn one(&mut self, schemas: &[u32], frame: &mut Frame) -> Next {
        frame.count += u64::from(self.answer.take() == Some(true));
        let next = schemas.get(frame.cursor as usize);
        frame.cursor += 1;
        match next {
            Some(schema) if frame.count < 2 => in_place(*schema, frame),
            _ => self.kept_if(frame.count == 1, "oneOf", frame),
        }
    }

    fn condition(&mut self, condition: u32, then: [Option<u32>; 2], frame: &mut Frame) -> Next {
        frame.cursor += 1;
        match (frame.cursor, self.answer.take()) {
            (1, _) => in_place(condition, frame),
            (2, answer) => {
                frame.flag = answer == Some(true);
                let [otherwise, then] = then;
                let next = if frame.flag { then } else { otherwise };
                next.map_or(Next::Kept, |schema| in_place(schema, frame))
            }
            (_, answer) => settled(answer == Some(true)),
        }
    }

    /// `properties`, `patternProperties` and `additionalProperties`. `count` is what is next for the
    /// member at the cursor: its name, then each pattern, then what holds for others.
    fn members(&mut self, members: &'p Members, frame: &mut Frame) -> Next {
        if self.answer.take() == Some(false) {
            return Next::Broken;
        }
        if frame.cursor == 0 || frame.count > members.patterns.len() as u64 + 1 {
            (frame.count, frame.flag) = (0, false);
            if self.following(frame).is_none() {
                return Next::Kept;
            }
        }
        let member = frame.cursor;
        let schema = if let Some(pattern) = frame.count.checked_sub(1) {
            match members.patterns.get(usize::try_from(pattern).unwrap_or(usize::MAX)) {
                Some((pattern, schema)) => match self.matches(pattern, self.payload.key(member)) {
                    Some(matches) => matches.then_some(*schema),
                    None => return Next::Again,
                },
                None => members.others.filter(|_| !frame.flag),
            }
        } else {
            let name = self.payload.name(member);
            self.steps += name.len() as u64 / 32;
            members.named.get(name).copied()
        };
        let is_other = frame.count > members.patterns.len() as u64;
        frame.count += 1;
        let Some(schema) = schema else { return Next::Again };
        frame.flag |= !is_other;
        self.look_at(member, frame);
        Next::Ask { schema, instance: member, in_place: false }
    }

    /// Notes that a member or element was looked at, where somebody asks.
    fn look_at(&mut self, part: u32, frame: &mut Frame) {
        if let Some(evaluated) = &mut frame.evaluated {
            evaluated.insert(part);
            self.bytes = self.bytes.saturating_add(NOTED_BYTES);
        }
    }

    /// The keywords about elements by their place; `count` are the elements so far.
    fn items(&mut self, items: &Items, frame: &mut Frame) -> Next {
        if self.answer.take() == Some(false) {
            return Next::Broken;
        }
        let schema = usize::try_from(frame.count).ok().and_then(|at| items.first.get(at)).copied();
        let element =
            schema.or(items.rest).and_then(|schema| Some((schema, self.following(frame)?)));
        let Some((schema, instance)) = element else {
            if let Some(evaluated) = &mut frame.evaluated {
                evaluated.first =
                    evaluated.first.max(u32::try_from(frame.count).unwrap_or(u32::MAX));
                evaluated.elements |= items.rest.is_some();
            }
            return Next::Kept;
        };
        frame.count += 1;
        Next::Ask { schema, instance, in_place: false }
    }

    fn contains(&mut self, schema: u32, least: u64, most: Option<u64>, frame: &mut Frame) -> Next {
        if self.answer.take() == Some(true) {
            frame.count += 1;
            self.look_at(frame.cursor, frame);
        }
        if most.is_some_and(|most| frame.count > most) {
            return self.broken("maxContains", frame);
        }
        // What else fits matters where there is a most, or somebody asks what was looked at.
        let is_known = frame.count >= least && most.is_none() && frame.evaluated.is_none();
        let next = if is_known { None } else { self.following(frame) };
        match next {
            Some(instance) => Next::Ask { schema, instance, in_place: false },
            None if frame.count >= least => Next::Kept,
            None if least > 1 => self.broken("minContains", frame),
            None => self.broken("contains", frame),
        }
    }

    /// What the schema has not looked at; `count` are the elements so far.
    fn unevaluated(&mut self, schema: u32, kind: Kind, frame: &mut Frame) -> Next {
        if self.answer.take() == Some(false) {
            return Next::Broken;
        }
        let is_object = matches!(kind, Kind::Object(_));
        let Some(part) = self.following(frame) else {
            if let Some(evaluated) = &mut frame.evaluated {
                evaluated.members |= is_object;
                evaluated.elements |= !is_object;
            }
            return Next::Kept;
        };
        let place = u32::try_from(frame.count).unwrap_or(u32::MAX);
        frame.count += 1;
        let was_looked_at = frame.evaluated.as_ref().is_some_and(|evaluated| {
            if is_object { evaluated.has_member(part) } else { evaluated.has_element(place, part) }
        });
        if was_looked_at {
            return Next::Again;
        }
        Next::Ask { schema, instance: part, in_place: false }
    }
}

fn in_place(schema: u32, frame: &Frame) -> Next {
    Next::Ask { schema, instance: frame.instance, in_place: true }
}

/// The reason is noted by who found it.
fn settled(valid: bool) -> Next {
    if valid { Next::Kept } else { Next::Broken }
}
