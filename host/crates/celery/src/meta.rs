//! Results as Celery's backends store them, written and read.
//!
//! The value under [`keys::task`](super::keys::task) is a JSON object: `status`, `result`,
//! `traceback`, `children`, `date_done`, then `group_id` and `parent_id` where there are any, then
//! what `result_extended` adds, then `task_id`.

use jiff::Timestamp;

use super::{
    compression::decompress,
    exception::Exception,
    json::{Json, Map},
    msgpack, python_json,
    request::Request,
    results::ResultRef,
    signature::Signature,
    time,
};

/// The state of a task, as its result says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Nothing is known of it.
    Pending,
    /// A worker has it.
    Received,
    /// It runs.
    Started,
    /// It is tried again.
    Retry,
    /// It has a result.
    Success,
    /// It failed.
    Failure,
    /// It was not run, or was stopped.
    Revoked,
    /// What a task calls a state of its own, such as `PROGRESS`.
    Custom(String),
}

impl State {
    /// The state's name.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Pending => "PENDING",
            Self::Received => "RECEIVED",
            Self::Started => "STARTED",
            Self::Retry => "RETRY",
            Self::Success => "SUCCESS",
            Self::Failure => "FAILURE",
            Self::Revoked => "REVOKED",
            Self::Custom(name) => name,
        }
    }

    /// The state of that name.
    pub fn of(name: &str) -> Self {
        match name {
            "PENDING" => Self::Pending,
            "RECEIVED" => Self::Received,
            "STARTED" => Self::Started,
            "RETRY" => Self::Retry,
            "SUCCESS" => Self::Success,
            "FAILURE" => Self::Failure,
            "REVOKED" => Self::Revoked,
            other => Self::Custom(other.to_owned()),
        }
    }

    /// Returns true if nothing comes after it.
    pub fn is_ready(&self) -> bool {
        matches!(self, Self::Success | Self::Failure | Self::Revoked)
    }

    /// Returns true if its result is an exception that reaches whoever waits.
    pub fn propagates(&self) -> bool {
        matches!(self, Self::Failure | Self::Revoked)
    }
}

/// Whose result it is: what a stored result says beside the result.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owner {
    /// The task's id.
    pub id: String,
    /// The group that it is part of.
    pub group: Option<String>,
    /// The task that called it.
    pub parent_id: Option<String>,
    /// What `result_extended` adds: `name`, `args`, `kwargs`, `worker`, `retries`, `queue`, stamps.
    pub extended: Map,
}

impl Owner {
    /// Of a task that nothing more is known of.
    pub fn id(id: impl Into<String>) -> Self {
        Self { id: id.into(), ..Self::default() }
    }

    /// Of a request; with a worker's name also what `result_extended` adds.
    pub fn of(request: &Request, extended_by: Option<&str>) -> Self {
        Self {
            id: request.id.clone(),
            group: request.group.clone().filter(|it| !it.is_empty()),
            parent_id: request.parent_id.clone().filter(|it| !it.is_empty()),
            extended: extended_by.map(|worker| extended(request, worker)).unwrap_or_default(),
        }
    }

    /// Of a task that comes later in a chain, and was not sent.
    pub(super) fn of_signature(signature: &Signature, id: String) -> Self {
        let option = |name: &str| signature.options.string(name).filter(|it| !it.is_empty());
        Self { id, group: option("group_id"), parent_id: option("parent_id"), extended: Map::new() }
    }
}

fn extended(request: &Request, worker: &str) -> Map {
    let mut extended = Map::from_iter([
        ("name", Json::string(&request.task)),
        ("args", Json::list(&request.args)),
        ("kwargs", request.kwargs.clone().into()),
        ("worker", Json::string(worker)),
        ("retries", Json::number(request.retries)),
        ("queue", Json::optional(request.queue().as_deref())),
    ]);
    if !request.stamps.is_empty() {
        let named = &request.stamped_headers;
        extended.set("stamped_headers", Json::of(named));
        for (name, value) in
            request.stamps.iter().filter(|(name, _)| named.iter().any(|it| it == name))
        {
            extended.set(name, value.clone());
        }
    }
    extended
}

/// One stored result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// The task's id.
    pub id: String,
    /// Its state.
    pub state: State,
    /// The stored value, whole.
    pub fields: Map,
}

impl Meta {
    /// A task's success; `children` is what it led to.
    pub fn success(owner: &Owner, result: Json, children: &[ResultRef], now: Timestamp) -> Self {
        Self::new(owner, State::Success, result, None, Some(children), Some(now))
    }

