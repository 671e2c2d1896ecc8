//! How a chain, a group or a chord is called, and how its parts get their ids: Celery's canvas, as
//! its workers run it when it is the next thing to do.
//!
//! A chain is called by calling its first task, with the rest of it in the message. In front of
//! another step a group becomes the header of a chord whose body is that step. Of a chord each task
//! of the header carries the body, and whoever ends last calls it.

use std::collections::VecDeque;

use super::{
    json::{Json, Map},
    options,
    publish::{Parent, Publisher},
    signature::{Kind, MAX_DEPTH, Signature},
    workflow::Step,
};

/// How many parents of a result are kept: a chain of thousands would say all of them again for each.
const MAX_PARENTS: usize = 64;

/// The result of a task or group by its id, as Celery refers to it in `children` and in groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResultRef {
    /// The task's or group's id.
    pub id: String,
    /// The result that came before it in its chain.
    pub parent: Option<Box<ResultRef>>,
    /// A group's results; absent for a task.
    pub children: Option<Vec<ResultRef>>,
}

impl ResultRef {
    /// A task's.
    pub fn task(id: impl Into<String>) -> Self {
        Self { id: id.into(), parent: None, children: None }
    }

    /// A group's.
    pub fn group(id: impl Into<String>, children: Vec<Self>) -> Self {
        Self { id: id.into(), parent: None, children: Some(children) }
    }

    /// `[[id, parent], children]`
    pub fn json(&self) -> Json {
        let parent = self.parent.as_ref().map_or_else(Json::null, |parent| parent.json());
        let children = self.children.as_ref().map_or_else(Json::null, |children| {
            Json::list(&children.iter().map(Self::json).collect::<Vec<_>>())
        });
        Json::list(&[Json::list(&[Json::string(&self.id), parent]), children])
    }

    /// Reads one.
    pub fn parse(json: &Json) -> Option<Self> {
        Self::read(json, 0)
    }

    fn read(json: &Json, depth: usize) -> Option<Self> {
        if depth > MAX_PARENTS + MAX_DEPTH {
            return None;
        }
        let [of, children]: [Json; 2] = json.items()?.try_into().ok()?;
        let (id, parent) = match of.items() {
            None => (of.as_string()?, None),
            Some(of) => {
                let parent = of.get(1).filter(|it| !it.is_null());
                let parent = parent.map(|it| Self::read(it, depth + 1).map(Box::new));
                (of.first()?.as_string()?, parent.flatten())
            }
        };
        let children = match children.items() {
            None => None,
            Some(items) => {
                Some(items.iter().map(|it| Self::read(it, depth + 1)).collect::<Option<_>>()?)
            }
        };
        Some(Self { id, parent, children })
    }

    /// The ids of all tasks in it.
    pub fn tasks(&self) -> Vec<&str> {
        match &self.children {
            None => vec![&self.id],
            Some(children) => children.iter().flat_map(Self::tasks).collect(),
        }
    }
}

/// A result while its relations are still worked out.
struct Node {
    id: String,
    parent: Option<usize>,
    children: Option<Vec<usize>>,
}

/// What freezing gives to a signature.
#[derive(Debug, Clone, Default)]
struct Frozen {
    id: Option<String>,
    group_id: Option<Json>,
    chord: Option<Json>,
    root_id: Option<Json>,
    group_index: Option<Json>,
}

/// One canvas that is being called.
pub(super) struct Canvas<'p, 'a> {
    publisher: &'p mut Publisher<'a>,
    parent: Option<Parent>,
    nodes: Vec<Node>,
    /// What there is to do.
    pub steps: Vec<Step>,
    /// What the calling task has led to.
    pub children: Vec<ResultRef>,
}

