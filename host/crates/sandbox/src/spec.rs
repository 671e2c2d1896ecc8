//! What a component says of a task that it serves.

use std::collections::HashSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::Problem;
use super::payload_check::check_schema;
use lovage_core::job::MAX_NAME_BYTES;

/// One task, as its component describes it. All but the name is advice, which the operator's
/// configuration overrides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskSpec {
    /// 1 to 200 characters of `a-z A-Z 0-9 _ . : / -`, unique within the component.
    pub name: String,
    /// What the task does, for a person; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// JSON Schema of the payload, as JSON text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_schema: Option<String>,
    /// JSON Schema of the output, as JSON text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_schema: Option<String>,
    /// How many attempts a job gets; at least 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u32>,
    /// Wall time for one attempt; at least a millisecond.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(with = "milliseconds", rename = "timeout_ms")]
    pub timeout: Option<Duration>,
}

/// Checks what `describe` gave against the contract.
pub fn check(tasks: &[TaskSpec]) -> Result<(), Problem> {
    if tasks.is_empty() {
        return Err(Problem::NoTasks);
    }
    let mut seen = HashSet::new();
    for task in tasks {
        let name = &task.name;
        if !is_name(name) {
            return Err(Problem::BadTaskName { name: name.clone() });
        }
        if !seen.insert(name.as_str()) {
            return Err(Problem::TaskTwice { name: name.clone() });
        }
        let bad = |reason: String| Problem::BadTask { name: name.clone(), reason };
        if task.max_attempts == Some(0) {
            return Err(bad("max-attempts is 0, and must be at least 1".into()));
        }
        if task.timeout.is_some_and(|timeout| timeout.is_zero()) {
            return Err(bad("timeout is 0, and must be at least 1 ms".into()));
        }
        for (which, schema) in
            [("input-schema", &task.input_schema), ("output-schema", &task.output_schema)]
        {
            let Some(schema) = schema else { continue };
            check_schema(schema).map_err(|reason| bad(format!("{which} {reason}")))?;
        }
    }
    Ok(())
}

/// Returns true if the contract allows a task that name.
pub(super) fn is_name(name: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.:/-".contains(&b))
}

/// Durations as whole milliseconds, as the contract has them.
mod milliseconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    // The shape is serde's.
    #[allow(clippy::ref_option)]
    pub fn serialize<S: Serializer>(value: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
        value.map(|value| u64::try_from(value.as_millis()).unwrap_or(u64::MAX)).serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<u64>::deserialize(from)?.map(Duration::from_millis))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(name: &str) -> TaskSpec {
        TaskSpec {
            name: name.to_owned(),
            description: String::new(),
            input_schema: None,
            output_schema: None,
            max_attempts: None,
            timeout: None,
        }
    }

    #[test]
    fn names_are_those_of_the_contract() {
        let longest = "x".repeat(200);
        for name in ["a", "process_data", "A.b:c/d-e_9", &longest] {
            assert!(check(&[task(name)]).is_ok(), "{name}");
        }
        let too_long = "x".repeat(201);
        for name in ["", " ", "a b", "ä", "a\n", &too_long] {
            assert!(matches!(check(&[task(name)]), Err(Problem::BadTaskName { .. })), "{name:?}");
        }
    }

    type Change = fn(&mut TaskSpec);

    #[test]
    fn a_description_that_breaks_the_contract_is_told_what_is_wrong() {
        assert!(matches!(check(&[]), Err(Problem::NoTasks)));
        assert!(matches!(
            check(&[task("a"), task("a")]),
            Err(Problem::TaskTwice { name }) if name == "a"
        ));
        let cases: [(Change, &str); 5] = [
            (|t| t.max_attempts = Some(0), "max-attempts is 0"),
            (|t| t.timeout = Some(Duration::ZERO), "timeout is 0"),
            (|t| t.input_schema = Some("{".into()), "input-schema is no JSON:"),
            (|t| t.output_schema = Some("3".into()), "output-schema is no JSON Schema"),
            (|t| t.output_schema = Some(String::new()), "output-schema is no JSON:"),
        ];
        for (change, reason) in cases {
            let mut task = task("a");
            change(&mut task);
            let problem = check(&[task]).unwrap_err().to_string();
            assert!(problem.contains(reason), "{problem}");
        }
    }
}
