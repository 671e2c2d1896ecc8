//! `uniqueItems`, in a time that goes with the size of the array.
//!
//! The library's own compares elements with each other that have one hash, and its hash is the same
//! for arrays that only differ in where their brackets are: a payload can be made of such.

use std::collections::HashSet;
use std::fmt::Write as _;

use jsonschema::paths::Location;
use jsonschema::{Keyword, ValidationError};
use serde_json::{Map, Value};

struct Unique {
    wanted: bool,
}

impl<'i> Keyword<'i> for Unique {
    fn validate(&self, instance: &'i Value) -> Result<(), ValidationError<'i>> {
        if self.is_valid(instance) {
            Ok(())
        } else {
            Err(ValidationError::custom("two elements are the same"))
        }
    }

    fn is_valid(&self, instance: &'i Value) -> bool {
        let Value::Array(items) = instance else { return true };
        // Its hashes are not to be foreseen.
        let mut seen = HashSet::with_capacity(items.len());
        !self.wanted || items.iter().all(|item| seen.insert(one_way(item)))
    }
}

/// A value in the one way in which it can be written; members are in the order of their names.
fn one_way(value: &Value) -> String {
    let mut text = String::new();
    write(value, &mut text);
    text
}

fn write(value: &Value, to: &mut String) {
    match value {
        // `1`, `1.0` and `1e0` are one number.
        Value::Number(number) => {
            // Writing to a string cannot fail.
            let _ = if let Some(integer) = number.as_i128() {
                write!(to, "{integer}")
            } else {
                let float = number.as_f64().unwrap_or_default();
                write!(to, "{}", if float == 0.0 { 0.0 } else { float })
            };
        }
        Value::Array(items) => {
            to.push('[');
            for item in items {
                write(item, to);
                to.push(',');
            }
            to.push(']');
        }
        Value::Object(members) => {
            to.push('{');
            for (name, value) in members {
                let _ = write!(to, "{}:", Value::from(name.as_str()));
                write(value, to);
                to.push(',');
            }
            to.push('}');
        }
        scalar => {
            let _ = write!(to, "{scalar}");
        }
    }
}

/// The keyword, for the library.
#[allow(clippy::unnecessary_wraps, reason = "the library's type")]
pub fn keyword<'a>(
    _: &'a Map<String, Value>,
    value: &'a Value,
    _: Location,
) -> Result<Box<dyn for<'i> Keyword<'i>>, ValidationError<'a>> {
    Ok(Box::new(Unique { wanted: value == &Value::Bool(true) }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_the_same_as_json_schema_has_it() {
        let unique = Unique { wanted: true };
        for good in [json!([1, "1", true, [1], {"a": 1}, null, 1.5, [[1]], []]), json!("aa")] {
            assert!(unique.is_valid(&good), "{good}");
        }
        for same in [
            json!([1, 1.0]),
            json!([0, -0.0]),
            json!([{"a": 1, "b": 2}, {"b": 2, "a": 1}]),
            json!([[1, [2]], [1, [2]]]),
            json!(["a", "a"]),
        ] {
            assert!(!unique.is_valid(&same), "{same}");
        }
        assert!(Unique { wanted: false }.is_valid(&json!([1, 1])));
    }
}
