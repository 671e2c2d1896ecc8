//! A schema, compiled to a list of nodes that refer to each other by number.
//!
//! The schema is another's, and hostile. So it is compiled by a list of what is still to be done, not by
//! recursion, each place of it once, whatever refers to it and however often. What this gives has no
//! endless loops: a node leads back to itself only through a part of the payload.

use std::collections::{HashMap, HashSet, VecDeque};

use super::document::{Document, Kind, NONE};
use super::keywords;
use super::number::{Key, Number};
use super::pattern::{self, Pattern};
use lovage_core::text::one_line;

/// Why payloads are not checked by a schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Not {
    /// It is at fault, and its component is refused.
    Wrong(String),
    /// It is more than is checked.
    Checked(String),
}

/// A dialect of JSON Schema, in the order of their age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Draft {
    D6,
    D7,
    D2019,
    D2020,
}

/// Names of an object's members.
type MemberNames = Box<[Box<str>]>;

/// What a keyword asks of a value. Numbers of schemas are those of [`Program::schema`].
#[derive(Debug)]
pub enum Check {
    /// Bits of [`type_bit`].
    Type(u8),
    /// A node of the schema's document.
    Const(u32),
    Enum(Box<Enum>),
    Compare(&'static str, Number),
    MultipleOf(Number),
    /// Of a string, an array or an object: the keyword, and whether it is the most.
    Size(&'static str, Sized, bool, u64),
    Pattern(Box<Pattern>),
    Unique,
    Required(Box<[Box<str>]>),
    DependentRequired(&'static str, Box<[(Box<str>, MemberNames)]>),
    DependentSchemas(&'static str, Box<[(Box<str>, u32)]>),
    Names(u32),
    Members(Box<Members>),
    Items(Box<Items>),
    Contains {
        schema: u32,
        least: u64,
        most: Option<u64>,
    },
    All(Box<[u32]>),
    Any(Box<[u32]>),
    One(Box<[u32]>),
    Not(u32),
    If {
        condition: u32,
        then: Option<u32>,
        otherwise: Option<u32>,
    },
    Reference(u32),
    UnevaluatedItems(u32),
    UnevaluatedMembers(u32),
}

/// What a size is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sized {
    Text,
    Array,
    Object,
}

/// Values of an `enum`. Scalars are looked up, not compared one by one.
#[derive(Debug, Default)]
pub struct Enum {
    pub null: bool,
    pub no: bool,
    pub yes: bool,
    pub texts: HashSet<Box<str>>,
    pub numbers: HashSet<Key>,
    /// Nodes of the schema's document.
    pub others: Vec<u32>,
}

/// What is asked of the members of an object.
#[derive(Debug, Default)]
pub struct Members {
    pub named: HashMap<Box<str>, u32>,
    pub patterns: Vec<(Pattern, u32)>,
    pub others: Option<u32>,
}

/// What is asked of the elements of an array.
#[derive(Debug)]
pub struct Items {
    pub first: Box<[u32]>,
    pub first_keyword: &'static str,
    pub rest: Option<u32>,
    pub rest_keyword: &'static str,
}

/// A schema at one place.
#[derive(Debug)]
pub struct Schema {
    /// Its node in the document.
    pub at: u32,
    /// What it is, where it is a boolean.
    pub always: Option<bool>,
    pub checks: Vec<Check>,
    /// Whether it has `unevaluatedProperties` or `unevaluatedItems`.
    pub looks_back: bool,
}

/// A compiled schema.
#[derive(Debug)]
pub struct Program {
    pub document: Document<'static>,
    schemas: Vec<Schema>,
}

/// Bits of types.
pub const NULL: u8 = 1;
pub const BOOLEAN: u8 = 2;
pub const NUMBER: u8 = 4;
pub const STRING: u8 = 8;
pub const ARRAY: u8 = 16;
pub const OBJECT: u8 = 32;
/// A number that is one has both bits.
pub const INTEGER: u8 = 64;

/// The bit of a type by its name.
pub fn type_bit(name: &str) -> Option<u8> {
    Some(match name {
        "null" => NULL,
        "boolean" => BOOLEAN,
        "number" => NUMBER,
        "string" => STRING,
        "array" => ARRAY,
        "object" => OBJECT,
        "integer" => INTEGER,
        _ => return None,
    })
}

impl Program {
    /// Whether the whole schema is valid, by itself: no keyword has a value that it cannot have.
    pub fn check(document: Document<'static>, draft: Draft) -> Result<(), Not> {
        Compiler::new(document, draft, false, &mut 0).schemas().map(|_| ())
    }

    /// Compiles a schema. `patterns` is how many bytes its patterns may have.
    pub fn new(
        document: Document<'static>,
        draft: Draft,
        patterns: &mut usize,
    ) -> Result<Self, Not> {
        let compiler = Compiler::new(document, draft, true, patterns);
        let program = compiler.schemas()?;
        program.ends()?;
        Ok(program)
    }

    /// A schema by its number; the root's is 0.
    pub fn schema(&self, number: u32) -> Option<&Schema> {
        self.schemas.get(number as usize)
    }

    /// Checks that no schema leads to itself but through a part of the value.
    fn ends(&self) -> Result<(), Not> {
        const NEW: u8 = 0;
        const OPEN: u8 = 1;
        const DONE: u8 = 2;
        let mut states = vec![NEW; self.schemas.len()];
        for root in 0..u32::try_from(self.schemas.len()).unwrap_or(0) {
            // Schemas that the walk is in, each with those that are still to be entered from it.
            let mut open: Vec<(u32, Vec<u32>)> = Vec::new();
            let mut next = Some(root);
            loop {
                if let Some(schema) = next.take() {
                    let Some(state) = states.get_mut(schema as usize) else { continue };
                    match *state {
                        OPEN => {
                            let at = self.schema(schema).map_or(0, |schema| schema.at);
                            let place = format!("#{}", self.document.pointer(at));
                            return Err(Not::Wrong(format!(
                                "refers from `{}` to itself, without end",
                                one_line(&place, 200)
                            )));
                        }
                        NEW => {
                            *state = OPEN;
                            open.push((schema, self.same_value(schema)));
                        }
                        _ => {}
                    }
                }
                let Some((schema, left)) = open.last_mut() else { break };
                next = left.pop();
                if next.is_none() {
                    if let Some(state) = states.get_mut(*schema as usize) {
                        *state = DONE;
                    }
                    open.pop();
                }
            }
        }
        Ok(())
    }

    /// The schemas that a schema holds the same value to.
    fn same_value(&self, number: u32) -> Vec<u32> {
        let checks = self.schema(number).map_or(&[][..], |schema| &schema.checks);
        let mut found = Vec::new();
        for check in checks {
            match check {
                Check::All(list) | Check::Any(list) | Check::One(list) => found.extend(list),
                Check::Not(schema) | Check::Reference(schema) => found.push(*schema),
                Check::If { condition, then, otherwise } => {
                    found.push(*condition);
                    found.extend([then, otherwise].into_iter().flatten());
                }
                Check::DependentSchemas(_, list) => found.extend(list.iter().map(|(_, it)| *it)),
                _ => {}
            }
        }
        found
    }
}

/// A schema that is being compiled.
pub struct Compiler<'b> {
    pub document: Document<'static>,
    pub draft: Draft,
    /// True if all is made that checks need; else only faults are looked for.
    pub whole: bool,
    schemas: Vec<Schema>,
    numbers: HashMap<u32, u32>,
    queue: VecDeque<u32>,
    /// How many more bytes patterns may have.
    patterns: &'b mut usize,
}

impl<'b> Compiler<'b> {
    fn new(
        document: Document<'static>,
        draft: Draft,
        whole: bool,
        patterns: &'b mut usize,
    ) -> Self {
        Self {
            document,
            draft,
            whole,
            schemas: Vec::new(),
            numbers: HashMap::new(),
            queue: VecDeque::new(),
            patterns,
        }
    }

    fn schemas(mut self) -> Result<Program, Not> {
        self.number(0);
        while let Some(number) = self.queue.pop_front() {
            let Some(at) = self.schemas.get(number as usize).map(|schema| schema.at) else {
                continue;
            };
            let (always, checks) = match self.document.kind(at) {
                Kind::Bool(always) => (Some(always), Vec::new()),
                Kind::Object(_) => (None, keywords::checks(&mut self, at)?),
                _ => return Err(self.fault(at, "is no schema, which is an object or a boolean")),
            };
            if let Some(schema) = self.schemas.get_mut(number as usize) {
                schema.looks_back = checks.iter().any(|check| {
                    matches!(check, Check::UnevaluatedItems(_) | Check::UnevaluatedMembers(_))
                });
                // One that asks nothing takes all.
                schema.always = always.or_else(|| checks.is_empty().then_some(true));
                schema.checks = checks;
            }
        }
        Ok(Program { document: self.document, schemas: self.schemas })
    }

    /// The number of the schema at a node.
    pub fn number(&mut self, at: u32) -> u32 {
        if let Some(number) = self.numbers.get(&at) {
            return *number;
        }
        let number = u32::try_from(self.schemas.len()).unwrap_or(NONE);
        self.schemas.push(Schema { at, always: None, checks: Vec::new(), looks_back: false });
        self.numbers.insert(at, number);
        self.queue.push_back(number);
        number
    }

    /// What is wrong with a node of the schema.
    pub fn fault(&self, at: u32, reason: &str) -> Not {
        let place = one_line(&self.document.pointer(at), 200);
        let colon = if place.is_empty() { "" } else { ": " };
        Not::Wrong(format!("is no valid JSON Schema: {place}{colon}{reason}"))
    }

    /// A pattern, within the memory of all. One that is not taken counts, too, for the work of trying.
    pub fn pattern(&mut self, pattern: &str) -> Result<Pattern, Not> {
        let made = if *self.patterns == 0 { None } else { Some(Pattern::new(pattern)) };
        let bytes = match &made {
            Some(Ok(made)) => made.bytes(),
            _ => pattern::MAX_BYTES,
        };
        let left = self.patterns.checked_sub(bytes);
        *self.patterns = left.unwrap_or(0);
        match (made, left) {
            (Some(Ok(made)), Some(_)) => Ok(made),
            (Some(Err(reason)), _) => Err(Not::Checked(reason)),
            _ => Err(Not::Checked(
                "the patterns of its component come to too much when they are compiled".to_owned(),
            )),
        }
    }
}
