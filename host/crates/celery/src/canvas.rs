//! How a chain, a group or a chord is called, and how its parts get their ids: Celery's canvas, as
//! its workers run it when it is the next thing to do.
//!
//! A chain is called by calling its first task, with the rest of it in the message. In front of
//! another step a group becomes the header of a chord whose body is that step. Of a chord each task
//! of the header carries the body, and whoever ends last calls it.

use super::{
    freeze::{Frozen, Node, partial},
    json::{Json, Map},
    options,
    publish::{Parent, Publisher},
    results::ResultRef,
    signature::{Kind, Signature},
    workflow::Step,
};

/// The most bytes that the messages of one call may have together. What is small in one message may be
/// large in thousands of copies: each task of a chord's header carries the body.
const MAX_BYTES: usize = 64 << 20;

/// One canvas that is being called.
pub(super) struct Canvas<'p, 'a> {
    pub(super) publisher: &'p mut Publisher<'a>,
    parent: Option<Parent>,
    pub(super) nodes: Vec<Node>,
    bytes: usize,
    /// What there is to do.
    pub steps: Vec<Step>,
    /// What the calling task has led to.
    pub children: Vec<ResultRef>,
}

impl<'p, 'a> Canvas<'p, 'a> {
    pub(super) fn new(publisher: &'p mut Publisher<'a>, parent: Option<Parent>) -> Self {
        Self {
            publisher,
            parent,
            nodes: Vec::new(),
            bytes: 0,
            steps: Vec::new(),
            children: Vec::new(),
        }
    }

    /// Calls a signature: `args` stand before its own, `call` over its own options. With `trail`, the
    /// calling task has it among its children.
    pub(super) fn apply(
        &mut self,
        signature: Signature,
        args: &[Json],
        kwargs: &Map,
        call: Map,
        trail: bool,
    ) -> Result<ResultRef, String> {
        match signature.kind {
            Kind::Task(_) => self.apply_task(&signature, args, kwargs, call, trail),
            Kind::Chain(tasks) => {
                self.apply_chain(tasks, &signature.options, args, kwargs, call, trail)
            }
            Kind::Group(tasks) => {
                self.apply_group(tasks, &signature.options, args, kwargs, call, trail)
            }
            Kind::Chord { header, body } => {
                let body = body.ok_or("a chord has no body")?;
                let own = Own {
                    args: if signature.immutable { Vec::new() } else { args.to_vec() },
                    more: signature.args,
                    kwargs: signature.kwargs,
                    options: signature.options,
                };
                self.apply_chord(header, *body, own, kwargs, call, trail)
            }
        }
    }

    fn apply_task(
        &mut self,
        signature: &Signature,
        args: &[Json],
        kwargs: &Map,
        call: Map,
        trail: bool,
    ) -> Result<ResultRef, String> {
        let (args, kwargs) = partial(signature, args, kwargs);
        let call = options::merge(&signature.options, call);
        let message =
            self.publisher.message(&signature.task, &args, &kwargs, call, self.parent.as_ref());
        self.bytes = self.bytes.saturating_add(message.body.len());
        within(self.bytes, 1)?;
        let result = ResultRef::task(message.id.clone());
        self.steps.push(Step::Send(Box::new(message)));
        if trail {
            self.children.push(result.clone());
        }
        Ok(result)
    }

