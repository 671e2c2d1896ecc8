//! Messages that a Celery client put on a queue: each is read, and is written again as it was.

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::Deserialize;

use super::publisher;
use crate::{
    Json, Kind, Mapping, Refusal, Refused, Request, RichTypes, State, Step,
    arguments::{Shape, payload},
    builtins::{Builtin, Unlocked},
    meta::{Meta, Owner},
    publish::Parent,
    time,
    workflow::{self, Storing},
};

const MAX: usize = 1 << 20;

#[derive(Deserialize)]
struct Captured {
    captured: Vec<Capture>,
}

#[derive(Deserialize)]
struct Capture {
    name: String,
    messages: Vec<Message>,
}

#[derive(Deserialize)]
struct Message {
    body: String,
}

fn all() -> Vec<(String, Vec<String>)> {
    let text = include_str!("../../../../tests/fixtures/celery/captured.json");
    let captured: Captured = serde_json::from_str(text).unwrap();
    let bodies = |capture: Capture| {
        (capture.name, capture.messages.into_iter().map(|message| message.body).collect())
    };
    captured.captured.into_iter().map(bodies).collect()
}

fn bodies(name: &str) -> Vec<String> {
    all().into_iter().find(|(other, _)| other == name).unwrap().1
}

fn parse(body: &str) -> Result<Request, Refused> {
    Request::parse(body.as_bytes(), MAX)
}

fn one(name: &str) -> Request {
    parse(&bodies(name)[0]).unwrap()
}

/// The envelope of a message without what is new each time it is sent.
fn envelope(body: &[u8]) -> String {
    let text =
        if body.starts_with(b"{") { body.to_vec() } else { BASE64_STANDARD.decode(body).unwrap() };
    let text = String::from_utf8(text).unwrap();
    let mut tag = text.split("\"delivery_tag\": \"");
    let before = tag.next().unwrap();
    format!("{before}{}", tag.next().unwrap().split_once('"').unwrap().1)
}

#[test]
fn every_captured_message_is_read_but_the_pickled_one() {
    let mut read = 0;
    for (name, bodies) in all() {
        for body in bodies {
            match parse(&body) {
                Ok(request) => {
                    assert!(!request.id.is_empty() && request.task.contains('.'), "{name}");
                    assert_eq!(request.queue().as_deref(), Some("celery"), "{name}");
                    assert_eq!(request.correlation_id.as_deref(), Some(&*request.id), "{name}");
                    read += 1;
                }
                Err(refused) => {
                    assert_eq!((&*name, refused.refusal), ("pickle", Refusal::ContentType));
                }
            }
        }
    }
    assert_eq!(read, 26);
}

#[test]
fn a_pickled_message_says_whose_it_is_and_what_to_do() {
    let refused = parse(&bodies("pickle")[0]).unwrap_err();
    assert!(refused.reason.contains("pickled") && refused.reason.contains("task_serializer"));
    assert_eq!(refused.id.as_deref(), Some("dc4ecd02-f0de-43aa-9357-f6d04ea56ce6"));
    assert_eq!(refused.task.as_deref(), Some("tasks.process_data"));
    assert_eq!(refused.reply_to.as_deref(), Some("8fd99292-7b9a-30de-bdc2-2477acbb165c"));
    assert!(!refused.ignore_result);
}

#[test]
fn both_ways_to_call_process_data_have_the_same_payload() {
    let schema = r#"{"$schema":"https://json-schema.org/draft/2020-12/schema","title":"AnyValue"}"#;
    let shape = Shape::of(Some(schema));
    for name in ["delay", "delay_kwargs"] {
        let request = one(name);
        let payload =
            payload(&request.args, &request.kwargs, &shape, Mapping::Auto, RichTypes::Plain);
        assert_eq!(payload.unwrap(), "21", "{name}");
    }
}

#[test]
fn what_a_client_asks_for_is_read() {
    let request = one("delay");
    assert_eq!((request.retries, request.eta, request.expires), (0, None, None));
    assert_eq!(request.ignore_result, Some(false));
    assert_eq!(request.origin.as_deref(), Some("gen16563@vm"));
    assert_eq!(request.argsrepr.as_deref(), Some("(21,)"));
    assert_eq!(request.priority, Some(0));
    assert_eq!(request.custom_headers().count(), 0);

    assert_eq!(one("eta").eta, time::parse("2026-11-22T09:45:42.268382+00:00"));
    assert!(one("countdown").eta.is_some());
    let expires = one("expires_seconds");
    assert_eq!(expires.expires, time::parse("2026-11-22T08:47:42.328049+00:00"));
    assert_eq!(expires.expiration, Some(Duration::from_mins(2)));
    assert_eq!(expires.expires_at(None), expires.expires);
    assert_eq!(one("priority").priority, Some(7));
    assert_eq!(one("ignore_result_call").ignore_result, Some(true));
    assert_eq!(one("self_retry").retries, 1);
    let headers = one("headers");
    let custom: Vec<_> =
        headers.custom_headers().map(|(name, value)| (name, value.text())).collect();
    assert_eq!(custom, [("x-tenant", "\"acme\"")]);
    let rich = one("rich_types_arg");
    let plain = RichTypes::Plain.apply(&rich.args[0]);
    assert_eq!(
        plain.text(),
        r#"{"d": 1.5, "u": "00000000-0000-0000-0000-000000000001", "b": "AP8=", "t": [1, 2]}"#
    );
}