impl<'p, 'a> Canvas<'p, 'a> {
    pub(super) fn new(publisher: &'p mut Publisher<'a>, parent: Option<Parent>) -> Self {
        Self { publisher, parent, nodes: Vec::new(), steps: Vec::new(), children: Vec::new() }
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
            Kind::Task(_) => Ok(self.apply_task(&signature, args, kwargs, call, trail)),
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
    ) -> ResultRef {
        let (args, kwargs) = partial(signature, args, kwargs);
        let call = options::merge(&signature.options, call);
        let message =
            self.publisher.message(&signature.task, &args, &kwargs, call, self.parent.as_ref());
        let result = ResultRef::task(message.id.clone());
        self.steps.push(Step::Send(Box::new(message)));
        if trail {
            self.children.push(result.clone());
        }
        result
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

    /// Makes one flat chain of tasks and chords, the last first, each with its id. The first task
    /// has `args` in front of its own.
    fn prepare_chain(
        &mut self,
        tasks: Vec<Signature>,
        args: &[Json],
        kwargs: &Map,
        last: &Frozen,
        errbacks: &[Json],
    ) -> Result<(Vec<Signature>, Vec<usize>), String> {
        let mut steps = head(tasks);
        let (mut tasks, mut results): (Vec<Signature>, Vec<usize>) = (Vec::new(), Vec::new());
        let mut previous: Option<usize> = None;
        let mut is_last = true;
        while let Some(task) = steps.pop_back() {
            let mut task = unrolled(task);
            if matches!(&task.kind, Kind::Group(none) if none.is_empty())
                && (!steps.is_empty() || !tasks.is_empty())
            {
                continue;
            }
            if let Kind::Chain(nested) = task.kind {
                steps.extend(nested);
                continue;
            }
            if steps.is_empty() {
                with_partial(&mut task, args, kwargs);
            }
            if task.is_group()
                && let (Some(body), Some(of_body)) = (tasks.pop(), results.pop())
            {
                let Kind::Group(header) = task.kind else { continue };
                task = Signature::chord(header, body);
                if let Some(root) = &last.root_id {
                    task.options.set("root_id", root.clone());
                }
                // What comes after waits for the chord, no longer for the body itself.
                let mut node = results.last().copied();
                while let Some(at) = node
                    && self.parent_of(at) != Some(of_body)
                {
                    node = self.parent_of(at);
                }
                if let Some(at) = node {
                    self.set_parent(at, None);
                    previous = node;
                }
            }
            let frozen = if is_last {
                last.clone()
            } else {
                Frozen { root_id: last.root_id.clone(), ..Frozen::default() }
            };
            let node = self.freeze(&mut task, frozen)?;
            is_last = false;
            if !tasks.is_empty()
                && let Some(previous) = previous
                && self.parent_of(previous).is_none()
                && previous != node
            {
                self.set_parent(previous, Some(node));
            }
            for errback in errbacks {
                task.link_error(errback);
            }
            previous =
                Some(if matches!(task.kind, Kind::Chord { .. }) { self.first(node) } else { node });
            tasks.push(task);
            results.push(node);
        }
        Ok((tasks, results))
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
        let frozen = Frozen {
            group_id: Some(Json::string(&group)),
            chord: Some(body.json()),
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
        all.extend(delay);
        let args = own.args;
        let header = self.apply_group(header, &Map::new(), &args, &header_kwargs, all, trail)?;
        let mut result = self.reference(of_body, 0);
        result.parent = Some(Box::new(header));
        Ok(result)
    }

    /// Gives the tasks of a chord's header their ids and places; groups in it are taken apart.
    fn freeze_header(
        &mut self,
        tasks: Vec<Signature>,
        frozen: &Frozen,
    ) -> Result<(Vec<Signature>, Vec<usize>), String> {
        let mut stack: VecDeque<_> = tasks.into();
        let (mut flat, mut nodes) = (Vec::new(), Vec::new());
        while let Some(mut task) = stack.pop_front() {
            match task.kind {
                // Celery puts them in front one by one, and so turns their order around.
                Kind::Group(nested) => nested.into_iter().for_each(|task| stack.push_front(task)),
                Kind::Chain(ref tasks) if tasks.is_empty() => {}
                _ => {
                    let index = i64::try_from(flat.len()).unwrap_or(i64::MAX);
                    let place = Frozen { group_index: Some(Json::number(index)), ..frozen.clone() };
                    nodes.push(self.freeze(&mut task, place)?);
                    flat.push(task);
                }
            }
        }
        Ok((flat, nodes))
    }

    /// Gives a signature its id, and all in it theirs.
    fn freeze(&mut self, signature: &mut Signature, frozen: Frozen) -> Result<usize, String> {
        match &mut signature.kind {
            Kind::Task(_) => {
                let options = &mut signature.options;
                let id = match options.string("task_id") {
                    Some(id) => id,
                    None => frozen.id.unwrap_or_else(|| self.publisher.ids.next()),
                };
                options.set("task_id", Json::string(&id));
                if let Some(group) = frozen.group_id
                    && !options.contains("group_id")
                {
                    options.set("group_id", group);
                }
                for (name, value) in [
                    ("root_id", frozen.root_id),
                    ("chord", frozen.chord),
                    ("group_index", frozen.group_index),
                ] {
                    if let Some(value) = value {
                        options.set(name, value);
                    }
                }
                Ok(self.node(id, None))
            }
            Kind::Group(tasks) => {
                let id = match signature.options.string("task_id") {
                    Some(id) => id,
                    None => self.publisher.ids.next(),
                };
                let options = &mut signature.options;
                options.set("task_id", Json::string(&id));
                for (name, value) in [
                    ("group_id", &frozen.group_id),
                    ("chord", &frozen.chord),
                    ("group_index", &frozen.group_index),
                ] {
                    if let Some(value) = value {
                        options.set(name, value.clone());
                    }
                }
                if let Some(root) = frozen.root_id.clone()
                    && !options.contains("root_id")
                {
                    options.set("root_id", root);
                }
                let taken = std::mem::take(tasks);
                let frozen = Frozen { root_id: options.some("root_id").cloned(), ..frozen };
                let (flat, nodes) = self.freeze_header(taken, &frozen)?;
                *tasks = flat;
                Ok(self.node(id, Some(nodes)))
            }
            Kind::Chain(tasks) => {
                let taken = std::mem::take(tasks);
                let (mut prepared, results) =
                    self.prepare_chain(taken, &[], &Map::new(), &frozen, &[])?;
                prepared.reverse();
                *tasks = prepared;
                results.first().copied().ok_or_else(|| "a chain has no tasks".to_owned())
            }
            Kind::Chord { header, body } => {
                let taken = std::mem::take(header);
                let id = self.publisher.ids.next();
                // The tasks get the body when the chord is called: then it has its own id.
                let of_header = Frozen { root_id: frozen.root_id.clone(), ..Frozen::default() };
                let (flat, nodes) = self.freeze_header(taken, &of_header)?;
                *header = flat;
                signature.options.set("task_id", Json::string(&id));
                let of_header = self.node(id, Some(nodes));
                let Some(body) = body else { return Err("a chord has no body".to_owned()) };
                let of_body = self.freeze(body, frozen)?;
                let first = self.first(of_body);
                self.set_parent(first, Some(of_header));
                Ok(of_body)
            }
        }
    }

    fn node(&mut self, id: String, children: Option<Vec<usize>>) -> usize {
        self.nodes.push(Node { id, parent: None, children });
        self.nodes.len() - 1
    }

    fn parent_of(&self, node: usize) -> Option<usize> {
        self.nodes.get(node)?.parent
    }

    fn set_parent(&mut self, node: usize, parent: Option<usize>) {
        if let Some(node) = self.nodes.get_mut(node) {
            node.parent = parent;
        }
    }

    /// The first result of a chain of results.
    fn first(&self, mut node: usize) -> usize {
        // Each step leads to another node, so there are no more steps than nodes.
        for _ in 0..self.nodes.len() {
            match self.parent_of(node) {
                Some(parent) => node = parent,
                None => break,
            }
        }
        node
    }

    fn reference(&self, node: usize, depth: usize) -> ResultRef {
        let Some(Node { id, parent, children }) = self.nodes.get(node) else {
            return ResultRef::task("");
        };
        let parent = parent.filter(|_| depth < MAX_PARENTS);
        ResultRef {
            id: id.clone(),
            parent: parent.map(|parent| Box::new(self.reference(parent, depth + 1))),
            children: children.as_ref().map(|children| {
                children.iter().map(|child| self.reference(*child, depth + 1)).collect()
            }),
        }
    }
}

/// What a chord brings along.
struct Own {
    args: Vec<Json>,
    more: Vec<Json>,
    kwargs: Map,
    options: Map,
}

/// A signature's arguments behind those that come before it, unless it takes none.
fn partial(signature: &Signature, args: &[Json], kwargs: &Map) -> (Vec<Json>, Map) {
    if signature.immutable {
        return (signature.args.clone(), signature.kwargs.clone());
    }
    let args = args.iter().chain(&signature.args).cloned().collect();
    let mut all = signature.kwargs.clone();
    all.extend(kwargs.clone());
    (args, all)
}

fn with_partial(signature: &mut Signature, args: &[Json], kwargs: &Map) {
    match &mut signature.kind {
        Kind::Group(tasks) => tasks.iter_mut().for_each(|task| with_partial(task, args, kwargs)),
        _ => (signature.args, signature.kwargs) = partial(signature, args, kwargs),
    }
}

/// A group of one is that one.
fn unrolled(mut signature: Signature) -> Signature {
    if let Kind::Group(tasks) = &mut signature.kind
        && tasks.len() == 1
        && let Some(only) = tasks.pop()
    {
        return only;
    }
    signature
}

/// The steps of a chain, of which the first is one that takes arguments: no chain, and no group
/// without tasks where another step follows.
fn head(tasks: Vec<Signature>) -> VecDeque<Signature> {
    let mut steps: VecDeque<_> = tasks.into();
    let mut stripped = None;
    while let Some(first) = steps.pop_front() {
        let first = unrolled(first);
        match first.kind {
            Kind::Chain(nested) => nested.into_iter().rev().for_each(|task| steps.push_front(task)),
            Kind::Group(ref none) if none.is_empty() && !steps.is_empty() => stripped = Some(first),
            _ => {
                steps.push_front(first);
                break;
            }
        }
    }
    if steps.is_empty() {
        steps.extend(stripped);
    }
    steps
}
