//! How the parts of a canvas get their ids before it is called: Celery calls it freezing.
//!
//! What was frozen where the workflow was made keeps its ids, so that the client finds the results
//! that it waits for; the rest gets new ones.

use std::collections::VecDeque;

use super::{
    canvas::Canvas,
    json::{Json, Map},
    results::{MAX_PARENTS, ResultRef},
    signature::{Kind, Signature},
};

/// A result while its relations are still worked out.
pub(super) struct Node {
    id: String,
    parent: Option<usize>,
    children: Option<Vec<usize>>,
}

/// What freezing gives to a signature.
#[derive(Debug, Clone, Default)]
pub(super) struct Frozen {
    pub id: Option<String>,
    pub group_id: Option<Json>,
    pub chord: Option<Json>,
    pub root_id: Option<Json>,
    pub group_index: Option<Json>,
}

impl Canvas<'_, '_> {
    /// Makes one flat chain of tasks and chords, the last first, each with its id. The first task
    /// has `args` in front of its own.
    pub(super) fn prepare_chain(
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

    /// Gives the tasks of a chord's header their ids and places; groups in it are taken apart.
    pub(super) fn freeze_header(
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
                    // An id that was meant for the whole is none of theirs.
                    let group_index = Some(Json::number(index));
                    let place = Frozen { id: None, group_index, ..frozen.clone() };
                    nodes.push(self.freeze(&mut task, place)?);
                    flat.push(task);
                }
            }
        }
        Ok((flat, nodes))
    }

    /// Gives a signature its id, and all in it theirs.
    pub(super) fn freeze(
        &mut self,
        signature: &mut Signature,
        frozen: Frozen,
    ) -> Result<usize, String> {
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

    pub(super) fn reference(&self, node: usize, depth: usize) -> ResultRef {
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

/// A signature's arguments behind those that come before it, unless it takes none.
pub(super) fn partial(signature: &Signature, args: &[Json], kwargs: &Map) -> (Vec<Json>, Map) {
    if signature.immutable {
        return (signature.args.clone(), signature.kwargs.clone());
    }
    let args = args.iter().chain(&signature.args).cloned().collect();
    let mut all = signature.kwargs.clone();
    all.extend(kwargs.clone());
    (args, all)
}

fn with_partial(signature: &mut Signature, args: &[Json], kwargs: &Map) {
    if let Kind::Group(tasks) = &mut signature.kind {
        for task in tasks {
            with_partial(task, args, kwargs);
        }
    } else {
        (signature.args, signature.kwargs) = partial(signature, args, kwargs);
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
