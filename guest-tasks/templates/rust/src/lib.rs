//! A task: it doubles a number.

use lovage_task::{Context, TaskError, task};

/// Doubles a number.
#[task]
fn my_task(number: f64, ctx: &Context) -> Result<f64, TaskError> {
    let twice = number * 2.0;
    if !twice.is_finite() {
        return Err(TaskError::reject(format!("{number} is too large to be doubled")));
    }
    ctx.progress(100, "doubled");
    Ok(twice)
}

lovage_task::export!(my_task);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles() {
        assert_eq!(my_task(21.0, &Context::default()), Ok(42.0));
    }
}