    /// A task's failure.
    pub fn failure(owner: &Owner, exception: &Exception, now: Timestamp) -> Self {
        let traceback = exception.traceback.as_deref();
        Self::new(owner, State::Failure, exception.json(), traceback, Some(&[]), Some(now))
    }

    /// A task that was not run, or stopped.
    pub fn revoked(owner: &Owner, reason: &str, now: Timestamp) -> Self {
        let exception = Exception::revoked(reason).json();
        Self::new(owner, State::Revoked, exception, None, Some(&[]), Some(now))
    }

    /// A task that is tried again, with what it is tried again for.
    pub fn retry(owner: &Owner, exception: Option<&Exception>) -> Self {
        let traceback = exception.and_then(|it| it.traceback.as_deref());
        let result = exception.map_or_else(Json::null, Exception::json);
        Self::new(owner, State::Retry, result, traceback, Some(&[]), None)
    }

    /// A task that runs, on whom.
    pub fn started(owner: &Owner, pid: u32, worker: &str) -> Self {
        let who = Map::from_iter([("pid", Json::number(pid)), ("hostname", Json::string(worker))]);
        Self::new(owner, State::Started, who.into(), None, Some(&[]), None)
    }

    /// What `update_state` stores: a state of the task's own with its `meta`.
    pub fn progress(owner: &Owner, state: &str, meta: Json) -> Self {
        Self::new(owner, State::of(state), meta, None, Some(&[]), None)
    }

    fn new(
        owner: &Owner,
        state: State,
        result: Json,
        traceback: Option<&str>,
        children: Option<&[ResultRef]>,
        done: Option<Timestamp>,
    ) -> Self {
        let children = children.map_or_else(Json::null, |children| {
            Json::list(&children.iter().map(ResultRef::json).collect::<Vec<_>>())
        });
        let mut fields = Map::from_iter([
            ("status", Json::string(state.as_str())),
            ("result", result),
            ("traceback", Json::optional(traceback)),
            ("children", children),
            ("date_done", Json::optional(done.map(time::print).as_deref())),
        ]);
        for (name, value) in [("group_id", &owner.group), ("parent_id", &owner.parent_id)] {
            if let Some(value) = value {
                fields.set(name, Json::string(value));
            }
        }
        fields.extend(owner.extended.clone());
        fields.set("task_id", Json::string(&owner.id));
        Self { id: owner.id.clone(), state, fields }
    }

    /// The value to store.
    pub fn json(&self) -> String {
        let mut out = String::new();
        self.fields.write(&mut out);
        python_json::write(out)
    }

    /// Reads a stored value; `id` is of the key that it was under.
    pub fn parse(id: &str, value: &[u8]) -> Option<Self> {
        let fields = stored(value)?.fields()?;
        let state = State::of(&fields.string("status")?);
        Some(Self { id: id.to_owned(), state, fields })
    }

    /// Reads a stored value like [`parse`](Self::parse). One that cannot be read is a failure that
    /// says so: whoever waits for it is not to wait for ever.
    pub fn read(id: &str, value: &[u8]) -> Self {
        Self::parse(id, value)
            .unwrap_or_else(|| Self::failure(&Owner::id(id), &unreadable(), Timestamp::UNIX_EPOCH))
    }

    /// The result: a value, or an exception as it is stored.
    pub fn result(&self) -> Json {
        self.fields.get("result").cloned().unwrap_or_else(Json::null)
    }

    /// The exception, where the state has one.
    pub fn exception(&self) -> Option<Exception> {
        Exception::of_json(&self.result())
    }

    /// What the task led to.
    pub fn children(&self) -> Vec<ResultRef> {
        let children = self.fields.some("children").and_then(Json::items).unwrap_or_default();
        children.iter().filter_map(ResultRef::parse).collect()
    }
}

/// How Celery marks a compressed value (`result_compression`): the media type, a zero byte and the
/// compressed bytes follow.
const COMPRESSED: &[u8] = b"\0celery-compressed\0";

/// The most bytes of a stored value when it is decompressed.
const MAX_STORED: usize = 64 << 20;

/// A value as a result store holds it: JSON or `MessagePack`, perhaps compressed. `None` for pickle,
/// YAML and what is damaged.
fn stored(value: &[u8]) -> Option<Json> {
    let unpacked;
    let value = match value.strip_prefix(COMPRESSED) {
        None => value,
        Some(rest) => {
            let end = rest.iter().position(|byte| *byte == 0)?;
            let method = std::str::from_utf8(rest.get(..end)?).ok()?;
            unpacked = decompress(method, rest.get(end + 1..)?, MAX_STORED).ok()?;
            &unpacked
        }
    };
    // A map or a list of MessagePack begins with such a byte, and pickle with an empty map.
    if matches!(value.first(), Some(0x81..=0x8f | 0x91..=0x9f | 0xdc..=0xdf)) {
        return Json::parse(&msgpack::to_json(value, MAX_STORED).ok()?);
    }
    Json::parse(&python_json::read(std::str::from_utf8(value).ok()?).ok()?)
}

