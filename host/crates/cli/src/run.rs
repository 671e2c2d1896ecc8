//! `lovage run`

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use clap::Args;
use serde::Serialize;
use serde_json::{Value, json, value::RawValue};

use super::{Global, Misuse, data, out, out::complain};
use lovage_config::Config;
use lovage_core::{
    job::Job,
    media_type::{JSON, is_json},
    outcome::{Failure, Outcome},
    text::{one_line, printable},
    usage::Cost,
};
use lovage_registry::{Origin, Registry, Task};
use lovage_runtime::{
    load,
    settings::{Advice, Settings},
};
use lovage_sandbox::{Plan, Report};

/// Run one job in a sandbox, without any broker
#[derive(Debug, Args)]
#[command(after_help = "  lovage run guest-tasks/dist/process_data.wasm --data 21\n  \
    echo '[1, 2]' | lovage run guest-tasks/dist/process_data.wasm --data -\n\n\
    The value goes to standard output. Exit code 0 when there is one, 1 when there is none, 2 on \
    misuse.")]
pub struct Run {
    /// The component, a .wasm file
    component: PathBuf,
    /// The task; needed where the component serves several
    task: Option<String>,
    /// The payload: JSON, @FILE, or - for standard input
    #[arg(
        long,
        short,
        value_name = "JSON|@FILE|-",
        default_value = "null",
        allow_hyphen_values = true
    )]
    data: String,
    /// The payload's media type, where it is not JSON
    #[arg(long, default_value = JSON)]
    content_type: String,
    /// The job's id; a new one when absent
    #[arg(long)]
    id: Option<String>,
    /// Who the job is for
    #[arg(long, default_value = "")]
    tenant: String,
    /// Which attempt it is
    #[arg(long, default_value_t = 1)]
    attempt: u32,
    /// Wall time, over the settings
    #[arg(long, value_parser = data::duration)]
    timeout: Option<Duration>,
    /// A header for the task; may be given again
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = data::pair)]
    headers: Vec<(String, String)>,
    /// Show what the task wrote to standard output and standard error
    #[arg(long)]
    show_output: bool,
}

impl Run {
    pub(super) async fn execute(
        self,
        global: &Global,
        config: &Config,
    ) -> anyhow::Result<ExitCode> {
        let payload = if is_json(&self.content_type) {
            data::read_json("--data", &self.data, "--content-type says what else it is")
        } else {
            data::read(&self.data)
        };
        let payload = payload.map_err(|error| Misuse(format!("{error:#}")))?;
        let sandbox = load::sandbox(config, 1)?;
        let origins = [Origin::Wasm(self.component.clone())];
        let registry = Registry::load(&sandbox, &origins, &load::options(config)).await?;
        let task = pick(&registry, &self.component, self.task.as_deref())?;
        let id = self.id.unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
        let mut job = Job::new(id, &task.spec.name, payload);
        job.content_type = self.content_type;
        job.tenant = self.tenant;
        job.attempt = self.attempt.max(1);
        job.headers = self
            .headers
            .into_iter()
            .map(|(name, value)| (name.to_ascii_lowercase(), value))
            .collect();
        let mut plan = plan(config, &task, &job)?;
        plan.limits.timeout = self.timeout.unwrap_or(plan.limits.timeout);
        let report = sandbox.run(&task.component, job.clone(), &plan).await;
        sandbox.close_scratch().await;
        if self.show_output {
            for (name, tail) in [("stdout", &report.stdout), ("stderr", &report.stderr)] {
                for line in tail.text().lines() {
                    complain!("{name}: {line}");
                }
            }
        }
        if global.json { show_json(&job, &report) } else { show(&report) }
    }
}

/// The task of that name; the only one where none is named.
pub(super) fn pick(
    registry: &Registry,
    component: &Path,
    name: Option<&str>,
) -> Result<Arc<Task>, Misuse> {
    match (name, registry.tasks().as_slice()) {
        (Some(name), tasks) => registry.get(name).ok_or_else(|| {
            Misuse(format!(
                "{} serves no task `{}`; it serves {}",
                component.display(),
                one_line(name, 200),
                names(tasks)
            ))
        }),
        (None, [only]) => Ok(Arc::clone(only)),
        (None, tasks) => Err(Misuse(format!(
            "{} serves several tasks; name one of {}",
            component.display(),
            names(tasks)
        ))),
    }
}

