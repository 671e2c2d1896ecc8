//! `lovage config`

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::{Global, environment};
use crate::config::Config;

/// Check the configuration, or show it as it holds
#[derive(Debug, Args)]
pub struct ConfigCommand {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Debug, Clone, Copy, Subcommand)]
enum Verb {
    /// Say whether the configuration is right, and if not what is wrong where
    Check,
    /// Print the configuration with the environment over it
    Show,
}

impl ConfigCommand {
    pub(super) fn execute(&self, global: &Global) -> anyhow::Result<ExitCode> {
        let config = match Config::load(global.config.as_deref(), environment()) {
            Ok(config) => config,
            Err(error) if global.json && matches!(self.command, Verb::Check) => {
                println!("{}", serde_json::json!({"ok": false, "error": error.to_string()}));
                return Ok(ExitCode::FAILURE);
            }
            Err(error) => return Err(error.into()),
        };
        match (self.command, global.json) {
            (Verb::Check, true) => println!("{}", serde_json::json!({"ok": true})),
            (Verb::Check, false) => {
                println!("ok: takes jobs from {}", config.consumed_queues().join(", "));
            }
            (Verb::Show, true) => println!("{}", serde_json::to_string_pretty(&config)?),
            (Verb::Show, false) => print!("{}", toml::to_string(&config)?),
        }
        Ok(ExitCode::SUCCESS)
    }
}
