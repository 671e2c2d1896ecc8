//! One task message of Celery's, read: protocol 2, and 1.
//!
//! On SQS a message is an envelope (JSON, mostly as base64) whose body is `[args, kwargs, embed]`
//! (JSON, mostly as base64 once more, perhaps compressed); all that is not arguments or workflow is
//! in the envelope's headers. In protocol 1 the body is an object that has it all.

use std::{fmt, time::Duration};

use jiff::{SignedDuration, Timestamp};

use super::{
    envelope::Envelope,
    exception::Exception,
    json::{Json, Map},
    python_json,
    rich::RichTypes,
    signature::{Budget, Signature},
    time,
};

/// Why a message is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Somebody else's message.
    NotCelery,
    /// Celery's, and something in it is not as it should be.
    Invalid,
    /// The arguments are in a format that is not read, such as pickle.
    ContentType,
    /// They are packed in a way that is not read.
    Compression,
    /// They are too much.
    TooLarge,
}

impl Refusal {
    /// The failure's kind, as results and dead letters name it.
    pub fn kind(self) -> &'static str {
        match self {
            Self::NotCelery => "not_celery",
            Self::Invalid => "invalid_message",
            Self::ContentType => "unsupported_content_type",
            Self::Compression => "unsupported_compression",
            Self::TooLarge => "message_too_large",
        }
    }
}

/// A message that is not taken, with what could be read of it: somebody may wait for its result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Why not, in short.
    pub refusal: Refusal,
    /// What is wrong and what would be right. Holds nothing of the arguments.
    pub reason: String,
    /// The task's id, where it could be read.
    pub id: Option<String>,
    /// The task's name, where it could be read.
    pub task: Option<String>,
    /// Where the sender takes results of the rpc kind.
    pub reply_to: Option<String>,
    /// True if nobody wants the result.
    pub ignore_result: bool,
}

impl Refused {
    pub(super) fn new(refusal: Refusal, reason: String) -> Self {
        Self { refusal, reason, id: None, task: None, reply_to: None, ignore_result: false }
    }

    /// What the task fails with, where somebody waits for its result: as a worker of Celery's fails.
    pub fn exception(&self) -> Exception {
        match self.refusal {
            Refusal::ContentType => Exception::content_disallowed(&self.reason),
            _ => Exception::invalid_task(&self.reason),
        }
    }

    fn of(mut self, headers: &Map, properties: &Map) -> Self {
        self.id = headers.some("id").and_then(id_of);
        self.task = headers.string("task");
        self.reply_to = properties.string("reply_to").filter(|it| !it.is_empty());
        self.ignore_result = headers.get("ignore_result").is_some_and(|it| it.text() == "true");
        self
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Refused {}

/// One task message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The task's id.
    pub id: String,
    /// The task's name, as the client calls it.
    pub task: String,
    /// The id of the first task of what this one is part of.
    pub root_id: Option<String>,
    /// The id of the task that called this one.
    pub parent_id: Option<String>,
    /// The id of the group that it is part of.
    pub group: Option<String>,
    /// Its place in that group, from 0.
    pub group_index: Option<i64>,
    /// How often it was tried before.
    pub retries: u32,
    /// Not before this time.
    pub eta: Option<Timestamp>,
    /// Not after this time, as the header says.
    pub expires: Option<Timestamp>,
    /// How long after it was sent it expires, as the message's property says.
    pub expiration: Option<Duration>,
    /// After this much time it is stopped.
    pub time_limit: Option<Duration>,
    /// After this much time it is asked to stop.
    pub soft_time_limit: Option<Duration>,
    /// True if nobody wants the result; absent where the sender leaves it to the task.
    pub ignore_result: Option<bool>,
    /// The name that logs show in place of the task's.
    pub shadow: Option<String>,
    /// Where the sender takes results of the rpc kind.
    pub reply_to: Option<String>,
    /// What such a result is told apart by.
    pub correlation_id: Option<String>,
    /// Its priority; what more means depends on the broker.
    pub priority: Option<i64>,
    /// Who sent it.
    pub origin: Option<String>,
    /// Its positional arguments as Python shows them.
    pub argsrepr: Option<String>,
    /// Its keyword arguments as Python shows them.
    pub kwargsrepr: Option<String>,
    /// How often a task replaced itself on the way here.
    pub replaced_task_nesting: u32,
    /// The names of its stamps.
    pub stamped_headers: Vec<String>,
    /// Its stamps.
    pub stamps: Map,
    /// Positional arguments.
    pub args: Vec<Json>,
    /// Keyword arguments.
    pub kwargs: Map,
    /// What is called when it succeeds, with its result in front.
    pub callbacks: Vec<Signature>,
    /// What is called when it fails.
    pub errbacks: Vec<Signature>,
    /// What comes after it in its chain, the last first.
    pub chain: Vec<Signature>,
    /// The body of the chord in whose header it is.
    pub chord: Option<Signature>,
    /// All headers, those above included, in protocol 2's form.
    pub headers: Map,
    /// All properties, those above included.
    pub properties: Map,
    pub(super) wire: Wire,
}

/// How it came, for when it is sent once more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wire {
    /// True if the whole was base64.
    pub base64: bool,
    /// The body with its media type and characters, where it can travel on as it is.
    pub body: Option<(Json, Json, Json)>,
}

