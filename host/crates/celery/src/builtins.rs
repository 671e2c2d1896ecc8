//! Tasks that every Celery worker has: what is done with one that arrives here.

use jiff::{SignedDuration, Timestamp};

use super::{
    canvas::Canvas,
    exception::Exception,
    json::{Json, Map},
    meta::{Meta, State},
    publish::{Parent, Publisher, TaskMessage},
    request::Request,
    results::ResultRef,
    signature::{Budget, Kind, Signature},
    workflow::{self, Plan},
};

/// What is done with a task that is built into Celery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Builtin {
    /// It is done here: its result, and what there is to send.
    Done {
        /// The result.
        result: Json,
        /// What it leads to; its own callbacks come on top.
        plan: Plan,
    },
    /// It waits for a chord's header.
    Unlock(Box<ChordUnlock>),
    /// It fails, as it would in Celery.
    Fail(Exception),
}

/// How often a chord is looked at, where the message does not say.
const INTERVAL: SignedDuration = SignedDuration::from_secs(1);

impl Builtin {
    /// What is done with a request; `None` where its task is no built-in one.
    pub fn of(request: &Request, publisher: &mut Publisher<'_>) -> Option<Self> {
        let wrong = |why: String| Self::Fail(Exception::of_failure("TypeError", &why));
        Some(match request.task.as_str() {
            "celery.backend_cleanup" => Self::done(Json::null()),
            "celery.accumulate" => accumulate(request),
            "celery.chord_unlock" => {
                ChordUnlock::of(request).map_or_else(wrong, |unlock| Self::Unlock(Box::new(unlock)))
            }
            "celery.group" => group(request, publisher).unwrap_or_else(wrong),
            "celery.chord" => chord(request, publisher).unwrap_or_else(wrong),
            "celery.chunks" => chunks(request, publisher).unwrap_or_else(wrong),
            "celery.chain" => {
                Self::Fail(Exception::of_failure("NotImplementedError", "chain is not a real task"))
            }
            _ => return None,
        })
    }

    fn done(result: Json) -> Self {
        Self::Done { result, plan: Plan::default() }
    }
}

/// A parameter, by its place or its name.
fn parameter<'a>(request: &'a Request, at: usize, name: &str) -> Option<&'a Json> {
    request.args.get(at).or_else(|| request.kwargs.get(name)).filter(|it| !it.is_null())
}

fn accumulate(request: &Request) -> Builtin {
    let Some(index) = request.kwargs.some("index") else {
        return Builtin::done(Json::list(&request.args));
    };
    let item = index.read::<i64>().and_then(|index| {
        let len = i64::try_from(request.args.len()).ok()?;
        let at = if index < 0 { index.checked_add(len)? } else { index };
        request.args.get(usize::try_from(at).ok()?)
    });
    match item {
        Some(item) => Builtin::done(item.clone()),
        None => Builtin::Fail(Exception::of_failure("IndexError", "tuple index out of range")),
    }
}

fn signatures(request: &Request, at: usize, name: &str) -> Result<Vec<Signature>, String> {
    let json = parameter(request, at, name).ok_or_else(|| format!("`{name}` is missing"))?;
    Signature::read_list(json, 0, &mut Budget::default())
}

fn group(request: &Request, publisher: &mut Publisher<'_>) -> Result<Builtin, String> {
    let tasks = signatures(request, 0, "tasks")?;
    let result = parameter(request, 1, "result").cloned().unwrap_or_else(Json::null);
    let id = parameter(request, 2, "group_id").cloned().unwrap_or_else(Json::null);
    let partial = parameter(request, 3, "partial_args").and_then(Json::items).unwrap_or_default();
    let to_parent = parameter(request, 4, "add_to_parent").is_none_or(|it| it.text() != "false");
    let mut canvas = Canvas::new(publisher, Some(Parent::of(request)));
    for task in tasks {
        let call = Map::from_iter([("group_id", id.clone())]);
        canvas.apply(task, &partial, &Map::new(), call, false)?;
    }
    let mut plan = Plan { steps: canvas.steps, ..Plan::default() };
    if to_parent {
        plan.children.extend(ResultRef::parse(&result));
    }
    Ok(Builtin::Done { result, plan })
}

