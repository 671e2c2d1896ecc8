//! Tasks that every Celery worker has, and bounds of what follows from a task.

use std::collections::BTreeMap;

use super::publisher;
use crate::{
    Builtin, Exception, Json, Map, Mapped, Request, Signature, Step,
    workflow::{self, Storing},
};

/// A request for a task, with the embedded parts given.
fn request(task: &str, args: &str, kwargs: &str, embed: Map) -> Request {
    let routes = BTreeMap::new();
    let items = Json::parse(args).unwrap().items().unwrap();
    let fields = Json::parse(kwargs).unwrap().fields().unwrap();
    let message = publisher(&routes).message(task, &items, &fields, embed, None);
    Request::parse(&message.body, 1 << 24).unwrap()
}

fn of(task: &str, args: &str, kwargs: &str) -> Option<Builtin> {
    let routes = BTreeMap::new();
    Builtin::of(&request(task, args, kwargs, Map::new()), &mut publisher(&routes))
}

fn result(built_in: Option<Builtin>) -> (String, Vec<(String, String)>) {
    let Some(Builtin::Done { result, plan }) = built_in else { panic!("{built_in:?}") };
    let sent = plan.messages().map(|message| {
        let request = Request::parse(&message.body, 1 << 20).unwrap();
        (
            request.task.clone(),
            Json::list(&[Json::list(&request.args), request.kwargs.into()]).text().to_owned(),
        )
    });
    (result.text().to_owned(), sent.collect())
}

