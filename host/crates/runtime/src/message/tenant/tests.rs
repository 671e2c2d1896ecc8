use std::sync::Arc;

use proptest::prelude::*;

use super::{super::*, *};
use lovage_core::{broker::Receipt, group_id};

/// Whom a queue believes; what body, attribute and group say; the queue's own.
type Case = (&'static [TenantSource], [&'static str; 3], Option<&'static str>);

/// A message that names these tenants: by its body, by its attribute, by its group.
fn naming(body: &str, attribute: &str, group: &str) -> Message {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let tenant = some(body).map_or(serde_json::Value::Null, Into::into);
    Message {
        id: "m".into(),
        receipt: Receipt(Arc::from("r")),
        body: serde_json::json!({"data": 1, "task": "t", "tenant": tenant}).to_string().into(),
        attributes: some(attribute)
            .map(|it| (attribute::TENANT.to_owned(), it))
            .into_iter()
            .collect(),
        group: some(group),
        attempt: 1,
        sent_at: None,
        not_before: None,
        trace_header: None,
    }
}

fn believing(from: &[TenantSource], queue: Option<&str>) -> Defaults {
    Defaults {
        trust: Trust { from: from.to_vec(), required: false },
        tenant: queue.map(str::to_owned),
        ..Defaults::default()
    }
}

fn tenant(message: &Message, defaults: &Defaults) -> Result<String, String> {
    match decode(message, defaults) {
        Ok(job) => Ok(job.tenant.clone()),
        Err(malformed) => {
            assert_eq!(malformed.kind, MISMATCH, "{malformed}");
            Err(malformed.reason)
        }
    }
}

#[test]
fn the_first_place_that_is_believed_decides() {
    use TenantSource::{Attribute, Body, Group, Queue};
    let cases: [(Case, &str); 8] = [
        ((&[Body, Attribute, Group, Queue], ["a", "", ""], Some("q")), "a"),
        ((&[Body, Attribute, Group, Queue], ["", "a", ""], Some("q")), "a"),
        ((&[Body, Attribute, Group, Queue], ["", "", "a"], Some("q")), "a"),
        ((&[Body, Attribute, Group, Queue], ["", "", ""], Some("q")), "q"),
        ((&[Body, Attribute, Group, Queue], ["", "", ""], None), ""),
        ((&[Group], ["a", "a", "a"], None), "a"),
        ((&[Queue], ["", "", ""], Some("q")), "q"),
        ((&[Queue], ["q", "q", "q"], Some("q")), "q"),
    ];
    for ((from, [body, attribute, group], queue), expected) in cases {
        let told = tenant(&naming(body, attribute, group), &believing(from, queue));
        assert_eq!(told.as_deref(), Ok(expected), "{from:?} {body} {attribute} {group}");
    }
}

#[test]
fn another_name_in_any_other_place_is_refused_and_both_places_are_told() {
    use TenantSource::{Attribute, Body, Group, Queue};
    let all: &[TenantSource] = &TenantSource::ALL;
    let cases: [(Case, &str, &str); 7] = [
        (
            (all, ["a", "b", ""], None),
            "attribute `lovage-tenant` names tenant `b`",
            "`tenant` the job is for `a`",
        ),
        (
            (all, ["a", "", "b"], None),
            "the message group (or Lambda's tenant id) names tenant `b`",
            "for `a`",
        ),
        ((&[Group], ["b", "", "a"], None), "not believed on this queue", "by the message group"),
        (
            (&[Group, Body], ["b", "", "a"], None),
            "the body's `tenant` names tenant `b`",
            "(group, body)",
        ),
        (
            (&[Queue], ["", "", "b"], Some("q")),
            "names tenant `b`, which is not believed",
            "queue's own `tenant` the job is for `q`",
        ),
        ((&[Queue, Attribute], ["", "b", ""], Some("q")), "names tenant `b`, and", "for `q`"),
        ((&[], ["b", "", ""], None), "no place that is believed names any", "(none)"),
    ];
    for ((from, [body, attribute, group], queue), first, second) in cases {
        let reason = tenant(&naming(body, attribute, group), &believing(from, queue)).unwrap_err();
        assert!(reason.contains(first) && reason.contains(second), "{reason}");
    }
}

#[test]
fn two_attributes_that_differ_in_case_are_two_statements() {
    let mut message = naming("", "a", "");
    message.attributes.insert("Lovage-Tenant".to_owned(), "b".to_owned());
    assert!(tenant(&message, &Defaults::default()).is_err());
    message.attributes.insert("Lovage-Tenant".to_owned(), "a".to_owned());
    assert_eq!(tenant(&message, &Defaults::default()).as_deref(), Ok("a"));
}

