//! From values to JSON.

use std::fmt::Write as _;

use serde::Serialize;
use wasmtime::component::Val;

use super::types::{Ty, snake_case};

/// Why there is no JSON of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unwritable {
    /// It would be longer than it may be.
    TooLong,
    /// It has a number that JSON has not; where, as a JSON pointer (RFC 6901).
    NotFinite(String),
    /// It is none of its type: a mistake of this host.
    OtherType,
}

/// The JSON of a value, of at most so many bytes.
pub fn json(ty: &Ty, value: &Val, max: usize) -> Result<Vec<u8>, Unwritable> {
    let mut out = Out { bytes: Vec::new(), max };
    match out.value(ty, value) {
        Ok(()) => Ok(out.bytes),
        Err(Stop::At(mut path)) => {
            path.reverse();
            let mut pointer = String::new();
            for step in path {
                // Writing to a string cannot fail.
                let _ = write!(pointer, "/{step}");
            }
            Err(Unwritable::NotFinite(pointer))
        }
        Err(Stop::TooLong) => Err(Unwritable::TooLong),
        Err(Stop::OtherType) => Err(Unwritable::OtherType),
    }
}

/// What of the JSON of a value has room in so many bytes.
pub fn beginning(ty: &Ty, value: &Val, max: usize) -> String {
    let mut out = Out { bytes: Vec::new(), max };
    let mark = match out.value(ty, value) {
        Ok(()) => "",
        Err(Stop::TooLong) => "…",
        Err(_) => " (the rest cannot be JSON)",
    };
    String::from_utf8_lossy(&out.bytes).into_owned() + mark
}

enum Stop {
    TooLong,
    OtherType,
    /// A number that is not finite; the steps to it, the last one first.
    At(Vec<String>),
}

type Written = Result<(), Stop>;

struct Out {
    bytes: Vec<u8>,
    max: usize,
}

impl Out {
    fn put(&mut self, text: &[u8]) -> Written {
        let room = self.max.saturating_sub(self.bytes.len());
        if text.len() > room {
            return Err(Stop::TooLong);
        }
        self.bytes.extend_from_slice(text);
        Ok(())
    }

    /// A number or a text.
    fn scalar(&mut self, value: &(impl Serialize + ?Sized)) -> Written {
        let text = serde_json::to_vec(value).map_err(|_| Stop::OtherType)?;
        self.put(&text)
    }

    fn text(&mut self, text: &str) -> Written {
        // Before it is copied.
        if text.len() > self.max.saturating_sub(self.bytes.len()) {
            return Err(Stop::TooLong);
        }
        self.scalar(text)
    }

    fn name(&mut self, wit: &str) -> Written {
        self.text(&snake_case(wit))
    }

