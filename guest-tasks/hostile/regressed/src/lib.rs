//! A version of `process_data` that should not have been shipped.

use lovage_task::{TaskError, Value, task};

/// Fails, whatever it is given.
#[task]
fn process_data(_data: Value) -> Result<Value, TaskError> {
    Err(TaskError::fail("regressed", "this version does not work"))
}

lovage_task::export!(process_data);