#[test]
fn trivial_ones_are_done_here() {
    assert_eq!(result(of("celery.backend_cleanup", "[]", "{}")), ("null".to_owned(), vec![]));
    assert_eq!(result(of("celery.accumulate", "[1, 2]", "{}")).0, "[1, 2]");
    assert_eq!(result(of("celery.accumulate", "[1, 2]", r#"{"index": -2}"#)).0, "1");
    let failed = of("celery.accumulate", "[1, 2]", r#"{"index": 2}"#);
    assert!(matches!(failed, Some(Builtin::Fail(error)) if error.kind == "IndexError"));
    assert!(of("tasks.mine", "[]", "{}").is_none());
}

#[test]
fn groups_and_pieces_are_sent_from_here_and_maps_call_their_task_for_each_item() {
    let kwargs = r#"{"tasks": [{"task": "t.a", "args": [1]}, {"task": "t.b", "immutable": true}],
        "result": [["g", null], [[["x", null], null]]], "group_id": "g", "partial_args": [0]}"#;
    let (id, sent) = result(of("celery.group", "[]", kwargs));
    assert_eq!(id, r#"[["g", null], [[["x", null], null]]]"#);
    let expected = [("t.a", "[[0, 1], {}]"), ("t.b", "[[], {}]")];
    assert_eq!(sent, expected.map(|(task, args)| (task.to_owned(), args.to_owned())));
    let kwargs = r#"{"task": {"task": "t.a"}, "it": [[1], [2], [3]], "n": 2}"#;
    let (_, sent) = result(of("celery.chunks", "[]", kwargs));
    assert_eq!(sent.len(), 2);
    assert_eq!(
        sent[1],
        ("celery.starmap".to_owned(), r#"[[], {"task": {"task": "t.a"}, "it": [[3]]}]"#.to_owned())
    );
    // The task that a map calls runs in a sandbox.
    let kwargs = r#"{"task": {"task": "t.a"}, "it": [[1, 2], [3]]}"#;
    let calls = |task: &str, kwargs: &str| {
        let request = request(task, "[]", kwargs, Map::new());
        let task = Mapped::task_of(&request).unwrap()?;
        let calls: Result<Vec<_>, _> = Mapped::of(&request).unwrap()?.calls().collect();
        Ok::<_, String>((task, calls?.iter().map(Json::list).map(|it| it.to_string()).collect()))
    };
    let of_map = ["[[1, 2]]", "[[3]]"].map(str::to_owned).to_vec();
    assert_eq!(calls("celery.map", kwargs), Ok(("t.a".to_owned(), of_map)));
    let of_starmap: Vec<String> = ["[1, 2]", "[3]"].map(str::to_owned).to_vec();
    assert_eq!(calls("celery.starmap", kwargs), Ok(("t.a".to_owned(), of_starmap)));
    for (task, kwargs, words) in [
        ("celery.map", "{}", "names no task"),
        ("celery.map", r#"{"task": "t.a", "it": 1}"#, "is no list"),
        ("celery.starmap", r#"{"task": "t.a", "it": [1]}"#, "no list of arguments"),
    ] {
        let error = calls(task, kwargs).map(|_: (String, Vec<String>)| ()).unwrap_err();
        assert!(error.contains(words), "{error}");
    }
    assert!(Mapped::task_of(&request("t.a", "[]", "{}", Map::new())).is_none());
    for (task, kwargs) in [
        ("celery.chain", "{}"),
        ("celery.group", "{}"),
        ("celery.chord", "{}"),
        ("celery.chunks", r#"{"task": {"task": "t.a"}, "it": [[1]], "n": 0}"#),
        ("celery.chord_unlock", "{}"),
    ] {
        assert!(matches!(of(task, "[]", kwargs), Some(Builtin::Fail(_))), "{task}");
    }
}

#[test]
fn a_chord_is_sent_from_here() {
    let args = r#"[[{"task": "t.a"}, {"task": "t.b"}], {"task": "t.c"}]"#;
    let Some(Builtin::Done { plan, .. }) = of("celery.chord", args, "{}") else {
        panic!("not done")
    };
    assert!(plan.begins_chords());
    assert!(matches!(
        &plan.steps[..],
        [Step::BeginChord { .. }, Step::ChordSize { size: 2, .. }, Step::Send(_), Step::Send(_)]
    ));
    for message in plan.messages() {
        let header = Request::parse(&message.body, 1 << 20).unwrap();
        assert_eq!(header.chord.unwrap().task, "t.c");
        assert!(header.group.is_some() && header.group_index.is_some());
    }
}

#[test]
fn what_follows_from_one_message_is_bounded() {
    let mut body = Signature::task("t.c");
    body.args = vec![Json::string(&"x".repeat(400_000))];
    let header: Vec<_> = (0..3000).map(|_| Signature::task("t.a")).collect();
    let header = Signature::list(&header);
    let chord = format!(
        r#"{{"task": "celery.chord", "kwargs": {{"header": {header}, "body": {}}}, "subtask_type": "chord"}}"#,
        body.json()
    );
    let embed = Map::from_iter([("link", Json::parse(&chord).unwrap())]);
    let request = request("t.first", "[]", "{}", embed);
    let routes = BTreeMap::new();
    let error =
        workflow::succeeded(&request, &Json::null(), Storing::default(), &mut publisher(&routes))
            .unwrap_err();
    assert!(error.args[0].text().contains("more than 67108864 bytes"), "{error:?}");
}

#[test]
fn the_same_end_calls_the_same_tasks_and_another_one_calls_others() {
    let embed = Map::from_iter([("link", Json::parse(r#"{"task": "t.b"}"#).unwrap())]);
    let mut request = request("t.a", "[]", "{}", embed);
    let routes = BTreeMap::new();
    let called = |request: &Request, end: &str| {
        let mut publisher = publisher(&routes);
        publisher.ids = workflow::ids(request, end);
        let storing = Storing::default();
        let plan = workflow::succeeded(request, &Json::null(), storing, &mut publisher).unwrap();
        plan.messages().next().unwrap().clone()
    };
    let first = called(&request, "done");
    assert_eq!(first, called(&request, "done"));
    assert_ne!(first.id, called(&request, "failed").id);
    request.retries = 1;
    assert_ne!(first.id, called(&request, "done").id);
    let why = request.max_retries_exceeded();
    assert_eq!(why, Exception::max_retries("t.a", &request.id, "()", "{}"));
}
