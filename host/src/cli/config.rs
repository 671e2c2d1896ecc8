//! `lovage config`

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::{Global, environment, out, out::say};
use crate::{config::Config, load};

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
        Exit code 1 when something is wrong. Warnings, such as of signing keys that expire soon, do \
        not change it.")]
    Check,
    /// Print the configuration with the environment over it
    #[command(after_help = "  LOVAGE__WORKER__CONCURRENCY=8 lovage config show")]
    Show,
}

impl ConfigCommand {
    pub(super) fn execute(&self, global: &Global) -> anyhow::Result<ExitCode> {
        let checked = Config::load(global.config.as_deref(), environment()).and_then(|config| {
            if matches!(self.command, Verb::Check) {
                config.check_dispatch()?;
            }
            Ok(config)
        });
        let config = match checked {
            Ok(config) => config,
            Err(error) if global.json && matches!(self.command, Verb::Check) => {
                say!("{}", serde_json::json!({"ok": false, "error": error.to_string()}))?;
                return Ok(ExitCode::FAILURE);
            }
            Err(error) => return Err(error.into()),
        };
        let warnings = load::warnings(&config);
        let config = config.without_passwords();
        if matches!(self.command, Verb::Check) && !global.json {
            for warning in &warnings {
                eprintln!("warning: {warning}");
            }
        }
        match (self.command, global.json) {
            (Verb::Check, true) => {
                say!("{}", serde_json::json!({"ok": true, "warnings": warnings}))
            }
            (Verb::Check, false) => {
                say!("ok: takes jobs from {}", config.consumed_queues().join(", "))
            }
            (Verb::Show, true) => say!("{}", serde_json::to_string_pretty(&config)?),
            (Verb::Show, false) => out::write(toml::to_string(&config)?.as_bytes()),
        }?;
        Ok(ExitCode::SUCCESS)
    }
}
