//! `lovage results`

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{
    Global, Misuse, data, out,
    out::{complain, say},
    sweep::{Action, sweep},
};
use lovage_config::Config;
use lovage_connect::connect;
use lovage_core::{
    broker::{Broker, Disposal, Message, Queue, attribute},
    text::{one_line, printable},
};
use lovage_runtime::routes::Routes;

/// Look at a queue of results, and empty it
#[derive(Debug, Args)]
#[command(
    after_help = "  lovage results --queue results list\n\nOn the embedded broker results are deleted after broker.message_retention_ms, or \
    retention_ms of the queue. Those that are kept by job id are shown by `lovage status`."
)]
pub struct Results {
    /// The queue of results; the only one that is configured when absent
    #[arg(long, short, global = true, value_name = "QUEUE")]
    queue: Option<String>,
    #[command(subcommand)]
    command: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List results
    #[command(after_help = "  lovage results list --queue results --max 10")]
    List {
        /// How many at most
        #[arg(long, default_value_t = 100)]
        max: usize,
    },
    /// Show one result whole
    #[command(after_help = "  lovage results show order-17")]
    Show {
        /// The job's id, or the message's
        id: String,
    },
    /// Delete results by id
    #[command(after_help = "  lovage results delete order-17 order-18")]
    Delete {
        /// Ids of jobs, or of messages
        #[arg(required = true)]
        ids: Vec<String>,
    },
    /// Delete all results, or old ones
    #[command(after_help = "  lovage results purge --older-than 7d")]
    Purge {
        /// Only those that were sent longer ago than this
        #[arg(long, value_name = "TIME", value_parser = data::duration)]
        older_than: Option<Duration>,
    },
}

impl Results {
    pub(super) async fn execute(
        self,
        global: &Global,
        config: &Config,
    ) -> anyhow::Result<ExitCode> {
        let name = queue_of(self.queue, config)?;
        let broker = connect(config).await?;
        let routes = Routes::new(Arc::clone(&broker), Arc::new(config.clone()));
        let queue = routes.queue(&name).await?;
        match self.command {
            Verb::List { max } => list(&*broker, &queue, max, global.json).await,
            Verb::Show { id } => show(&*broker, &queue, &id, global.json).await,
            Verb::Delete { ids } => delete(&broker, &queue, &ids, None, global.json).await,
            Verb::Purge { older_than } => {
                delete(&broker, &queue, &[], older_than, global.json).await
            }
        }
    }
}

/// The queue that is meant. Not one that jobs are taken from: they would be deleted.
fn queue_of(named: Option<String>, config: &Config) -> anyhow::Result<String> {
    let consumed = config.consumed_queues();
    let tasks = config.tasks.values().chain([&config.defaults]);
    let mut known: Vec<String> = config
        .queues
        .values()
        .filter_map(|queue| queue.results.clone())
        .chain(tasks.filter_map(|task| task.results.clone()))
        .collect();
    known.sort();
    known.dedup();
    let name = match (named, known.as_slice()) {
        (Some(name), _) => name,
        (None, [only]) => only.clone(),
        (None, []) => {
            return Err(Misuse(
                "the configuration names no queue of results; use --queue".to_owned(),
            )
            .into());
        }
        (None, several) => {
            let several = several.join(", ");
            return Err(Misuse(format!("which queue? use --queue with one of: {several}")).into());
        }
    };
    if consumed.contains(&name) {
        return Err(Misuse(format!("jobs are taken from `{name}`: it holds no results")).into());
    }
    Ok(name)
}

/// What a message says of the job that it is the result of.
fn said(message: &Message) -> (String, String, String) {
    let body: Value = serde_json::from_slice(&message.body).unwrap_or_default();
    let find = |field: &str, name: &str| {
        let attribute = message.attributes.get(name).cloned();
        let text = attribute.or_else(|| body.get(field)?.as_str().map(str::to_owned));
        text.unwrap_or_default()
    };
    (find("id", attribute::ID), find("task", attribute::TASK), find("status", attribute::STATUS))
}

async fn list(
    broker: &dyn Broker,
    queue: &Queue,
    max: usize,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let mut messages = broker.browse(queue, max.saturating_add(1)).await?;
    if messages.len() > max {
        messages.truncate(max);
        let depth = broker.depth(queue).await?;
        complain!(
            "these are the first {max} of about {}; --max shows more",
            depth.ready + depth.delayed + depth.in_flight
        );
    }
    if json {
        let all: Vec<_> = messages
            .iter()
            .map(|message| {
                let (job, task, status) = said(message);
                json!({"id": message.id, "job": job, "task": task, "status": status,
                       "sent_at": message.sent_at.map(|at| at.to_string())})
            })
            .collect();
        out::write_foreign((serde_json::to_string_pretty(&all)? + "\n").as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    if messages.is_empty() {
        complain!("no results in {}", queue.name);
    }
    for message in &messages {
        let (job, task, status) = said(message);
        let at = message.sent_at.map(|at| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
        let shown = |text: &str, most| {
            if text.is_empty() { "-".to_owned() } else { one_line(text, most) }
        };
        say!(
            "{}  {}  {}  {}",
            at.as_deref().unwrap_or("-"),
            shown(&job, 80),
            shown(&task, 40),
            shown(&status, 20)
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn show(
    broker: &dyn Broker,
    queue: &Queue,
    id: &str,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let messages = broker.browse(queue, usize::MAX).await?;
    let found = messages.iter().find(|message| message.id == id || said(message).0 == id);
    let message = found.with_context(|| {
        format!("no result `{id}` in {}; `lovage results list` shows what there is", queue.name)
    })?;
    let body = String::from_utf8_lossy(&message.body);
    if json {
        let shown = json!({"id": message.id, "attributes": message.attributes, "body": body});
        out::write_foreign((serde_json::to_string_pretty(&shown)? + "\n").as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    say!("message     {}", message.id)?;
    for (name, value) in &message.attributes {
        say!("attribute   {}: {}", one_line(name, 200), one_line(value, 2000))?;
    }
    say!("\n{}", printable(&body, usize::MAX))?;
    Ok(ExitCode::SUCCESS)
}

/// Deletes results.
struct Delete {
    older_than: Option<Duration>,
}

impl Action for Delete {
    fn job(&self, message: &Message) -> String {
        Some(said(message).0).filter(|job| !job.is_empty()).unwrap_or_else(|| message.id.clone())
    }

    fn is_due(&self, message: &Message) -> bool {
        self.older_than.is_none_or(|least| {
            message
                .sent_at
                .is_some_and(|at| jiff::Timestamp::now().duration_since(at).unsigned_abs() > least)
        })
    }

    async fn disposal(&mut self, _: &Message) -> Result<Disposal, String> {
        Ok(Disposal::Finish { result: None, sends: Vec::new() })
    }
}

async fn delete(
    broker: &Arc<dyn Broker>,
    queue: &Queue,
    ids: &[String],
    older_than: Option<Duration>,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let mut action = Delete { older_than };
    let swept = sweep(broker, queue, ids, ids.is_empty(), &mut action).await?;
    if json {
        say!(
            "{}",
            json!({"deleted": swept.done, "missing": swept.missing, "failures": swept.failures})
        )?;
    } else {
        for id in &swept.missing {
            complain!("error: no result `{id}` in {}", queue.name);
        }
        for failure in &swept.failures {
            complain!("error: {failure}");
        }
        say!("deleted from {}: {}", queue.name, swept.done)?;
    }
    let whole = swept.failures.is_empty() && swept.missing.is_empty();
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
