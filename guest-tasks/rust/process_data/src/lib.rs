//! `process_data`: what `data * 2` is in Python, for JSON.

mod double;

use lovage_task::{TaskError, Value, task};

/// Doubles its payload the way `data * 2` does in Python: numbers are doubled (integers of any
/// size exactly, `true` and `false` as 1 and 0), strings and lists are repeated.
#[task]
fn process_data(data: Value) -> Result<Value, TaskError> {
    match data {
        Value::Number(number) => double::number(&number).map(Value::Number),
        Value::Bool(truth) => Ok(Value::from(2 * u8::from(truth))),
        Value::String(text) => Ok(Value::String(text.repeat(2))),
        Value::Array(mut items) => {
            items.extend_from_within(..);
            Ok(Value::Array(items))
        }
        Value::Null => Err(not_for_doubling("null")),
        Value::Object(_) => Err(not_for_doubling("an object")),
    }
}

fn not_for_doubling(what: &str) -> TaskError {
    TaskError::reject(format!(
        "the payload is {what}, which cannot be doubled: \
         a number, a string, a list or a boolean is needed"
    ))
}

lovage_task::export!(process_data);

#[cfg(test)]
mod tests {
    use lovage_task::serde_json;

    use super::*;

    fn double(json: &str) -> Result<String, TaskError> {
        let data: Value = serde_json::from_str(json).unwrap();
        process_data(data).map(|value| value.to_string())
    }

    #[test]
    fn does_what_python_does() {
        // Left: the payload. Right: json.dumps(json.loads(payload) * 2), but for the spaces, and
        // for the exponents, which Python writes with two digits.
        for (payload, expected) in [
            ("21", "42"),
            ("0", "0"),
            ("-0", "0"),
            ("-21", "-42"),
            ("21.0", "42.0"),
            ("1.5", "3.0"),
            ("-0.0", "-0.0"),
            ("0.1", "0.2"),
            ("1E5", "200000.0"),
            ("8e15", "1.6e+16"),
            ("1e-7", "2e-7"),
            ("5e-324", "1e-323"),
            ("true", "2"),
            ("false", "0"),
            (r#""ab""#, r#""abab""#),
            (r#""""#, r#""""#),
            (r#""äß🌿""#, r#""äß🌿äß🌿""#),
            ("[]", "[]"),
            (r#"[1,"a",null]"#, r#"[1,"a",null,1,"a",null]"#),
            (
                "1606938044258990275541962092341162602522202993782792835301376",
                "3213876088517980551083924184682325205044405987565585670602752",
            ),
        ] {
            assert_eq!(double(payload).unwrap(), expected, "{payload}");
        }
    }

    #[test]
    fn what_lists_hold_stays_as_it_is() {
        assert_eq!(
            double(r#"[1.50,{"a":123456789012345678901234567890}]"#).unwrap(),
            r#"[1.50,{"a":123456789012345678901234567890},1.50,{"a":123456789012345678901234567890}]"#
        );
    }

    #[test]
    fn null_and_objects_are_rejected_by_name() {
        for (payload, what) in [("null", "null"), (r#"{"data":1}"#, "an object")] {
            let Err(TaskError::Reject(message)) = double(payload) else {
                panic!("accepted {payload}");
            };
            assert!(message.starts_with(&format!("the payload is {what},")), "{message}");
        }
    }

    #[test]
    fn what_a_float_cannot_hold_is_rejected() {
        for payload in ["1e308", "-1e308", "1e400", "-1e400"] {
            let Err(TaskError::Reject(message)) = double(payload) else {
                panic!("accepted {payload}");
            };
            assert!(message.contains("infinity"), "{message}");
        }
    }
}
