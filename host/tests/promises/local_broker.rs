//! What the embedded broker promises.

use crate::{conformance::conformance, support::local::Local};

/// The embedded broker is always there.
async fn fixture() -> Option<Local> {
    Some(Local::start())
}

conformance!(fixture);
