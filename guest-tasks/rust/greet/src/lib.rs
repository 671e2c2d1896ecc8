//! Greets people.

use lovage_task::{Context, TaskError, task};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Whom to greet.
#[derive(Deserialize, JsonSchema)]
struct Person {
    name: String,
    /// How many exclamation marks.
    #[serde(default)]
    joy: usize,
}

#[derive(Serialize, JsonSchema)]
struct Greeting {
    text: String,
    attempt: u32,
}

/// Greets a person.
#[task(max_attempts = 5, timeout_ms = 10_000)]
fn greet(person: Person, ctx: &Context) -> Result<Greeting, TaskError> {
    if person.name.is_empty() {
        return Err(TaskError::reject("nobody to greet: the name is empty"));
    }
    Ok(Greeting {
        text: format!("Hello, {}{}", person.name, "!".repeat(person.joy)),
        attempt: ctx.attempt,
    })
}

lovage_task::export!(greet);
