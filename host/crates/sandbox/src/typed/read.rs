//! From a payload to the values that a function is called with.
//!
//! The types lead: what is not of them is an error, with the place, what is expected there and what
//! kind of JSON is there instead. Payloads may be secret, and reasons are logged; so a payload's own
//! values are in none.
//!
//! Values take far more memory than their JSON: a record of a thousand options is `{}`. So what they
//! will take is counted before they are made, up to a most ([`Refused::Memory`]).

// Over 500 lines: one reader without recursion; its steps share one stack.

use std::cell::{Cell, RefCell};
use std::fmt::{self, Write as _};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use wasmtime::component::Val;

use super::types::{Cases, Fields, Integer, Names, Ty};

/// What a value is counted as: itself, what a vector that grows has free, and the copy of all that
/// wasmtime makes for the call.
const VALUE_BYTES: u64 = 3 * size_of::<Val>() as u64;

/// What a name or a text is counted as besides its bytes, twice: it is in two allocations, of which
/// each is rounded up.
const TEXT_BYTES: u64 = 2 * (size_of::<String>() as u64 + 8);

/// After so many values it is asked whether the attempt goes on: less than a millisecond.
const TAKES: u32 = 4096;

/// Values for a call.
#[derive(Debug)]
pub struct Arguments {
    /// One for each parameter.
    pub values: Vec<Val>,
    /// What they take, in bytes.
    pub bytes: u64,
}

/// Why a payload is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// It is no JSON; in the parser's words, which quote nothing.
    Syntax(String),
    /// Something in it is not of its type.
    Mismatch {
        /// Where: a JSON pointer (RFC 6901), of names that the types have.
        pointer: String,
        /// What is expected.
        expected: String,
        /// What is there.
        found: &'static str,
    },
    /// Its values would take more memory than this many bytes.
    Memory(u64),
    /// The attempt came to its end meanwhile.
    Stopped,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax(reason) => write!(f, "the payload is not JSON: {reason}"),
            Self::Mismatch { pointer, expected, found } => {
                let place = if pointer.is_empty() { "" } else { " at " };
                write!(
                    f,
                    "the payload does not fit{place}{pointer}: expected {expected}, found {found}"
                )
            }
            Self::Memory(allowed) => write!(
                f,
                "the payload's values take more than the {} of memory that the attempt may use \
                 (`memory_bytes` raises it)",
                lovage_core::byte_size::ByteSize(*allowed)
            ),
            Self::Stopped => f.write_str("the attempt ended while its payload was read"),
        }
    }
}

/// The values that a payload has for these parameters, of at most so many bytes. `goes_on` is asked now and
/// then whether the attempt does.
pub fn arguments(
    parameters: &Fields,
    payload: &[u8],
    max: u64,
    goes_on: &dyn Fn() -> bool,
) -> Result<Arguments, Refused> {
    let reader = Reader {
        path: RefCell::default(),
        problem: RefCell::default(),
        spent: Cell::new(0),
        max,
        takes: Cell::new(0),
        goes_on,
    };
    if parameters.types.is_empty() && payload.trim_ascii().is_empty() {
        return Ok(Arguments { values: Vec::new(), bytes: 0 });
    }
    let text = std::str::from_utf8(payload).map_err(|error| Refused::Syntax(error.to_string()))?;
    let mut json = serde_json::Deserializer::from_str(text);
    let read = match parameters.types.as_slice() {
        [only] => Seed { reader: &reader, ty: only }.deserialize(&mut json).map(|it| vec![it]),
        _ => json.deserialize_any(Parameters { reader: &reader, fields: parameters }),
    };
    let read = read.and_then(|values| json.end().map(|()| values));
    read.map(|values| Arguments { values, bytes: reader.spent.get() }).map_err(|error| {
        reader.problem.take().unwrap_or_else(|| Refused::Syntax(error.to_string()))
    })
}

/// A step to a value.
#[derive(Debug, Clone, Copy)]
enum Step<'t> {
    Name(&'t str),
    Place(usize),
}

struct Reader<'t> {
    /// To where the reading is; it stays as it was at an error.
    path: RefCell<Vec<Step<'t>>>,
    problem: RefCell<Option<Refused>>,
    spent: Cell<u64>,
    max: u64,
    takes: Cell<u32>,
    goes_on: &'t dyn Fn() -> bool,
}

impl<'t> Reader<'t> {
    fn within<T, E>(&self, step: Step<'t>, read: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        self.path.borrow_mut().push(step);
        let value = read()?;
        self.path.borrow_mut().pop();
        Ok(value)
    }

