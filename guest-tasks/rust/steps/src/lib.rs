//! `steps`: a long job as it should be: it says how far it is, and ends early when it should.

use std::time::Duration;

use lovage_task::{Context, Revocation, task};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How much to do.
#[derive(Deserialize, JsonSchema)]
struct Request {
    /// How many steps; at least 1.
    steps: u32,
    /// Milliseconds that each takes.
    ms: u64,
}

/// What was done.
#[derive(Debug, PartialEq, Serialize, JsonSchema)]
struct Done {
    /// How many steps.
    steps: u32,
    /// Why not all of them: `revoked`, `out_of_time` or `stopping`.
    why: Option<&'static str>,
}

/// Sleeps `steps` times for `ms` milliseconds. Ends early, with what it has, when it is revoked.
#[task]
fn steps(request: Request, ctx: &Context) -> Done {
    for step in 0..request.steps {
        if let Some(why) = ctx.why_revoked() {
            let why = match why {
                Revocation::Revoked => "revoked",
                Revocation::OutOfTime => "out_of_time",
                Revocation::Stopping => "stopping",
            };
            return Done { steps: step, why: Some(why) };
        }
        let percent = u64::from(step) * 100 / u64::from(request.steps);
        let percent = u8::try_from(percent).unwrap_or(100);
        ctx.progress(percent, &format!("step {} of {}", step + 1, request.steps));
        std::thread::sleep(Duration::from_millis(request.ms));
    }
    Done { steps: request.steps, why: None }
}

lovage_task::export!(steps);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn does_all_steps_while_it_is_wanted() {
        let done = steps(Request { steps: 3, ms: 1 }, &Context::default());
        assert_eq!(done, Done { steps: 3, why: None });
    }
}