fn chord(request: &Request, publisher: &mut Publisher<'_>) -> Result<Builtin, String> {
    let json = parameter(request, 0, "header").ok_or("`header` is missing")?;
    let header = match json.fields() {
        None => signatures(request, 0, "header")?,
        Some(_) => match Signature::parse(json)? {
            Signature { kind: Kind::Group(tasks) | Kind::Chain(tasks), .. } => tasks,
            task => vec![task],
        },
    };
    let body = Signature::parse(parameter(request, 1, "body").ok_or("`body` is missing")?)?;
    let partial = parameter(request, 2, "partial_args").and_then(Json::items).unwrap_or_default();
    let mut canvas = Canvas::new(publisher, Some(Parent::of(request)));
    let signature = Signature::chord(header, body);
    let result = canvas.apply(signature, &partial, &Map::new(), Map::new(), true)?;
    let plan = Plan { steps: canvas.steps, children: canvas.children, body: None };
    Ok(Builtin::Done { result: result.json(), plan })
}

/// The most items of one map: each is kept as a value while the map runs.
const MAX_ITEMS: usize = 100_000;

/// `celery.map` and `celery.starmap`: one task that is called once for each item, within one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapped {
    items: Vec<Json>,
    star: bool,
}

impl Mapped {
    /// The name of the task that a map calls; `None` where the request's task is no map.
    pub fn task_of(request: &Request) -> Option<Result<String, String>> {
        if !["celery.map", "celery.starmap"].contains(&request.task.as_str()) {
            return None;
        }
        let task = parameter(request, 0, "task");
        let name = task.and_then(|it| it.as_string().or_else(|| it.fields()?.string("task")));
        Some(name.ok_or_else(|| format!("`task` of `{}` names no task", request.task)))
    }

    /// What a request calls; `None` where it is no map.
    pub fn of(request: &Request) -> Option<Result<Self, String>> {
        if let Err(why) = Self::task_of(request)? {
            return Some(Err(why));
        }
        let items = parameter(request, 1, "it").and_then(Json::items);
        let star = request.task == "celery.starmap";
        Some(match items {
            None => Err(format!("`it` of `{}` is no list", request.task)),
            Some(items) if items.len() > MAX_ITEMS => {
                Err(format!("`it` of `{}` has more than {MAX_ITEMS} items", request.task))
            }
            Some(items) => Ok(Self { items, star }),
        })
    }

    /// How often the task is called.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Returns true if it is not called at all.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The positional arguments of each call.
    pub fn calls(self) -> impl Iterator<Item = Result<Vec<Json>, String>> {
        let star = self.star;
        self.items.into_iter().map(move |item| match (star, item.items()) {
            (false, _) => Ok(vec![item]),
            (true, Some(args)) => Ok(args),
            (true, None) => Err("an item of `celery.starmap` is no list of arguments".to_owned()),
        })
    }
}

/// A list in pieces: a group of `celery.starmap`, one for each piece.
fn chunks(request: &Request, publisher: &mut Publisher<'_>) -> Result<Builtin, String> {
    let task = parameter(request, 0, "task").ok_or("`task` is missing")?;
    let items = parameter(request, 1, "it").and_then(Json::items).ok_or("`it` is no list")?;
    let size = parameter(request, 2, "n").and_then(Json::read::<usize>).filter(|size| *size > 0);
    let size = size.ok_or("`n` is no number from 1")?;
    let pieces = items.chunks(size).map(|piece| {
        let mut starmap = Signature::task("celery.starmap");
        starmap.kwargs = Map::from_iter([("task", task.clone()), ("it", Json::list(piece))]);
        starmap.immutable = true;
        starmap
    });
    let mut canvas = Canvas::new(publisher, Some(Parent::of(request)));
    let group = Signature::group(pieces.collect());
    let result = canvas.apply(group, &[], &Map::new(), Map::new(), true)?;
    let plan = Plan { steps: canvas.steps, children: canvas.children, body: None };
    Ok(Builtin::Done { result: result.json(), plan })
}

