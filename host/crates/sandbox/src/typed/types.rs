//! The types of a function, as far as they can be JSON.
//!
//! They are made once, when a component is loaded, from what wasmtime knows of it. A component's
//! types share their parts, and twenty of them can stand for a million: here each stands for itself,
//! so there is a most of them ([`Room`]).

use std::collections::HashMap;
use std::fmt::{self, Write as _};

use wasmtime::component::Type;

/// The most parts that the types of a component come to, each counted as often as it is used: types,
/// fields, cases and flags. A schema has as many, and so bounds what is kept for a component. People
/// write some hundreds.
pub const MAX_PARTS: usize = 20_000;

/// The most bytes of all names in them.
pub const MAX_NAME_BYTES: usize = 512 << 10;

/// The most types in each other. JSON is read to 128 levels, and a value has at most one for each type
/// and one for its parameters.
pub const MAX_LEVELS: usize = 100;

/// A type of values.
#[derive(Debug, Clone, PartialEq)]
pub enum Ty {
    /// `bool`
    Bool,
    /// One of the integers.
    Integer(Integer),
    /// `f32`
    Float32,
    /// `f64`
    Float64,
    /// `char`
    Char,
    /// `string`
    String,
    /// `list<u8>`, which is text in JSON.
    Bytes,
    /// Any other list.
    List(Box<Ty>),
    /// `tuple`
    Tuple(Vec<Ty>),
    /// `record`
    Record(Fields),
    /// `variant`
    Variant(Cases),
    /// `enum`
    Enum(Names),
    /// `flags`
    Flags(Names),
    /// `option`
    Option(Box<Ty>),
    /// `result`
    Result(Box<[Option<Ty>; 2]>),
}

/// An integer's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "named as in WIT")]
pub enum Integer {
    U8,
    S8,
    U16,
    S16,
    U32,
    S32,
    U64,
    S64,
}

impl Integer {
    /// The least and the greatest.
    pub const fn range(self) -> (i128, i128) {
        match self {
            Self::U8 => (0, u8::MAX as i128),
            Self::S8 => (i8::MIN as i128, i8::MAX as i128),
            Self::U16 => (0, u16::MAX as i128),
            Self::S16 => (i16::MIN as i128, i16::MAX as i128),
            Self::U32 => (0, u32::MAX as i128),
            Self::S32 => (i32::MIN as i128, i32::MAX as i128),
            Self::U64 => (0, u64::MAX as i128),
            Self::S64 => (i64::MIN as i128, i64::MAX as i128),
        }
    }

    /// As WIT has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::U8 => "u8",
            Self::S8 => "s8",
            Self::U16 => "u16",
            Self::S16 => "s16",
            Self::U32 => "u32",
            Self::S32 => "s32",
            Self::U64 => "u64",
            Self::S64 => "s64",
        }
    }
}

/// Names of one scope, in WIT and in JSON, in their order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Names {
    /// As in WIT.
    pub wit: Vec<String>,
    /// As in JSON.
    pub json: Vec<String>,
    by_json: HashMap<String, usize>,
}

impl Names {
    /// From those of WIT, which differ by more than their case, so that those of JSON differ, too.
    pub fn new(wit: Vec<String>) -> Self {
        let json: Vec<String> = wit.iter().map(|name| snake_case(name)).collect();
        let by_json = json.iter().cloned().zip(0..).collect();
        Self { wit, json, by_json }
    }

    /// Where a name of JSON stands.
    pub fn find(&self, json: &str) -> Option<usize> {
        self.by_json.get(json).copied()
    }

    /// How many they are.
    pub fn len(&self) -> usize {
        self.wit.len()
    }
}

/// The fields of a record, or the parameters of a function.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Fields {
    /// Their names.
    pub names: Names,
    /// Their types.
    pub types: Vec<Ty>,
}

impl Fields {
    /// Each with its names in WIT and in JSON.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str, &Ty)> {
        let names = self.names.wit.iter().zip(&self.names.json);
        names.zip(&self.types).map(|((wit, json), ty)| (wit.as_str(), json.as_str(), ty))
    }

    /// How many of the first must be there when they are given by place: all but the last options.
    pub fn required_by_place(&self) -> usize {
        self.types.iter().rposition(|ty| !ty.may_be_missing()).map_or(0, |last| last + 1)
    }
}

/// The cases of a variant.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Cases {
    /// Their names.
    pub names: Names,
    /// What each holds.
    pub types: Vec<Option<Ty>>,
}

/// `process-data` and `process-DATA` as `process_data`.
pub fn snake_case(wit: &str) -> String {
    wit.replace('-', "_").to_ascii_lowercase()
}

/// How much more may be made of a component's types.
#[derive(Debug)]
pub struct Room {
    parts: usize,
    name_bytes: usize,
}

