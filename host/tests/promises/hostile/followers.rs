//! Guests that breed jobs, or jobs that are not theirs to send.

use std::sync::Arc;
use std::time::Duration;

use lovage::broker::{Message, Queue, Receipt, attribute};
use lovage::job::Job;
use lovage::outcome::Outcome;
use lovage::publish;
use lovage::sandbox::Plan;
use serde_json::{Value, json};

use super::check::Ended;
use super::{Fixture, Group, Seen};

const GRANTED: &str = "[defaults.grants]\ndispatch = ['breeds', 'echo']";

/// The SDK's own name for it.
const fn refused(words: &'static str) -> Seen {
    Seen::Failed("DispatchError", words)
}

fn breeds(name: &str, does: &'static str, seen: Seen, jobs: u32, quiet: bool) -> Fixture {
    let payload = json!({ "jobs": jobs, "quiet": quiet });
    Fixture::guest(name, does, seen, ("hostile/breeds", "breeds", payload)).granted(GRANTED)
}

fn sends(name: &str, does: &'static str, seen: Seen, task: &str, items: &Value) -> Fixture {
    let payload = json!({ "task": task, "items": items });
    Fixture::guest(name, does, seen, ("fan_out", "fan_out", payload)).granted(GRANTED)
}

pub fn group() -> Group {
    let denied = refused("is not granted jobs for the task");
    let fixtures = vec![
        breeds(
            "breeds",
            "sends a thousand jobs like itself",
            refused("an attempt may send 100 jobs (`dispatch_jobs` raises it)"),
            1000,
            false,
        ),
        breeds(
            "breeds-quietly",
            "does the same, and copes with each refusal",
            Seen::Told("100"),
            1000,
            true,
        ),
        breeds(
            "breeds-for-ever",
            "asks for jobs for ever, whatever is refused",
            Seen::TimedOut,
            u32::MAX,
            true,
        )
        .planned(|plan| plan.limits.timeout = Duration::from_millis(700)),
        breeds(
            "breeds-in-a-long-chain",
            "is the tenth of a chain, and sends the next",
            refused("may have 10 of them (`dispatch_depth` raises it)"),
            1,
            false,
        )
        .job(|job| job.depth = 9),
        breeds(
            "breeds-at-the-end-of-numbers",
            "is the 2³²th of a chain, and sends the next",
            refused("may have 10 of them (`dispatch_depth` raises it)"),
            1,
            false,
        )
        .job(|job| job.depth = u32::MAX),
        Fixture::guest(
            "breeds-and-fails",
            "sends a job, and fails",
            Seen::Failed("Thought", "better of it"),
            ("hostile/breeds", "sends_and_fails", Value::Null),
        )
        .granted(GRANTED),
        sends(
            "sends-what-it-may-not",
            "sends a job for a task that it was not granted",
            denied,
            "transfer_money",
            &json!([1]),
        ),
        sends(
            "sends-almost-what-it-may",
            "sends a job for `echo2`, granted `echo`",
            denied,
            "echo2",
            &json!([1]),
        ),
        sends(
            "sends-what-its-tenant-may-not",
            "sends a job for a task that its task may send and its tenant may not",
            denied,
            "echo",
            &json!([1]),
        )
        .granted("[defaults.grants]\ndispatch = ['echo']\n[tenants.acme.grants]\ndispatch = []")
        .job(|job| "acme".clone_into(&mut job.tenant)),
        sends(
            "sends-to-a-name-that-is-none",
            "sends a job for `echo\\n{\"tenant\": \"umbrella\"}`",
            refused("is no name of a task"),
            "echo\n{\"tenant\": \"umbrella\"}",
            &json!([1]),
        ),
        sends(
            "sends-for-a-tenant",
            "sends a job whose payload claims another tenant; it is for its own",
            Seen::Done,
            "echo",
            &json!([{ "tenant": "umbrella", "lovage-tenant": "umbrella", "task": "breeds" }]),
        )
        .job(|job| "acme".clone_into(&mut job.tenant)),
        sends(
            "sends-a-huge-job",
            "sends a job of 2 MB",
            refused("a payload may have 983040 bytes"),
            "echo",
            &json!(["x".repeat(2_000_000)]),
        ),
    ];
    Group {
        promise: "A job sends the jobs that it was granted, so many and for its own tenant",
        fixtures,
    }
}

/// What is sent on behalf of an attack is granted, bounded, and for the job's own tenant.
pub fn check(fixture: &Fixture, job: &Job, plan: &Plan, ended: &Ended) {
    let Ended::Ran(report) = ended else { return };
    let name = &fixture.name;
    assert!(report.follow_ons.len() <= plan.limits.dispatch_jobs as usize, "{name}");
    if matches!(report.outcome, Outcome::Done(_)) && name.starts_with("sends-for") {
        assert_eq!(report.follow_ons.len(), 1, "{name}");
    }
    for follow_on in &report.follow_ons {
        assert!(plan.grants.dispatch.allow(&follow_on.task), "{name}: {follow_on:?}");
        let sent =
            publish::follow_on(job, follow_on, plan.limits.tree(), &message(), &queue(), 1 << 20)
                .unwrap();
        let attributes = &sent.message.attributes;
        let tenant = attributes.get(attribute::TENANT).map_or("", String::as_str);
        assert_eq!(
            (tenant, &attributes[attribute::TASK]),
            (&*job.tenant, &follow_on.task),
            "{name}"
        );
    }
}

/// The message that the job came with.
fn message() -> Message {
    Message {
        id: "m".to_owned(),
        receipt: Receipt("r".into()),
        body: "null".into(),
        attributes: std::collections::BTreeMap::new(),
        group: None,
        attempt: 1,
        sent_at: None,
        not_before: None,
        trace_header: None,
    }
}

fn queue() -> Queue {
    Queue {
        name: Arc::from("q"),
        address: Arc::from("q"),
        fifo: false,
        visibility_timeout: Duration::from_secs(30),
        redrive_target: None,
    }
}