    fn fail<E: Error>(&self, expected: impl Into<String>, found: &'static str) -> E {
        let mut pointer = String::new();
        for step in self.path.borrow().iter() {
            // Writing to a string cannot fail. Names of types need no escapes.
            let _ = match step {
                Step::Name(name) => write!(pointer, "/{name}"),
                Step::Place(place) => write!(pointer, "/{place}"),
            };
        }
        // The first one is the reason of all others.
        self.problem.borrow_mut().get_or_insert(Refused::Mismatch {
            pointer,
            expected: expected.into(),
            found,
        });
        E::custom("")
    }

    /// Counts what will be made.
    fn take<E: Error>(&self, bytes: u64) -> Result<(), E> {
        let spent = self.spent.get().saturating_add(bytes);
        self.spent.set(spent);
        if spent > self.max {
            self.problem.borrow_mut().get_or_insert(Refused::Memory(self.max));
            return Err(E::custom(""));
        }
        let takes = self.takes.get().wrapping_add(1);
        self.takes.set(takes);
        if takes.is_multiple_of(TAKES) && !(self.goes_on)() {
            self.problem.borrow_mut().get_or_insert(Refused::Stopped);
            return Err(E::custom(""));
        }
        Ok(())
    }

    fn take_text<E: Error>(&self, text: &str) -> Result<(), E> {
        self.take(TEXT_BYTES.saturating_add(2 * text.len() as u64))
    }

    fn take_fields<E: Error>(&self, fields: &Fields) -> Result<(), E> {
        let names: usize = fields.names.wit.iter().map(String::len).sum();
        let each = VALUE_BYTES + TEXT_BYTES;
        self.take((fields.types.len() as u64).saturating_mul(each) + 2 * names as u64)
    }

    /// The fields of an object, in their order.
    fn object<'de, A: MapAccess<'de>>(
        &self,
        fields: &'t Fields,
        map: &mut A,
    ) -> Result<Vec<Val>, A::Error> {
        self.take_fields(fields)?;
        let mut values: Vec<Option<Val>> = fields.types.iter().map(|_| None).collect();
        while let Some(name) = map.next_key_seed(Name)? {
            let at = fields.names.find(&name);
            let of_it = at.and_then(|at| {
                let name = fields.names.json.get(at)?;
                Some((name, fields.types.get(at)?, values.get_mut(at)?))
            });
            let Some((name, ty, value)) = of_it else {
                let expected = listed("only the members", &fields.names);
                return Err(self.fail(expected, "an object with another member"));
            };
            if value.is_some() {
                return Err(self.fail(format!("`{name}` once"), "an object that has it twice"));
            }
            let seed = Seed { reader: self, ty };
            *value = Some(self.within(Step::Name(name), || map.next_value_seed(seed))?);
        }
        let each = fields.iter().zip(values);
        each.map(|((_, name, ty), value)| match value {
            Some(value) => Ok(value),
            None if ty.may_be_missing() => Ok(Val::Option(None)),
            None => {
                Err(self
                    .fail(format!("the member `{name}`, {}", ty.shown()), "an object without it"))
            }
        })
        .collect()
    }

    /// Elements of as many types, of which the first so many must be there.
    fn places<'de, A: SeqAccess<'de>>(
        &self,
        types: &'t [Ty],
        required: usize,
        seq: &mut A,
    ) -> Result<Vec<Val>, A::Error> {
        self.take((types.len() as u64).saturating_mul(VALUE_BYTES))?;
        let several = || {
            if required == types.len() {
                format!("an array of {required}")
            } else {
                format!("an array of {required} to {}", types.len())
            }
        };
        let mut values = Vec::with_capacity(types.len());
        for (place, ty) in types.iter().enumerate() {
            let seed = Seed { reader: self, ty };
            match self.within(Step::Place(place), || seq.next_element_seed(seed))? {
                Some(value) => values.push(value),
                None if place >= required => values.push(Val::Option(None)),
                None => return Err(self.fail(several(), "an array of fewer")),
            }
        }
        if seq.next_element_seed(Skip)?.is_some() {
            return Err(self.fail(several(), "an array of more"));
        }
        Ok(values)
    }