    fn apply_group(
        &mut self,
        tasks: Vec<Signature>,
        own: &Map,
        args: &[Json],
        kwargs: &Map,
        call: Map,
        trail: bool,
    ) -> Result<ResultRef, String> {
        if ["link", "link_error"].iter().any(|name| call.some(name).is_some()) {
            return Err(
                "a group cannot be called with callbacks; they are for its tasks".to_owned()
            );
        }
        let mut options = options::merge(own, call);
        let id = match options.take("task_id").and_then(|it| it.as_string()) {
            Some(id) => id,
            None => self.publisher.ids.next(),
        };
        if tasks.is_empty() {
            return Ok(ResultRef::group(id, Vec::new()));
        }
        options.set("group_id", Json::string(&id));
        let mut prepared = Vec::new();
        self.prepare_group(tasks, &id, options.get("root_id"), &mut prepared)?;
        options.take("group_index");
        let chord = options.take("chord").filter(|it| !it.is_null());
        let waited = prepared.last().is_some_and(|last| last.0.options.some("chord").is_some());
        if chord.is_some() || waited {
            let size = prepared.iter().map(|(task, _)| task.chord_size()).sum();
            self.steps.push(Step::ChordSize { group: id.clone(), size });
        }
        within(options.iter().map(|(_, value)| value.text().len()).sum(), prepared.len())?;
        let mut results = Vec::with_capacity(prepared.len());
        for (task, node) in prepared {
            let mut call = options.clone();
            let body = chord.clone().or_else(|| task.options.some("chord").cloned());
            if let Some(body) = body {
                call.set("chord", body);
            }
            self.apply(task, args, kwargs, call, false)?;
            results.push(self.reference(node, 0));
        }
        let mut result = ResultRef::group(id, results);
        // A group of nothing but a chain that ends in a group is that group.
        if let Some([only]) = result.children.as_deref()
            && only.children.is_some()
        {
            result = only.clone();
        }
        if trail {
            self.children.push(result.clone());
        }
        Ok(result)
    }

    /// Takes groups in groups apart, and gives each task its id and its place.
    fn prepare_group(
        &mut self,
        tasks: Vec<Signature>,
        group: &str,
        root: Option<&Json>,
        prepared: &mut Vec<(Signature, usize)>,
    ) -> Result<(), String> {
        for (index, mut task) in (0_i64..).zip(tasks) {
            match task.kind {
                Kind::Group(nested) => self.prepare_group(nested, group, root, prepared)?,
                Kind::Chain(ref tasks) if tasks.is_empty() => {}
                _ => {
                    let frozen = Frozen {
                        group_id: Some(Json::string(group)),
                        root_id: root.cloned(),
                        group_index: Some(Json::number(index)),
                        ..Frozen::default()
                    };
                    let node = self.freeze(&mut task, frozen)?;
                    prepared.push((task, node));
                }
            }
        }
        Ok(())
    }

    fn apply_chain(
        &mut self,
        tasks: Vec<Signature>,
        own: &Map,
        args: &[Json],
        kwargs: &Map,
        call: Map,
        trail: bool,
    ) -> Result<ResultRef, String> {
        let mut options = own.clone();
        options.extend(call.without_nulls());
        let mut take = |name: &str| options.take(name).filter(|it| !it.is_null());
        let frozen = Frozen {
            id: take("task_id").and_then(|it| it.as_string()),
            group_id: take("group_id"),
            chord: take("chord"),
            root_id: take("root_id"),
            group_index: take("group_index"),
        };
        take("parent_id");
        let links = take("link").map(|it| it.items().unwrap_or_else(|| vec![it]));
        let errbacks = take("link_error").map(|it| it.items().unwrap_or_else(|| vec![it]));
        let (mut tasks, results) =
            self.prepare_chain(tasks, args, kwargs, &frozen, &errbacks.unwrap_or_default())?;
        let Some(mut first) = tasks.pop() else {
            return Err("a chain has no tasks".to_owned());
        };
        if let Some(links) = links.filter(|it| !it.is_empty()) {
            let last = tasks.first_mut().unwrap_or(&mut first);
            let mut all = options::list(&last.options, "link");
            all.extend(links);
            last.options.set("link", Json::list(&all));
        }
        // What is to come after this chain is called after its own tasks: the list is reversed.
        let mut rest = options.take("chain").and_then(|it| it.items()).unwrap_or_default();
        rest.extend(tasks.iter().map(Signature::json));
        options.set("chain", Json::list(&rest));
        let applied = self.apply(first, &[], &Map::new(), options, trail)?;
        match results.first() {
            Some(last) if !tasks.is_empty() => Ok(self.reference(*last, 0)),
            _ => Ok(applied),
        }
    }

