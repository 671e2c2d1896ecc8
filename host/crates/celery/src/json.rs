//! JSON as text that stays as it came: digits, order and escapes reach the other side untouched.
//!
//! A value is kept as the text it was sent as, an object as its fields in their order. What is
//! written has the separators of Python's `json`, and no characters beyond ASCII in what is made
//! here, so that a message that is sent again is the same message byte for byte.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    fmt::Write as _,
};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, Visitor},
    ser::SerializeMap,
};
use serde_json::value::RawValue;

/// One JSON value, as its text.
#[derive(Clone, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Json(Box<RawValue>);

impl Json {
    /// The value that a text is, where it is JSON.
    pub fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// `null`.
    pub fn null() -> Self {
        Self(RawValue::NULL.to_owned())
    }

    /// `true` or `false`.
    pub fn bool(truth: bool) -> Self {
        Self(if truth { RawValue::TRUE } else { RawValue::FALSE }.to_owned())
    }

    /// A text, escaped as Python does.
    pub fn string(text: &str) -> Self {
        let mut out = String::with_capacity(text.len() + 2);
        write_string(&mut out, text);
        Self::made(out)
    }

    /// A text, or `null`.
    pub fn optional(text: Option<&str>) -> Self {
        text.map_or_else(Self::null, Self::string)
    }

    /// A whole number.
    pub fn number(number: impl Into<i64>) -> Self {
        Self::made(number.into().to_string())
    }

    /// A list of values.
    pub fn list<'a>(items: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut out = String::new();
        write_list(&mut out, items);
        Self::made(out)
    }

    /// Whatever can be serialised; `null` where it cannot.
    pub fn of(value: &impl Serialize) -> Self {
        serde_json::to_string(value).map_or_else(|_| Self::null(), Self::made)
    }

    /// A value from text that was made here and is JSON.
    pub(super) fn made(text: String) -> Self {
        RawValue::from_string(text).map_or_else(|_| Self::null(), Self)
    }

    /// The value's text.
    pub fn text(&self) -> &str {
        self.0.get()
    }

    /// Returns true if it is `null`.
    pub fn is_null(&self) -> bool {
        self.text() == "null"
    }

    /// Returns true if it is an object.
    pub fn is_object(&self) -> bool {
        self.text().starts_with('{')
    }

    /// Returns true if it is a list.
    pub fn is_list(&self) -> bool {
        self.text().starts_with('[')
    }

    /// The value read as a type, where it is one.
    pub fn read<'a, T: Deserialize<'a>>(&'a self) -> Option<T> {
        serde_json::from_str(self.text()).ok()
    }

    /// The text that it is, where it is one.
    pub fn as_string(&self) -> Option<String> {
        self.read()
    }

    /// Its items, where it is a list.
    pub fn items(&self) -> Option<Vec<Self>> {
        self.is_list().then(|| self.read()).flatten()
    }

    /// Its fields, where it is an object.
    pub fn fields(&self) -> Option<Map> {
        self.is_object().then(|| self.read()).flatten()
    }
}

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// The same text; other spellings of the same value are others.
impl PartialEq for Json {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}

impl Eq for Json {}

impl From<Map> for Json {
    fn from(map: Map) -> Self {
        let mut out = String::new();
        map.write(&mut out);
        Self::made(out)
    }
}

/// A JSON object: its fields in their order. Of a field that is there twice the last value holds,
/// at the first's place, as in Python.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Map(Vec<(String, Json)>);

impl Map {
    /// An object without fields.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// How many fields it has.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns true if it has none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of a field.
    pub fn get(&self, name: &str) -> Option<&Json> {
        self.0.iter().find(|(other, _)| other == name).map(|(_, value)| value)
    }

    /// The value of a field that is there and not `null`.
    pub fn some(&self, name: &str) -> Option<&Json> {
        self.get(name).filter(|value| !value.is_null())
    }

    /// The text that a field has.
    pub fn string(&self, name: &str) -> Option<String> {
        self.some(name)?.as_string()
    }

