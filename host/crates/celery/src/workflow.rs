//! What follows from a task's end: callbacks, the rest of its chain, errbacks, its part of a chord.
//!
//! Each function says what Celery's worker would do, as steps in their order; the caller sends and
//! stores. Ids of what is called are made of the task's own, so that an end that is carried out
//! twice calls the same tasks.

use jiff::Timestamp;

use super::{
    canvas::Canvas,
    exception::Exception,
    json::{Json, Map},
    meta::{Meta, Owner, State},
    publish::{Ids, Parent, Publisher, TaskMessage},
    request::Request,
    results::ResultRef,
    signature::{Kind, MAX_SIGNATURES, Signature},
};

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Send a task message.
    Send(Box<TaskMessage>),
    /// A chord begins: a store that counts by it keeps the header's results under
    /// [`keys::group`](super::keys::group). Redis needs that only where a group is among them.
    BeginChord {
        /// The header's group.
        group: String,
        /// Its results.
        results: ResultRef,
    },
    /// How many results a chord waits for: before any of them can be there.
    ChordSize {
        /// The header's group.
        group: String,
        /// How many.
        size: usize,
    },
    /// Store a result; one that is a success already stays.
    Store(Meta),
    /// A task of a chord's header has ended: count it, and call
    /// [`chord_done`] or [`chord_failed`] where it was the last.
    ChordPart(Box<ChordPart>),
}

/// The end of a task in a chord's header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChordPart {
    /// The header's group.
    pub group: String,
    /// The task's id.
    pub id: String,
    /// Its place in the header; Redis has `+inf` where there is none.
    pub index: Option<i64>,
    /// The chord's body.
    pub body: Signature,
    /// How it ended.
    pub state: State,
    /// Its result, or its exception as it is stored.
    pub result: Json,
    /// Not to be counted where the task's stored state was a failure already.
    pub unless_failed: bool,
}

impl ChordPart {
    /// How many results the chord waits for, where its body says so; else the store knows.
    pub fn size(&self) -> Option<usize> {
        self.body.extra.some("chord_size").and_then(Json::read)
    }
}

/// What is to be done, in this order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The steps.
    pub steps: Vec<Step>,
    /// What the task has led to, for its result.
    pub children: Vec<ResultRef>,
    /// The chord's body that the steps call: where it cannot be sent, the chord has failed
    /// ([`body_refused`]).
    pub body: Option<Box<Signature>>,
}

impl Plan {
    /// Returns true if a store that counts chords is needed for it.
    pub fn begins_chords(&self) -> bool {
        self.steps
            .iter()
            .any(|step| matches!(step, Step::BeginChord { .. } | Step::ChordSize { .. }))
    }

    /// The messages to send.
    pub fn messages(&self) -> impl Iterator<Item = &TaskMessage> {
        self.steps.iter().filter_map(|step| match step {
            Step::Send(message) => Some(&**message),
            _ => None,
        })
    }
}

/// How results are stored, beside what the request says.
#[derive(Debug, Clone, Copy, Default)]
pub struct Storing<'a> {
    /// True if nobody wants results, where the sender leaves that to the task.
    pub ignore_result: bool,
    /// The worker's name, for stores that keep what `result_extended` adds.
    pub extended_by: Option<&'a str>,
}

impl Storing<'_> {
    fn owner(self, request: &Request) -> Option<Owner> {
        let ignored = request.ignore_result.unwrap_or(self.ignore_result);
        (!ignored).then(|| Owner::of(request, self.extended_by))
    }
}

/// Ids for what becomes of a request: other ones for each attempt, and for each way that it ends.
pub fn ids(request: &Request, end: &str) -> Ids {
    Ids::of(format!("{end} {} {}", request.retries, request.id))
}

/// A task succeeded. The error says why what should follow cannot be called: the task then counts as
/// failed, as in Celery.
pub fn succeeded(
    request: &Request,
    result: &Json,
    storing: Storing<'_>,
    publisher: &mut Publisher<'_>,
) -> Result<Plan, Exception> {
    let now = publisher.now;
    let parent = Parent::of(request);
    let call = called_by(&parent);
    let args = [result.clone()];
    let mut canvas = Canvas::new(publisher, Some(parent));
    let mut apply = |signature: Signature, call: Map| {
        canvas
            .apply(signature, &args, &Map::new(), call, true)
            .map(drop)
            .map_err(|why| Exception::of_failure("TypeError", &why))
    };
    match request.callbacks.as_slice() {
        [] => {}
        [callback] => apply(callback.clone(), call.clone())?,
        several => {
            let (groups, tasks): (Vec<_>, Vec<_>) =
                several.iter().cloned().partition(Signature::is_group);
            for group in groups {
                apply(group, call.clone())?;
            }
            if !tasks.is_empty() {
                apply(Signature::group(tasks), call.clone())?;
            }
        }
    }
    if let Some((next, rest)) = request.chain.split_last() {
        let mut call = call;
        call.set("chain", Signature::list(rest));
        apply(next.clone(), call)?;
    }
    let mut plan = Plan { steps: canvas.steps, children: canvas.children, body: None };
    if let Some(owner) = storing.owner(request) {
        let meta = Meta::success(&owner, result.clone(), &plan.children, now);
        plan.steps.push(Step::Store(meta));
    }
    plan.steps.extend(part(request, &State::Success, result));
    Ok(plan)
}

