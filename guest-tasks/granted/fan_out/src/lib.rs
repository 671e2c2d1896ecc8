//! `fan_out`: sends a follow-on job for each item. Needs the grant `dispatch`.

use lovage_task::{Context, DispatchError, Value, task};
use schemars::JsonSchema;
use serde::Deserialize;

/// What to send.
#[derive(Deserialize, JsonSchema)]
struct Request {
    /// The task of the jobs.
    task: String,
    /// Their payloads.
    items: Vec<Value>,
}

/// Sends a job for each item, and gives back their ids.
#[task]
fn fan_out(request: Request, ctx: &Context) -> Result<Vec<String>, DispatchError> {
    request.items.iter().map(|item| ctx.dispatch(&request.task, item)).collect()
}

lovage_task::export!(fan_out);

#[cfg(test)]
mod tests {
    use super::*;
    use lovage_task::{json, native::sent};

    #[test]
    fn sends_a_job_for_each_item() {
        let request = Request { task: "echo".to_owned(), items: vec![json!(1), json!("two")] };
        assert_eq!(fan_out(request, &Context::default()).unwrap().len(), 2);
        let data: Vec<_> = sent().into_iter().map(|sent| sent.data).collect();
        assert_eq!(data, [json!(1), json!("two")]);
    }
}