    /// The value of an object of one member, which is one of these names; and which it is.
    fn only<'de, A: MapAccess<'de>>(
        &self,
        expected: impl Fn() -> String,
        mut ty_of: impl FnMut(&str) -> Option<(usize, &'t str, Option<&'t Ty>)>,
        map: &mut A,
    ) -> Result<(usize, Option<Val>), A::Error> {
        let Some(name) = map.next_key_seed(Name)? else {
            return Err(self.fail(expected(), "an empty object"));
        };
        let Some((at, name, ty)) = ty_of(&name) else {
            return Err(self.fail(expected(), "an object with another member"));
        };
        let value = self.within(Step::Name(name), || match ty {
            Some(ty) => map.next_value_seed(Seed { reader: self, ty }).map(Some),
            None => map.next_value_seed(Nothing { reader: self }).map(|()| None),
        })?;
        if map.next_key_seed(Name)?.is_some() {
            return Err(self.fail(expected(), "an object with several members"));
        }
        Ok((at, value))
    }
}

/// The names of members or cases, as many as are worth being told.
fn listed(what: &str, names: &Names) -> String {
    let mut text = what.to_owned();
    for (at, name) in names.json.iter().enumerate() {
        if text.len() + name.len() > 200 {
            // Writing to a string cannot fail.
            let _ = write!(text, " and {} more", names.len() - at);
            break;
        }
        let comma = if at > 0 { "," } else { "" };
        let _ = write!(text, "{comma} `{name}`");
    }
    text
}

/// A member's name.
struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = std::borrow::Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Name {
    type Value = std::borrow::Cow<'de, str>;

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

/// One element too many.
struct Skip;

impl<'de> DeserializeSeed<'de> for Skip {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        serde::Deserialize::deserialize(json).map(|_: serde::de::IgnoredAny| ())
    }
}

/// Nothing, where a case holds nothing.
struct Nothing<'r, 't> {
    reader: &'r Reader<'t>,
}

impl<'de> DeserializeSeed<'de> for Nothing<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        let raw: &RawValue = serde::Deserialize::deserialize(json)?;
        match raw.get() {
            "null" => Ok(()),
            other => Err(self.reader.fail("null", kind(other))),
        }
    }
}

/// What kind of JSON a text is.
fn kind(json: &str) -> &'static str {
    match json.as_bytes().first() {
        Some(b'"') => "a string",
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "a number",
    }
}

/// A value of a type.
#[derive(Clone, Copy)]
struct Seed<'r, 't> {
    reader: &'r Reader<'t>,
    ty: &'t Ty,
}

impl Seed<'_, '_> {
    fn integer<E: Error>(self, integer: Integer, json: &str) -> Result<Val, E> {
        let (least, most) = integer.range();
        // One that is longer than an `i128` has room for is in no range.
        let number = json.parse::<i128>().ok().filter(|number| (least..=most).contains(number));
        number.and_then(|number| integer_value(integer, number)).ok_or_else(|| {
            let found = match kind(json) {
                "a number" if json.bytes().any(|byte| b".eE".contains(&byte)) => {
                    "a number that is not written as an integer"
                }
                "a number" => "an integer out of its range",
                other => other,
            };
            self.reader.fail(integer.name(), found)
        })
    }

    fn float<T: std::str::FromStr, E: Error>(
        self,
        json: &str,
        value: impl FnOnce(T) -> Option<Val>,
    ) -> Result<Val, E> {
        match kind(json) {
            // Rust's parser takes all that JSON has, and rounds as it should.
            "a number" => json
                .parse()
                .ok()
                .and_then(value)
                .ok_or_else(|| self.reader.fail(self.ty.shown(), "a number out of its range")),
            other => Err(self.reader.fail(self.ty.shown(), other)),
        }
    }

    fn wrong<E: Error>(self, found: &'static str) -> E {
        let expected = match self.ty {
            Ty::Char => "char, a string of one character".to_owned(),
            Ty::Bytes => "list<u8>, as a string in base64".to_owned(),
            other => other.shown(),
        };
        self.reader.fail(expected, found)
    }
}

fn integer_value(integer: Integer, number: i128) -> Option<Val> {
    Some(match integer {
        Integer::U8 => Val::U8(number.try_into().ok()?),
        Integer::S8 => Val::S8(number.try_into().ok()?),
        Integer::U16 => Val::U16(number.try_into().ok()?),
        Integer::S16 => Val::S16(number.try_into().ok()?),
        Integer::U32 => Val::U32(number.try_into().ok()?),
        Integer::S32 => Val::S32(number.try_into().ok()?),
        Integer::U64 => Val::U64(number.try_into().ok()?),
        Integer::S64 => Val::S64(number.try_into().ok()?),
    })
}

