//! `lovage dispatch`

use std::{process::ExitCode, sync::Arc};

use clap::Args;

use super::{Global, Misuse, data, out::say};
use lovage_config::Config;
use lovage_lambda::dispatch::{Answer, Dispatcher};

/// Hand a job on as the dispatcher function does: to the worker's function, or to a queue
#[derive(Debug, Args)]
#[command(after_help = "The event is a native message; the answer is the function's:\n  \
    lovage dispatch --event '{\"data\": 21}'\n\n\
    Which function or queue it goes to, the section [dispatch] of the configuration says.")]
pub struct Dispatch {
    /// The event: JSON, @FILE, or - for standard input
    #[arg(long, short, value_name = "JSON|@FILE|-", allow_hyphen_values = true)]
    event: String,
}

impl Dispatch {
    pub(super) async fn execute(self, _: &Global, config: &Config) -> anyhow::Result<ExitCode> {
        let event = data::read_json("--event", &self.event, "an event is a JSON object")
            .map_err(|error| Misuse(format!("{error:#}")))?;
        let dispatched = match Dispatcher::connect(&Arc::new(config.clone())).await {
            Ok(dispatcher) => dispatcher.dispatch(event.into(), None).await,
            Err(error) => Err(error),
        };
        let done = dispatched.is_ok();
        say!("{}", serde_json::to_string(&Answer::from(dispatched))?)?;
        Ok(if done { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