#[test]
fn what_travels_with_a_message_is_read() {
    let link = one("link");
    assert_eq!(link.callbacks.len(), 1);
    assert_eq!(one("link_error").errbacks[0].task, "tasks.on_err");
    let chain = one("chain");
    let names: Vec<_> = chain.chain.iter().map(|it| &*it.task).collect();
    assert_eq!(names, ["tasks.process_data", "tasks.add"]);
    let header = one("chord_native");
    assert_eq!(header.chord.as_ref().unwrap().task, "tasks.tsum");
    assert_eq!((header.group.is_some(), header.group_index), (true, Some(0)));
}

#[test]
fn a_retry_is_the_same_message_but_for_retries_and_eta() {
    let routes = BTreeMap::new();
    for (name, bodies) in all() {
        for body in bodies {
            let Ok(request) = parse(&body) else { continue };
            let again = request.again(request.retries, request.eta, &mut publisher(&routes));
            assert_eq!((&*again.queue, &again.id), ("celery", &request.id));
            assert_eq!(again.body.starts_with(b"{"), body.starts_with('{'), "{name}");
            let (is, was) = (envelope(&again.body), envelope(body.as_bytes()));
            if request.expires.is_none() {
                assert_eq!(is, was, "{name}");
            } else {
                // How long is left is said anew.
                assert!(is.contains("\"expiration\": \"0\""), "{is}");
            }
            let eta = time::parse("2027-01-15T08:00:07+00:00");
            let again = request.again(3, eta, &mut publisher(&routes));
            let read = Request::parse(&again.body, MAX).unwrap();
            assert_eq!((read.retries, read.eta), (3, eta), "{name}");
            assert_eq!(
                (&read.args, &read.kwargs, &read.chain),
                (&request.args, &request.kwargs, &request.chain)
            );
            assert_eq!(
                (&read.id, &read.root_id, &read.chord),
                (&request.id, &request.root_id, &request.chord)
            );
        }
    }
}

#[test]
fn a_message_is_written_as_celery_writes_it() {
    let routes = BTreeMap::new();
    let captured = one("delay");
    let call = [("task_id", &*captured.id), ("reply_to", captured.reply_to.as_deref().unwrap())];
    let mut publisher = publisher(&routes);
    publisher.origin = "gen16563@vm";
    let message = publisher.message(
        "tasks.process_data",
        &captured.args,
        &captured.kwargs,
        call.into_iter().map(|(name, value)| (name, Json::string(value))).collect(),
        None,
    );
    assert_eq!(envelope(&message.body), envelope(bodies("delay")[0].as_bytes()));
}

#[test]
fn the_next_of_a_chain_has_the_result_in_front_and_the_rest_behind() {
    let routes = BTreeMap::new();
    let request = one("chain");
    let plan = workflow::succeeded(
        &request,
        &Json::number(3),
        Storing::default(),
        &mut publisher(&routes),
    )
    .unwrap();
    let sent: Vec<_> = plan.messages().collect();
    let next = Request::parse(&sent[0].body, MAX).unwrap();
    assert_eq!((sent.len(), &*next.task), (1, "tasks.add"));
    assert_eq!(next.args, [Json::number(3), Json::number(3)]);
    assert_eq!(
        (next.root_id.as_deref(), next.parent_id.as_deref()),
        (Some(&*request.id), Some(&*request.id))
    );
    assert_eq!(next.chain, request.chain[..1]);
    assert_eq!(Some(next.id.clone()), request.chain[1].id());
    assert_eq!(next.reply_to, request.reply_to);
    let Some(Step::Store(meta)) = plan.steps.last() else { panic!("{:?}", plan.steps) };
    assert_eq!(meta.state, State::Success);
    assert_eq!(meta.children()[0].id, next.id);
}