    fn value(&mut self, ty: &Ty, value: &Val) -> Written {
        match (ty, value) {
            (Ty::Bool, Val::Bool(it)) => self.scalar(it),
            (Ty::Integer(_), Val::U8(it)) => self.scalar(it),
            (Ty::Integer(_), Val::S8(it)) => self.scalar(it),
            (Ty::Integer(_), Val::U16(it)) => self.scalar(it),
            (Ty::Integer(_), Val::S16(it)) => self.scalar(it),
            (Ty::Integer(_), Val::U32(it)) => self.scalar(it),
            (Ty::Integer(_), Val::S32(it)) => self.scalar(it),
            (Ty::Integer(_), Val::U64(it)) => self.scalar(it),
            (Ty::Integer(_), Val::S64(it)) => self.scalar(it),
            (Ty::Float32, Val::Float32(it)) if it.is_finite() => self.scalar(it),
            (Ty::Float64, Val::Float64(it)) if it.is_finite() => self.scalar(it),
            (Ty::Float32, Val::Float32(_)) | (Ty::Float64, Val::Float64(_)) => {
                Err(Stop::At(Vec::new()))
            }
            (Ty::Char, Val::Char(it)) => self.scalar(it),
            (Ty::String, Val::String(it)) => self.text(it),
            (Ty::Bytes, Val::List(values)) => self.base64(values),
            (Ty::List(ty), Val::List(values)) => {
                self.list(values.iter().map(|value| (&**ty, value)))
            }
            (Ty::Tuple(types), Val::Tuple(values)) => self.list(types.iter().zip(values)),
            (Ty::Record(fields), Val::Record(values)) => {
                self.put(b"{")?;
                for (at, ((_, name, ty), (_, value))) in fields.iter().zip(values).enumerate() {
                    self.put(if at > 0 { b"," } else { b"" })?;
                    self.text(name)?;
                    self.put(b":")?;
                    self.value(ty, value).map_err(|stop| stop.within(name))?;
                }
                self.put(b"}")
            }
            (Ty::Variant(cases), Val::Variant(case, value)) => {
                let name = snake_case(case);
                let ty = cases.names.find(&name).and_then(|at| cases.types.get(at));
                match (ty, value) {
                    (Some(None), None) => self.text(&name),
                    (Some(Some(ty)), Some(value)) => self.only(&name, ty, value),
                    _ => Err(Stop::OtherType),
                }
            }
            (Ty::Enum(_), Val::Enum(case)) => self.name(case),
            (Ty::Flags(_), Val::Flags(flags)) => {
                self.put(b"[")?;
                for (at, flag) in flags.iter().enumerate() {
                    self.put(if at > 0 { b"," } else { b"" })?;
                    self.name(flag)?;
                }
                self.put(b"]")
            }
            (Ty::Option(_), Val::Option(None)) => self.put(b"null"),
            (Ty::Option(ty), Val::Option(Some(value))) => {
                if ty.may_be_null() {
                    self.only("some", ty, value)
                } else {
                    self.value(ty, value)
                }
            }
            (Ty::Result(parts), Val::Result(result)) => {
                let [ok, err] = parts.as_ref();
                let (name, ty, value) = match result {
                    Ok(value) => ("ok", ok, value),
                    Err(value) => ("err", err, value),
                };
                match (ty, value) {
                    (Some(ty), Some(value)) => self.only(name, ty, value),
                    (None, None) => {
                        self.put(b"{\"")?;
                        self.put(name.as_bytes())?;
                        self.put(b"\":null}")
                    }
                    _ => Err(Stop::OtherType),
                }
            }
            _ => Err(Stop::OtherType),
        }
    }

    fn list<'a>(&mut self, values: impl Iterator<Item = (&'a Ty, &'a Val)>) -> Written {
        self.put(b"[")?;
        for (at, (ty, value)) in values.enumerate() {
            self.put(if at > 0 { b"," } else { b"" })?;
            self.value(ty, value).map_err(|stop| stop.within(&at.to_string()))?;
        }
        self.put(b"]")
    }

    /// An object of one member.
    fn only(&mut self, name: &str, ty: &Ty, value: &Val) -> Written {
        self.put(b"{")?;
        self.text(name)?;
        self.put(b":")?;
        self.value(ty, value).map_err(|stop| stop.within(name))?;
        self.put(b"}")
    }

    fn base64(&mut self, values: &[Val]) -> Written {
        use base64::{Engine as _, prelude::BASE64_STANDARD};

        let room = self.max.saturating_sub(self.bytes.len());
        if values.len().div_ceil(3).saturating_mul(4).saturating_add(2) > room {
            return Err(Stop::TooLong);
        }
        let bytes = values.iter().map(|value| match value {
            Val::U8(byte) => Ok(*byte),
            _ => Err(Stop::OtherType),
        });
        let bytes = bytes.collect::<Result<Vec<u8>, _>>()?;
        self.put(b"\"")?;
        self.put(BASE64_STANDARD.encode(bytes).as_bytes())?;
        self.put(b"\"")
    }
}

impl Stop {
    /// The same, told from one level further out. Names and places need no escapes in a pointer.
    fn within(self, step: &str) -> Self {
        match self {
            Self::At(mut path) => {
                path.push(step.to_owned());
                Self::At(path)
            }
            other => other,
        }
    }
}
