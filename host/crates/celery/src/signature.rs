//! A signature: a task that is to be called, as it travels inside messages.
//!
//! Three of them are no tasks but say how others follow each other: a chain (one after the other), a
//! group (all at once), a chord (a group, then a body with all of its results).

use super::json::{Json, Map};

/// How deep signatures may stand in each other.
pub const MAX_DEPTH: usize = 32;

/// How many signatures one message may hold, the nested ones included.
pub const MAX_SIGNATURES: usize = 10_000;

/// A task that is to be called, or several and how they follow each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// The task's name: for a chain, group or chord `celery.chain`, `celery.group`, `celery.chord`.
    pub task: String,
    /// Positional arguments.
    pub args: Vec<Json>,
    /// Keyword arguments; those that a chain, group or chord is made of are in `kind`.
    pub kwargs: Map,
    /// Options of the call: `task_id`, `queue`, `link`, `countdown`, …
    pub options: Map,
    /// What it is.
    pub kind: Kind,
    /// True if it takes no arguments of those that come before it.
    pub immutable: bool,
    /// All other fields, such as `chord_size`.
    pub extra: Map,
}

/// What a signature is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A task. With the `subtask_type` that it names, should it name one that is not below.
    Task(Option<String>),
    /// One after the other.
    Chain(Vec<Signature>),
    /// All at once.
    Group(Vec<Signature>),
    /// All of the header at once, then the body with the list of their results.
    Chord {
        /// What is done first.
        header: Vec<Signature>,
        /// What is done with the results.
        body: Option<Box<Signature>>,
    },
}

/// What is left of the bounds while a message is read.
#[derive(Debug)]
pub(super) struct Budget {
    signatures: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self { signatures: MAX_SIGNATURES }
    }
}

impl Signature {
    /// A task without arguments.
    pub fn task(name: impl Into<String>) -> Self {
        Self::new(name.into(), Kind::Task(None))
    }

    pub(super) fn group(tasks: Vec<Self>) -> Self {
        Self::new("celery.group".to_owned(), Kind::Group(tasks))
    }

    pub(super) fn chord(header: Vec<Self>, body: Self) -> Self {
        let kind = Kind::Chord { header, body: Some(Box::new(body)) };
        let mut chord = Self::new("celery.chord".to_owned(), kind);
        chord.kwargs.set("kwargs", Json::from(Map::new()));
        chord
    }

    fn new(task: String, kind: Kind) -> Self {
        Self {
            task,
            args: Vec::new(),
            kwargs: Map::new(),
            options: Map::new(),
            kind,
            immutable: false,
            extra: Map::new(),
        }
    }

    /// Reads a signature. The error says what is wrong, and holds no values.
    pub fn parse(json: &Json) -> Result<Self, String> {
        Self::read(json, 0, &mut Budget::default())
    }

    pub(super) fn read(json: &Json, depth: usize, budget: &mut Budget) -> Result<Self, String> {
        if depth >= MAX_DEPTH {
            return Err(format!("its signatures are more than {MAX_DEPTH} deep in each other"));
        }
        budget.signatures = budget
            .signatures
            .checked_sub(1)
            .ok_or_else(|| format!("it holds more than {MAX_SIGNATURES} signatures"))?;
        let mut fields = json.fields().ok_or("a signature is no object")?;
        let task = fields.take("task").and_then(|it| it.as_string());
        let task = task.ok_or("a signature names no `task`")?;
        let args = match fields.take("args").filter(|it| !it.is_null()) {
            None => Vec::new(),
            Some(args) => args.items().ok_or("a signature's `args` are no list")?,
        };
        let mut object = |name: &str| match fields.take(name).filter(|it| !it.is_null()) {
            None => Ok(Map::new()),
            Some(value) => {
                value.fields().ok_or_else(|| format!("a signature's `{name}` are no object"))
            }
        };
        let mut kwargs = object("kwargs")?;
        let options = object("options")?;
        let subtask = fields.take("subtask_type").and_then(|it| it.as_string());
        let immutable = fields.take("immutable").is_some_and(|it| it.text() == "true");
        let mut list = |json: Option<Json>| match json.filter(|it| !it.is_null()) {
            None => Ok(Vec::new()),
            Some(json) => Self::read_list(&json, depth + 1, budget),
        };
        let kind = match subtask.as_deref() {
            Some("chain") => Kind::Chain(list(kwargs.take("tasks"))?),
            Some("group") => Kind::Group(list(kwargs.take("tasks"))?),
            Some("chord") => {
                // A header that was prepared already is a group.
                let header = kwargs.take("header").filter(|it| !it.is_null());
                let nested = header.as_ref().and_then(Json::fields);
                let header = match nested {
                    None => list(header)?,
                    Some(group) => match Self::read(&group.into(), depth + 1, budget)? {
                        Self { kind: Kind::Group(tasks) | Kind::Chain(tasks), .. } => tasks,
                        task => vec![task],
                    },
                };
                let body = kwargs.take("body").filter(|it| !it.is_null());
                let body = body.map(|it| Self::read(&it, depth + 1, budget)).transpose()?;
                Kind::Chord { header, body: body.map(Box::new) }
            }
            _ => Kind::Task(subtask),
        };
        Ok(Self { task, args, kwargs, options, kind, immutable, extra: fields })
    }

