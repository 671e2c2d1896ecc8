//! What holds for Celery's side as a whole: its captured messages, any arguments, its workflows.

mod builtin;
mod captured;
mod properties;
mod workflows;

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{Ids, Publisher};

/// A publisher whose ids and time are always the same.
fn publisher(routes: &BTreeMap<String, String>) -> Publisher<'_> {
    Publisher {
        default_queue: "celery",
        routes,
        origin: "lovage@test",
        now: Timestamp::from_second(1_800_000_000).unwrap(),
        inherit_priority: false,
        reply_to: None,
        ids: Ids::of("test"),
    }
}
