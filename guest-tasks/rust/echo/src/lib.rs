//! `echo` and `echo_context`: two tasks in one component.

use lovage_task::{Context, Raw, task};

/// Gives back its payload, byte for byte and with its content type.
#[task]
fn echo(payload: Raw) -> Raw {
    payload
}

/// Gives back what a task is told about its attempt. The payload does not matter.
#[task]
fn echo_context(ctx: &Context) -> Context {
    ctx.clone()
}

lovage_task::export!(echo, echo_context);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_back_what_it_got() {
        let payload = Raw::new("text/csv", "a,b\n");
        assert_eq!(echo(payload.clone()), payload);
        assert_eq!(echo_context(&Context::default()), Context::default());
    }
}