/// Why a stored result is not read.
pub fn unreadable() -> Exception {
    Exception::content_disallowed(
        "its stored result is neither JSON nor MessagePack, or is damaged; set result_serializer to \
         'json' where it was stored",
    )
}

/// What Redis keeps for each finished task of a chord's header.
pub fn chord_part(id: &str, state: &State, result: &Json) -> String {
    let parts = [Json::number(1), Json::string(id), Json::string(state.as_str()), result.clone()];
    python_json::write(Json::list(&parts).text().to_owned())
}

/// Reads what [`chord_part`] wrote, or Celery: the task's id, its state and its result.
pub fn read_chord_part(value: &[u8]) -> Option<(String, State, Json)> {
    let [_, id, state, result]: [Json; 4] = stored(value)?.read()?;
    Some((id.as_string()?, State::of(&state.as_string()?), result))
}

/// What is stored under [`keys::group`](super::keys::group): the ids of a group's results.
pub fn group(results: &ResultRef) -> String {
    Json::from(Map::from_iter([("result", results.json())])).text().to_owned()
}

/// Reads what [`group`] wrote, or Celery.
pub fn read_group(value: &[u8]) -> Option<ResultRef> {
    let fields = stored(value)?.fields()?;
    ResultRef::parse(fields.get("result")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        time::parse("2026-11-22T08:45:51.154078+00:00").unwrap()
    }

    #[test]
    fn a_success_is_stored_as_celery_stores_it() {
        let meta = Meta::success(&Owner::id("i"), Json::number(42), &[ResultRef::task("c")], now());
        let text = r#"{"status": "SUCCESS", "result": 42, "traceback": null, "children": [[["c", null], null]], "date_done": "2026-11-22T08:45:51.154078+00:00", "task_id": "i"}"#;
        assert_eq!(meta.json(), text);
        let read = Meta::parse("i", text.as_bytes()).unwrap();
        assert_eq!(read, meta);
        assert_eq!(read.children(), [ResultRef::task("c")]);
    }

    #[test]
    fn a_failure_says_of_whom_and_in_which_group() {
        let owner =
            Owner { group: Some("g".into()), parent_id: Some("p".into()), ..Owner::id("i") };
        let exception = Exception::of_failure("ValueError", "no").with_traceback("Traceback: no");
        let meta = Meta::failure(&owner, &exception, now());
        assert_eq!(
            meta.json(),
            r#"{"status": "FAILURE", "result": {"exc_type": "ValueError", "exc_message": ["no"], "exc_module": "builtins"}, "traceback": "Traceback: no", "children": [], "date_done": "2026-11-22T08:45:51.154078+00:00", "group_id": "g", "parent_id": "p", "task_id": "i"}"#
        );
        assert!(meta.state.propagates() && meta.state.is_ready());
        assert_eq!(meta.exception().unwrap().kind, "ValueError");
    }

    #[test]
    fn states_that_are_not_final_have_no_date() {
        let owner = Owner::id("i");
        for (meta, status) in [
            (Meta::retry(&owner, None), "RETRY"),
            (Meta::started(&owner, 7, "w"), "STARTED"),
            (Meta::progress(&owner, "PROGRESS", Json::number(3)), "PROGRESS"),
        ] {
            assert!(meta.fields.get("date_done").unwrap().is_null());
            assert_eq!(meta.fields.string("status").as_deref(), Some(status));
            assert!(!meta.state.is_ready());
        }
    }

    #[test]
    fn parts_of_chords_and_groups_are_read_again() {
        let part = chord_part("i", &State::Success, &Json::number(3));
        assert_eq!(part, r#"[1, "i", "SUCCESS", 3]"#);
        let read = read_chord_part(part.as_bytes()).unwrap();
        assert_eq!(read, ("i".to_owned(), State::Success, Json::number(3)));
        let results = ResultRef::group("g", vec![ResultRef::task("a"), ResultRef::task("b")]);
        let text = group(&results);
        assert_eq!(
            text,
            r#"{"result": [["g", null], [[["a", null], null], [["b", null], null]]]}"#
        );
        assert_eq!(read_group(text.as_bytes()), Some(results));
    }
}
