//! `lovage revoke`

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::{Global, out, out::say};
use lovage_config::Config;
use lovage_connect::connect;
use lovage_services::store;

/// Say that jobs are wanted by nobody any more
#[derive(Debug, Args)]
#[command(after_help = "  lovage revoke 01a21026-858c-77bc-b96a-7fd5bcc1849a\n\n\
    A job that has yet to run is not run. One that runs is told so within a second, and ends when \
    its task looks at it, or at its timeout. It is kept by the embedded broker, and on SQS by the \
    result store (celery.result_backend).")]
pub struct Revoke {
    /// The jobs' ids
    #[arg(required = true, value_name = "JOB-ID")]
    jobs: Vec<String>,
    /// Whose jobs they are; without it the ids are revoked for every tenant
    #[arg(long)]
    tenant: Option<String>,
}

impl Revoke {
    pub(super) async fn execute(
        self,
        global: &Global,
        config: &Config,
    ) -> anyhow::Result<ExitCode> {
        let store = store::open(config).map_err(anyhow::Error::msg)?;
        if let Some(store) = &store {
            store.revoke(self.tenant.as_deref(), &self.jobs).await?;
        }
        let broker = connect(config).await?;
        // Where there is a store, the broker need not keep anything.
        if store.is_none() || broker.limits().keeps_results {
            for job in &self.jobs {
                broker.revoke(self.tenant.as_deref(), job).await?;
            }
        }
        if global.json {
            out::write_foreign(format!("{}\n", json!({"revoked": self.jobs})).as_bytes())?;
        } else {
            say!("{} job(s) revoked", self.jobs.len())?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
