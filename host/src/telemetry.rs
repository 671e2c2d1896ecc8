//! Logs: for people or as JSON, always to standard error, so that standard output stays a
//! command's own.

use tracing_subscriber::{EnvFilter, fmt::format::FmtSpan};

use crate::config::{LogConfig, LogFormat};

/// Starts logging as configured. The second call in a process does nothing.
pub fn start(config: &LogConfig) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&config.level).map_err(|error| {
        anyhow::anyhow!(
            "log.level `{}` is no level and no filter ({error}); use `info`, or directives such \
             as `warn,lovage=debug`",
            config.level
        )
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_span_events(FmtSpan::NONE)
        .with_writer(std::io::stderr);
    let json = match config.format {
        LogFormat::Auto => std::env::var_os("AWS_LAMBDA_RUNTIME_API").is_some(),
        LogFormat::Human => false,
        LogFormat::Json => true,
    };
    // An error means that somebody else has started logging already.
    let _ = if json {
        builder.json().flatten_event(true).with_current_span(true).try_init()
    } else {
        let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
        builder.with_ansi(colours).with_target(false).try_init()
    };
    Ok(())
}
