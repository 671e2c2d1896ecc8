//! `lovage dlq`

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::json;

use super::{
    Global, Misuse, data, out,
    out::{complain, say},
    redrive::Redrive,
    sweep::{Action, Swept, sweep},
};
use lovage_config::{Config, DEFAULT_QUEUE};
use lovage_connect::connect;
use lovage_core::{
    broker::{Broker, DeadLetter, Disposal, Message, Queue, attribute},
    text::{nearest, one_line, printable},
};
use lovage_runtime::routes::Routes;

/// Look at dead letters, and send them back
#[derive(Debug, Args)]
#[command(after_help = "Send back all of the queue `jobs`, once their cause is mended:\n  \
    lovage dlq redrive --queue jobs --all")]
pub struct Dlq {
    /// The queue whose dead letters are meant; the only one that is configured when absent
    #[arg(long, short, global = true, value_name = "QUEUE")]
    queue: Option<String>,
    #[command(subcommand)]
    command: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List dead letters with their reasons
    #[command(after_help = "  lovage dlq list --queue jobs --max 10")]
    List {
        /// How many at most
        #[arg(long, default_value_t = 100)]
        max: usize,
    },
    /// Show one dead letter whole: body, attributes, reason
    #[command(after_help = "  lovage dlq show order-17 --queue jobs")]
    Show {
        /// Its id, or its job's
        id: String,
    },
    /// Send dead letters back to the queues that they came from
    #[command(after_help = "Those of two jobs, or all once their cause is mended:\n  \
        lovage dlq redrive order-17 order-18 --queue jobs\n  \
        lovage dlq redrive --queue jobs --all\n\n\
        Letters that are not named are hidden meanwhile. On a FIFO queue those behind one that is \
        not named, in the same group, cannot be reached: name that one, too, or use --all.\n\n\
        Where several queues share their dead letters, each letter goes to its own. One whose queue is \
        not known or not configured, or whose job would run for another tenant, is left.")]
    Redrive {
        /// Ids of letters or of their jobs
        #[arg(required_unless_present = "all")]
        ids: Vec<String>,
        /// All that there are now
        #[arg(long, conflicts_with = "ids")]
        all: bool,
        /// Send those that would be left to the queue of --queue
        #[arg(long)]
        force: bool,
    },
    /// Delete dead letters by id
    #[command(after_help = "  lovage dlq delete order-17 order-18 --queue jobs")]
    Delete {
        /// Ids of letters or of their jobs
        #[arg(required = true)]
        ids: Vec<String>,
    },
    /// Delete all dead letters, or old ones
    #[command(after_help = "  lovage dlq purge --queue jobs --older-than 7d")]
    Purge {
        /// Only those that were given up longer ago than this
        #[arg(long, value_name = "TIME", value_parser = data::duration)]
        older_than: Option<Duration>,
    },
}

/// The queue, and the one of its dead letters.
pub(super) struct Pair {
    pub broker: Arc<dyn Broker>,
    pub queue: Queue,
    pub letters: Queue,
}

impl Dlq {
    pub(super) async fn execute(
        self,
        global: &Global,
        config: &Config,
    ) -> anyhow::Result<ExitCode> {
        let (pair, routes) = open(self.queue.as_deref(), config).await?;
        let json = global.json;
        match self.command {
            Verb::List { max } => list(&pair, max, json).await,
            Verb::Show { id } => show(&pair, &id, json).await,
            Verb::Redrive { ids, all, force } => {
                let mut redrive = Redrive::new(&pair, config, &routes, force);
                let swept = sweep(&pair.broker, &pair.letters, &ids, all, &mut redrive).await?;
                tell_redriven(&pair, &swept, &redrive, json)
            }
            Verb::Delete { ids } => delete(&pair, &ids, false, None, json).await,
            Verb::Purge { older_than } => delete(&pair, &[], true, older_than, json).await,
        }
    }
}

async fn open(queue: Option<&str>, config: &Config) -> anyhow::Result<(Pair, Routes)> {
    let consumed = config.consumed_queues();
    let name = match (queue, consumed.as_slice()) {
        (Some(name), _) => name.to_owned(),
        (None, [only]) => only.clone(),
        (None, []) => DEFAULT_QUEUE.to_owned(),
        (None, several) => {
            return Err(Misuse(format!(
                "which queue's dead letters? use --queue with one of: {}",
                several.join(", ")
            ))
            .into());
        }
    };
    if config.queue(&name).is_none() {
        let hint = nearest(&name, config.queues.keys().map(String::as_str)).map_or_else(
            || format!("add [queues.{name}]"),
            |near| format!("did you mean `{near}`?"),
        );
        return Err(Misuse(format!("queue `{name}` is not in the configuration; {hint}")).into());
    }
    let broker = connect(config).await?;
    let routes = Routes::new(Arc::clone(&broker), Arc::new(config.clone()));
    let source = routes.source(&name).await?;
    let letters = source
        .dead_letters
        .with_context(|| format!("queue `{name}` discards its dead letters, as configured"))?;
    Ok((Pair { broker, queue: source.queue, letters }, routes))
}

/// Why a message is a dead letter, as far as it says.
pub(super) fn letter(message: &Message) -> Option<DeadLetter> {
    serde_json::from_str(message.attributes.get(attribute::DEAD_LETTER)?).ok()
}

fn matches(message: &Message, id: &str) -> bool {
    message.id == id || letter(message).is_some_and(|letter| letter.job_id == id)
}

