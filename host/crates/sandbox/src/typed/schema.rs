//! JSON Schemas (2020-12) of types: they take what [`read`](super::read) takes.
//!
//! But for two things that a schema cannot say: `1.0` is an integer to it, and of two members with
//! one name it sees the last.
//!
//! They are written as text, since the order of properties counts: positional arguments of Celery's
//! calls go by it.

use std::fmt::{Display, Write as _};

use super::types::{Cases, Fields, Names, Ty};

const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

/// RFC 4648, section 4: padded, and with no bits set that belong to no byte.
const BASE64: &str =
    "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$";

/// Half-way between the greatest `f32` and the next one there would be: what is not nearer than that
/// is rounded to infinity. 2¹²⁸ − 2¹⁰³.
const FLOAT32_END: &str = "340282356779733661637539395458142568448.0";

/// The schema of a payload.
pub fn input(parameters: &Fields) -> String {
    document(|schema| match parameters.types.as_slice() {
        [] => schema.put(r#""type":["null","object","array"],"maxProperties":0,"maxItems":0"#),
        [only] => schema.members(only),
        several => {
            schema.put(r#""type":["object","array"],"#);
            schema.fields(parameters);
            schema.put(r#","prefixItems":"#);
            schema.list(several);
            schema.put(r#","items":false,"minItems":"#);
            schema.put(parameters.required_by_place());
        }
    })
}

/// The schema of an output; nothing is `null`.
pub fn output(ty: Option<&Ty>) -> String {
    document(|schema| match ty {
        Some(ty) => schema.members(ty),
        None => schema.put(r#""type":"null""#),
    })
}

fn document(members: impl FnOnce(&mut Schema)) -> String {
    let mut schema = Schema(format!(r#"{{"$schema":"{DIALECT}","#));
    members(&mut schema);
    schema.put('}');
    schema.0
}

/// Text of a schema.
struct Schema(String);

impl Schema {
    fn put(&mut self, what: impl Display) {
        // Writing to a string cannot fail.
        let _ = write!(self.0, "{what}");
    }

    /// A name, of which WIT allows letters, digits and hyphens only.
    fn name(&mut self, name: &str) {
        self.put(serde_json::Value::from(name));
    }

    fn commas<T>(&mut self, items: impl Iterator<Item = T>, mut each: impl FnMut(&mut Self, T)) {
        for (at, item) in items.enumerate() {
            if at > 0 {
                self.put(',');
            }
            each(self, item);
        }
    }

    fn list(&mut self, types: &[Ty]) {
        self.put('[');
        self.commas(types.iter(), Self::whole);
        self.put(']');
    }

    /// The schema of a type.
    fn whole(&mut self, ty: &Ty) {
        self.put('{');
        self.members(ty);
        self.put('}');
    }

    /// What is between its braces.
    fn members(&mut self, ty: &Ty) {
        match ty {
            Ty::Bool => self.put(r#""type":"boolean""#),
            Ty::Integer(integer) => {
                let (least, most) = integer.range();
                self.put(format_args!(r#""type":"integer","minimum":{least},"maximum":{most}"#));
            }
            Ty::Float32 => self.put(format_args!(
                r#""type":"number","exclusiveMinimum":-{FLOAT32_END},"exclusiveMaximum":{FLOAT32_END}"#
            )),
            Ty::Float64 => self.put(r#""type":"number""#),
            Ty::Char => self.put(r#""type":"string","minLength":1,"maxLength":1"#),
            Ty::String => self.put(r#""type":"string""#),
            Ty::Bytes => self.put(format_args!(
                r#""type":"string","contentEncoding":"base64","pattern":"{BASE64}""#
            )),
            Ty::List(ty) => {
                self.put(r#""type":"array","items":"#);
                self.whole(ty);
            }
            Ty::Tuple(types) => {
                self.put(r#""type":"array","prefixItems":"#);
                self.list(types);
                self.put(format_args!(r#","items":false,"minItems":{}"#, types.len()));
            }
            Ty::Record(fields) => {
                self.put(r#""type":"object","#);
                self.fields(fields);
            }
            Ty::Variant(cases) => self.variant(cases),
            Ty::Enum(names) => self.one_of(names),
            Ty::Flags(names) => {
                self.put(r#""type":"array","items":{"#);
                self.one_of(names);
                self.put(r#"},"uniqueItems":true"#);
            }
            Ty::Option(ty) => {
                self.put(r#""anyOf":["#);
                if ty.may_be_null() {
                    self.only("some", Some(ty));
                } else {
                    self.whole(ty);
                }
                self.put(r#",{"type":"null"}]"#);
            }
            Ty::Result(parts) => {
                self.put(r#""anyOf":["#);
                let parts = ["ok", "err"].into_iter().zip(parts.iter());
                self.commas(parts, |schema, (name, ty)| schema.only(name, ty.as_ref()));
                self.put(']');
            }
        }
    }

    fn one_of(&mut self, names: &Names) {
        self.put(r#""type":"string","enum":["#);
        self.commas(names.json.iter(), |schema, name| schema.name(name));
        self.put(']');
    }

    /// What an object of these fields is, but for its type; in their order.
    fn fields(&mut self, fields: &Fields) {
        self.put(r#""properties":{"#);
        self.commas(fields.iter(), |schema, (_, name, ty)| {
            schema.name(name);
            schema.put(':');
            schema.whole(ty);
        });
        self.put(r#"},"required":["#);
        let required = fields.iter().filter(|(_, _, ty)| !ty.may_be_missing());
        self.commas(required, |schema, (_, name, _)| schema.name(name));
        self.put(r#"],"additionalProperties":false"#);
    }

    /// An object of one member; nothing is `null`.
    fn only(&mut self, name: &str, ty: Option<&Ty>) {
        self.put(r#"{"type":"object","properties":{"#);
        self.name(name);
        self.put(':');
        match ty {
            Some(ty) => self.whole(ty),
            None => self.put(r#"{"type":"null"}"#),
        }
        self.put(r#"},"required":["#);
        self.name(name);
        self.put(r#"],"additionalProperties":false}"#);
    }

    fn variant(&mut self, cases: &Cases) {
        let each = || cases.names.json.iter().zip(&cases.types);
        self.put(r#""anyOf":["#);
        let mut plain = each().filter(|(_, ty)| ty.is_none()).map(|(name, _)| name).peekable();
        let has_plain = plain.peek().is_some();
        if has_plain {
            self.put(r#"{"type":"string","enum":["#);
            self.commas(plain, |schema, name| schema.name(name));
            self.put("]}");
        }
        let mut others = each().filter_map(|(name, ty)| Some((name, ty.as_ref()?))).peekable();
        if has_plain && others.peek().is_some() {
            self.put(',');
        }
        self.commas(others, |schema, (name, ty)| schema.only(name, Some(ty)));
        self.put(']');
    }
}
