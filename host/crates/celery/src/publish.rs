//! Task messages, written: protocol 2, as Celery's clients and workers write it.

use std::collections::BTreeMap;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use sha2::{Digest as _, Sha256};

use super::{
    cost::Cost,
    json::{self, Json, Map},
    options, python_json, repr,
    request::Request,
    time,
};

/// Makes ids: of the same seed the same ones each time, so that what is sent twice is the same task.
#[derive(Debug, Clone)]
pub struct Ids {
    seed: String,
    made: u64,
}

impl Ids {
    /// Ids made of a seed, such as a task's id with what becomes of it.
    pub fn of(seed: impl Into<String>) -> Self {
        Self { seed: seed.into(), made: 0 }
    }

    /// Ids that nobody else makes.
    pub fn random() -> Self {
        Self::of(uuid::Uuid::new_v4().to_string())
    }

    /// The first id of its seed.
    pub fn next_id(mut self) -> String {
        self.next()
    }

    /// The next id: a UUID (of version 8, RFC 9562).
    pub(super) fn next(&mut self) -> String {
        let digest: [u8; 32] = Sha256::digest(format!("celery {}:{}", self.made, self.seed)).into();
        self.made += 1;
        let mut bytes = [0; 16];
        bytes.iter_mut().zip(digest).for_each(|(byte, of)| *byte = of);
        uuid::Builder::from_custom_bytes(bytes).into_uuid().to_string()
    }
}

/// What a message takes from the one who sends it.
#[derive(Debug, Clone)]
pub struct Publisher<'a> {
    /// The queue for tasks that no route and no option names one for.
    pub default_queue: &'a str,
    /// Queues by a task's name.
    pub routes: &'a BTreeMap<String, String>,
    /// Who sends: Celery has `gen16563@host` here.
    pub origin: &'a str,
    /// The time that delays count from.
    pub now: Timestamp,
    /// True if tasks have the priority of the one that calls them, where they have none.
    pub inherit_priority: bool,
    /// Where results of the rpc kind go of tasks that do not say: to the client that waits for what
    /// calls them.
    pub reply_to: Option<&'a str>,
    /// Where new ids are from.
    pub ids: Ids,
}

/// The task that calls others, as far as they have to do with it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parent {
    /// Its id.
    pub id: String,
    /// The id of the first task of all.
    pub root: String,
    /// Its priority.
    pub priority: Option<i64>,
}

impl Parent {
    /// The task of a request.
    pub fn of(request: &Request) -> Self {
        Self { id: request.id.clone(), root: request.root().to_owned(), priority: request.priority }
    }
}

/// A task message that is to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskMessage {
    /// The task's id.
    pub id: String,
    /// The task's name.
    pub task: String,
    /// The queue, by Celery's name for it: a prefix for names is not in it.
    pub queue: String,
    /// What is sent: base64, but for the retry of a message that was plain.
    pub body: Bytes,
    /// Not to be run before this time. The message says so itself.
    pub eta: Option<Timestamp>,
    /// The priority.
    pub priority: Option<i64>,
    /// SQS: the message's group, where the caller named one.
    pub group: Option<String>,
    /// SQS: what duplicates are told by, where the caller named it.
    pub deduplication_id: Option<String>,
    /// SQS: message attributes that are texts.
    pub attributes: BTreeMap<String, String>,
    /// What follows from it.
    pub follow: Cost,
}

/// Options that say how a message is sent, and are not in it.
const NOT_SENT: &[&str] = &[
    "add_to_parent",
    "confirm_timeout",
    "connection",
    "content_encoding",
    "content_type",
    "create_sent_event",
    "declare",
    "delivery_info",
    "delivery_mode",
    "delivery_tag",
    "event_dispatcher",
    "exchange_type",
    "immediate",
    "mandatory",
    "now",
    "producer",
    "publisher",
    "redelivered",
    "result_cls",
    "retry",
    "retry_policy",
    "route_name",
    "router",
    "serializer",
    "compression",
    "task_type",
    "timeout",
    "timezone",
    "body_encoding",
];