/// Celery's own headers, and names that its requests give another meaning.
const OWN: &[&str] = &[
    "lang",
    "task",
    "id",
    "shadow",
    "eta",
    "expires",
    "group",
    "group_index",
    "retries",
    "timelimit",
    "root_id",
    "parent_id",
    "argsrepr",
    "kwargsrepr",
    "origin",
    "ignore_result",
    "replaced_task_nesting",
    "stamped_headers",
    "stamps",
    "compression",
    "args",
    "callbacks",
    "called_directly",
    "chain",
    "children",
    "chord",
    "correlation_id",
    "delivery_info",
    "errbacks",
    "headers",
    "hostname",
    "is_eager",
    "kwargs",
    "logfile",
    "loglevel",
    "properties",
    "reply_to",
    "soft_time_limit",
    "taskset",
    "time_limit",
    "utc",
];

impl Request {
    /// Reads a message. `max_bytes` bounds its body when that is unpacked.
    pub fn parse(message: &[u8], max_bytes: usize) -> Result<Self, Refused> {
        let envelope = Envelope::open(message)?;
        Self::of_envelope(&envelope, max_bytes)
            .map_err(|refused| refused.of(&envelope.headers, &envelope.properties))
    }

    fn of_envelope(envelope: &Envelope, max_bytes: usize) -> Result<Self, Refused> {
        let text = envelope.content(max_bytes)?;
        let text = python_json::read(&text).map_err(|_| {
            invalid(format!("the body's values nest more than {} deep", python_json::MAX_DEPTH))
        })?;
        let content = Json::parse(&text).ok_or_else(|| invalid("the body is not JSON"))?;
        let named = envelope.headers.contains("task");
        if let Some(fields) = content.fields() {
            if !named && !fields.contains("task") {
                return Err(Refused::new(
                    Refusal::NotCelery,
                    "this is a message of kombu's that calls no task of Celery's: neither its \
                     headers nor its body name a `task`"
                        .to_owned(),
                ));
            }
            return Self::first_protocol(envelope, fields).map_err(invalid);
        }
        if !named {
            return Err(Refused::new(
                Refusal::NotCelery,
                "this is a message of kombu's that calls no task of Celery's: its headers name no \
                 `task`"
                    .to_owned(),
            ));
        }
        let wire = Wire {
            base64: envelope.base64,
            body: Some((
                envelope.body.clone(),
                envelope.content_type.clone(),
                envelope.content_encoding.clone(),
            )),
        };
        Self::second_protocol(envelope.headers.clone(), envelope.properties.clone(), &content, wire)
            .map_err(invalid)
    }