#[test]
fn a_message_that_polls_a_chord_waits_and_then_calls_the_body() {
    let routes = BTreeMap::new();
    let bodies = bodies("chord");
    let request =
        bodies.iter().map(|it| parse(it).unwrap()).find(|it| it.task == "celery.chord_unlock");
    let request = request.unwrap();
    let Some(Builtin::Unlock(unlock)) = Builtin::of(&request, &mut publisher(&routes)) else {
        panic!("no chord_unlock")
    };
    assert_eq!((unlock.ids().len(), &*unlock.body.task), (2, "tasks.tsum"));
    let metas: Vec<_> = unlock
        .ids()
        .into_iter()
        .zip([Json::number(2), Json::number(4)])
        .map(|(id, value)| Meta::success(&Owner::id(id), value, &[], publisher(&routes).now))
        .collect();
    let Unlocked::Wait(again) = unlock.look(
        &request,
        &|id| metas[..1].iter().find(|it| it.id == id),
        &mut publisher(&routes),
    ) else {
        panic!("it does not wait")
    };
    assert_eq!(again.id, request.id);
    assert_eq!(Request::parse(&again.body, MAX).unwrap().retries, 1);
    let Unlocked::Done(plan) =
        unlock.look(&request, &|id| metas.iter().find(|it| it.id == id), &mut publisher(&routes))
    else {
        panic!("it waits")
    };
    let body = Request::parse(&plan.messages().next().unwrap().body, MAX).unwrap();
    assert_eq!((body.args[0].text(), body.parent_id.as_deref()), ("[2, 4]", Some(&*request.id)));
    assert_eq!(Some(body.id), unlock.body.id());
}

#[test]
fn other_messages_are_told_apart_from_broken_ones() {
    let captured = String::from_utf8(BASE64_STANDARD.decode(&bodies("delay")[0]).unwrap()).unwrap();
    let changed = |from: &str, to: &str| captured.replacen(from, to, 1);
    for (body, refusal) in [
        (String::new(), Refusal::NotCelery),
        ("hello".to_owned(), Refusal::NotCelery),
        ("{\"data\": 21}".to_owned(), Refusal::NotCelery),
        ("[1, 2]".to_owned(), Refusal::NotCelery),
        ("{".to_owned(), Refusal::NotCelery),
        (BASE64_STANDARD.encode([0xff, 0xfe]), Refusal::NotCelery),
        (changed("\"task\"", "\"other\""), Refusal::NotCelery),
        (changed("\"retries\": 0", "\"retries\": \"x\""), Refusal::Invalid),
        (changed("\"retries\": 0", "\"retries\": [1]"), Refusal::Invalid),
        (changed("\"eta\": null", "\"eta\": \"soon\""), Refusal::Invalid),
        (changed("\"id\": ", "\"no\": "), Refusal::Invalid),
        (changed("\"body\": \"W1", "\"body\": \"!"), Refusal::Invalid),
        (changed("\"body\": \"W1", "\"body\": \""), Refusal::Invalid),
        (changed("application/json", "application/x-yaml"), Refusal::ContentType),
        (changed("utf-8", "utf-16"), Refusal::ContentType),
        (
            changed("\"lang\": \"py\"", "\"compression\": \"application/x-snappy\""),
            Refusal::Compression,
        ),
        (changed("\"lang\": \"py\"", "\"compression\": \"gzip\""), Refusal::Invalid),
    ] {
        let refused = parse(&body).unwrap_err();
        assert_eq!(refused.refusal, refusal, "{body}: {refused}");
    }
}

#[test]
fn packed_bodies_are_unpacked_and_bombs_are_not() {
    use std::io::Write as _;

    fn packed(method: &str, content: &[u8]) -> Vec<u8> {
        let packed = if method == "application/x-bz2" {
            let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::best());
            encoder.write_all(content).unwrap();
            encoder.finish().unwrap()
        } else {
            let mut encoder =
                flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
            encoder.write_all(content).unwrap();
            encoder.finish().unwrap()
        };
        let body = BASE64_STANDARD.encode(packed);
        format!(
            r#"{{"body": "{body}", "content-type": "application/json", "content-encoding": "utf-8",
                "headers": {{"task": "t", "id": "i", "compression": "{method}"}},
                "properties": {{"body_encoding": "base64", "delivery_tag": "d"}}}}"#
        )
        .into_bytes()
    }

    let routes = BTreeMap::new();
    for method in ["application/x-gzip", "application/x-bz2"] {
        let message = packed(method, br#"[[21], {"b": 2}, {}]"#);
        let request = Request::parse(&message, MAX).unwrap();
        assert_eq!((request.args[0].text(), request.kwargs.len()), ("21", 1));
        // It travels on as it is packed.
        let again = request.again(1, None, &mut publisher(&routes));
        assert_eq!(Request::parse(&again.body, MAX).unwrap().args, request.args);
        let bomb = packed(method, &vec![b' '; MAX + 1]);
        assert!(bomb.len() < 4096);
        let refused = Request::parse(&bomb, MAX).unwrap_err();
        assert_eq!(refused.refusal, Refusal::TooLarge);
        assert!(refused.reason.contains("celery.max_body_bytes"), "{refused}");
        assert_eq!(refused.id.as_deref(), Some("i"));
    }
}

