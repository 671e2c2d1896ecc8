//! Components that import what their tasks were not granted.

use super::{Fixture, Group, Seen};

fn wants(
    name: &str,
    does: &'static str,
    words: &'static str,
    guest: (&'static str, &'static str),
) -> Fixture {
    Fixture::guest(name, does, Seen::Refused(words), (guest.0, guest.1, "null")).granted("")
}

pub fn group() -> Group {
    let fixtures = vec![
        wants(
            "imports-http",
            "imports HTTP, and is granted nothing",
            "for the task `fetch` (tasks.fetch.grants.http)",
            ("fetch", "fetch"),
        ),
        wants(
            "imports-buckets",
            "imports buckets, and is granted nothing",
            "for the task `buckets` (tasks.buckets.grants.keyvalue)",
            ("hostile/buckets", "buckets"),
        ),
        wants(
            "imports-configuration",
            "imports its configuration, and is granted nothing",
            "for the task `settings` (tasks.settings.grants.config)",
            ("hostile/settings", "settings"),
        ),
        wants(
            "imports-dispatch",
            "imports follow-on jobs, and is granted nothing",
            "for the task `breeds` (tasks.breeds.grants.dispatch)",
            ("hostile/breeds", "breeds"),
        ),
        Fixture::guest(
            "imports-more-than-it-is-granted",
            "imports its configuration and HTTP, and is granted HTTP",
            Seen::Refused("for the task `keyholder` (tasks.keyholder.grants.config)"),
            ("hostile/keyholder", "keyholder", "null"),
        )
        .granted("[defaults.grants]\nhttp = ['http://GOOD']"),
        Fixture::guest(
            "is-granted-for-a-tenant-alone",
            "imports HTTP, which only a tenant is granted",
            Seen::Refused("for the task `fetch` (tasks.fetch.grants.http)"),
            ("fetch", "fetch", "null"),
        )
        .granted("[tenants.acme.grants]\nhttp = ['http://GOOD']\nhttp_networks = ['127.0.0.1/32']"),
    ];
    Group {
        promise: "A component that imports what its tasks were not granted is not loaded",
        fixtures,
    }
}