/// A message that asks, again and again, whether a chord's header is done: how chords work with
/// stores that do not count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChordUnlock {
    /// The header's group.
    pub group: String,
    /// The chord's body.
    pub body: Signature,
    /// How long to wait before it is asked again.
    pub interval: SignedDuration,
    /// How often it is asked again; without end where absent.
    pub max_retries: Option<u32>,
    /// The header's results.
    pub results: Vec<ResultRef>,
}

/// What is done with a chord that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unlocked {
    /// It is not done: look again, by this message.
    Wait(Box<TaskMessage>),
    /// It is done or failed.
    Done(Plan),
}

impl ChordUnlock {
    fn of(request: &Request) -> Result<Self, String> {
        let group = parameter(request, 0, "group_id").and_then(Json::as_string);
        let body = parameter(request, 1, "callback").ok_or("`callback` is missing")?;
        let interval = parameter(request, 2, "interval").and_then(Json::read::<f64>);
        let results = parameter(request, 4, "result").and_then(Json::items);
        let results = results.ok_or("`result` is no list")?;
        let results: Option<_> = results.iter().map(ResultRef::parse).collect();
        Ok(Self {
            group: group.ok_or("`group_id` is no text")?,
            body: Signature::parse(body)?,
            interval: interval
                .filter(|it| it.is_finite() && *it >= 0.0)
                .map_or(INTERVAL, |seconds| SignedDuration::from_micros((seconds * 1e6) as i64)),
            max_retries: parameter(request, 3, "max_retries").and_then(Json::read),
            results: results.ok_or("`result` holds what is no result")?,
        })
    }

    /// The ids of all results that are waited for.
    pub fn ids(&self) -> Vec<&str> {
        self.results.iter().flat_map(ResultRef::tasks).collect()
    }

    /// What is done now. `stored` gives the results that are stored, by id.
    pub fn look<'m>(
        &self,
        request: &Request,
        stored: &dyn Fn(&str) -> Option<&'m Meta>,
        publisher: &mut Publisher<'_>,
    ) -> Unlocked {
        let last = Parent::of(request);
        let ready = |id: &str| stored(id).is_some_and(|meta| meta.state.is_ready());
        if !self.ids().into_iter().all(ready) {
            let retries = request.retries.saturating_add(1);
            if self.max_retries.is_some_and(|max| retries > max) {
                let cause = request.max_retries_exceeded();
                let why = format!("chord_unlock could not be retried: {}", cause.repr());
                let error = Exception::chord(&why);
                let plan = workflow::chord_failed(&self.body, &error, None, publisher);
                return Unlocked::Done(plan);
            }
            let eta: Option<Timestamp> = publisher.now.checked_add(self.interval).ok();
            return Unlocked::Wait(Box::new(request.again(retries, eta, publisher)));
        }
        let failed = self.ids().into_iter().find_map(|id| {
            let meta = stored(id).filter(|meta| meta.state != State::Success)?;
            let unknown = || Exception::of_failure("Exception", "it failed");
            Some((id.to_owned(), meta.exception().unwrap_or_else(unknown)))
        });
        Unlocked::Done(if let Some((id, cause)) = failed {
            let error = workflow::chord_error(&id, &cause);
            workflow::chord_failed(&self.body, &error, Some(&cause), publisher)
        } else {
            let values: Vec<_> = self.results.iter().map(|it| value(it, stored)).collect();
            workflow::chord_done(&self.body, &values, &last, publisher)
        })
    }
}

/// The value of a result: of a group, the list of its results' values.
pub fn value<'m>(result: &ResultRef, stored: &dyn Fn(&str) -> Option<&'m Meta>) -> Json {
    match &result.children {
        None => stored(&result.id).map_or_else(Json::null, Meta::result),
        Some(children) => {
            Json::list(&children.iter().map(|child| value(child, stored)).collect::<Vec<_>>())
        }
    }
}