    fn second_protocol(
        headers: Map,
        properties: Map,
        content: &Json,
        wire: Wire,
    ) -> Result<Self, String> {
        let parts = content.items().ok_or("the body is neither a list nor an object")?;
        let Ok([args, kwargs, embed]) = <[Json; 3]>::try_from(parts) else {
            return Err("the body is not `[args, kwargs, embed]`".to_owned());
        };
        let mut request = Self::of_headers(headers, properties, wire)?;
        request.args = args.items().ok_or("the positional arguments are no list")?;
        request.kwargs = kwargs.fields().ok_or("the keyword arguments are no object")?;
        let embed = if embed.is_null() { Some(Map::new()) } else { embed.fields() };
        request.embed(embed.ok_or("the body's third part is no object")?)?;
        Ok(request)
    }

    /// In protocol 1 the body has what headers have in protocol 2; headers that are there hold.
    fn first_protocol(envelope: &Envelope, mut fields: Map) -> Result<Self, String> {
        let mut take = |name: &str| fields.take(name).unwrap_or_else(Json::null);
        let (args, kwargs) = (take("args"), take("kwargs"));
        let embed = ["callbacks", "errbacks", "chord", "chain"];
        let embed: Map = embed.into_iter().map(|name| (name, take(name))).collect();
        let taskset = take("taskset");
        if fields.some("group").is_none() && !taskset.is_null() {
            fields.set("group", taskset);
        }
        fields.take("utc");
        fields.extend(envelope.headers.clone().without_nulls());
        fields.take("compression");
        let wire = Wire { base64: envelope.base64, body: None };
        let mut request = Self::of_headers(fields, envelope.properties.clone(), wire)?;
        if !args.is_null() {
            request.args = args.items().ok_or("the positional arguments are no list")?;
        }
        if !kwargs.is_null() {
            request.kwargs = kwargs.fields().ok_or("the keyword arguments are no object")?;
        }
        request.embed(embed)?;
        Ok(request)
    }

    fn of_headers(headers: Map, properties: Map, wire: Wire) -> Result<Self, String> {
        let id = headers.some("id").and_then(id_of).ok_or("there is no `id`")?;
        let task = headers.string("task").ok_or("there is no `task`")?;
        let limits = headers.some("timelimit").and_then(Json::items).unwrap_or_default();
        let limit = |at: usize| {
            let seconds: f64 = limits.get(at)?.read()?;
            Duration::try_from_secs_f64(seconds).ok().filter(|limit| !limit.is_zero())
        };
        let property = |name: &str| properties.string(name).filter(|text| !text.is_empty());
        Ok(Self {
            id,
            task,
            root_id: headers.string("root_id"),
            parent_id: headers.string("parent_id"),
            group: headers.string("group"),
            group_index: headers.some("group_index").and_then(Json::read),
            retries: whole(&headers, "retries")?,
            eta: moment(&headers, "eta")?,
            expires: moment(&headers, "expires")?,
            expiration: property("expiration")
                .and_then(|text| text.parse().ok())
                .map(Duration::from_millis),
            time_limit: limit(0),
            soft_time_limit: limit(1),
            ignore_result: headers.some("ignore_result").and_then(Json::read),
            shadow: headers.string("shadow").filter(|text| !text.is_empty()),
            reply_to: property("reply_to"),
            correlation_id: property("correlation_id"),
            priority: properties.some("priority").and_then(Json::read),
            origin: headers.string("origin"),
            argsrepr: headers.string("argsrepr"),
            kwargsrepr: headers.string("kwargsrepr"),
            replaced_task_nesting: whole(&headers, "replaced_task_nesting")?,
            stamped_headers: headers
                .some("stamped_headers")
                .and_then(Json::read)
                .unwrap_or_default(),
            stamps: headers.some("stamps").and_then(Json::fields).unwrap_or_default(),
            args: Vec::new(),
            kwargs: Map::new(),
            callbacks: Vec::new(),
            errbacks: Vec::new(),
            chain: Vec::new(),
            chord: None,
            headers,
            properties,
            wire,
        })
    }

