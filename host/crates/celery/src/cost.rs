//! What a workflow leads to, counted before any of it is sent.
//!
//! All that follows from a message stands in the message: its callbacks, the rest of its chain, the
//! body of its chord. A few groups that follow each other in a raw chain multiply, so that one message
//! of a kilobyte could lead to billions. The count follows the rules by which
//! `canvas` calls things. Where it is in doubt it counts more.

use super::{
    json::{Json, Map},
    options,
    request::Request,
    signature::{Budget, Kind, MAX_DEPTH, MAX_SIGNATURES, Signature},
};

/// What messages add to the text that they carry: headers, and names of fields.
const ENVELOPE: u64 = 2048;

/// How many tasks there are, and how many bytes their messages have together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// Messages.
    pub jobs: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Cost {
    /// More than any bound.
    const ENDLESS: Self = Self { jobs: u64::MAX, bytes: u64::MAX };

    /// Both together.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self {
            jobs: self.jobs.saturating_add(other.jobs),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }

    /// What follows from a request, the request itself not counted.
    pub fn of(request: &Request) -> Self {
        let Request { callbacks, errbacks, chain, chord, .. } = request;
        if callbacks.is_empty() && errbacks.is_empty() && chain.is_empty() && chord.is_none() {
            return Self::default();
        }
        Counter::default()
            .after(callbacks, errbacks, chain, chord.as_ref())
            .unwrap_or(Self::ENDLESS)
    }

    /// What follows from a message with this third part of its body. What cannot be read leads to
    /// nothing: the message is refused by whoever receives it.
    pub(super) fn of_embed(embed: &Map) -> Self {
        let list = |name: &str| match embed.some(name) {
            None => Vec::new(),
            Some(json) => Signature::read_list(json, 0, &mut Budget::default()).unwrap_or_default(),
        };
        let names = ["callbacks", "errbacks", "chain", "chord"];
        if names.iter().all(|name| embed.some(name).is_none()) {
            return Self::default();
        }
        let [callbacks, errbacks, chain, chord] = names.map(list);
        Counter::default()
            .after(&callbacks, &errbacks, &chain, chord.first())
            .unwrap_or(Self::ENDLESS)
    }
}

/// What comes after a task, with the text of it that the task's message carries.
#[derive(Debug, Clone, Copy, Default)]
struct Tail {
    cost: Cost,
    text: u64,
}

/// Counts one workflow. `None`: it has more signatures, or deeper ones, than are read.
struct Counter {
    left: usize,
}

impl Default for Counter {
    fn default() -> Self {
        Self { left: 4 * MAX_SIGNATURES }
    }
}

impl Counter {
    fn after(
        &mut self,
        callbacks: &[Signature],
        errbacks: &[Signature],
        chain: &[Signature],
        chord: Option<&Signature>,
    ) -> Option<Cost> {
        let mut cost = self.chain(chain, Tail::default(), 0)?.cost;
        for signature in callbacks.iter().chain(errbacks).chain(chord) {
            cost = cost.and(self.total(signature, Tail::default(), 0)?);
        }
        Some(cost)
    }

    /// A list of which the last comes next, each with the rest in its message.
    fn chain(&mut self, chain: &[Signature], mut tail: Tail, depth: usize) -> Option<Tail> {
        for signature in chain {
            let cost = self.total(signature, tail, depth)?;
            tail = Tail { cost, text: tail.text.saturating_add(text(signature)) };
        }
        Some(tail)
    }

    fn total(&mut self, signature: &Signature, tail: Tail, depth: usize) -> Option<Cost> {
        if depth >= MAX_DEPTH {
            return None;
        }
        self.left = self.left.checked_sub(1)?;
        let tail = self.options(&signature.options, tail, depth + 1)?;
        match &signature.kind {
            Kind::Task(_) => {
                let text = text(signature).saturating_add(tail.text);
                let bytes = text.saturating_mul(2).saturating_add(ENVELOPE);
                Some(Cost { jobs: 1, bytes }.and(tail.cost))
            }
            Kind::Group(tasks) => self.all(tasks, tail, depth + 1),
            Kind::Chain(tasks) => {
                let mut tail = tail;
                for (after, task) in tasks.iter().rev().enumerate() {
                    let joined = matches!(task.kind, Kind::Group(_)) && after > 0;
                    let cost = if joined {
                        // In front of another step a group is the header of a chord.
                        let carried = Tail { cost: Cost::default(), ..tail };
                        self.total(task, carried, depth + 1)?.and(tail.cost)
                    } else {
                        self.total(task, tail, depth + 1)?
                    };
                    tail = Tail { cost, text: tail.text.saturating_add(text(task)) };
                }
                Some(tail.cost)
            }
            Kind::Chord { header, body } => {
                let body = body.as_deref()?;
                let text = tail.text.saturating_add(text(body));
                let of_body = self.total(body, tail, depth + 1)?;
                let carried = Tail { cost: Cost::default(), text };
                Some(self.all(header, carried, depth + 1)?.and(of_body))
            }
        }
    }