async fn list(pair: &Pair, max: usize, json: bool) -> anyhow::Result<ExitCode> {
    let mut messages = pair.broker.browse(&pair.letters, max.saturating_add(1)).await?;
    if messages.len() > max {
        messages.truncate(max);
        let depth = pair.broker.depth(&pair.letters).await?;
        complain!(
            "these are the first {max} of about {}; --max shows more",
            depth.ready + depth.delayed + depth.in_flight
        );
    }
    if json {
        let all: Vec<_> = messages
            .iter()
            .map(|message| json!({"id": message.id, "letter": letter(message)}))
            .collect();
        out::write_foreign((serde_json::to_string_pretty(&all)? + "\n").as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    if messages.is_empty() {
        complain!("no dead letters in {}", pair.letters.name);
    }
    for message in &messages {
        match letter(message) {
            Some(letter) => say!(
                "{}  {}  {}  {} after {} attempt(s): {}",
                letter.at.strftime("%Y-%m-%dT%H:%M:%SZ"),
                one_line(&letter.job_id, 80),
                if letter.task.is_empty() { "-".into() } else { one_line(&letter.task, 40) },
                letter.status.as_str(),
                letter.attempts,
                one_line(&letter.reason, 200),
            ),
            None => say!("-  {}  -  moved by the broker, which gives no reason", message.id),
        }?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn show(pair: &Pair, id: &str, json: bool) -> anyhow::Result<ExitCode> {
    let messages = pair.broker.browse(&pair.letters, usize::MAX).await?;
    let message = messages.iter().find(|message| matches(message, id)).with_context(|| {
        format!(
            "no dead letter `{id}` in {}; `lovage dlq list` shows what there is",
            pair.letters.name
        )
    })?;
    let body = String::from_utf8_lossy(&message.body);
    let mut attributes = message.attributes.clone();
    attributes.remove(attribute::DEAD_LETTER);
    if json {
        let shown = json!({
            "id": message.id,
            "letter": letter(message),
            "attributes": attributes,
            "group": message.group,
            "body": body,
        });
        out::write_foreign((serde_json::to_string_pretty(&shown)? + "\n").as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    say!("message     {}", message.id)?;
    if let Some(letter) = letter(message) {
        say!("job         {}", one_line(&letter.job_id, 200))?;
        say!("task        {}", one_line(&letter.task, 200))?;
        say!("tenant      {}", one_line(&letter.tenant, 200))?;
        say!("status      {} ({})", letter.status.as_str(), one_line(&letter.kind, 200))?;
        say!("reason      {}", one_line(&letter.reason, 2000))?;
        say!("attempts    {}", letter.attempts)?;
        say!("given up    {}", letter.at)?;
    }
    for (name, value) in &attributes {
        say!("attribute   {}: {}", one_line(name, 200), one_line(value, 2000))?;
    }
    say!("\n{}", printable(&body, usize::MAX))?;
    Ok(ExitCode::SUCCESS)
}

/// Deletes letters.
struct Delete {
    older_than: Option<Duration>,
}

impl Action for Delete {
    fn job(&self, message: &Message) -> String {
        letter(message).map_or_else(|| message.id.clone(), |letter| letter.job_id)
    }

    fn is_due(&self, message: &Message) -> bool {
        let at = letter(message).map(|letter| letter.at).or(message.sent_at);
        self.older_than.is_none_or(|least| {
            at.is_some_and(|at| jiff::Timestamp::now().duration_since(at).unsigned_abs() > least)
        })
    }

    async fn disposal(&mut self, _: &Message) -> Result<Disposal, String> {
        Ok(Disposal::Finish { result: None, sends: Vec::new() })
    }
}

async fn delete(
    pair: &Pair,
    ids: &[String],
    all: bool,
    older_than: Option<Duration>,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let mut action = Delete { older_than };
    let swept = sweep(&pair.broker, &pair.letters, ids, all, &mut action).await?;
    if json {
        let Swept { done, failures, missing, .. } = &swept;
        say!("{}", json!({"deleted": done, "missing": missing, "failures": failures}))?;
    } else {
        complain_of(pair, &swept);
        say!("deleted from {}: {}", pair.letters.name, swept.done)?;
    }
    Ok(code(&swept))
}

fn complain_of(pair: &Pair, swept: &Swept) {
    for id in &swept.missing {
        complain!("error: no dead letter `{id}` in {}", pair.letters.name);
    }
    for failure in &swept.failures {
        complain!("error: {failure}");
    }
}

fn code(swept: &Swept) -> ExitCode {
    let whole = swept.failures.is_empty() && swept.missing.is_empty();
    if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn tell_redriven(
    pair: &Pair,
    swept: &Swept,
    redrive: &Redrive<'_>,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let Swept { done, left, failures, missing } = swept;
    if json {
        say!(
            "{}",
            json!({"sent_back": done, "left": left, "missing": missing, "failures": failures})
        )?;
        return Ok(code(swept));
    }
    if *left > 0 {
        complain!(
            "left there: {left}, of jobs that were sent back already; run it again for those"
        );
    }
    complain_of(pair, swept);
    if redrive.sent.len() < 2 {
        let queue = redrive.sent.keys().next().map_or(&*pair.queue.name, String::as_str);
        say!("sent back to {queue}: {done}")?;
    } else {
        for (queue, count) in &redrive.sent {
            say!("sent back to {queue}: {count}")?;
        }
    }
    Ok(code(swept))
}
