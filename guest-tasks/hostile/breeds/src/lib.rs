//! Sends jobs that send jobs, as a fork bomb does.

use lovage_task::{Context, DispatchError, task};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How many.
#[derive(Deserialize, Serialize, JsonSchema)]
struct Request {
    /// Jobs of each job.
    jobs: u32,
    /// Whether a refusal is borne in silence; else it fails the job.
    quiet: bool,
}

/// Sends as many jobs for itself as it is told, each of which does the same. Gives back how many
/// were taken.
#[task]
fn breeds(request: Request, ctx: &Context) -> Result<u32, DispatchError> {
    let mut taken = 0;
    for _ in 0..request.jobs {
        match ctx.dispatch("breeds", &request) {
            Ok(_) => taken += 1,
            Err(_) if request.quiet => {}
            Err(error) => return Err(error),
        }
    }
    Ok(taken)
}

/// Sends a job, and then does not succeed.
#[task]
fn sends_and_fails(ctx: &Context) -> Result<(), lovage_task::TaskError> {
    ctx.dispatch("breeds", &Request { jobs: 0, quiet: true })?;
    Err(lovage_task::TaskError::fail("Thought", "better of it"))
}

lovage_task::export!(breeds, sends_and_fails);
