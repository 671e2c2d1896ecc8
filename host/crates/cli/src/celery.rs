//! `lovage celery`

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::Context as _;
use bytes::Bytes;
use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::{Global, Misuse, out, out::complain, out::say};
use lovage_celery::{self as celery, Builtin, Mapped, Request, publish::Publisher, workflow};
use lovage_config::{Config, UnknownTasks};
use lovage_connect::connect;
use lovage_core::{
    broker::{Message, Receipt},
    format::Format,
    job::Job,
    text::one_line,
};
use lovage_registry::Registry;
use lovage_runtime::{
    load,
    message::{Defaults, NOT_CELERY, decode},
    routes::Routes,
};

/// Look at what clients of Celery's send
#[derive(Debug, Args)]
#[command(
    after_help = "What would become of what is on the queue `celery`, if workers took it:\n  \
    lovage celery check --queue celery"
)]
pub struct Celery {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Say what would become of messages of Celery's, without taking any
    #[command(after_help = "On a queue, or of captured messages (a file has one body):\n  \
        lovage celery check --queue celery --max 20\n  \
        lovage celery check message.txt\n\n\
        Exit code 1 when one of them would not run. On SQS to look at a message counts as one of \
        its receives.")]
    Check {
        /// Files with a message's body each
        files: Vec<PathBuf>,
        /// The queue to look at: a name from the configuration, or an address
        #[arg(long, short, value_name = "QUEUE", conflicts_with = "files")]
        queue: Option<String>,
        /// How many at most
        #[arg(long, default_value_t = 100)]
        max: usize,
        /// Show the payloads that tasks would get, too
        #[arg(long)]
        payload: bool,
    },
}

/// What would become of one message.
#[derive(Debug, Serialize)]
struct Foreseen {
    /// The file, or the broker's id of the message.
    message: String,
    /// The task's id.
    id: String,
    /// The task, by Celery's name.
    task: String,
    /// Ours, where one serves it.
    #[serde(skip_serializing_if = "Option::is_none")]
    runs_as: Option<String>,
    /// `runs`, `left`, `dead_letter`, `fails`, `expired` or `waits`.
    verdict: &'static str,
    /// In words.
    why: String,
    /// What follows when it succeeds.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    then: Vec<String>,
    /// What the task would get.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<String>,
}