    /// Reads a list of signatures; a lone one is a list of one.
    pub(super) fn read_list(
        json: &Json,
        depth: usize,
        budget: &mut Budget,
    ) -> Result<Vec<Self>, String> {
        if json.is_null() {
            return Ok(Vec::new());
        }
        if json.is_object() {
            return Ok(vec![Self::read(json, depth, budget)?]);
        }
        let items = json.items().ok_or("what should be a list of signatures is none")?;
        items.iter().map(|item| Self::read(item, depth, budget)).collect()
    }

    /// The signature as JSON, as Celery writes it.
    pub fn json(&self) -> Json {
        let mut out = String::new();
        self.write(&mut out);
        Json::made(out)
    }

    /// A list of signatures as JSON.
    pub fn list(signatures: &[Self]) -> Json {
        let mut out = String::new();
        write_list(&mut out, signatures);
        Json::made(out)
    }

    fn write(&self, out: &mut String) {
        out.push_str("{\"task\": ");
        super::json::write_string(out, &self.task);
        out.push_str(", \"args\": ");
        super::json::write_list(out, &self.args);
        out.push_str(", \"kwargs\": ");
        let subtask = self.write_kwargs(out);
        out.push_str(", \"options\": ");
        self.options.write(out);
        out.push_str(", \"subtask_type\": ");
        out.push_str(Json::optional(subtask).text());
        out.push_str(", \"immutable\": ");
        out.push_str(Json::bool(self.immutable).text());
        for (name, value) in self.extra.iter() {
            out.push_str(", ");
            super::json::write_string(out, name);
            out.push_str(": ");
            out.push_str(value.text());
        }
        out.push('}');
    }

    /// Writes the keyword arguments with what the kind adds to them, and says the kind's name.
    fn write_kwargs(&self, out: &mut String) -> Option<&str> {
        let start = |out: &mut String| {
            self.kwargs.write(out);
            out.pop();
            if !self.kwargs.is_empty() {
                out.push_str(", ");
            }
        };
        match &self.kind {
            Kind::Task(subtask) => {
                self.kwargs.write(out);
                return subtask.as_deref();
            }
            Kind::Chain(tasks) | Kind::Group(tasks) => {
                start(out);
                out.push_str("\"tasks\": ");
                write_list(out, tasks);
            }
            Kind::Chord { header, body } => {
                start(out);
                out.push_str("\"header\": ");
                write_list(out, header);
                out.push_str(", \"body\": ");
                match body {
                    None => out.push_str("null"),
                    Some(body) => body.write(out),
                }
            }
        }
        out.push('}');
        Some(match self.kind {
            Kind::Chain(_) => "chain",
            Kind::Group(_) => "group",
            _ => "chord",
        })
    }

    /// The id that its call will have, where it was given one already.
    pub fn id(&self) -> Option<String> {
        self.options.string("task_id")
    }

    /// Returns true if it is a group.
    pub fn is_group(&self) -> bool {
        matches!(self.kind, Kind::Group(_))
    }

