//! `lovage dlq`

use std::{collections::BTreeSet, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::json;

use super::{Global, Misuse, out, out::complain, out::say};
use crate::{
    broker::{
        Broker, DeadLetter, Disposal, Message, Outgoing, Queue, Send, Settlement, Turn, attribute,
    },
    config::{Config, DEFAULT_QUEUE},
    connect::connect,
    routes::Routes,
    text::{nearest, one_line, printable},
};

/// How long a letter is out of others' sight while it is sent back.
const HOLD: Duration = Duration::from_mins(1);

/// How long one look waits for letters. On SQS one that does not wait asks only some of its
/// servers, and misses what the others have.
const WAIT: Duration = Duration::from_secs(1);

/// After so many looks that found nothing new there is nothing more.
const FRUITLESS: usize = 2;

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
    /// Send dead letters back to their queue
    #[command(after_help = "Those of two jobs, or all once their cause is mended:\n  \
        lovage dlq redrive order-17 order-18 --queue jobs\n  \
        lovage dlq redrive --queue jobs --all\n\n\
        Letters that are not named are hidden meanwhile. On a FIFO queue those behind one that is \
        not named, in the same group, cannot be reached: name that one, too, or use --all.")]
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

/// What a redrive came to.
#[derive(Default)]
struct Redriven {
    sent: usize,
    /// Letters of jobs that had been sent back before in the same go: that failed again, or of
    /// which there are two.
    left: usize,
    failures: Vec<String>,
}

async fn redrive(pair: &Pair, ids: &[String], all: bool, json: bool) -> anyhow::Result<ExitCode> {
    let mut missing: Vec<&String> = ids.iter().collect();
    let mut done = Redriven::default();
    // What was sent back: letters, and their jobs, so that one that is rejected again meanwhile
    // does not go round in circles.
    let mut handled = BTreeSet::new();
    // What is not wanted. Held until the end, since it would come again and again.
    let mut held: Vec<Message> = Vec::new();
    // On a FIFO queue the letters in hand keep those behind them out of sight. Then they go to the
    // end of the queue; once begun with, all that there are do, so that they stay in order.
    let there_are = pair.broker.depth(&pair.letters).await?;
    let mut unturned = usize::try_from(there_are.ready + there_are.in_flight).unwrap_or(usize::MAX);
    let mut turning = false;
    let mut fruitless = 0;
    while fruitless < FRUITLESS && (all || if turning { unturned > 0 } else { !missing.is_empty() })
    {
        let most = pair.broker.limits().receive_batch;
        // No more than there were: what comes after that are copies.
        let most = if turning { most.min(unturned) } else { most };
        let received =
            match pair.broker.receive(&pair.letters, most, WAIT, HOLD, &Turn::default()).await {
                Ok(received) => received,
                Err(error) => {
                    done.failures.push(error.to_string());
                    break;
                }
            };
        let mut back = Vec::new();
        fruitless += 1;
        turning |= received.is_empty() && pair.letters.fifo && !held.is_empty();
        unturned = unturned.saturating_sub(received.len());
        for message in received {
            let job = letter(&message).map_or_else(|| message.id.clone(), |letter| letter.job_id);
            let wanted = all || ids.iter().any(|id| matches(&message, id));
            let is_new = !handled.contains(&message.id) && !handled.contains(&job);
            missing.retain(|id| !matches(&message, id));
            if wanted && is_new {
                handled.extend([message.id.clone(), job]);
                back.push(message);
                fruitless = 0;
                continue;
            }
            let again = wanted && !handled.contains(&message.id);
            if let Some(same) = held.iter_mut().find(|same| same.id == message.id) {
                *same = message;
            } else {
                done.left += usize::from(again);
                fruitless = 0;
                held.push(message);
            }
        }
        let send = |to: &Queue, message: Outgoing| Disposal::Finish {
            result: None,
            sends: vec![Send { to: to.address.clone(), message }],
        };
        // Each batch before the next, while it is surely still held.
        let resend = |letter| (letter, send(&pair.queue, original(letter, pair.queue.fifo)));
        let failures = settle(pair, back.iter().map(resend)).await;
        done.sent += back.len() - failures.len();
        done.failures.extend(failures);
        if turning {
            let turned = std::mem::take(&mut held);
            let turn = |letter| (letter, send(&pair.letters, copy(letter, true)));
            done.failures.extend(settle(pair, turned.iter().map(turn)).await);
        }
    }
    let release = || Disposal::Release { after: Duration::ZERO, spent: false };
    let held = held.iter().map(|message| (message, release()));
    done.failures.extend(settle(pair, held).await);
    tell(pair, &done, &missing, json)
}

/// Settles letters; what went wrong, in words.
async fn settle(pair: &Pair, letters: impl Iterator<Item = (&Message, Disposal)>) -> Vec<String> {
    let settlements: Vec<_> = letters
        .map(|(message, disposal)| Settlement { message: Arc::new(message.clone()), disposal })
        .collect();
    let answers = pair.broker.settle(&pair.letters, &settlements).await;
    let failed = settlements.iter().zip(answers).filter_map(|(settlement, answer)| {
        let stays = match &settlement.disposal {
            Disposal::Finish { .. } => "was not sent back",
            Disposal::Release { .. } => "stays hidden for a minute",
        };
        Some(format!("letter {} {stays}: {}", settlement.message.id, answer.err()?))
    });
    failed.collect()
}

fn tell(pair: &Pair, done: &Redriven, missing: &[&String], json: bool) -> anyhow::Result<ExitCode> {
    let Redriven { sent, left, failures } = done;
    if json {
        say!(
            "{}",
            json!({"sent_back": sent, "left": left, "missing": missing, "failures": failures})
        )?;
    } else {
        if *left > 0 {
            complain!(
                "left there: {left}, of jobs that were sent back already; run it again for those"
            );
        }
        for id in missing {
            complain!("error: no dead letter `{id}` in {}", pair.letters.name);
        }
        for failure in failures {
            complain!("error: {failure}");
        }
        say!("sent back to {}: {sent}", pair.queue.name)?;
    }
    let whole = failures.is_empty() && missing.is_empty();
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
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
