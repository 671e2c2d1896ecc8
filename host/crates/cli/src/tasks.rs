//! `lovage tasks`

use std::{path::Path, process::ExitCode};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde_json::json;

use super::{Global, Misuse, ask, out, out::say};
use lovage_config::Config;
use lovage_core::{
    byte_size::ByteSize,
    text::{component_name, one_line},
};
use lovage_registry::{History, Record, Status, VersionStatus};
use lovage_runtime::load;

/// How many characters of a digest are shown to people.
const DIGEST_CHARS: usize = 19;

/// Show which versions of tasks are served, and go back to an earlier one
#[derive(Debug, Args)]
#[command(
    after_help = "  lovage tasks                          what a worker serves, since when, and how it fares\n  \
    lovage tasks versions process_data    what was served before\n  \
    lovage tasks rollback process_data    serve the version before; the bad one is not taken again\n  \
    lovage tasks allow process_data DIGEST    take that back\n\n\
    A list is that of the worker at --url or worker.metrics_address; without one, of what workers \
    of this machine served last. Versions are kept in components.state_dir, for each machine; a \
    worker that runs there follows within a second."
)]
pub struct Tasks {
    #[command(subcommand)]
    command: Option<Command>,
    /// Where the worker is; `worker.metrics_address` of the configuration when absent
    #[arg(long, value_name = "URL")]
    url: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the versions of a component that were served on this machine
    Versions {
        /// A task of the component, its file's name without `.wasm`, or its place: a path or a URL
        task: String,
    },
    /// Serve the version before, and do not take the one of now again
    Rollback {
        /// A task of the component, its file's name without `.wasm`, or its place: a path or a URL
        task: String,
        /// The version to go back to, by the beginning of its digest; the one before when absent
        #[arg(long, value_name = "DIGEST")]
        to: Option<String>,
        /// Why, for those who look later
        #[arg(long, default_value = "rolled back by an operator")]
        why: String,
    },
    /// Allow a version again that was rolled back, or that its trial refused
    Allow {
        /// A task of the component, its file's name without `.wasm`, or its place: a path or a URL
        task: String,
        /// The beginning of its digest
        digest: String,
    },
}

impl Tasks {
    pub(super) async fn execute(
        self,
        global: &Global,
        config: &Config,
    ) -> anyhow::Result<ExitCode> {
        let json = global.json;
        match self.command {
            None => list(self.url, config, json).await,
            Some(command) => {
                let history = load::open_history(config)?;
                match command {
                    Command::Versions { task } => versions(&history, config, &task, json),
                    Command::Rollback { task, to, why } => {
                        rollback((&history, config), &task, to.as_deref(), &why, json)
                    }
                    Command::Allow { task, digest } => {
                        allow(&history, config, &task, &digest, json)
                    }
                }
            }
        }
    }
}