    /// How many results a chord waits for where this is in its header.
    pub fn chord_size(&self) -> usize {
        match &self.kind {
            Kind::Task(_) => 1,
            Kind::Group(tasks) => tasks.iter().map(Self::chord_size).sum(),
            Kind::Chain(tasks) => {
                tasks.iter().rev().map(Self::chord_size).find(|size| *size > 0).unwrap_or(0)
            }
            Kind::Chord { body, .. } => body.as_ref().map_or(0, |body| body.chord_size()),
        }
    }

    /// Sets the signature immutable or not; of a group, each of its tasks.
    pub fn set_immutable(&mut self, immutable: bool) {
        match &mut self.kind {
            Kind::Group(tasks) | Kind::Chord { header: tasks, .. } => {
                for task in tasks {
                    task.set_immutable(immutable);
                }
            }
            _ => self.immutable = immutable,
        }
    }
}

fn write_list(out: &mut String, signatures: &[Signature]) {
    out.push('[');
    for (n, signature) in signatures.iter().enumerate() {
        if n > 0 {
            out.push_str(", ");
        }
        signature.write(out);
    }
    out.push(']');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Signature, String> {
        Signature::parse(&Json::parse(text).unwrap())
    }

    const TASK: &str = r#"{"task": "t.a", "args": [1.50], "kwargs": {"b": 1}, "options": {"task_id": "i", "x": [{}]}, "subtask_type": null, "immutable": true, "chord_size": 3}"#;

    #[test]
    fn what_is_read_is_written_again_byte_for_byte() {
        let chain = format!(
            r#"{{"task": "celery.chain", "args": [], "kwargs": {{"tasks": [{TASK}, {TASK}]}}, "options": {{}}, "subtask_type": "chain", "immutable": false}}"#
        );
        let group = chain.replace("chain", "group");
        let chord = format!(
            r#"{{"task": "celery.chord", "args": [], "kwargs": {{"kwargs": {{}}, "header": [{chain}, {group}], "body": {TASK}}}, "options": {{"task_id": "g"}}, "subtask_type": "chord", "immutable": false}}"#
        );
        for text in [TASK, &chain, &group, &chord] {
            assert_eq!(parse(text).unwrap().json().text(), text);
        }
        assert_eq!(parse(&chord).unwrap().chord_size(), 1);
        assert_eq!(parse(&group).unwrap().chord_size(), 2);
    }

    #[test]
    fn a_header_that_is_a_group_is_the_list_of_its_tasks() {
        let group = format!(
            r#"{{"task":"celery.group","kwargs":{{"tasks":[{TASK},{TASK}]}},"subtask_type":"group"}}"#
        );
        let chord = parse(&format!(
            r#"{{"task":"celery.chord","kwargs":{{"header":{group},"body":{TASK}}},"subtask_type":"chord"}}"#
        ));
        let Kind::Chord { header, .. } = chord.unwrap().kind else { panic!("no chord") };
        assert_eq!(header.len(), 2);
    }

    #[test]
    fn what_is_no_signature_is_refused_without_its_values() {
        for (text, words) in [
            ("1", "no object"),
            ("{}", "names no `task`"),
            (r#"{"task": 1}"#, "names no `task`"),
            (r#"{"task": "a", "args": "secret"}"#, "`args` are no list"),
            (r#"{"task": "a", "kwargs": ["secret"]}"#, "`kwargs` are no object"),
            (r#"{"task": "a", "kwargs": {"tasks": 1}, "subtask_type": "chain"}"#, "is none"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(words) && !error.contains("secret"), "{text}: {error}");
        }
    }

    #[test]
    fn depth_and_number_are_bounded() {
        let nest = |text: &str| {
            format!(
                r#"{{"task":"celery.group","kwargs":{{"tasks":[{text}]}},"subtask_type":"group"}}"#
            )
        };
        let mut text = TASK.to_owned();
        for _ in 1..MAX_DEPTH {
            text = nest(&text);
        }
        parse(&text).unwrap();
        assert!(parse(&nest(&text)).unwrap_err().contains("more than 32 deep"));
        let many = vec![r#"{"task":"a"}"#; MAX_SIGNATURES - 1].join(",");
        parse(&nest(&many)).unwrap();
        let error = parse(&nest(&format!("{many},{TASK}"))).unwrap_err();
        assert!(error.contains("more than 10000"), "{error}");
    }
}
