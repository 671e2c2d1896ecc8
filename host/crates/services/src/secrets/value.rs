//! Texts that are shown to nobody.

use std::{fmt, sync::Arc};

use serde_json::Value;
use zeroize::Zeroizing;

/// A secret's value. `Debug` shows that it is one and nothing else, there is no `Display`, and the
/// memory is wiped when the last clone goes. What a guest was given, and what the system and the
/// AWS SDK keep of it on their way, is beyond its reach.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretValue(Arc<Zeroizing<String>>);

impl SecretValue {
    /// Takes a text out of sight.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Arc::new(Zeroizing::new(text.into())))
    }

    /// The value, for who is granted it. Not for logs and errors.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretValue(hidden)")
    }
}

/// A field of a value that is a JSON object. The error says what is wrong, without any of it.
pub(super) fn field(text: &SecretValue, field: &str) -> Result<SecretValue, String> {
    // The parser's own words quote what it met.
    let Ok(Value::Object(mut object)) = serde_json::from_str(text.expose()) else {
        return Err(format!("the value is no JSON object, and its field `{field}` is wanted"));
    };
    match object.remove(field) {
        Some(Value::String(text)) => Ok(SecretValue::new(text)),
        Some(number @ (Value::Number(_) | Value::Bool(_))) => {
            Ok(SecretValue::new(number.to_string()))
        }
        Some(_) => Err(format!("the field `{field}` of the value is neither text nor number")),
        None => Err(format!("the value has no field `{field}`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_shows_itself_to_nobody() {
        let value = SecretValue::new("hunter2");
        let shown = format!("{value:?} {:#?} {:?}", Some(&value), vec![&value]);
        assert!(!shown.contains("hunter2"), "{shown}");
        assert_eq!(value.expose(), "hunter2");
    }

    #[test]
    fn a_field_is_text_or_a_number_and_errors_quote_nothing() {
        let json = SecretValue::new(r#"{"key": "hunter2", "port": 42, "more": ["hunter2"]}"#);
        assert_eq!(field(&json, "key").unwrap().expose(), "hunter2");
        assert_eq!(field(&json, "port").unwrap().expose(), "42");
        let broken = SecretValue::new("hunter2");
        for wrong in [field(&json, "more"), field(&json, "other"), field(&broken, "key")] {
            let why = wrong.unwrap_err();
            assert!(!why.contains("hunter2"), "{why}");
        }
    }
}