async fn list(url: Option<String>, config: &Config, json: bool) -> anyhow::Result<ExitCode> {
    let live = url.is_some() || ask::url_of(config).is_some();
    let all: Vec<Status> = if live {
        let (url, answer) = ask::worker(url, config, "/tasks").await?;
        serde_json::from_slice(&answer)
            .with_context(|| format!("{url} does not answer as a worker does"))?
    } else {
        load::open_history(config)?.all()?.iter().map(last_served).collect()
    };
    if json {
        say!("{}", serde_json::to_string_pretty(&all)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    out::write(table(&all, live).as_bytes())?;
    for status in &all {
        let place = one_line(&status.place, 400);
        if let (Some(trial), Some(compared)) = (&status.trial, &status.trial_compared) {
            say!("\ntried: {place} {}\n  {compared}", short(&trial.digest))?;
        }
        if let Some(refusal) = &status.refused {
            let digest = refusal.digest.as_deref().map_or("", short);
            say!("\nnot served: {place} {digest}\n  {}", one_line(&refusal.why, 1024))?;
        }
        if status.gone {
            say!("\nnot there any more, served all the same: {place}")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What is known without a worker: nothing of attempts.
fn last_served(record: &Record) -> Status {
    let version = record.current().map(|kept| VersionStatus {
        digest: kept.digest.clone(),
        tasks: kept.tasks.clone(),
        since: kept.since,
        calls: 0,
        failures: 0,
    });
    Status {
        place: record.place.clone(),
        version,
        trial: None,
        trial_percent: None,
        trial_compared: None,
        refused: None,
        gone: false,
    }
}

/// A line for each version. What became of its jobs only a worker knows that is `live`.
fn table(all: &[Status], live: bool) -> String {
    let count = |calls: u64| if live { calls.to_string() } else { "-".to_owned() };
    let head = ["COMPONENT", "TASKS", "VERSION", "SINCE", "", "CALLS", "FAILED"].map(str::to_owned);
    let row = |place: &str, version: &VersionStatus, note: String| {
        [
            one_line(component_name(place), 200),
            one_line(&version.tasks.join(","), 200),
            short(&version.digest).to_owned(),
            whole_seconds(version.since),
            note,
            count(version.calls),
            count(version.failures),
        ]
    };
    let mut rows = vec![head];
    for status in all {
        rows.extend(status.version.iter().map(|it| row(&status.place, it, String::new())));
        let percent = status.trial_percent.unwrap_or(0.0);
        let tried = |it| row(&status.place, it, format!("tried on {percent}%"));
        rows.extend(status.trial.iter().map(tried));
    }
    out::columns(&rows, 5)
}

fn versions(
    history: &History,
    config: &Config,
    task: &str,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let record = find(history, config, task)?;
    if json {
        say!("{}", serde_json::to_string_pretty(&record)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let serves = record.current().map(|kept| kept.digest.clone());
    let head = ["VERSION", "SINCE", "TASKS", "", "SIZE"].map(str::to_owned);
    let mut rows = vec![head];
    for kept in record.versions.iter().rev() {
        let note = match record.denial(&kept.digest) {
            Some(denied) => format!("not served: {}", one_line(&denied.why, 200)),
            None if serves.as_ref() == Some(&kept.digest) => "served".to_owned(),
            None => String::new(),
        };
        let tasks = one_line(&kept.tasks.join(","), 200);
        let size = ByteSize(kept.size).to_string();
        rows.push([kept.digest.clone(), whole_seconds(kept.since), tasks, note, size]);
    }
    out::write(out::columns(&rows, 4).as_bytes())?;
    let unknown = |digest: &str| record.versions.iter().all(|kept| kept.digest != digest);
    for denied in record.denied.iter().filter(|denied| unknown(&denied.digest)) {
        say!("{}  not served: {}", denied.digest, one_line(&denied.why, 200))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn rollback(
    (history, config): (&History, &Config),
    task: &str,
    to: Option<&str>,
    why: &str,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let record = find(history, config, task)?;
    let name = component_name(&record.place).to_owned();
    let from = record
        .current()
        .with_context(|| format!("no version of `{name}` is kept that may be served"))?
        .digest
        .clone();
    let allowed: Vec<&str> = record
        .versions
        .iter()
        .map(|kept| kept.digest.as_str())
        .filter(|digest| record.denial(digest).is_none())
        .collect();
    let at = match to {
        None => allowed.len().checked_sub(2),
        Some(to) => Some(which(&allowed, to, &name)?),
    };
    let Some(target) = at.and_then(|at| allowed.get(at)).filter(|it| **it != from) else {
        anyhow::bail!(
            "there is no version of `{name}` to go back to: {} is the only one that is kept and \
             may be served",
            short(&from)
        );
    };
    let target = (*target).to_owned();
    for later in allowed.iter().skip_while(|digest| **digest != target).skip(1) {
        history.deny(&record.place, later, why)?;
    }
    if json {
        say!("{}", json!({"component": record.place, "from": from, "to": target}))?;
    } else {
        let place = one_line(&record.place, 400);
        say!("{name}: {} in place of {} ({place})", short(&target), short(&from))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn allow(
    history: &History,
    config: &Config,
    task: &str,
    digest: &str,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let record = find(history, config, task)?;
    let name = component_name(&record.place);
    let denied: Vec<&str> = record.denied.iter().map(|denied| denied.digest.as_str()).collect();
    let digest = denied.get(which(&denied, digest, name)?).copied().unwrap_or_default();
    history.allow(&record.place, digest)?;
    if json {
        say!("{}", json!({"component": record.place, "allowed": digest}))?;
    } else {
        say!("{name}: {} may be served again", short(digest))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The component that serves a task, or is called so, or is at that place. Where the task came from
/// several places, as from releases in directories of their own, it is the one that this configuration
/// serves and that is there.
fn find(history: &History, config: &Config, task: &str) -> anyhow::Result<Record> {
    let all = history.all()?;
    if task.contains('/') {
        let place = place_of(task)?;
        let found = all.iter().find(|record| record.place == place);
        return found.cloned().with_context(|| {
            format!(
                "nothing was served from {} on this machine, as {} has it",
                one_line(&place, 400),
                history.path().display()
            )
        });
    }
    let serves = |record: &&Record| {
        record.versions.last().is_some_and(|kept| kept.tasks.iter().any(|name| name == task))
    };
    let called = |record: &&Record| component_name(&record.place) == task;
    let mut found: Vec<&Record> = all.iter().filter(serves).collect();
    if found.is_empty() {
        found = all.iter().filter(called).collect();
    }
    let origins = load::origins(config);
    narrow(&mut found, |record| origins.iter().any(|origin| origin.holds(&record.place)));
    narrow(&mut found, |record| record.place.contains("://") || Path::new(&record.place).exists());
    match found.as_slice() {
        [one] => Ok((*one).clone()),
        [] => {
            let names: Vec<&str> = all.iter().map(|it| component_name(&it.place)).collect();
            let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            anyhow::bail!(
                "no component with the task `{}` was served on this machine, as {} has it; there \
                 are: {}",
                one_line(task, 200),
                history.path().display(),
                one_line(&names, 400)
            )
        }
        many => {
            // The one that was served last is not for us to choose.
            let places: Vec<&str> = many.iter().map(|record| record.place.as_str()).collect();
            Err(Misuse(format!(
                "several components serve `{}`, or did; name one of them in its place: {}",
                one_line(task, 200),
                one_line(&places.join(", "), 800),
            ))
            .into())
        }
    }
}

/// Leaves those that something holds for, unless it holds for none.
fn narrow(found: &mut Vec<&Record>, holds: impl Fn(&Record) -> bool) {
    if found.len() > 1 && found.iter().any(|record| holds(record)) {
        found.retain(|record| holds(record));
    }
}

/// A place as a record names it: a URL, or a path from the root.
fn place_of(text: &str) -> anyhow::Result<String> {
    if text.contains("://") {
        return Ok(text.to_owned());
    }
    let path = std::path::absolute(text).with_context(|| format!("{text} is no path"))?;
    Ok(path.display().to_string())
}

/// Which of some digests begins so.
fn which(digests: &[&str], beginning: &str, name: &str) -> anyhow::Result<usize> {
    let bare = beginning.strip_prefix("sha256:").unwrap_or(beginning);
    let is = |digest: &&str| digest.strip_prefix("sha256:").unwrap_or(digest).starts_with(bare);
    let found: Vec<usize> =
        digests.iter().enumerate().filter(|(_, it)| is(it)).map(|(at, _)| at).collect();
    match found.as_slice() {
        [one] if !bare.is_empty() => Ok(*one),
        [] => Err(Misuse(format!(
            "`{}` begins no digest of `{name}` that could be meant; `lovage tasks versions {name}` \
             shows them",
            one_line(beginning, 100)
        ))
        .into()),
        _ => Err(Misuse(format!(
            "`{}` begins several digests of `{name}`; give more of it",
            one_line(beginning, 100)
        ))
        .into()),
    }
}

fn short(digest: &str) -> &str {
    digest.get(..DIGEST_CHARS).unwrap_or(digest)
}

fn whole_seconds(time: Timestamp) -> String {
    time.round(jiff::Unit::Second).unwrap_or(time).to_string()
}
