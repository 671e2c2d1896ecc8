//! A payload held to a schema, step by step.
//!
//! The validator is a machine with a stack of its own, in place of functions that call each other: it can
//! be left after any number of steps and be gone on with later, so it runs under the deadline, the CPU
//! budget and the priority of its attempt; and no schema and no payload overflows the stack of a thread.
//! A step takes some nanoseconds, the largest less than a millisecond. Steps are counted, and so is
//! memory.
//!
//! Where a check has taken many steps, results of schemas that are referred to are kept. So a recursive
//! schema that goes into one part of a payload by two ways takes steps by the size of the payload, not
//! twice as many for each level of it.

use std::collections::HashMap;

use super::document::{Document, Kind};
use super::evaluated::Evaluated;
use super::identity::{self, Identities};
use super::number::Number;
use super::pattern::{Caches, Pattern, Progress, Search};
use super::schema::{self, Check, Program, Sized};

mod applicators;

/// From so many steps on results are kept.
const KEEP_FROM: u64 = 200_000;

/// What a result that is kept is counted as.
const KEPT_BYTES: u64 = 40;

/// What a member or element that was looked at is counted as.
const NOTED_BYTES: u64 = 16;

/// Instances from here on are names of members: numbers of texts.
const NAMES: u32 = 1 << 31;

/// A schema that is held to a value.
#[derive(Debug, Default)]
struct Frame {
    schema: u32,
    /// A node of the payload, or a text of it and [`NAMES`].
    instance: u32,
    /// The check that is next.
    check: u32,
    /// Where the check is.
    cursor: u32,
    /// What it has counted.
    count: u64,
    /// A state of its own.
    flag: bool,
    /// It is held to the same value as the one below it.
    in_place: bool,
    /// Its result is kept.
    kept: bool,
    /// What was looked at of the value, where somebody asks.
    evaluated: Option<Box<Evaluated>>,
}

/// What follows from a step of a check.
enum Next {
    /// The value keeps to it.
    Kept,
    /// It does not; the reason is noted.
    Broken,
    /// It is not at its end.
    Again,
    /// A value has to be held to a schema first: the same one, or another.
    Ask { schema: u32, instance: u32, in_place: bool },
}

/// The check that a value does not keep to.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    pub schema: u32,
    pub keyword: &'static str,
    pub instance: u32,
}

/// How a check ended, or why it did not.
#[derive(Debug)]
pub enum State {
    Valid,
    Invalid(Fault),
    /// There are steps left.
    Goes,
    /// It would take more memory than it may.
    Memory,
}

/// One check of one payload.
pub struct Machine<'p> {
    program: &'p Program,
    payload: Document<'p>,
    stack: Vec<Frame>,
    /// The result of the frame that ended last.
    answer: Option<bool>,
    fault: Fault,
    search: Option<Search>,
    caches: Caches,
    identities: Option<Box<Identities>>,
    results: HashMap<(u32, u32), bool>,
    steps: u64,
    /// Memory beside the stack.
    bytes: u64,
    max_bytes: u64,
}

impl<'p> Machine<'p> {
    /// Holds a payload to a program, in at most so many bytes of memory.
    pub fn new(program: &'p Program, payload: Document<'p>, max_bytes: u64) -> Self {
        let bytes = payload.bytes();
        let mut machine = Self {
            program,
            payload,
            stack: Vec::new(),
            answer: None,
            fault: Fault { schema: 0, keyword: "", instance: 0 },
            search: None,
            caches: Caches::default(),
            identities: None,
            results: HashMap::new(),
            steps: 0,
            bytes,
            max_bytes,
        };
        machine.ask(None, 0, 0, false);
        machine
    }

    /// The steps so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Where in the payload a fault is: a JSON pointer.
    pub fn place(&self, fault: Fault) -> String {
        // A name has no place of its own.
        if fault.instance >= NAMES { String::new() } else { self.payload.pointer(fault.instance) }
    }

    /// Goes on for some steps.
    pub fn run(&mut self, steps: u64) -> State {
        let until = self.steps.saturating_add(steps);
        while self.steps < until {
            self.steps += 1;
            let Some(mut frame) = self.stack.pop() else {
                return match self.answer {
                    Some(false) => State::Invalid(self.fault),
                    _ => State::Valid,
                };
            };
            let program = self.program;
            let schema = program.schema(frame.schema);
            let Some(check) = schema.and_then(|it| it.checks.get(frame.check as usize)) else {
                self.end(frame, true);
                continue;
            };
            match self.step(check, &mut frame) {
                Next::Kept => {
                    frame.check += 1;
                    (frame.cursor, frame.count, frame.flag) = (0, 0, false);
                    self.stack.push(frame);
                }
                Next::Broken => self.end(frame, false),
                Next::Again => self.stack.push(frame),
                Next::Ask { schema, instance, in_place } => {
                    self.ask(Some(frame), schema, instance, in_place);
                }
            }
            let stack = 2 * (self.stack.len() * size_of::<Frame>()) as u64;
            if stack.saturating_add(self.bytes) > self.max_bytes {
                return State::Memory;
            }
        }
        State::Goes
    }