/// A task failed for good.
pub fn failed(
    request: &Request,
    exception: &Exception,
    storing: Storing<'_>,
    publisher: &mut Publisher<'_>,
) -> Plan {
    let now = publisher.now;
    let owner = storing.owner(request);
    let stores = owner.is_some();
    let mut steps = Vec::new();
    steps.extend(owner.map(|owner| Step::Store(Meta::failure(&owner, exception, now))));
    steps.extend(part(request, &State::Failure, &exception.json()));
    fail_chain(&request.chain, exception, stores, now, &mut steps);
    call_errbacks(&request.errbacks, &request.id, request.root(), publisher, &mut steps);
    Plan { steps, ..Plan::default() }
}

/// A task was not run, or was stopped: `revoked`, `expired` or `terminated`. As in Celery, neither
/// its chain nor its errbacks hear of it.
pub fn revoked(request: &Request, reason: &str, storing: Storing<'_>, now: Timestamp) -> Plan {
    let mut steps = Vec::new();
    let owner = storing.owner(request);
    steps.extend(owner.map(|owner| Step::Store(Meta::revoked(&owner, reason, now))));
    steps.extend(part(request, &State::Revoked, &Exception::revoked(reason).json()));
    Plan { steps, ..Plan::default() }
}

/// A task is tried once more, not before `eta`, for what went wrong.
pub fn retried(
    request: &Request,
    exception: Option<&Exception>,
    eta: Option<Timestamp>,
    storing: Storing<'_>,
    publisher: &mut Publisher<'_>,
) -> Plan {
    let again = request.again(request.retries.saturating_add(1), eta, publisher);
    let mut steps = vec![Step::Send(Box::new(again))];
    let owner = storing.owner(request);
    steps.extend(owner.map(|owner| Step::Store(Meta::retry(&owner, exception))));
    Plan { steps, ..Plan::default() }
}

/// All of a chord's header is done: its body is called with the results, in the order of the header.
/// `last` is the task that ended last.
pub fn chord_done(
    body: &Signature,
    results: &[Json],
    last: &Parent,
    publisher: &mut Publisher<'_>,
) -> Plan {
    let args = [Json::list(results)];
    let mut canvas = Canvas::new(publisher, Some(last.clone()));
    match canvas.apply(body.clone(), &args, &Map::new(), Map::new(), true) {
        Ok(_) => {
            let body = Some(Box::new(body.clone()));
            Plan { steps: canvas.steps, children: canvas.children, body }
        }
        Err(why) => {
            let exception = Exception::chord(&format!("Callback error: TypeError({why:?})"));
            chord_failed(body, &exception, None, publisher)
        }
    }
}

/// All of a chord's header is done, and its body cannot be sent: the body has failed with a
/// `ChordError`, as in Celery (`Backend.chord_error_from_stack`), and its errbacks are called.
pub fn body_refused(body: &Signature, why: &Exception, publisher: &mut Publisher<'_>) -> Plan {
    let exception = Exception::chord(&format!("Callback error: {}", why.repr()));
    chord_failed(body, &exception, None, publisher)
}

/// What a chord's body fails with where a task of its header failed.
pub fn chord_error(id: &str, exception: &Exception) -> Exception {
    Exception::chord(&format!("Dependency {id} raised {}", exception.repr()))
}

/// A chord's header failed: its body and what comes after it fail. `cause` is what the header's task
/// failed with, where that is known.
pub fn chord_failed(
    body: &Signature,
    exception: &Exception,
    cause: Option<&Exception>,
    publisher: &mut Publisher<'_>,
) -> Plan {
    let now = publisher.now;
    let mut steps = Vec::new();
    if let Kind::Group(tasks) = &body.kind {
        let cause = cause.unwrap_or(exception);
        let own = listed(&body.options, "link_error");
        for task in tasks {
            fail_result(task, cause, &own, publisher, &mut steps);
        }
        if let Some(id) = body.id() {
            steps.push(Step::Store(Meta::failure(&Owner::id(id), cause, now)));
        }
    } else {
        fail_result(body, exception, &[], publisher, &mut steps);
    }
    let chain = listed(&body.options, "chain");
    fail_chain(&chain, exception, true, now, &mut steps);
    Plan { steps, ..Plan::default() }
}

