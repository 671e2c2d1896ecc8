//! `lovage dlq`

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::json;

use super::Global;
use crate::{
    broker::{
        Broker, DeadLetter, Disposal, Message, Outgoing, Queue, Send, Settlement, Unsettled,
        attribute,
    },
    config::{Config, DEFAULT_QUEUE},
    connect::connect,
    routes::Routes,
    text::{one_line, printable},
};

/// How long a letter is out of others' sight while it is sent back.
const HOLD: Duration = Duration::from_mins(1);

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
    List {
        /// How many at most
        #[arg(long, default_value_t = 100)]
        max: usize,
    },
    /// Show one dead letter whole: body, attributes, reason
    Show {
        /// Its id, or its job's
        id: String,
    },
    /// Send dead letters back to their queue
    Redrive {
        /// Ids of letters or of their jobs
        #[arg(required_unless_present = "all")]
        ids: Vec<String>,
        /// All that there are now
        #[arg(long, conflicts_with = "ids")]
        all: bool,
    },
}

/// The queue, and the one of its dead letters.
struct Pair {
    broker: Arc<dyn Broker>,
    queue: Queue,
    letters: Queue,
}

impl Dlq {
    pub(super) async fn execute(
        self,
        global: &Global,
        config: &Config,
    ) -> anyhow::Result<ExitCode> {
        let pair = open(self.queue.as_deref(), config).await?;
        match self.command {
            Verb::List { max } => list(&pair, max, global.json).await,
            Verb::Show { id } => show(&pair, &id, global.json).await,
            Verb::Redrive { ids, all } => redrive(&pair, &ids, all, global.json).await,
        }
    }
}

async fn open(queue: Option<&str>, config: &Config) -> anyhow::Result<Pair> {
    let consumed = config.consumed_queues();
    let name = match (queue, consumed.as_slice()) {
        (Some(name), _) => name.to_owned(),
        (None, [only]) => only.clone(),
        (None, []) => DEFAULT_QUEUE.to_owned(),
        (None, several) => anyhow::bail!(
            "which queue's dead letters? use --queue with one of: {}",
            several.join(", ")
        ),
    };
    let broker = connect(config).await?;
    let routes = Routes::new(Arc::clone(&broker), Arc::new(config.clone()));
    let source = routes.source(&name).await?;
    let letters = source
        .dead_letters
        .with_context(|| format!("queue `{name}` discards its dead letters, as configured"))?;
    Ok(Pair { broker, queue: source.queue, letters })
}

/// Why a message is a dead letter, as far as it says.
fn letter(message: &Message) -> Option<DeadLetter> {
    serde_json::from_str(message.attributes.get(attribute::DEAD_LETTER)?).ok()
}

fn matches(message: &Message, id: &str) -> bool {
    message.id == id || letter(message).is_some_and(|letter| letter.job_id == id)
}

async fn list(pair: &Pair, max: usize, json: bool) -> anyhow::Result<ExitCode> {
    let messages = pair.broker.browse(&pair.letters, max).await?;
    if json {
        let all: Vec<_> = messages
            .iter()
            .map(|message| json!({"id": message.id, "letter": letter(message)}))
            .collect();
        println!("{}", serde_json::to_string_pretty(&all)?);
        return Ok(ExitCode::SUCCESS);
    }
    if messages.is_empty() {
        eprintln!("no dead letters in {}", pair.letters.name);
    }
    for message in &messages {
        match letter(message) {
            Some(letter) => println!(
                "{}  {}  {}  {} after {} attempt(s): {}",
                letter.at.strftime("%Y-%m-%dT%H:%M:%SZ"),
                one_line(&letter.job_id, 80),
                if letter.task.is_empty() { "-".into() } else { one_line(&letter.task, 40) },
                letter.status.as_str(),
                letter.attempts,
                one_line(&letter.reason, 200),
            ),
            None => println!("-  {}  -  moved by the broker, which gives no reason", message.id),
        }
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
        println!("{}", serde_json::to_string_pretty(&shown)?);
        return Ok(ExitCode::SUCCESS);
    }
    println!("message     {}", message.id);
    if let Some(letter) = letter(message) {
        println!("job         {}", one_line(&letter.job_id, 200));
        println!("task        {}", one_line(&letter.task, 200));
        println!("tenant      {}", one_line(&letter.tenant, 200));
        println!("status      {} ({})", letter.status.as_str(), one_line(&letter.kind, 200));
        println!("reason      {}", one_line(&letter.reason, 2000));
        println!("attempts    {}", letter.attempts);
        println!("given up    {}", letter.at);
    }
    for (name, value) in &attributes {
        println!("attribute   {}: {}", one_line(name, 200), one_line(value, 2000));
    }
    println!("\n{}", printable(&body, usize::MAX));
    Ok(ExitCode::SUCCESS)
}