    fn embed(&mut self, mut embed: Map) -> Result<(), String> {
        // All of them together are held to the bounds.
        let mut budget = Budget::default();
        let mut list = |name: &str| match embed.take(name).filter(|it| !it.is_null()) {
            None => Ok(Vec::new()),
            Some(json) => Signature::read_list(&json, 0, &mut budget)
                .map_err(|error| format!("`{name}` cannot be read: {error}")),
        };
        self.callbacks = list("callbacks")?;
        self.errbacks = list("errbacks")?;
        self.chain = list("chain")?;
        self.chord = match list("chord")? {
            chord if chord.len() > 1 => return Err("`chord` is several signatures".to_owned()),
            chord => chord.into_iter().next(),
        };
        Ok(())
    }

    /// When it expires: what the header says, else what its property says of the time it was sent.
    pub fn expires_at(&self, sent: Option<Timestamp>) -> Option<Timestamp> {
        self.expires.or_else(|| {
            let expiration = SignedDuration::try_from(self.expiration?).ok()?;
            sent?.checked_add(expiration).ok()
        })
    }

    /// The headers that are not Celery's own: what the client sent along.
    pub fn custom_headers(&self) -> impl Iterator<Item = (&str, &Json)> {
        self.headers.iter().filter(|(name, _)| !OWN.contains(name))
    }

    /// The queue that the client sent it to, by Celery's name for it.
    pub fn queue(&self) -> Option<String> {
        let info = self.properties.some("delivery_info")?.fields()?;
        info.string("routing_key").filter(|name| !name.is_empty())
    }

    /// What it fails with when it was tried often enough.
    pub fn max_retries_exceeded(&self) -> Exception {
        let (args, kwargs) = (super::repr::tuple(&self.args), super::repr::dict(&self.kwargs));
        Exception::max_retries(&self.task, &self.id, &args, &kwargs)
    }

    /// The id of the first task of what this one is part of: itself, where nobody says otherwise.
    pub fn root(&self) -> &str {
        self.root_id.as_deref().filter(|id| !id.is_empty()).unwrap_or(&self.id)
    }
}

fn invalid(reason: impl Into<String>) -> Refused {
    let reason = reason.into();
    Refused::new(Refusal::Invalid, format!("this message of Celery's cannot be read: {reason}"))
}

/// A task's id. Clients may send a number or a `UUID` of Python's, whose results are asked for by their
/// text.
fn id_of(json: &Json) -> Option<String> {
    if let Some(text) = json.as_string() {
        return Some(text);
    }
    if json.is_object() || json.is_list() {
        return RichTypes::Plain.apply(json).as_string();
    }
    (json.text() != "true" && json.text() != "false").then(|| json.text().to_owned())
}

fn whole(headers: &Map, name: &str) -> Result<u32, String> {
    match headers.some(name) {
        None => Ok(0),
        // Celery's workers run what says a negative number, or a number as a text.
        Some(value) => value
            .read::<i64>()
            .or_else(|| value.as_string()?.trim().parse().ok())
            .map(|number| u32::try_from(number.max(0)).unwrap_or(u32::MAX))
            .ok_or_else(|| format!("`{name}` is no whole number")),
    }
}

fn moment(headers: &Map, name: &str) -> Result<Option<Timestamp>, String> {
    let Some(value) = headers.some(name) else { return Ok(None) };
    let text = value.as_string().or_else(|| value.fields()?.string("__value__"));
    if text.as_deref() == Some("") {
        return Ok(None);
    }
    text.as_deref()
        .and_then(time::parse)
        .map(Some)
        .ok_or_else(|| format!("`{name}` is no time as ISO 8601 has it"))
}