    fn apply_chord(
        &mut self,
        header: Vec<Signature>,
        mut body: Signature,
        mut own: Own,
        kwargs: &Map,
        mut call: Map,
        trail: bool,
    ) -> Result<ResultRef, String> {
        own.args.append(&mut own.more);
        let mut header_kwargs = own.kwargs.get("kwargs").and_then(Json::fields).unwrap_or_default();
        header_kwargs.extend(kwargs.clone());
        // A delay is the header's: after it the body does not wait once more.
        let mut delay = Map::new();
        for name in ["countdown", "eta"] {
            let own = own.options.take(name).filter(|it| !it.is_null());
            if let Some(value) = call.take(name).filter(|it| !it.is_null()).or(own) {
                delay.set(name, value);
            }
        }
        let group = own.options.string("task_id").unwrap_or_else(|| self.publisher.ids.next());
        let links = [call.take("link"), own.options.take("link")];
        let errbacks = [call.take("link_error"), own.options.take("link_error")];
        let listed = |all: [Option<Json>; 2]| {
            let first = all.into_iter().flatten().find(|it| !it.is_null());
            first.map(|it| it.items().unwrap_or_else(|| vec![it])).unwrap_or_default()
        };
        for callback in listed(links) {
            body.link(&callback);
        }
        for errback in listed(errbacks) {
            if body.is_group() {
                body.link_body_error(&errback, true);
            } else {
                options::append(&mut body.options, "link_error", &errback);
            }
        }
        let own_id = own.options.take("task_id").and_then(|it| it.as_string());
        let id = call.take("task_id").and_then(|it| it.as_string()).or(own_id);
        let mut all = own.options;
        all.extend(call.without_nulls());
        // The header's task that ends last calls the body, and is its parent.
        let mut passed = all.clone();
        passed.take("parent_id");
        body.options.extend(passed);
        let root_id = body.options.some("root_id").cloned();
        let frozen = Frozen {
            id: Some(id.unwrap_or_else(|| self.publisher.ids.next())),
            group_id: Some(Json::string(&group)),
            root_id: root_id.clone(),
            ..Frozen::default()
        };
        let of_body = self.freeze(&mut body, frozen)?;
        for name in ["chain", "chord", "link", "link_error"] {
            all.take(name);
        }
        // A size that the workflow brings along would have the body called too often.
        if body.extra.some("chord_size").is_some() {
            let size: usize = header.iter().map(Signature::chord_size).sum();
            body.extra.set("chord_size", Json::of(&size));
        }
        let carried = body.json();
        within(carried.text().len(), header.iter().map(Signature::chord_size).sum())?;
        let frozen = Frozen {
            group_id: Some(Json::string(&group)),
            chord: Some(carried.clone()),
            root_id,
            ..Frozen::default()
        };
        let (header, nodes) = self.freeze_header(header, &frozen)?;
        if header.is_empty() {
            let nothing = [Json::list(&[])];
            return self.apply(body, &nothing, &Map::new(), Map::new(), trail);
        }
        let results = nodes.iter().map(|node| self.reference(*node, 0)).collect();
        let results = ResultRef::group(group.clone(), results);
        self.steps.push(Step::BeginChord { group: group.clone(), results });
        all.set("task_id", Json::string(&group));
        all.set("chord", carried);
        all.extend(delay);
        let args = own.args;
        let header = self.apply_group(header, &Map::new(), &args, &header_kwargs, all, trail)?;
        let mut result = self.reference(of_body, 0);
        result.parent = Some(Box::new(header));
        Ok(result)
    }
}

/// What a chord brings along.
struct Own {
    args: Vec<Json>,
    more: Vec<Json>,
    kwargs: Map,
    options: Map,
}

/// Returns true if so many copies of so many bytes are within bounds.
fn within(bytes: usize, copies: usize) -> Result<(), String> {
    if bytes.saturating_mul(copies) <= MAX_BYTES {
        return Ok(());
    }
    Err(format!(
        "what follows from this task is more than {MAX_BYTES} bytes of messages; make its chords \
         smaller, or their bodies"
    ))
}