    /// Returns true if a field is there.
    pub fn contains(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Sets a field: at its place, or at the end.
    pub fn set(&mut self, name: impl AsRef<str> + Into<String>, value: Json) {
        match self.0.iter_mut().find(|(other, _)| other == name.as_ref()) {
            Some((_, old)) => *old = value,
            None => self.0.push((name.into(), value)),
        }
    }

    /// Takes a field out.
    pub fn take(&mut self, name: &str) -> Option<Json> {
        let at = self.0.iter().position(|(other, _)| other == name)?;
        Some(self.0.remove(at).1)
    }

    /// The fields in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Json)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// Sets all fields of another object.
    pub fn extend(&mut self, other: Self) {
        if self.is_empty() {
            *self = other;
        } else if other.len() > FEW {
            // Each field by `set` would take time by the square of their number.
            *self = std::mem::take(&mut self.0).into_iter().chain(other.0).collect();
        } else {
            other.0.into_iter().for_each(|(name, value)| self.set(name, value));
        }
    }

    /// The names of all fields, where many are looked for.
    pub fn names(&self) -> HashSet<&str> {
        self.0.iter().map(|(name, _)| name.as_str()).collect()
    }

    /// Without the fields that are `null`.
    #[must_use]
    pub fn without_nulls(mut self) -> Self {
        self.0.retain(|(_, value)| !value.is_null());
        self
    }

    pub(super) fn write(&self, out: &mut String) {
        out.push('{');
        for (n, (name, value)) in self.iter().enumerate() {
            if n > 0 {
                out.push_str(", ");
            }
            write_string(out, name);
            out.push_str(": ");
            out.push_str(value.text());
        }
        out.push('}');
    }
}

impl FromIterator<(String, Json)> for Map {
    fn from_iter<T: IntoIterator<Item = (String, Json)>>(fields: T) -> Self {
        let fields: Vec<_> = fields.into_iter().collect();
        let mut places: HashMap<&str, usize> = HashMap::with_capacity(fields.len());
        let repeats = fields.iter().enumerate().filter_map(|(at, (name, _))| {
            let first = *places.entry(name).or_insert(at);
            (first != at).then_some((first, at))
        });
        let repeats: Vec<_> = repeats.collect();
        if repeats.is_empty() {
            return Self(fields);
        }
        let mut fields: Vec<_> = fields.into_iter().map(Some).collect();
        for (first, at) in repeats {
            let value = fields.get_mut(at).and_then(Option::take);
            if let (Some((_, value)), Some(Some((_, old)))) = (value, fields.get_mut(first)) {
                *old = value;
            }
        }
        Self(fields.into_iter().flatten().collect())
    }
}

impl<'a> FromIterator<(&'a str, Json)> for Map {
    fn from_iter<T: IntoIterator<Item = (&'a str, Json)>>(fields: T) -> Self {
        fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

impl IntoIterator for Map {
    type Item = (String, Json);
    type IntoIter = std::vec::IntoIter<(String, Json)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl Serialize for Map {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.len()))?;
        for (name, value) in self.iter() {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Map {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = Map;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Map, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = access.next_entry::<String, Json>()? {
                    fields.push(field);
                }
                Ok(fields.into_iter().collect())
            }
        }

        deserializer.deserialize_map(Fields)
    }
}

/// Up to so many fields are set one by one.
const FEW: usize = 16;

/// Writes a list with Python's separators.
pub(super) fn write_list<'a>(out: &mut String, items: impl IntoIterator<Item = &'a Json>) {
    out.push('[');
    for (n, item) in items.into_iter().enumerate() {
        if n > 0 {
            out.push_str(", ");
        }
        out.push_str(item.text());
    }
    out.push(']');
}

/// Writes a text as Python's `json` does: nothing beyond ASCII.
pub(super) fn write_string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            ' '..='~' => out.push(c),
            other => {
                for unit in other.encode_utf16(&mut [0; 2]) {
                    // Writing to a text cannot fail.
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_keep_their_digits_and_order() {
        let text = r#"{"b": 1.50, "a": 123456789012345678901234567890, "c": "\u00e4"}"#;
        let json = Json::parse(text).unwrap();
        assert_eq!(json.text(), text);
        let map = json.fields().unwrap();
        assert_eq!(map.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["b", "a", "c"]);
        assert_eq!(Json::from(map).text(), text);
    }

    #[test]
    fn of_a_field_that_is_there_twice_the_last_holds() {
        let map: Map = serde_json::from_str(r#"{"a":1,"b":2,"a":3,"a":4}"#).unwrap();
        assert_eq!(Json::from(map).text(), r#"{"a": 4, "b": 2}"#);
    }

    #[test]
    fn an_object_of_very_many_fields_is_extended_in_linear_time() {
        let of = |from: usize| -> Map {
            (from..from + 200_000)
                .map(|n| (format!("k{n}"), Json::number(i64::try_from(n).unwrap())))
                .collect()
        };
        let mut map = of(0);
        map.extend(of(100_000));
        assert_eq!(map.len(), 300_000);
        let [first, last] = ["k0", "k299999"].map(|name| map.get(name).unwrap().text().to_owned());
        assert_eq!((first.as_str(), last.as_str()), ("0", "299999"));
        let mut few: Map = serde_json::from_str(r#"{"a":1,"b":2}"#).unwrap();
        few.extend(serde_json::from_str(r#"{"c":3,"a":4}"#).unwrap());
        assert_eq!(Json::from(few).text(), r#"{"a": 4, "b": 2, "c": 3}"#);
    }

    #[test]
    fn texts_are_escaped_as_python_does() {
        let text = "a\"\\\n\u{1}\u{7f}ä🌿";
        assert_eq!(Json::string(text).text(), r#""a\"\\\n\u0001\u007f\u00e4\ud83c\udf3f""#);
        assert_eq!(Json::string(text).as_string().as_deref(), Some(text));
    }
}