    fn all(&mut self, tasks: &[Signature], tail: Tail, depth: usize) -> Option<Cost> {
        tasks
            .iter()
            .try_fold(Cost::default(), |cost, task| Some(cost.and(self.total(task, tail, depth)?)))
    }

    /// What options add to that which comes after.
    fn options(&mut self, options: &Map, tail: Tail, depth: usize) -> Option<Tail> {
        let mut tail = tail;
        for name in ["chain", "link", "link_error", "chord"] {
            let items = options::list(options, name);
            let read: Vec<Signature> =
                items.iter().filter_map(|it| Signature::parse(it).ok()).collect();
            if name == "chain" {
                tail = self.chain(&read, tail, depth)?;
                continue;
            }
            tail.cost = tail.cost.and(self.all(&read, Tail::default(), depth)?);
            tail.text = tail.text.saturating_add(items.iter().map(length).sum());
        }
        Some(tail)
    }
}

fn text(signature: &Signature) -> u64 {
    length(&signature.json())
}

fn length(json: &Json) -> u64 {
    json.text().len() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jobs(text: &str) -> u64 {
        let signature = Signature::parse(&Json::parse(text).unwrap()).unwrap();
        Counter::default().total(&signature, Tail::default(), 0).map_or(u64::MAX, |cost| cost.jobs)
    }

    fn task(options: &str) -> String {
        format!(r#"{{"task":"t","args":[],"kwargs":{{}},"options":{{{options}}}}}"#)
    }

    fn several(kind: &str, tasks: &[String], options: &str) -> String {
        let tasks = tasks.join(",");
        format!(
            r#"{{"task":"celery.{kind}","args":[],"kwargs":{{"tasks":[{tasks}]}},"options":{{{options}}},"subtask_type":"{kind}"}}"#
        )
    }

    fn group(size: usize, options: &str) -> String {
        several("group", &vec![task(""); size], options)
    }

    fn chord(size: usize, body: &str) -> String {
        let header = vec![task(""); size].join(",");
        format!(
            r#"{{"task":"celery.chord","args":[],"kwargs":{{"header":[{header}],"body":{body}}},"options":{{}},"subtask_type":"chord"}}"#
        )
    }

    #[test]
    fn what_a_workflow_leads_to_is_counted() {
        let link = format!(r#""link":[{}]"#, task(""));
        assert_eq!(jobs(&task("")), 1);
        assert_eq!(jobs(&task(&link)), 2);
        assert_eq!(jobs(&group(5, "")), 5);
        assert_eq!(jobs(&group(5, &link)), 10, "each task of a group has its callbacks");
        assert_eq!(jobs(&several("chain", &vec![task(""); 4], "")), 4);
        assert_eq!(jobs(&chord(5, &task(""))), 6);
        assert_eq!(jobs(&chord(5, &chord(5, &task("")))), 11, "a body is called once");
        let steps = [group(5, ""), task(""), group(5, ""), task("")];
        assert_eq!(jobs(&several("chain", &steps, "")), 12, "a group in a chain is joined");
    }

    #[test]
    fn groups_that_follow_each_other_in_a_raw_chain_multiply() {
        let chain = vec![group(100, ""); 5].join(",");
        let list = Json::parse(&format!("[{chain}]")).unwrap();
        let read = Signature::read_list(&list, 0, &mut Budget::default()).unwrap();
        let cost = Counter::default().chain(&read, Tail::default(), 0).unwrap().cost;
        assert!(cost.jobs > 10_000_000_000, "{cost:?}");
        let options = format!(r#""chain":[{}]"#, vec![group(100, ""); 3].join(","));
        assert!(jobs(&task(&options)) > 1_000_000);
    }

    #[test]
    fn options_within_options_have_a_bottom() {
        let mut nested = task("");
        for _ in 0..200 {
            nested = task(&format!(r#""link":[{nested}]"#));
        }
        assert_eq!(jobs(&nested), u64::MAX);
    }
}
