//! Workflows, run to their end in memory: the same calls and the same results as with a worker of
//! Celery's.

use std::collections::{BTreeMap, HashMap, VecDeque};

use serde::Deserialize;
use serde_json::{Value, json};

use super::publisher;
use crate::{
    ChordPart, Exception, Json, Map, Meta, Plan, Request, ResultRef, Signature, State, Step,
    canvas::Canvas,
    publish::Parent,
    workflow::{self, Storing},
};

#[derive(Deserialize)]
struct Cases {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    signature: Json,
    args: Vec<Json>,
    calls: Vec<Value>,
    result: Value,
}

#[derive(Default)]
struct Chord {
    size: Option<usize>,
    results: Option<ResultRef>,
    /// By place, of which a group within the header has its own.
    parts: BTreeMap<(i64, String), (State, Json)>,
}

/// A broker, a store and a worker.
#[derive(Default)]
struct World {
    queue: VecDeque<Request>,
    stored: HashMap<String, Meta>,
    chords: HashMap<String, Chord>,
    calls: Vec<Value>,
    ids: u64,
}

impl World {
    fn carry_out(&mut self, plan: Plan, of: Option<&Request>) {
        for step in plan.steps {
            match step {
                Step::Send(message) => {
                    self.queue.push_back(Request::parse(&message.body, 1 << 20).unwrap());
                }
                Step::Store(meta) => {
                    self.stored.insert(meta.id.clone(), meta);
                }
                Step::BeginChord { group, results } => {
                    self.chords.entry(group).or_default().results = Some(results);
                }
                Step::ChordSize { group, size } => {
                    self.chords.entry(group).or_default().size = Some(size);
                }
                Step::ChordPart(part) => self.count(*part, of.unwrap()),
            }
        }
    }

    fn count(&mut self, part: ChordPart, of: &Request) {
        let failed = self.stored.get(&part.id).is_some_and(|it| it.state.propagates());
        if part.unless_failed && failed {
            return;
        }
        let chord = self.chords.get_mut(&part.group).unwrap();
        chord.parts.insert((part.index.unwrap(), part.id), (part.state, part.result));
        if Some(chord.parts.len()) != chord.size {
            return;
        }
        let routes = BTreeMap::new();
        let mut publisher = publisher(&routes);
        self.ids += 1;
        publisher.ids = crate::Ids::of(format!("chord {}", self.ids));
        let failed = chord.parts.iter().find(|(_, (state, _))| state.propagates());
        let plan = if let Some(((_, id), (_, result))) = failed {
            let cause = Exception::of_json(result).unwrap();
            let error = workflow::chord_error(id, &cause);
            workflow::chord_failed(&part.body, &error, Some(&cause), &mut publisher)
        } else {
            let nested = chord.results.as_ref().unwrap();
            let is_nested =
                nested.children.as_ref().unwrap().iter().any(|it| it.children.is_some());
            let values: Vec<_> = if is_nested {
                let stored = |id: &str| self.stored.get(id);
                crate::builtins::value(nested, &stored).items().unwrap()
            } else {
                chord.parts.values().map(|(_, result)| result.clone()).collect()
            };
            workflow::chord_done(&part.body, &values, &Parent::of(of), &mut publisher)
        };
        self.carry_out(plan, Some(of));
    }

    fn run(&mut self) {
        for _ in 0..1000 {
            let Some(request) = self.queue.pop_front() else { return };
            let routes = BTreeMap::new();
            let mut publisher = publisher(&routes);
            publisher.ids = workflow::ids(&request, "end");
            let storing = Storing::default();
            let plan = match self.call(&request) {
                Ok(result) => {
                    workflow::succeeded(&request, &result, storing, &mut publisher).unwrap()
                }
                Err(error) => workflow::failed(&request, &error, storing, &mut publisher),
            };
            self.carry_out(plan, Some(&request));
        }
        panic!("it does not end");
    }

    fn call(&mut self, request: &Request) -> Result<Json, Exception> {
        let mut args: Vec<Value> = request.args.iter().map(|it| it.read().unwrap()).collect();
        let kwargs: BTreeMap<_, Value> =
            request.kwargs.iter().map(|(name, it)| (name, it.read().unwrap())).collect();
        if request.task == "tasks.on_err" {
            args = vec![json!("ID")];
        }
        self.calls.push(json!([request.task, args, kwargs]));
        let numbers: i64 =
            args.iter().map(sum).sum::<i64>() + kwargs.values().map(sum).sum::<i64>();
        match request.task.as_str() {
            "tasks.add" | "tasks.tsum" => Ok(Json::number(numbers)),
            "tasks.echo" => Ok(Json::list(&request.args)),
            "tasks.fails" => Err(Exception::of_failure("ValueError", "no")),
            "tasks.on_err" => Ok(Json::null()),
            other => panic!("{other}"),
        }
    }

    /// A result as the file has it.
    fn value(&self, result: &ResultRef) -> Value {
        if let Some(children) = &result.children {
            return children.iter().map(|it| self.value(it)).collect();
        }
        let Some(meta) = self.stored.get(&result.id) else { return json!({"pending": true}) };
        match meta.exception().filter(|_| meta.state == State::Failure) {
            None => meta.result().read().unwrap(),
            Some(exception) => {
                let args = exception.args.iter().map(|it| {
                    let text = it.as_string().unwrap();
                    match text.strip_prefix("Dependency ").and_then(|it| it.split_once(' ')) {
                        Some((_, rest)) => format!("Dependency ID {rest}"),
                        None => text,
                    }
                });
                json!({"failed": exception.kind, "args": args.collect::<Vec<_>>()})
            }
        }
    }
}

fn sum(value: &Value) -> i64 {
    match value {
        Value::Array(items) => items.iter().map(sum).sum(),
        other => other.as_i64().unwrap_or(0),
    }
}

#[test]
fn workflows_call_and_come_to_what_they_do_with_celery() {
    let text = include_str!("../../../../tests/fixtures/celery/workflows.json");
    let cases: Cases = serde_json::from_str(text).unwrap();
    assert!(cases.cases.len() > 40);
    let mut wrong = Vec::new();
    for case in cases.cases {
        let mut world = World::default();
        let routes = BTreeMap::new();
        let mut publisher = publisher(&routes);
        let mut canvas = Canvas::new(&mut publisher, None);
        let signature = Signature::parse(&case.signature).unwrap();
        let result = canvas.apply(signature, &case.args, &Map::new(), Map::new(), true).unwrap();
        let plan = Plan { steps: canvas.steps, children: canvas.children, body: None };
        world.carry_out(plan, None);
        world.run();
        let sorted = |mut calls: Vec<Value>| {
            calls.sort_by_key(Value::to_string);
            calls
        };
        let (mut result, calls) = (world.value(&result), sorted(world.calls));
        if case.result == json!({"pending": true}) {
            // Celery leaves these waiting for ever.
            assert_eq!(result["failed"], "ChordError", "{}", case.name);
            result = case.result.clone();
        }
        if (&result, &calls) != (&case.result, &sorted(case.calls.clone())) {
            wrong.push(format!(
                "{}:\n  {result}\n  {}\n  {}\n  {}",
                case.name,
                case.result,
                Value::from(calls),
                Value::from(sorted(case.calls))
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