impl Publisher<'_> {
    /// The message that calls a task. `call` is what `apply_async` takes: `queue`, `countdown`,
    /// `link`, …; without a parent the task is the first of its own.
    pub fn message(
        &mut self,
        task: &str,
        args: &[Json],
        kwargs: &Map,
        mut call: Map,
        parent: Option<&Parent>,
    ) -> TaskMessage {
        let mut take = |name: &str| call.take(name).filter(|it| !it.is_null());
        let id = take("task_id").and_then(|it| it.as_string()).unwrap_or_else(|| self.ids.next());
        let text =
            |json: Option<Json>| json.and_then(|it| it.as_string()).filter(|it| !it.is_empty());
        let countdown = take("countdown").and_then(|it| seconds(&it)).filter(|it| !it.is_zero());
        let eta = moment(take("eta"));
        let eta = countdown.map_or(eta, |wait| self.now.checked_add(wait).ok());
        let (expires, expiration) = self.expires(take("expires"));
        let root = text(take("root_id"))
            .or_else(|| parent.map(|it| it.root.clone()))
            .unwrap_or_else(|| id.clone());
        let parent_id = text(take("parent_id")).or_else(|| parent.map(|it| it.id.clone()));
        let inherited = parent.filter(|_| self.inherit_priority).and_then(|it| it.priority);
        let priority = take("priority").and_then(|it| it.read()).or(inherited);
        let or_null = |json: Option<Json>| json.unwrap_or_else(Json::null);
        let named: Vec<String> =
            take("stamped_headers").and_then(|it| it.read()).unwrap_or_default();
        let stamps: Map =
            named.iter().filter_map(|name| Some((name.clone(), take(name)?))).collect();
        let stamped = if named.is_empty() { Json::null() } else { Json::of(&named) };
        let limits = [or_null(take("time_limit")), or_null(take("soft_time_limit"))];
        let moment = |time: Option<Timestamp>| Json::optional(time.map(time::print).as_deref());
        let mut headers = Map::from_iter([
            ("lang", Json::string("py")),
            ("task", Json::string(task)),
            ("id", Json::string(&id)),
            ("shadow", or_null(take("shadow"))),
            ("eta", moment(eta)),
            ("expires", moment(expires)),
            ("group", or_null(take("group_id"))),
            ("group_index", or_null(take("group_index"))),
            ("retries", take("retries").unwrap_or_else(|| Json::number(0))),
            ("timelimit", Json::list(&limits)),
            ("root_id", Json::string(&root)),
            ("parent_id", Json::optional(parent_id.as_deref())),
            ("argsrepr", take("argsrepr").unwrap_or_else(|| Json::string(&repr::tuple(args)))),
            ("kwargsrepr", take("kwargsrepr").unwrap_or_else(|| Json::string(&repr::dict(kwargs)))),
            ("origin", take("origin").unwrap_or_else(|| Json::string(self.origin))),
            ("ignore_result", take("ignore_result").unwrap_or_else(|| Json::bool(false))),
            (
                "replaced_task_nesting",
                take("replaced_task_nesting").unwrap_or_else(|| Json::number(0)),
            ),
            ("stamped_headers", stamped),
            ("stamps", stamps.into()),
        ]);
        if let Some(more) = take("headers").and_then(|it| it.fields()) {
            headers.extend(more);
        }
        let (exchange, key) = (take("exchange"), text(take("routing_key")));
        let queue = text(take("queue"))
            .or_else(|| key.filter(|_| exchange.is_some()))
            .unwrap_or_else(|| self.route(task).to_owned());
        let several = |name: &str, call: &mut Map| match options::list(call, name) {
            none if none.is_empty() => Json::null(),
            items => Json::list(&items),
        };
        let reply_to = take("reply_to").filter(|it| !it.is_null());
        let reply_to = reply_to.unwrap_or_else(|| Json::string(self.reply_to.unwrap_or_default()));
        let embed = Map::from_iter([
            ("callbacks", several("link", &mut call)),
            ("errbacks", several("link_error", &mut call)),
            ("chain", call.get("chain").cloned().unwrap_or_else(Json::null)),
            ("chord", call.get("chord").cloned().unwrap_or_else(Json::null)),
        ]);
        for name in NOT_SENT.iter().chain(&["link", "link_error", "chain", "chord", "expiration"]) {
            call.take(name);
        }
        let mut properties =
            Map::from_iter([("correlation_id", Json::string(&id)), ("reply_to", reply_to)]);
        properties.extend(call.without_nulls());
        properties.set("delivery_mode", Json::number(2));
        if let Some(expiration) = expiration {
            properties.set("expiration", Json::string(&expiration.to_string()));
        }
        let mut content = String::from("[");
        json::write_list(&mut content, args);
        content.push_str(", ");
        kwargs.write(&mut content);
        content.push_str(", ");
        embed.write(&mut content);
        content.push(']');
        let content = python_json::write(content);
        let body = Packed {
            body: Json::string(&BASE64_STANDARD.encode(content)),
            content_type: Json::string(lovage_core::media_type::JSON),
            content_encoding: Json::string("utf-8"),
            base64: true,
        };
        let follow = Cost::of_embed(&embed);
        let to = To { id, task: task.to_owned(), queue, eta, priority, follow };
        self.finish(to, &headers, properties, &body)
    }

    /// Where a task goes that names no queue.
    pub fn route(&self, task: &str) -> &str {
        self.routes.get(task).map_or(self.default_queue, String::as_str)
    }

    /// A time after which a task is not run, and the same as milliseconds from now.
    fn expires(&self, json: Option<Json>) -> (Option<Timestamp>, Option<i64>) {
        let Some(json) = json else { return (None, None) };
        let at = match seconds(&json) {
            Some(wait) => self.now.checked_add(wait).ok(),
            None => moment(Some(json)),
        };
        let left = at.map(|at| at.duration_since(self.now).as_millis().max(0));
        (at, left.and_then(|left| i64::try_from(left).ok()))
    }

    pub(super) fn finish(
        &mut self,
        to: To,
        headers: &Map,
        mut properties: Map,
        body: &Packed,
    ) -> TaskMessage {
        let take = |properties: &mut Map, name: &str| properties.take(name);
        let attributes = take(&mut properties, "message_attributes");
        let attributes = attributes.and_then(|it| it.fields()).unwrap_or_default();
        let attributes = attributes.iter().filter_map(|(name, value)| {
            Some((name.to_owned(), value.fields()?.string("StringValue")?))
        });
        properties.take("delivery_info");
        properties.take("priority");
        let info = [("exchange", Json::string("")), ("routing_key", Json::string(&to.queue))];
        properties.set("delivery_info", Map::from_iter(info).into());
        properties.set("priority", Json::number(to.priority.unwrap_or(0)));
        properties.take("body_encoding");
        properties.take("delivery_tag");
        properties.set("body_encoding", Json::string("base64"));
        properties.set("delivery_tag", Json::string(&self.ids.next()));
        let group = properties.string("MessageGroupId");
        let deduplication_id = properties.string("MessageDeduplicationId");
        let mut envelope = String::from("{\"body\": ");
        envelope.push_str(body.body.text());
        envelope.push_str(", \"content-encoding\": ");
        envelope.push_str(body.content_encoding.text());
        envelope.push_str(", \"content-type\": ");
        envelope.push_str(body.content_type.text());
        envelope.push_str(", \"headers\": ");
        headers.write(&mut envelope);
        envelope.push_str(", \"properties\": ");
        properties.write(&mut envelope);
        envelope.push('}');
        let envelope = python_json::write(envelope);
        let sent = if body.base64 { BASE64_STANDARD.encode(envelope) } else { envelope };
        TaskMessage {
            id: to.id,
            task: to.task,
            queue: to.queue,
            body: sent.into(),
            eta: to.eta,
            priority: to.priority,
            group,
            deduplication_id,
            attributes: attributes.collect(),
            follow: to.follow,
        }
    }
}

/// What is known of a message beside its text.
pub(super) struct To {
    pub id: String,
    pub task: String,
    pub queue: String,
    pub eta: Option<Timestamp>,
    pub priority: Option<i64>,
    pub follow: Cost,
}

/// A body that is packed already.
pub(super) struct Packed {
    pub body: Json,
    pub content_type: Json,
    pub content_encoding: Json,
    /// True if the whole message is base64, too.
    pub base64: bool,
}

/// Seconds, as numbers in options are.
fn seconds(json: &Json) -> Option<SignedDuration> {
    let seconds: f64 = json.read()?;
    // Beyond what a time can be is no delay that anybody meant; the cast keeps to the range.
    seconds.is_finite().then(|| SignedDuration::from_micros((seconds * 1e6) as i64))
}

/// A time, as text or as the rich form of one.
fn moment(json: Option<Json>) -> Option<Timestamp> {
    let json = json?;
    let text = json.as_string().or_else(|| json.fields()?.string("__value__"))?;
    time::parse(&text)
}