impl Celery {
    pub(super) async fn execute(
        self,
        global: &Global,
        config: &Config,
    ) -> anyhow::Result<ExitCode> {
        let Verb::Check { files, queue, max, payload } = self.command;
        let messages = match (&queue, files.as_slice()) {
            (Some(queue), _) => {
                let broker = connect(config).await?;
                let routes = Routes::new(Arc::clone(&broker), Arc::new(config.clone()));
                let queue = routes.queue(queue).await?;
                broker.browse(&queue, max).await?
            }
            (None, []) => {
                return Err(Misuse("what is to be checked? name files, or --queue".into()).into());
            }
            (None, files) => files.iter().map(of_file).collect::<Result<_, _>>()?,
        };
        let registry = load::host(config, None).await?.registry;
        let foreseen: Vec<_> =
            messages.iter().map(|message| foresee(config, &registry, message, payload)).collect();
        if global.json {
            out::write_foreign((serde_json::to_string_pretty(&foreseen)? + "\n").as_bytes())?;
        } else {
            for it in &foreseen {
                it.show()?;
            }
            if foreseen.is_empty() {
                complain!("no messages");
            }
        }
        let all_run = foreseen.iter().all(|it| ["runs", "waits"].contains(&it.verdict));
        Ok(if all_run { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn of_file(file: &PathBuf) -> anyhow::Result<Message> {
    let body = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    // As the project's own captured messages are kept, or the body alone.
    let body = match serde_json::from_slice::<Value>(&body) {
        Ok(captured) => match captured.pointer("/messages/0/raw_body").and_then(Value::as_str) {
            Some(raw) => Bytes::from(raw.to_owned()),
            None => body.into(),
        },
        Err(_) => body.trim_ascii().to_vec().into(),
    };
    Ok(Message {
        id: file.display().to_string(),
        receipt: Receipt("".into()),
        body,
        attributes: std::collections::BTreeMap::default(),
        group: None,
        attempt: 1,
        sent_at: None,
        not_before: None,
        trace_header: None,
    })
}

fn foresee(config: &Config, registry: &Registry, message: &Message, payload: bool) -> Foreseen {
    let defaults = Defaults {
        format: Format::Celery,
        celery_tasks: Arc::new(config.celery.tasks.clone()),
        celery_body_bytes: usize::try_from(config.celery.max_body_bytes.get())
            .unwrap_or(usize::MAX),
        ..Defaults::default()
    };
    let mut foreseen = Foreseen {
        message: message.id.clone(),
        id: String::new(),
        task: String::new(),
        runs_as: None,
        verdict: "runs",
        why: String::new(),
        then: Vec::new(),
        payload: None,
    };
    let unknown = match config.celery.unknown_tasks {
        UnknownTasks::Leave => ("left", "is left for other workers"),
        UnknownTasks::DeadLetter => ("dead_letter", "goes to the dead letters"),
    };
    let job = match decode(message, &defaults) {
        Ok(job) => job,
        Err(malformed) => {
            foreseen.id.clone_from(&malformed.id);
            foreseen.task.clone_from(&malformed.task);
            let (verdict, what) = if malformed.kind == NOT_CELERY {
                unknown
            } else {
                ("dead_letter", "goes to the dead letters, and its client is told")
            };
            foreseen.verdict = verdict;
            foreseen.why = format!("{what}: {malformed}");
            return foreseen;
        }
    };
    let Some(request) = &job.celery else { return foreseen };
    foreseen.id.clone_from(&request.id);
    foreseen.task.clone_from(&request.task);
    let built_in = Builtin::of(request, &mut publisher(config, request));
    foreseen.then = nexts(request);
    match (built_in, registry.get(&job.task)) {
        (Some(_), _) => "runs in the host itself".clone_into(&mut foreseen.why),
        (None, None) => {
            foreseen.verdict = unknown.0;
            foreseen.why = format!("{}: no component serves `{}`", unknown.1, job.task);
        }
        (None, Some(task)) => {
            foreseen.runs_as = Some(job.task.clone());
            let (mapping, rich) = config.celery_arguments(&job.task);
            let made = match Mapped::of(request) {
                Some(mapped) => mapped.map(|it| format!("{} items", it.len())),
                None => {
                    celery::payload(&request.args, &request.kwargs, task.shape(), mapping, rich)
                }
            };
            match made {
                Ok(made) if Mapped::task_of(request).is_some() => {
                    foreseen.why = format!("runs `{}` for each of {made}", job.task);
                }
                Ok(made) => {
                    foreseen.why = format!("runs `{}` on {}", job.task, kind(&made));
                    foreseen.payload = payload.then_some(made);
                }
                Err(why) => {
                    foreseen.verdict = "fails";
                    foreseen.why = format!("fails with TypeError: {why}");
                }
            }
            if request.chord.is_some() && config.celery.result_backend.is_none() {
                foreseen.verdict = "dead_letter";
                "goes to the dead letters: it is part of a chord, and celery.result_backend is not \
                 set"
                    .clone_into(&mut foreseen.why);
            }
            in_time(&job, &mut foreseen);
        }
    }
    foreseen
}

/// What its times have to say.
fn in_time(job: &Job, foreseen: &mut Foreseen) {
    let now = Timestamp::now();
    if job.is_expired(now) {
        foreseen.verdict = "expired";
        foreseen.why = format!("is not run, since it has expired ({:?})", job.expires);
    } else if let (Some(eta), Some(_), "runs") = (job.eta, job.due_in(now), foreseen.verdict) {
        foreseen.verdict = "waits";
        foreseen.why = format!("waits until {eta}, then {}", foreseen.why);
    }
}

fn publisher<'a>(config: &'a Config, request: &Request) -> Publisher<'a> {
    Publisher {
        default_queue: config.celery.default_queue.as_deref().unwrap_or_default(),
        routes: &config.celery.routes,
        origin: "lovage",
        now: Timestamp::now(),
        inherit_priority: config.celery.inherit_priority,
        reply_to: None,
        ids: workflow::ids(request, "check"),
    }
}

/// What follows, in a few words each.
fn nexts(request: &Request) -> Vec<String> {
    let mut nexts = Vec::new();
    let mut add = |count: usize, what: &str| {
        if count > 0 {
            nexts.push(format!("{count} {what}"));
        }
    };
    add(request.callbacks.len(), "callback(s)");
    add(request.chain.len(), "more step(s) of its chain");
    add(request.errbacks.len(), "errback(s), should it fail");
    add(usize::from(request.chord.is_some()), "chord that waits for it");
    nexts
}

fn kind(json: &str) -> &'static str {
    match json.bytes().next() {
        Some(b'{') => "an object",
        Some(b'[') => "a list",
        Some(b'"') => "a text",
        Some(b't' | b'f') => "a truth value",
        Some(b'n') => "null",
        _ => "a number",
    }
}

impl Foreseen {
    fn show(&self) -> anyhow::Result<()> {
        let task = if self.task.is_empty() { "-" } else { &self.task };
        say!("{}  {}  {}", one_line(&self.id, 80), one_line(task, 80), one_line(&self.why, 1000))?;
        for next in &self.then {
            say!("    then {next}")?;
        }
        if let Some(payload) = &self.payload {
            say!("    payload {}", one_line(payload, 8192))?;
        }
        Ok(())
    }
}
