//! `lovage send --celery`: a call of a task as Celery's clients make it.

use std::{process::ExitCode, sync::Arc, time::Duration};

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::json;

use super::{Misuse, Send};
use crate::out::{self, complain};
use lovage_celery::{
    Json, Map, Meta, State, arguments,
    publish::{Ids, Publisher},
    time,
};
use lovage_config::Config;
use lovage_core::{broker::Outgoing, job::JobKey, text::printable};
use lovage_services::store::{self, ResultStore};

/// How often the store is asked for a result.
const EVERY: Duration = Duration::from_millis(100);

/// The store to wait for the result in; `None` where it is not waited for.
pub(super) fn store_for(
    send: &Send,
    config: &Config,
) -> anyhow::Result<Option<Arc<dyn ResultStore>>> {
    if !(send.celery && send.wait) {
        return Ok(None);
    }
    let store = store::open(config).map_err(anyhow::Error::msg)?;
    let missing = "--wait finds results of Celery's tasks in the result store; set \
                   celery.result_backend";
    Ok(Some(store.ok_or_else(|| Misuse(missing.to_owned()))?))
}

/// The message that calls the task.
pub(super) fn message(
    send: &Send,
    config: &Config,
    queue: &str,
    id: &str,
    payload: &[u8],
) -> anyhow::Result<Outgoing> {
    let task = send.task.as_deref().ok_or_else(|| {
        Misuse("--celery takes the task's name, as Celery's workers know it".to_owned())
    })?;
    let payload = std::str::from_utf8(payload).ok().and_then(Json::parse);
    let payload = payload.ok_or_else(|| Misuse("--data is not JSON".to_owned()))?;
    let (mapping, _) = config.celery_arguments(task);
    let (args, kwargs) = arguments::call_of(&payload, mapping)
        .map_err(|why| Misuse(format!("the task `{task}`: {why}")))?;
    let mut call = Map::from_iter([("task_id", Json::string(id))]);
    let eta = match send.delay {
        Some(delay) => Some(Timestamp::now().checked_add(delay)?),
        None => send.eta,
    };
    for (name, moment) in [("eta", eta), ("expires", send.expires)] {
        if let Some(moment) = moment {
            call.set(name, Json::string(&time::print(moment)));
        }
    }
    if let Some(timeout) = send.timeout {
        call.set("time_limit", Json::of(&timeout.as_secs_f64()));
    }
    if let Some(reply_to) = &send.reply_to {
        call.set("reply_to", Json::string(reply_to));
    }
    let mut publisher = Publisher {
        default_queue: queue,
        routes: &config.celery.routes,
        origin: "lovage",
        now: Timestamp::now(),
        inherit_priority: false,
        reply_to: None,
        ids: Ids::random(),
    };
    let message = publisher.message(task, &args, &kwargs, call, None);
    Ok(Outgoing {
        body: message.body,
        delay: send.delay.unwrap_or_default(),
        deduplication_id: send.id.clone(),
        ..Outgoing::default()
    })
}

/// What is stored under an id before its task is sent. A success is an error: no worker writes over
/// it, so no other result can come.
pub(super) async fn earlier(
    store: &dyn ResultStore,
    job: JobKey<'_>,
) -> anyhow::Result<Option<Bytes>> {
    let JobKey { tenant, id } = job;
    let found = store.get(tenant, &[id.to_owned()]).await?.pop().flatten();
    let state = found.as_ref().and_then(|value| Meta::parse(id, value)).map(|meta| meta.state);
    if state == Some(State::Success) {
        return Err(Misuse(format!(
            "task {id} has a result already, and a success stays; use another --id, or leave it away"
        ))
        .into());
    }
    Ok(found)
}

/// Waits until the store has a result that is not the earlier one, and prints its value.
pub(super) async fn wait(
    store: &dyn ResultStore,
    job: JobKey<'_>,
    earlier: Option<Bytes>,
    timeout: Duration,
    as_json: bool,
) -> anyhow::Result<ExitCode> {
    let JobKey { tenant, id } = job;
    let ids = [id.to_owned()];
    let until = tokio::time::Instant::now() + timeout;
    loop {
        let found = store.get(tenant, &ids).await?.pop().flatten();
        let found = found.filter(|value| Some(value) != earlier.as_ref());
        if let Some(meta) = found.and_then(|value| Meta::parse(id, &value))
            && meta.state.is_ready()
        {
            return show(&meta, as_json);
        }
        if tokio::time::Instant::now() >= until {
            anyhow::bail!(
                "task {id} has no result after {timeout:?}; it is still queued or running, or no \
                 worker takes tasks from its queue"
            );
        }
        tokio::time::sleep(EVERY).await;
    }
}

fn show(meta: &Meta, as_json: bool) -> anyhow::Result<ExitCode> {
    let done = meta.state == State::Success;
    if as_json {
        out::write_foreign((meta.json() + "\n").as_bytes())?;
    } else if done {
        out::write_foreign((meta.result().text().to_owned() + "\n").as_bytes())?;
    } else {
        let why = meta.exception().map_or_else(|| json!(null).to_string(), |it| it.repr());
        complain!("error: {}: {}", meta.state.as_str(), printable(&why, 8192));
    }
    Ok(if done { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