/// What a job may use by the configuration.
pub(super) fn plan(config: &Config, task: &Task, job: &Job) -> anyhow::Result<Plan> {
    let settings = Settings::of_task(config, &job.task, Advice::from(&task.spec))
        .for_tenant(config, &job.tenant);
    let grants = config.grants_of(&job.task, &job.tenant).map_err(anyhow::Error::msg)?;
    Ok(Plan {
        limits: settings.limits,
        grants: Arc::new(grants),
        log_guests: config.log.guests,
        check_payload: settings.check_payload,
        max_attempts: settings.max_attempts.max(job.attempt),
        ..Plan::default()
    })
}

fn names(tasks: &[Arc<Task>]) -> String {
    tasks.iter().map(|task| task.spec.name.as_str()).collect::<Vec<_>>().join(", ")
}

/// What the attempt came to, in a word, with why there is no value.
pub(super) fn explain(outcome: &Outcome) -> (&'static str, Option<Failure>) {
    match outcome {
        Outcome::Done(_) => ("done", None),
        Outcome::Retry { failure, after } => {
            let mut failure = failure.clone();
            if let Some(after) = after {
                failure.message =
                    format!("{} (asks to be tried again after {after:?})", failure.message);
            }
            ("retry", Some(failure))
        }
        Outcome::Snooze { after } => (
            "snooze",
            Some(Failure::new(
                "snooze",
                format!("not ready yet; asks to be run again after {after:?}"),
            )),
        ),
        Outcome::Failed(failure) => ("failed", Some(failure.clone())),
        Outcome::Rejected(failure) => ("rejected", Some(failure.clone())),
        Outcome::TimedOut(failure) => ("timed_out", Some(failure.clone())),
        Outcome::Crashed(failure) => ("crashed", Some(failure.clone())),
        Outcome::HostFault(failure) => ("host_fault", Some(failure.clone())),
        Outcome::Expired | Outcome::Revoked | Outcome::Abandoned | Outcome::Left { .. } => {
            ("abandoned", Some(Failure::new("abandoned", "it was not run")))
        }
    }
}

fn show(report: &Report) -> anyhow::Result<ExitCode> {
    if let Outcome::Done(output) = &report.outcome {
        out::write_foreign(&output.data)?;
        if is_json(&output.content_type) {
            out::write(b"\n")?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    if let (status, Some(failure)) = explain(&report.outcome) {
        print_failure(status, &failure.kind, &failure.message, failure.detail.as_deref());
    }
    Ok(ExitCode::FAILURE)
}

/// Tells a person why a job has no value.
pub(super) fn print_failure(status: &str, kind: &str, message: &str, detail: Option<&str>) {
    // Where the kind says no more than the status, once is enough.
    let kind = if kind == status { String::new() } else { printable(kind, 200) + ": " };
    complain!("{status}: {kind}{}", printable(message, 8192));
    if let Some(detail) = detail {
        for line in printable(detail, 65536).lines() {
            complain!("  {line}");
        }
    }
}

/// The attempt as JSON.
#[derive(Serialize)]
struct Shown<'a> {
    id: &'a str,
    task: &'a str,
    status: &'a str,
    attempt: u32,
    // As it is: parsing and printing it would change large numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Value>,
    usage: Cost,
    stdout: String,
    stderr: String,
}

fn show_json(job: &Job, report: &Report) -> anyhow::Result<ExitCode> {
    let (status, failure) = explain(&report.outcome);
    let mut shown = Shown {
        id: &job.id,
        task: &job.task,
        status,
        attempt: job.attempt,
        data: None,
        data_base64: None,
        content_type: None,
        error: failure
            .map(|it| json!({"kind": it.kind, "message": it.message, "detail": it.detail})),
        usage: report.usage.into(),
        stdout: report.stdout.text(),
        stderr: report.stderr.text(),
    };
    let output = if let Outcome::Done(output) = &report.outcome { Some(output) } else { None };
    if let Some(output) = output {
        if is_json(&output.content_type) {
            shown.data = Some(serde_json::from_slice(&output.data)?);
        } else {
            shown.data_base64 = Some(BASE64_STANDARD.encode(&output.data));
            shown.content_type = Some(&output.content_type);
        }
    }
    out::write_foreign((serde_json::to_string_pretty(&shown)? + "\n").as_bytes())?;
    Ok(if output.is_some() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
