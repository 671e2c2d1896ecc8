//! What contract 1.1 adds: `progress` and `dispatch`, generated from `wit/v1.1`.
//!
//! The handler's types are those of 1.0, so that one module serves both (see
//! [`v1`](super::v1)); here is what guests of 1.1 may import.

use std::time::Duration;

use wasmtime::component::{HasSelf, Linker};

use self::generated::lovage::task::{dispatch, progress, types};
use crate::state::State;
use lovage_core::cancellation::Revocation;

/// The generated traits.
#[allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    unused_qualifications,
    dead_code,
    reason = "generated code"
)]
mod generated {
    wasmtime::component::bindgen!({
        path: "wit/v1.1",
        world: "lovage:task/dispatching-task",
    });
}

/// Offers `progress` and `dispatch` to guests.
pub fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    progress::add_to_linker::<_, HasSelf<State>>(linker, State::called)?;
    dispatch::add_to_linker::<_, HasSelf<State>>(linker, State::called)
}

impl types::Host for State {}

impl progress::Host for State {
    fn report(&mut self, percent: u8, message: String) {
        self.report_progress(percent, &message);
    }

    fn is_revoked(&mut self) -> bool {
        self.why_revoked().is_some()
    }

    fn why_revoked(&mut self) -> Option<progress::Revocation> {
        Some(match State::why_revoked(self)? {
            Revocation::Revoked => progress::Revocation::Revoked,
            Revocation::OutOfTime => progress::Revocation::OutOfTime,
            Revocation::Stopping => progress::Revocation::Stopping,
        })
    }
}

impl dispatch::Host for State {
    fn send(&mut self, request: dispatch::Request) -> Result<String, dispatch::Error> {
        use crate::dispatch::Refused;
        let delay = request.delay.map(Duration::from_millis).unwrap_or_default();
        self.dispatch(request.task, request.content_type, request.payload.into(), delay).map_err(
            |refused| match refused {
                Refused::Denied(why) => dispatch::Error::Denied(why),
                Refused::TooMany(why) => dispatch::Error::TooMany(why),
                Refused::TooLarge(most) => dispatch::Error::TooLarge(most),
                Refused::Invalid(why) => dispatch::Error::Invalid(why),
            },
        )
    }
}