impl<'de> DeserializeSeed<'de> for Seed<'_, '_> {
    type Value = Val;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Val, D::Error> {
        self.reader.take(VALUE_BYTES)?;
        match self.ty {
            // By their text, so that none is rounded on its way.
            Ty::Integer(integer) => {
                let raw: &RawValue = serde::Deserialize::deserialize(json)?;
                self.integer(*integer, raw.get())
            }
            Ty::Float32 => {
                let raw: &RawValue = serde::Deserialize::deserialize(json)?;
                self.float(raw.get(), |it: f32| it.is_finite().then_some(Val::Float32(it)))
            }
            Ty::Float64 => {
                let raw: &RawValue = serde::Deserialize::deserialize(json)?;
                self.float(raw.get(), |it: f64| it.is_finite().then_some(Val::Float64(it)))
            }
            Ty::Option(ty) if !ty.may_be_null() => json.deserialize_option(self),
            _ => json.deserialize_any(self),
        }
    }
}

fn some(value: Val) -> Val {
    Val::Option(Some(Box::new(value)))
}

impl<'de> Visitor<'de> for Seed<'_, '_> {
    type Value = Val;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.ty.shown())
    }

    fn visit_none<E: Error>(self) -> Result<Val, E> {
        self.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, json: D) -> Result<Val, D::Error> {
        match self.ty {
            Ty::Option(ty) => Seed { ty, ..self }.deserialize(json).map(some),
            _ => Err(self.wrong("a value")),
        }
    }

    fn visit_unit<E: Error>(self) -> Result<Val, E> {
        match self.ty {
            Ty::Option(_) => Ok(Val::Option(None)),
            _ => Err(self.wrong("null")),
        }
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Val, E> {
        match self.ty {
            Ty::Bool => Ok(Val::Bool(value)),
            _ => Err(self.wrong("a boolean")),
        }
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Val, E> {
        Err(self.wrong("a number"))
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Val, E> {
        Err(self.wrong("a number"))
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Val, E> {
        Err(self.wrong("a number"))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Val, E> {
        match self.ty {
            Ty::String => {
                self.reader.take_text(text)?;
                Ok(Val::String(text.to_owned()))
            }
            Ty::Char => {
                let mut chars = text.chars();
                match (chars.next(), chars.next()) {
                    (Some(only), None) => Ok(Val::Char(only)),
                    _ => Err(self.wrong("a string of another length")),
                }
            }
            Ty::Bytes => {
                let bytes = text.len() as u64 / 4 * 3;
                self.reader.take(bytes.saturating_mul(VALUE_BYTES + 1))?;
                match BASE64_STANDARD.decode(text) {
                    Ok(bytes) => Ok(Val::List(bytes.into_iter().map(Val::U8).collect())),
                    Err(_) => Err(self.wrong("a string that is no base64 (RFC 4648, padded)")),
                }
            }
            Ty::Enum(names) => {
                let name = names.find(text).and_then(|at| names.wit.get(at));
                let wrong = || self.reader.fail(listed("one of", names), "another string");
                let name = name.ok_or_else(wrong)?;
                self.reader.take_text(name)?;
                Ok(Val::Enum(name.clone()))
            }
            Ty::Variant(cases) => {
                let at = cases.names.find(text);
                let case = at.and_then(|at| Some((cases.names.wit.get(at)?, cases.types.get(at)?)));
                match case {
                    Some((name, None)) => {
                        self.reader.take_text(name)?;
                        Ok(Val::Variant(name.clone(), None))
                    }
                    Some((_, Some(ty))) => {
                        let expected =
                            format!("an object of one member, the case with its {}", ty.shown());
                        Err(self.reader.fail(expected, "the case alone, as a string"))
                    }
                    None => Err(self.reader.fail(a_case(cases), "another string")),
                }
            }
            _ => Err(self.wrong("a string")),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Val, A::Error> {
        match self.ty {
            Ty::List(ty) => {
                let mut values = Vec::new();
                let next = Seed { ty, ..self };
                while let Some(value) =
                    self.reader.within(Step::Place(values.len()), || seq.next_element_seed(next))?
                {
                    values.push(value);
                }
                Ok(Val::List(values))
            }
            Ty::Tuple(types) => Ok(Val::Tuple(self.reader.places(types, types.len(), &mut seq)?)),
            Ty::Flags(names) => {
                let mut set = vec![false; names.len()];
                let mut place = 0;
                while let Some(at) = self.reader.within(Step::Place(place), || {
                    seq.next_element_seed(Flag { seed: self, names })
                })? {
                    if let Some(flag) = set.get_mut(at)
                        && std::mem::replace(flag, true)
                    {
                        return Err(self
                            .reader
                            .fail("each flag once", "an array that has one twice"));
                    }
                    place += 1;
                }
                let flags = names.wit.iter().zip(set).filter(|(_, is_set)| *is_set);
                Ok(Val::Flags(flags.map(|(name, _)| name.clone()).collect()))
            }
            _ => Err(self.wrong("an array")),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Val, A::Error> {
        match self.ty {
            Ty::Record(fields) => {
                let values = self.reader.object(fields, &mut map)?;
                Ok(Val::Record(fields.names.wit.iter().cloned().zip(values).collect()))
            }
            Ty::Variant(cases) => {
                let ty_of = |name: &str| {
                    let at = cases.names.find(name)?;
                    let ty = cases.types.get(at)?.as_ref()?;
                    Some((at, cases.names.json.get(at)?.as_str(), Some(ty)))
                };
                let (at, value) = self.reader.only(|| a_case(cases), ty_of, &mut map)?;
                let name = cases.names.wit.get(at).cloned().unwrap_or_default();
                self.reader.take_text(&name)?;
                Ok(Val::Variant(name, value.map(Box::new)))
            }
            Ty::Option(ty) => {
                let expected = || "null, or an object of the one member `some`".to_owned();
                let ty_of = |name: &str| (name == "some").then_some((0, "some", Some(&**ty)));
                let (_, value) = self.reader.only(expected, ty_of, &mut map)?;
                Ok(Val::Option(value.map(Box::new)))
            }
            Ty::Result(parts) => {
                let expected = || "an object of one member, `ok` or `err`".to_owned();
                let [ok, err] = parts.as_ref();
                let ty_of = |name: &str| match name {
                    "ok" => Some((0, "ok", ok.as_ref())),
                    "err" => Some((1, "err", err.as_ref())),
                    _ => None,
                };
                let (which, value) = self.reader.only(expected, ty_of, &mut map)?;
                let value = value.map(Box::new);
                Ok(Val::Result(if which == 0 { Ok(value) } else { Err(value) }))
            }
            _ => Err(self.wrong("an object")),
        }
    }
}

/// The ways in which a variant is written.
fn a_case(cases: &Cases) -> String {
    let plain = cases.types.iter().filter(|ty| ty.is_none()).count();
    let how = if plain == cases.types.len() {
        "one of"
    } else if plain == 0 {
        "an object of one member, one of"
    } else {
        "a case, as a string where it holds nothing, else as an object of one member: one of"
    };
    listed(how, &cases.names)
}

/// A flag's name; its value is where the flag stands.
struct Flag<'r, 't> {
    seed: Seed<'r, 't>,
    names: &'t Names,
}

impl<'de> DeserializeSeed<'de> for Flag<'_, '_> {
    type Value = usize;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<usize, D::Error> {
        let raw: &RawValue = serde::Deserialize::deserialize(json)?;
        let reader = self.seed.reader;
        let text = kind(raw.get()) == "a string";
        let name = text.then(|| serde_json::from_str::<String>(raw.get()).ok()).flatten();
        match name.as_deref().map(|name| self.names.find(name)) {
            Some(Some(at)) => {
                reader.take_text(self.names.wit.get(at).map_or("", String::as_str))?;
                Ok(at)
            }
            Some(None) => Err(reader.fail(listed("one of", self.names), "another string")),
            None => Err(reader.fail(listed("one of", self.names), kind(raw.get()))),
        }
    }
}

/// The parameters of a function that has none or several.
struct Parameters<'r, 't> {
    reader: &'r Reader<'t>,
    fields: &'t Fields,
}

impl Parameters<'_, '_> {
    fn wrong<E: Error>(self, found: &'static str) -> E {
        let expected = if self.fields.types.is_empty() {
            "null, {} or []".to_owned()
        } else {
            listed("an object or an array of the parameters", &self.fields.names)
        };
        self.reader.fail(expected, found)
    }
}

impl<'de> Visitor<'de> for Parameters<'_, '_> {
    type Value = Vec<Val>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("parameters")
    }

    fn visit_unit<E: Error>(self) -> Result<Vec<Val>, E> {
        if self.fields.types.is_empty() { Ok(Vec::new()) } else { Err(self.wrong("null")) }
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Vec<Val>, E> {
        Err(self.wrong("a boolean"))
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Vec<Val>, E> {
        Err(self.wrong("a number"))
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Vec<Val>, E> {
        Err(self.wrong("a number"))
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Vec<Val>, E> {
        Err(self.wrong("a number"))
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Vec<Val>, E> {
        Err(self.wrong("a string"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<Val>, A::Error> {
        let required = self.fields.required_by_place();
        self.reader.places(&self.fields.types, required, &mut seq)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vec<Val>, A::Error> {
        self.reader.object(self.fields, &mut map)
    }
}
