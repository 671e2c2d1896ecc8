//! `lovage config`

use std::{process::ExitCode, time::Duration};

use clap::{Args, Subcommand};
use futures_util::future::join_all;

use super::{Global, environment, out, out::complain, out::say};
use lovage_config::Config;
use lovage_runtime::load;
use lovage_services::{
    keyvalue::KeyValue,
    store::{self, Guarded},
};

/// Check the configuration, or show it as it holds
#[derive(Debug, Args)]
#[command(after_help = "Before a deployment:\n  lovage --config lovage.toml config check")]
pub struct ConfigCommand {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Debug, Clone, Copy, Subcommand)]
enum Verb {
    /// Say whether the configuration is right, and if not what is wrong where
    #[command(after_help = "  lovage --config lovage.toml config check\n\n\
        It tries the stores that the configuration names (celery.result_backend, keyvalue.url), \
         as a worker does. Exit code 1 when something is wrong, or a store is away or refuses. \
         Warnings, such as of signing keys that expire soon, do not change it.")]
    Check {
        /// Try no store: the configuration alone is checked
        #[arg(long)]
        offline: bool,
    },
    /// Print the configuration with the environment over it
    #[command(after_help = "  LOVAGE__WORKER__CONCURRENCY=8 lovage config show")]
    Show,
}

/// How long a store may take to answer.
const PATIENCE: Duration = Duration::from_secs(15);

impl ConfigCommand {
    pub(super) async fn execute(&self, global: &Global) -> anyhow::Result<ExitCode> {
        let checked = Config::load(global.config.as_deref(), environment()).and_then(|config| {
            if matches!(self.command, Verb::Check { .. }) {
                config.check_dispatch()?;
            }
            Ok(config)
        });
        let config = match checked {
            Ok(config) => config,
            Err(error) if global.json && matches!(self.command, Verb::Check { .. }) => {
                say!("{}", serde_json::json!({"ok": false, "error": error.to_string()}))?;
                return Ok(ExitCode::FAILURE);
            }
            Err(error) => return Err(error.into()),
        };
        let warnings = load::warnings(&config);
        if let Verb::Check { offline: false } = self.command
            && let Some(why) = try_stores(&config).await?
        {
            if global.json {
                say!("{}", serde_json::json!({"ok": false, "error": why}))?;
                return Ok(ExitCode::FAILURE);
            }
            anyhow::bail!(why);
        }
        let config = config.without_passwords();
        if matches!(self.command, Verb::Check { .. }) && !global.json {
            for warning in &warnings {
                complain!("warning: {warning}");
            }
        }
        match (self.command, global.json) {
            (Verb::Check { .. }, true) => {
                say!("{}", serde_json::json!({"ok": true, "warnings": warnings}))
            }
            (Verb::Check { .. }, false) => {
                say!("ok: takes jobs from {}", config.consumed_queues().join(", "))
            }
            (Verb::Show, true) => say!("{}", serde_json::to_string_pretty(&config)?),
            (Verb::Show, false) => out::write(toml::to_string(&config)?.as_bytes()),
        }?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Tries the stores that workers need; what is wrong with those that do not answer as they should.
async fn try_stores(config: &Config) -> anyhow::Result<Option<String>> {
    let mut stores = Vec::new();
    if let Some(store) = store::open(config).map_err(anyhow::Error::msg)? {
        stores.push(Guarded::new(store).1);
    }
    if config.grants_buckets() {
        let keyvalue = KeyValue::new(&config.keyvalue).map_err(anyhow::Error::msg)?;
        stores.extend(keyvalue.dependency().cloned());
    }
    let tried = stores.iter().map(async |store| {
        let answer = tokio::time::timeout(PATIENCE, store.ask()).await;
        let why = match answer {
            Ok(Ok(())) => return None,
            Ok(Err(why)) => why,
            Err(_) => format!("no answer within {PATIENCE:?}"),
        };
        Some(format!("{}: {why}", store.name()))
    });
    let wrong: Vec<_> = join_all(tried).await.into_iter().flatten().collect();
    if wrong.is_empty() {
        return Ok(None);
    }
    Ok(Some(format!("{} (`--offline` tries no store)", wrong.join("; "))))
}