impl Default for Room {
    fn default() -> Self {
        Self { parts: MAX_PARTS, name_bytes: MAX_NAME_BYTES }
    }
}

/// Why a type cannot be JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unfit {
    /// It is no value: a resource, say.
    Kind(&'static str),
    /// It is in too many others.
    Deep,
    /// The component's types are too many; no further ones are looked at.
    Large,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kind(what) => write!(f, "its types have {what}, which cannot be JSON"),
            Self::Deep => {
                write!(f, "its types are in each other for more than {MAX_LEVELS} levels")
            }
            Self::Large => write!(
                f,
                "the types of this component come to more than {MAX_PARTS} parts or \
                 {MAX_NAME_BYTES} bytes of names"
            ),
        }
    }
}

impl Room {
    /// Takes parts, and their names.
    fn take(&mut self, parts: usize) -> Result<(), Unfit> {
        self.parts = self.parts.checked_sub(parts).ok_or(Unfit::Large)?;
        Ok(())
    }

    /// Takes a name, and the part that it is of.
    pub fn name(&mut self, name: &str) -> Result<String, Unfit> {
        self.take(1)?;
        self.name_bytes = self.name_bytes.checked_sub(name.len()).ok_or(Unfit::Large)?;
        Ok(name.to_owned())
    }

    /// A type, if it can be JSON.
    pub fn ty(&mut self, ty: &Type, level: usize) -> Result<Ty, Unfit> {
        if level >= MAX_LEVELS {
            return Err(Unfit::Deep);
        }
        self.take(1)?;
        let next = level + 1;
        Ok(match ty {
            Type::Bool => Ty::Bool,
            Type::S8 => Ty::Integer(Integer::S8),
            Type::U8 => Ty::Integer(Integer::U8),
            Type::S16 => Ty::Integer(Integer::S16),
            Type::U16 => Ty::Integer(Integer::U16),
            Type::S32 => Ty::Integer(Integer::S32),
            Type::U32 => Ty::Integer(Integer::U32),
            Type::S64 => Ty::Integer(Integer::S64),
            Type::U64 => Ty::Integer(Integer::U64),
            Type::Float32 => Ty::Float32,
            Type::Float64 => Ty::Float64,
            Type::Char => Ty::Char,
            Type::String => Ty::String,
            Type::List(list) => match self.ty(&list.ty(), next)? {
                Ty::Integer(Integer::U8) => Ty::Bytes,
                element => Ty::List(Box::new(element)),
            },
            Type::Tuple(tuple) => {
                let types = tuple.types().map(|ty| self.ty(&ty, next));
                Ty::Tuple(types.collect::<Result<_, _>>()?)
            }
            Type::Record(record) => {
                let fields = record.fields().map(|field| (field.name, field.ty));
                Ty::Record(self.fields(fields, next)?)
            }
            Type::Variant(variant) => {
                let (mut names, mut types) = (Vec::new(), Vec::new());
                for case in variant.cases() {
                    names.push(self.name(case.name)?);
                    types.push(case.ty.map(|ty| self.ty(&ty, next)).transpose()?);
                }
                Ty::Variant(Cases { names: Names::new(names), types })
            }
            Type::Enum(names) => Ty::Enum(self.names(names.names())?),
            Type::Flags(names) => Ty::Flags(self.names(names.names())?),
            Type::Option(option) => Ty::Option(Box::new(self.ty(&option.ty(), next)?)),
            Type::Result(result) => {
                let mut part = |ty: Option<Type>| ty.map(|ty| self.ty(&ty, next)).transpose();
                Ty::Result(Box::new([part(result.ok())?, part(result.err())?]))
            }
            Type::Own(_) | Type::Borrow(_) => return Err(Unfit::Kind("a resource")),
            Type::Future(_) => return Err(Unfit::Kind("a future")),
            Type::Stream(_) => return Err(Unfit::Kind("a stream")),
            Type::ErrorContext => return Err(Unfit::Kind("an error-context")),
            Type::Map(_) => return Err(Unfit::Kind("a map")),
            Type::FixedLengthList(_) => return Err(Unfit::Kind("a list of fixed length")),
        })
    }

    /// Fields or parameters.
    pub fn fields<'a>(
        &mut self,
        fields: impl Iterator<Item = (&'a str, Type)>,
        level: usize,
    ) -> Result<Fields, Unfit> {
        let (mut names, mut types) = (Vec::new(), Vec::new());
        for (name, ty) in fields {
            names.push(self.name(name)?);
            types.push(self.ty(&ty, level)?);
        }
        Ok(Fields { names: Names::new(names), types })
    }

    fn names<'a>(&mut self, names: impl Iterator<Item = &'a str>) -> Result<Names, Unfit> {
        Ok(Names::new(names.map(|name| self.name(name)).collect::<Result<_, _>>()?))
    }
}

