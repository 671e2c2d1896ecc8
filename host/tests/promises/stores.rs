//! What stores of results and buckets promise: what is a tenant's stays the tenant's, and a store
//! that is away costs no attempt.
//!
//! The stores are a real Redis and `DynamoDB`'s stand-in. Jobs come as Celery's clients send them.

mod outages;
mod tenants;

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use lovage::{
    broker::{Outgoing, attribute},
    config::Config,
    job::JobKey,
    store::{self, ResultStore},
};
use serde_json::{Value, json};

use crate::support::stage::SOON;

/// A task of Celery's, as its clients send it, for a tenant where one is named.
fn call(id: &str, task: &str, argument: &Value, tenant: &str) -> Outgoing {
    part_of(id, task, argument, tenant, None)
}

/// The same as a part of a chord: its group, its place, and the chord's body.
fn part_of(
    id: &str,
    task: &str,
    argument: &Value,
    tenant: &str,
    chord: Option<(&str, usize, Value)>,
) -> Outgoing {
    let (group, index, body) = chord
        .map_or((Value::Null, Value::Null, Value::Null), |it| (json!(it.0), json!(it.1), it.2));
    let embed = json!({"callbacks": null, "errbacks": null, "chain": null, "chord": body});
    let body = BASE64_STANDARD.encode(json!([[argument], {}, embed]).to_string());
    let message = json!({
        "body": body, "content-encoding": "utf-8", "content-type": "application/json",
        "headers": {
            "lang": "py", "task": task, "id": id, "root_id": id, "parent_id": null,
            "group": group, "group_index": index, "retries": 0, "timelimit": [null, null],
            "argsrepr": "()", "kwargsrepr": "{}", "origin": "test", "eta": null, "expires": null,
        },
        "properties": {
            "correlation_id": id, "reply_to": "", "delivery_mode": 2, "priority": 0,
            "delivery_info": {"exchange": "", "routing_key": "jobs"},
            "body_encoding": "base64", "delivery_tag": id,
        },
    });
    let mut outgoing = Outgoing { body: message.to_string().into(), ..Outgoing::default() };
    if !tenant.is_empty() {
        outgoing.attributes.insert(attribute::TENANT.to_owned(), tenant.to_owned());
        outgoing.group = Some(tenant.to_owned());
    }
    outgoing
}

/// The store that a configuration names.
fn open(config: &str) -> Arc<dyn ResultStore> {
    store::open(&Config::parse(config, "test").unwrap()).unwrap().unwrap()
}

/// What a tenant finds under an id.
async fn find(store: &Arc<dyn ResultStore>, tenant: &str, id: &str) -> Option<Value> {
    let found = store.get(tenant, &[id.to_owned()]).await.unwrap().pop().flatten();
    found.map(|value| serde_json::from_slice(&value).unwrap())
}

/// The result of a task, once it has one.
async fn result(store: &Arc<dyn ResultStore>, key: JobKey<'_>) -> Value {
    let end = Instant::now() + SOON;
    loop {
        if let Some(found) = find(store, key.tenant, key.id).await
            && ["SUCCESS", "FAILURE"].contains(&found["status"].as_str().unwrap())
        {
            return found;
        }
        assert!(Instant::now() < end, "no result of {key:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Sends one command to a Redis, and takes the first line of its answer.
fn command(port: u16, command: &str) -> String {
    let mut stream = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(format!("{command}\r\n").as_bytes()).unwrap();
    let mut line = Vec::new();
    let mut byte = [0];
    while stream.read_exact(&mut byte).is_ok() && byte[0] != b'\n' {
        line.push(byte[0]);
    }
    String::from_utf8_lossy(&line).trim_end().to_owned()
}

/// Asks a worker at its address; the status and the body.
fn ask(address: &str, path: &str) -> (u16, Value) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    let body = answer.split_once("\r\n\r\n").unwrap().1;
    (status, serde_json::from_str(body).unwrap_or_default())
}