#[test]
fn arguments_in_message_pack_are_read_and_travel_on_as_they_are() {
    let message = format!(
        r#"{{"body": "{}", "content-type": "application/x-msgpack", "content-encoding": "binary",
            "headers": {{"task": "t", "id": "i"}}, "properties": {{"body_encoding": "base64", "delivery_tag": "d"}}}}"#,
        BASE64_STANDARD.encode(b"\x93\x91\x15\x81\xa1k\xc4\x01\xff\x80")
    );
    let request = parse(&message).unwrap();
    assert_eq!(request.args, [Json::number(21)]);
    assert_eq!(RichTypes::Plain.apply(request.kwargs.get("k").unwrap()).text(), r#""/w==""#);
    let routes = BTreeMap::new();
    let again = request.again(1, None, &mut publisher(&routes));
    assert_eq!(Request::parse(&again.body, MAX).unwrap().kwargs, request.kwargs);
}

#[test]
fn protocol_1_is_read_and_tried_again_in_protocol_2() {
    let body = r#"{"task": "tasks.add", "id": "i", "args": [1, 2.50], "kwargs": {"c": 3}, "group": null,
        "group_index": null, "retries": 2, "eta": "2026-11-22T08:45:51", "expires": null, "utc": true,
        "callbacks": [{"task": "tasks.next", "args": [], "kwargs": {}, "options": {}, "subtask_type": null, "immutable": true}],
        "errbacks": null, "timelimit": [10, 5.5], "taskset": "g", "chord": null}"#;
    let message = format!(
        r#"{{"body": "{}", "content-type": "application/json", "content-encoding": "utf-8", "headers": {{}},
            "properties": {{"correlation_id": "i", "reply_to": "r", "delivery_info": {{"exchange": "", "routing_key": "celery"}}, "priority": 0, "body_encoding": "base64", "delivery_tag": "d"}}}}"#,
        BASE64_STANDARD.encode(body)
    );
    let request = parse(&BASE64_STANDARD.encode(message)).unwrap();
    assert_eq!((&*request.id, &*request.task, request.retries), ("i", "tasks.add", 2));
    assert_eq!((request.args[1].text(), request.kwargs.len()), ("2.50", 1));
    assert_eq!(request.eta, time::parse("2026-11-22T08:45:51+00:00"));
    assert_eq!(request.time_limit, Some(Duration::from_secs(10)));
    assert_eq!(request.soft_time_limit, Some(Duration::from_millis(5500)));
    assert_eq!(request.group.as_deref(), Some("g"));
    assert!(
        request.callbacks[0].immutable && matches!(request.callbacks[0].kind, Kind::Task(None))
    );
    let routes = BTreeMap::new();
    let again = request.again(3, None, &mut publisher(&routes));
    let read = Request::parse(&again.body, MAX).unwrap();
    assert_eq!((read.retries, &read.args, &read.callbacks), (3, &request.args, &request.callbacks));
    assert_eq!(read.headers.string("argsrepr").as_deref(), Some("(1, 2.50)"));
}

#[test]
fn a_failure_reaches_the_chain_and_the_errbacks() {
    let routes = BTreeMap::new();
    let mut request = one("chain");
    request.errbacks = one("link_error").errbacks;
    let exception = crate::Exception::of_failure("ValueError", "no");
    let plan = workflow::failed(&request, &exception, Storing::default(), &mut publisher(&routes));
    let stored: Vec<_> = plan
        .steps
        .iter()
        .filter_map(|step| match step {
            Step::Store(meta) => Some((meta.id.clone(), meta.state.clone())),
            _ => None,
        })
        .collect();
    let ids = [Some(request.id.clone()), request.chain[0].id(), request.chain[1].id()];
    let expected: Vec<_> = ids.into_iter().map(|id| (id.unwrap(), State::Failure)).collect();
    assert_eq!(stored, expected);
    let errback = Request::parse(&plan.messages().next().unwrap().body, MAX).unwrap();
    assert_eq!((&*errback.task, &errback.args), ("tasks.on_err", &vec![Json::string(&request.id)]));
    assert_eq!(errback.parent_id.as_deref(), Some(&*request.id));
    assert_eq!(Parent::of(&request).root, request.id);
}