/// The most bytes of a type that is told to people.
const SHOWN_BYTES: usize = 200;

impl Ty {
    /// Whether JSON's `null` is a value of it, so that an option of it needs another way to say that
    /// there is one.
    pub fn may_be_null(&self) -> bool {
        matches!(self, Self::Option(_))
    }

    /// Whether a field or parameter of it may be left out.
    pub fn may_be_missing(&self) -> bool {
        matches!(self, Self::Option(_))
    }

    /// The types right in it.
    fn parts(&self) -> Vec<&Ty> {
        match self {
            Self::List(ty) | Self::Option(ty) => vec![ty],
            Self::Tuple(types) => types.iter().collect(),
            Self::Record(fields) => fields.types.iter().collect(),
            Self::Variant(cases) => cases.types.iter().flatten().collect(),
            Self::Result(parts) => parts.iter().flatten().collect(),
            _ => Vec::new(),
        }
    }

    /// Returns true if there are flags in it, each of which is a name of its own in memory.
    pub fn has_flags(&self) -> bool {
        matches!(self, Self::Flags(_)) || self.parts().into_iter().any(Self::has_flags)
    }

    /// As WIT has it, with all that is in it; cut where it is long.
    pub fn shown(&self) -> String {
        let mut text = Text(String::new());
        // An error only means that there is enough.
        if self.write(&mut text).is_err() {
            text.0.push('…');
        }
        text.0
    }

    fn write(&self, to: &mut Text) -> fmt::Result {
        match self {
            Self::Bool => to.write_str("bool"),
            Self::Integer(integer) => to.write_str(integer.name()),
            Self::Float32 => to.write_str("f32"),
            Self::Float64 => to.write_str("f64"),
            Self::Char => to.write_str("char"),
            Self::String => to.write_str("string"),
            Self::Bytes => to.write_str("list<u8>"),
            Self::List(ty) => {
                to.write_str("list<")?;
                ty.write(to)?;
                to.write_str(">")
            }
            Self::Option(ty) => {
                to.write_str("option<")?;
                ty.write(to)?;
                to.write_str(">")
            }
            Self::Tuple(types) => {
                to.write_str("tuple<")?;
                for (at, ty) in types.iter().enumerate() {
                    to.write_str(if at > 0 { ", " } else { "" })?;
                    ty.write(to)?;
                }
                to.write_str(">")
            }
            Self::Record(fields) => {
                to.write_str("record { ")?;
                fields.write(to)?;
                to.write_str(" }")
            }
            Self::Variant(cases) => {
                to.write_str("variant { ")?;
                for (at, (name, ty)) in cases.names.wit.iter().zip(&cases.types).enumerate() {
                    to.write_str(if at > 0 { ", " } else { "" })?;
                    to.write_str(name)?;
                    if let Some(ty) = ty {
                        to.write_str("(")?;
                        ty.write(to)?;
                        to.write_str(")")?;
                    }
                }
                to.write_str(" }")
            }
            Self::Enum(names) | Self::Flags(names) => {
                let kind = if matches!(self, Self::Enum(_)) { "enum { " } else { "flags { " };
                to.write_str(kind)?;
                for (at, name) in names.wit.iter().enumerate() {
                    to.write_str(if at > 0 { ", " } else { "" })?;
                    to.write_str(name)?;
                }
                to.write_str(" }")
            }
            Self::Result(parts) => {
                to.write_str("result")?;
                let [ok, err] = parts.as_ref();
                if ok.is_none() && err.is_none() {
                    return Ok(());
                }
                to.write_str("<")?;
                match ok {
                    Some(ty) => ty.write(to)?,
                    None => to.write_str("_")?,
                }
                if let Some(ty) = err {
                    to.write_str(", ")?;
                    ty.write(to)?;
                }
                to.write_str(">")
            }
        }
    }
}

impl Fields {
    fn write(&self, to: &mut Text) -> fmt::Result {
        for (at, (name, _, ty)) in self.iter().enumerate() {
            to.write_str(if at > 0 { ", " } else { "" })?;
            to.write_str(name)?;
            to.write_str(": ")?;
            ty.write(to)?;
        }
        Ok(())
    }

    /// As WIT has parameters; cut where they are long.
    pub fn shown(&self) -> String {
        let mut text = Text(String::new());
        // An error only means that there is enough.
        if self.write(&mut text).is_err() {
            text.0.push('…');
        }
        text.0
    }
}

/// Text that ends where it is long.
struct Text(String);

impl fmt::Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = SHOWN_BYTES.saturating_sub(self.0.len());
        if text.len() > room {
            self.0.push_str(text.get(..text.floor_char_boundary(room)).unwrap_or_default());
            return Err(fmt::Error);
        }
        self.0.push_str(text);
        Ok(())
    }
}
