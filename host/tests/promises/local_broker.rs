//! What the embedded broker promises.

use crate::{conformance::conformance, support::local::Local};

/// The embedded broker is always there.
#[allow(clippy::unused_async, reason = "the suite awaits its fixtures")]
async fn fixture() -> Option<Local> {
    Some(Local::start())
}

conformance!(fixture);