#[test]
fn a_tenant_attribute_in_another_case_is_not_believed() {
    for name in ["Lovage-Tenant", "LOVAGE-TENANT", "lovage-Tenant"] {
        let mut message = naming("", "", "");
        message.attributes.insert(name.to_owned(), "victim".to_owned());
        for from in [&TenantSource::ALL[..], &[TenantSource::Attribute]] {
            let reason = tenant(&message, &believing(from, None)).unwrap_err();
            assert!(reason.contains("but for its case"), "{reason}");
            assert_eq!(decode(&message, &believing(from, None)).unwrap_err().tenant, "");
        }
        assert!(tenant(&message, &believing(&[TenantSource::Queue], Some("own"))).is_err());
    }
}

#[test]
fn what_stands_for_a_name_that_sqs_does_not_take_agrees_with_it() {
    let name = "Lövage & Söhne";
    let group = group_id::of_tenant(name);
    assert_ne!(group, name);
    for from in [&TenantSource::ALL[..], &[TenantSource::Group]] {
        let defaults = believing(from, None);
        assert_eq!(tenant(&naming(name, "", &group), &defaults).as_deref(), Ok(name));
        assert!(tenant(&naming("somebody else", "", &group), &defaults).is_err());
    }
}

#[test]
fn a_job_for_nobody_is_refused_where_a_tenant_is_required() {
    let trust = Trust { required: true, ..Trust::default() };
    let defaults = Defaults { trust, ..Defaults::default() };
    let malformed = decode(&naming("", "", ""), &defaults).unwrap_err();
    assert_eq!(malformed.kind, REQUIRED);
    assert!(malformed.reason.contains("tenant_required"), "{malformed}");
    assert!(decode(&naming("a", "", ""), &defaults).is_ok());
    let fifo = Defaults { fifo: true, ..defaults };
    let malformed = decode(&naming("", "", "an order"), &fifo).unwrap_err();
    assert_eq!(malformed.kind, REQUIRED, "the group of a FIFO queue names nobody");
}

#[test]
fn a_rejection_is_told_to_who_is_believed() {
    let defaults = believing(&[TenantSource::Group], None);
    let malformed = decode(&naming("liar", "", "honest"), &defaults).unwrap_err();
    assert_eq!(malformed.tenant, "honest");
    let malformed = decode(&naming("liar", "", ""), &defaults).unwrap_err();
    assert_eq!(malformed.tenant, "");
    // A body that cannot be read names nobody, either.
    let mut torn = naming("", "", "honest");
    torn.body = "{".into();
    assert_eq!(decode(&torn, &defaults).unwrap_err().tenant, "honest");
    torn.body = r#"{"data":1,"tenant":"liar","typo":1}"#.into();
    assert_eq!(decode(&torn, &defaults).unwrap_err().tenant, "honest");
    torn.body = "{\"data\":1,\"tenant\":\"bad\\u0000name\"}".into();
    torn.group = None;
    assert_eq!(decode(&torn, &Defaults::default()).unwrap_err().tenant, "");
}

fn places() -> impl Strategy<Value = Vec<TenantSource>> {
    proptest::sample::subsequence(TenantSource::ALL.to_vec(), 0..=4).prop_shuffle()
}

proptest! {
    /// Nobody acts for a tenant that no believed place named.
    #[test]
    fn no_message_is_for_a_tenant_that_nobody_believed_named(
        from in places(), body in "[ab]?", attribute in "[ab]?", group in "[ab]?",
        queue in proptest::option::of("[abq]"), fifo: bool, required: bool,
    ) {
        let trust = Trust { from: from.clone(), required };
        let defaults = Defaults { trust, tenant: queue.clone(), fifo, ..Defaults::default() };
        let message = naming(&body, &attribute, &group);
        let mut said = vec![(TenantSource::Body, body), (TenantSource::Attribute, attribute)];
        if !fifo {
            said.push((TenantSource::Group, group));
        }
        said.retain(|(_, name)| !name.is_empty());
        let believed: Vec<String> = said
            .iter()
            .cloned()
            .chain(queue.map(|name| (TenantSource::Queue, name)))
            .filter(|(source, _)| from.contains(source))
            .map(|(_, name)| name)
            .collect();
        match decode(&message, &defaults) {
            Ok(job) => {
                prop_assert!(job.tenant.is_empty() || believed.contains(&job.tenant));
                prop_assert!(said.iter().all(|(_, name)| *name == job.tenant));
                prop_assert!(!(required && job.tenant.is_empty()));
            }
            Err(malformed) => {
                prop_assert!(malformed.tenant.is_empty() || believed.contains(&malformed.tenant));
                let differ = said.iter().any(|(_, name)| *name != malformed.tenant);
                prop_assert_eq!(malformed.kind, if differ { MISMATCH } else { REQUIRED });
            }
        }
    }

    #[test]
    fn no_names_make_the_judge_panic(body: String, attribute: String, group: String, from in places()) {
        let message = naming(&body, &attribute, &group);
        let _ = decode(&message, &believing(&from, Some("q")));
    }
}