/// A result that will not be: its errbacks are called, it is stored as failed, and counted where a
/// chord waits for it.
fn fail_result(
    signature: &Signature,
    exception: &Exception,
    more: &[Signature],
    publisher: &mut Publisher<'_>,
    steps: &mut Vec<Step>,
) {
    // The result of a chord is that of its body, and of a chain that of its last.
    let mut errbacks = Vec::new();
    let mut result = signature;
    for _ in 0..super::signature::MAX_DEPTH {
        errbacks.extend(listed(&result.options, "link_error"));
        result = match &result.kind {
            Kind::Chord { body: Some(body), .. } => body,
            Kind::Chain(tasks) => match tasks.last() {
                Some(last) => last,
                None => break,
            },
            _ => break,
        };
    }
    for errback in more {
        if !errbacks.contains(errback) {
            errbacks.push(errback.clone());
        }
    }
    let id = result.id().unwrap_or_else(|| publisher.ids.next());
    call_errbacks(&errbacks, &id, &id, publisher, steps);
    let owner = Owner::id(id.clone());
    steps.push(Step::Store(Meta::failure(&owner, exception, publisher.now)));
    // Celery leaves an outer chord waiting for ever here; it fails, instead.
    steps.extend(part_of(result, id, exception, false));
}

/// A failure reaches the tasks that were to come after: they are stored as failed, and counted where
/// chords wait for them.
fn fail_chain(
    chain: &[Signature],
    exception: &Exception,
    stores: bool,
    now: Timestamp,
    steps: &mut Vec<Step>,
) {
    let mut left: std::collections::VecDeque<_> = chain.iter().collect();
    while let Some(signature) = left.pop_front() {
        if let Some(id) = signature.id() {
            // Looked up before the failure is stored: an element that failed has been counted.
            let part = part_of(signature, id.clone(), exception, true);
            steps.extend(part);
            if stores {
                let owner = Owner::of_signature(signature, id);
                steps.push(Step::Store(Meta::failure(&owner, exception, now)));
            }
        }
        if let Kind::Chord { body: Some(body), .. } = &signature.kind {
            left.push_back(body);
        }
    }
}

/// Errbacks are called with the id of the failed task: what else Celery hands to an errback is only
/// for those that run in the failed task's own process.
fn call_errbacks(
    errbacks: &[Signature],
    id: &str,
    root: &str,
    publisher: &mut Publisher<'_>,
    steps: &mut Vec<Step>,
) {
    if errbacks.is_empty() {
        return;
    }
    let parent = Parent { id: id.to_owned(), root: root.to_owned(), priority: None };
    let call = called_by(&parent);
    let mut canvas = Canvas::new(publisher, Some(parent));
    let args = [Json::string(id)];
    // An errback that cannot be called is no reason to keep the others from hearing of it.
    if canvas
        .apply(Signature::group(errbacks.to_vec()), &args, &Map::new(), call.clone(), true)
        .is_err()
    {
        canvas.steps.clear();
        for errback in errbacks {
            let _ = canvas.apply(errback.clone(), &args, &Map::new(), call.clone(), true);
        }
    }
    steps.append(&mut canvas.steps);
}

fn called_by(parent: &Parent) -> Map {
    Map::from_iter([
        ("parent_id", Json::string(&parent.id)),
        ("root_id", Json::string(&parent.root)),
    ])
}

/// The request's part of the chord that it is in.
fn part(request: &Request, state: &State, result: &Json) -> Option<Step> {
    let body = request.chord.clone()?;
    let group = request.group.clone().filter(|it| !it.is_empty())?;
    Some(Step::ChordPart(Box::new(ChordPart {
        group,
        id: request.id.clone(),
        index: request.group_index,
        body,
        state: state.clone(),
        result: result.clone(),
        unless_failed: false,
    })))
}

fn part_of(
    signature: &Signature,
    id: String,
    exception: &Exception,
    unless_failed: bool,
) -> Option<Step> {
    let body = Signature::parse(signature.options.some("chord")?).ok()?;
    Some(Step::ChordPart(Box::new(ChordPart {
        group: signature.options.string("group_id")?,
        id,
        index: signature.options.some("group_index").and_then(Json::read),
        body,
        state: State::Failure,
        result: exception.json(),
        unless_failed,
    })))
}

/// The signatures that an option holds; those that cannot be read are left out.
fn listed(options: &Map, name: &str) -> Vec<Signature> {
    let items = super::options::list(options, name);
    items.iter().take(MAX_SIGNATURES).filter_map(|it| Signature::parse(it).ok()).collect()
}