async fn redrive(pair: &Pair, ids: &[String], all: bool, json: bool) -> anyhow::Result<ExitCode> {
    let (mut answers, mut rest) = (Vec::new(), Vec::new());
    let most = pair.broker.depth(&pair.letters).await?;
    // No more than there were at first: a letter that is rejected again must not go in circles.
    let mut left = usize::try_from(most.ready + most.in_flight).unwrap_or(usize::MAX).max(1);
    let mut missing: Vec<&String> = ids.iter().collect();
    // Set when letters that are not wanted go to the end of their queue.
    let mut turning = false;
    while left > 0 && (all || turning || !missing.is_empty()) {
        let batch = left.min(pair.broker.limits().receive_batch);
        let received = pair.broker.receive(&pair.letters, batch, Duration::ZERO, HOLD).await?;
        if received.is_empty() {
            // On a FIFO queue the letters in hand keep those behind them out of sight. Once begun
            // with, all are turned, so that they stay in order.
            if rest.is_empty() || !pair.letters.fifo {
                break;
            }
            turning = true;
        }
        left = left.saturating_sub(received.len());
        let mut back = Vec::new();
        for message in received {
            let wanted = all || ids.iter().any(|id| matches(&message, id));
            missing.retain(|id| !matches(&message, id));
            if wanted {
                let job = original(&message, pair.queue.fifo);
                back.push(sent_on(message, &pair.queue, job));
            } else {
                rest.push(message);
            }
        }
        // At once, since on a FIFO queue the next of a group comes when those before it are gone.
        answers.extend(pair.broker.settle(&pair.letters, &back).await);
        if turning {
            let turned: Vec<_> = rest
                .drain(..)
                .map(|message| {
                    let copy = copy(&message, pair.letters.fifo);
                    sent_on(message, &pair.letters, copy)
                })
                .collect();
            tell_failures(&pair.broker.settle(&pair.letters, &turned).await);
        }
    }
    let rest: Vec<_> = rest.into_iter().map(given_back).collect();
    tell_failures(&pair.broker.settle(&pair.letters, &rest).await);
    let failures: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().err()).collect();
    let sent = answers.len() - failures.len();
    if json {
        let failures: Vec<_> = failures.iter().map(ToString::to_string).collect();
        println!("{}", json!({"sent_back": sent, "missing": missing, "failures": failures}));
    } else {
        println!("sent back to {}: {sent}", pair.queue.name);
        for id in &missing {
            eprintln!("error: no dead letter `{id}` in {}", pair.letters.name);
        }
        for failure in &failures {
            eprintln!("error: {failure}");
        }
    }
    let whole = failures.is_empty() && missing.is_empty();
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What fails of letters that nobody asked for is there again when its lease ends.
fn tell_failures(answers: &[Result<(), Unsettled>]) {
    for error in answers.iter().filter_map(|answer| answer.as_ref().err()) {
        tracing::warn!(%error, "a dead letter that stays is hidden for a moment");
    }
}

/// A letter that goes, once it was sent on.
fn sent_on(letter: Message, to: &Queue, message: Outgoing) -> Settlement {
    let send = Send { to: to.address.clone(), message };
    let disposal = Disposal::Finish { result: None, sends: vec![send] };
    Settlement { message: Arc::new(letter), disposal }
}

/// A letter that stays.
fn given_back(letter: Message) -> Settlement {
    let disposal = Disposal::Release { after: Duration::ZERO, spent: false };
    Settlement { message: Arc::new(letter), disposal }
}

/// A dead letter as it was when it was a job. It keeps the job's id, so that effects stay
/// idempotent.
fn original(message: &Message, fifo: bool) -> Outgoing {
    let mut job = copy(message, fifo);
    if let Some(letter) = letter(message) {
        job.attributes.entry(attribute::ID.to_owned()).or_insert(letter.job_id);
    }
    job.attributes.remove(attribute::DEAD_LETTER);
    job
}

/// The same message anew.
fn copy(message: &Message, fifo: bool) -> Outgoing {
    Outgoing {
        body: message.body.clone(),
        attributes: message.attributes.clone(),
        group: message.group.clone(),
        // A new one: the message's own may still be remembered from the first time.
        deduplication_id: fifo.then(|| uuid::Uuid::new_v4().to_string()),
        trace_header: message.trace_header.clone(),
        ..Outgoing::default()
    }
}
