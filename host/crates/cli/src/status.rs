//! `lovage status`

use std::{process::ExitCode, time::Duration};

use clap::Args;
use serde_json::{Value, json};

use super::{Global, Misuse, out, out::say};
use lovage_config::Config;
use lovage_connect::connect;
use lovage_core::{
    job::JobKey,
    text::{one_line, printable},
};
use lovage_services::store;

/// Show what is known of a job: its result, or how far it is
#[derive(Debug, Args)]
#[command(after_help = "  lovage status 01a21026-858c-77bc-b96a-7fd5bcc1849a\n\n\
    The embedded broker keeps results and progress by a job's id, and the result store \
    (celery.result_backend) those of Celery's tasks. Exit code 1 when nothing is \
    known: the job waits, has not said how far it is, or never was; or it is a tenant's, which the \
    result store finds with --tenant alone.")]
pub struct Status {
    /// The job's id
    #[arg(value_name = "JOB-ID")]
    job: String,
    /// Whose job it is; found by itself where one tenant alone has a job of that id
    #[arg(long)]
    tenant: Option<String>,
}

impl Status {
    pub(super) async fn execute(
        self,
        global: &Global,
        config: &Config,
    ) -> anyhow::Result<ExitCode> {
        let broker = connect(config).await?;
        let store = store::open(config).map_err(anyhow::Error::msg)?;
        let tenant = match &self.tenant {
            Some(tenant) => tenant.clone(),
            None => only_tenant(&broker.tenants_of(&self.job).await?)?,
        };
        let job = JobKey::new(&tenant, &self.job);
        let kept = match &store {
            Some(store) => {
                store.get(&tenant, std::slice::from_ref(&self.job)).await?.pop().flatten()
            }
            None => None,
        };
        let result = match (&kept, broker.limits().keeps_results || store.is_none()) {
            (None, true) => broker.result(job, Duration::ZERO).await?,
            _ => None,
        };
        let known = match result {
            _ if kept.is_some() => serde_json::from_slice(kept.as_deref().unwrap_or_default())?,
            Some(envelope) => serde_json::from_slice::<Value>(&envelope)?,
            None if store.is_some() && !broker.limits().keeps_results => {
                json!({"id": self.job, "status": "unknown"})
            }
            None => match broker.progress(job).await? {
                Some(progress) => {
                    json!({"id": self.job, "status": "running", "progress": progress})
                }
                None => json!({"id": self.job, "status": "unknown"}),
            },
        };
        let text =
            |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
        let status = text(known.get("status"));
        if global.json {
            out::write_foreign((serde_json::to_string_pretty(&known)? + "\n").as_bytes())?;
        } else if let Some(progress) = known.get("progress") {
            let percent = progress.get("percent").and_then(Value::as_u64).unwrap_or_default();
            say!("running: {percent}% {}", one_line(&text(progress.get("message")), 200))?;
        } else if let Some(error) = known.get("error") {
            say!("{status}: {}", printable(&text(error.get("message")), 8192))?;
        } else {
            say!("{status}")?;
        }
        Ok(if status == "unknown" { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

/// The tenant that has a job of an id, where there is no question which.
fn only_tenant(tenants: &[String]) -> Result<String, Misuse> {
    match tenants {
        [] => Ok(String::new()),
        [only] => Ok(only.clone()),
        several => {
            let names: Vec<_> = several
                .iter()
                .map(|tenant| match tenant.as_str() {
                    "" => "\"\" (none)".to_owned(),
                    tenant => one_line(tenant, 200),
                })
                .collect();
            Err(Misuse(format!(
                "several tenants have a job of that id; use --tenant with one of: {}",
                names.join(", ")
            )))
        }
    }
}