    /// Has a value held to a schema for a frame, which is told by `answer`.
    fn ask(&mut self, by: Option<Frame>, schema: u32, instance: u32, in_place: bool) {
        let Some(found) = self.program.schema(schema) else { return };
        let collects =
            found.looks_back || in_place && by.as_ref().is_some_and(|by| by.evaluated.is_some());
        let mut answer = found.always;
        if answer == Some(false) {
            self.fault = self.fault_of(by.as_ref(), schema, instance);
        }
        let mut kept = false;
        if answer.is_none()
            && !collects
            && self.steps >= KEEP_FROM
            && self.is_reference(by.as_ref())
        {
            answer = self.results.get(&(schema, instance)).copied();
            kept = answer.is_none();
            if answer == Some(false) {
                self.fault = self.fault_of(by.as_ref(), schema, instance);
            }
        }
        self.stack.extend(by);
        if answer.is_some() {
            self.answer = answer;
            return;
        }
        let evaluated = collects.then(Box::default);
        self.stack.push(Frame { schema, instance, in_place, kept, evaluated, ..Frame::default() });
    }

    fn check_of(&self, frame: &Frame) -> Option<&'p Check> {
        self.program.schema(frame.schema)?.checks.get(frame.check as usize)
    }

    fn is_reference(&self, frame: Option<&Frame>) -> bool {
        frame.and_then(|it| self.check_of(it)).is_some_and(|it| matches!(it, Check::Reference(_)))
    }

    /// The fault where a frame asks for what nothing keeps to.
    fn fault_of(&self, by: Option<&Frame>, schema: u32, instance: u32) -> Fault {
        let Some(by) = by else { return Fault { schema, keyword: "", instance } };
        let Some(check) = self.check_of(by) else { return self.fault };
        let keyword = applicators::keyword(check, by, &self.payload, instance);
        Fault { schema: by.schema, keyword, instance: applicators::blamed(check, by, instance) }
    }

    /// A frame has its result.
    fn end(&mut self, mut frame: Frame, valid: bool) {
        self.answer = Some(valid);
        if frame.kept && self.bytes.saturating_add(KEPT_BYTES) < self.max_bytes / 2 {
            self.bytes += KEPT_BYTES;
            self.results.insert((frame.schema, frame.instance), valid);
        }
        let Some(evaluated) = frame.evaluated.take() else { return };
        let noted = evaluated.len() as u64;
        if valid
            && frame.in_place
            && let Some(below) = self.stack.last_mut().and_then(|below| below.evaluated.as_mut())
        {
            self.steps += below.merge(*evaluated);
        } else {
            self.bytes = self.bytes.saturating_sub(NOTED_BYTES.saturating_mul(noted));
        }
    }

    /// Notes that a value does not keep to a check.
    fn broken(&mut self, keyword: &'static str, frame: &Frame) -> Next {
        self.fault = Fault { schema: frame.schema, keyword, instance: frame.instance };
        Next::Broken
    }

    fn kept_if(&mut self, kept: bool, keyword: &'static str, frame: &Frame) -> Next {
        if kept { Next::Kept } else { self.broken(keyword, frame) }
    }

    fn kind(&self, instance: u32) -> Kind {
        if instance >= NAMES { Kind::Text(instance - NAMES) } else { self.payload.kind(instance) }
    }

    fn has(&self, object: u32, name: &str) -> bool {
        object < NAMES && self.payload.member(object, name).is_some()
    }

    /// One step of a check.
    fn step(&mut self, check: &'p Check, frame: &mut Frame) -> Next {
        let kind = self.kind(frame.instance);
        match (check, kind) {
            (Check::Type(types), _) => self.kept_if(is_of_type(kind, *types), "type", frame),
            (Check::Const(value), _) => {
                let same = self.is_same(frame.instance, *value);
                self.kept_if(same, "const", frame)
            }
            (Check::Enum(values), _) => {
                let found = match kind {
                    Kind::Null => values.null,
                    Kind::Bool(truth) => {
                        if truth {
                            values.yes
                        } else {
                            values.no
                        }
                    }
                    Kind::Number(number) => values.numbers.contains(&number.key()),
                    Kind::Text(text) => {
                        let text = self.payload.text(text);
                        self.steps += text.len() as u64 / 32;
                        values.texts.contains(text)
                    }
                    _ => values.others.iter().any(|other| self.is_same(frame.instance, *other)),
                };
                self.kept_if(found, "enum", frame)
            }
            (Check::Compare(keyword, bound), Kind::Number(number)) => {
                self.kept_if(is_within(keyword, number, *bound), keyword, frame)
            }
            (Check::MultipleOf(of), Kind::Number(number)) => {
                self.steps += 8;
                self.kept_if(number.is_multiple_of(*of), "multipleOf", frame)
            }
            (Check::Size(keyword, of, is_most, bound), _) => {
                let size = match (of, kind) {
                    (Sized::Text, Kind::Text(text)) => {
                        let text = self.payload.text(text);
                        self.steps += text.len() as u64 / 32;
                        text.chars().count() as u64
                    }
                    (Sized::Array, Kind::Array(size)) | (Sized::Object, Kind::Object(size)) => {
                        u64::from(size)
                    }
                    _ => return Next::Kept,
                };
                let kept = if *is_most { size <= *bound } else { size >= *bound };
                self.kept_if(kept, keyword, frame)
            }
            (Check::Pattern(pattern), Kind::Text(text)) => match self.matches(pattern, text) {
                Some(matches) => self.kept_if(matches, "pattern", frame),
                None => Next::Again,
            },
            (Check::Unique, Kind::Array(size)) if size > 1 => self.unique(frame),
            (Check::Required(names), Kind::Object(_)) => {
                self.steps += names.len() as u64;
                let kept = names.iter().all(|name| self.has(frame.instance, name));
                self.kept_if(kept, "required", frame)
            }
            (Check::DependentRequired(keyword, lists), Kind::Object(_)) => {
                let mut kept = true;
                for (name, required) in lists {
                    self.steps += 1;
                    if self.has(frame.instance, name) {
                        self.steps += required.len() as u64;
                        kept &= required.iter().all(|name| self.has(frame.instance, name));
                    }
                }
                self.kept_if(kept, keyword, frame)
            }
            _ => self.apply(check, kind, frame),
        }
    }

    fn is_same(&mut self, instance: u32, value: u32) -> bool {
        let values = &self.program.document;
        if instance >= NAMES {
            return values.string(value) == Some(self.payload.text(instance - NAMES));
        }
        let (same, steps) = identity::same((&self.payload, instance), (values, value));
        self.steps += steps;
        same
    }

    /// Returns true if a text matches; `None` if that is not known yet.
    fn matches(&mut self, pattern: &Pattern, text: u32) -> Option<bool> {
        let text = self.payload.text(text);
        let (progress, steps) = match self.search.take() {
            Some(search) => pattern.go_on(&mut self.caches, search, text),
            None => pattern.begin(&mut self.caches, text),
        };
        self.steps += steps;
        match progress {
            Progress::Ended(matches) => Some(matches),
            Progress::Goes(search) => {
                self.search = Some(search);
                None
            }
        }
    }

    /// A step of `uniqueItems`.
    fn unique(&mut self, frame: &mut Frame) -> Next {
        let identities = self.identities.get_or_insert_with(|| {
            self.bytes = self.bytes.saturating_add(Identities::bytes(&self.payload));
            Box::default()
        });
        if let Some(steps) = identities.advance(&self.payload) {
            self.steps += steps;
            return Next::Again;
        }
        let known = identities.is_unique(frame.instance);
        if let Some(is_unique) = known {
            return self.kept_if(is_unique, "uniqueItems", frame);
        }
        let element = if frame.flag {
            self.payload.next(frame.instance, frame.cursor)
        } else {
            self.payload.first(frame.instance)
        };
        match element {
            Some(element) => {
                (frame.flag, frame.cursor) = (true, element);
                self.steps += 1;
                if !identities.insert(&self.payload, element) {
                    identities.set_unique(frame.instance, false);
                }
            }
            None => identities.set_unique(frame.instance, true),
        }
        Next::Again
    }
}

fn is_of_type(kind: Kind, types: u8) -> bool {
    let bits = match kind {
        Kind::Null => schema::NULL,
        Kind::Bool(_) => schema::BOOLEAN,
        Kind::Number(number) if number.is_integer() => schema::NUMBER | schema::INTEGER,
        Kind::Number(_) => schema::NUMBER,
        Kind::Text(_) => schema::STRING,
        Kind::Array(_) => schema::ARRAY,
        Kind::Object(_) => schema::OBJECT,
    };
    types & bits != 0
}

fn is_within(keyword: &str, number: Number, bound: Number) -> bool {
    let order = number.compare(bound);
    match keyword {
        "minimum" => order.is_ge(),
        "maximum" => order.is_le(),
        "exclusiveMinimum" => order.is_gt(),
        _ => order.is_lt(),
    }
}
