//! The command line. Commands are thin: they read what they are given, call the library, and
//! print. Results go to standard output, everything else to standard error.
//!
//! Exit codes: 0 done, 1 it failed, 2 misuse. A reader who goes away early is no failure.

pub mod http;

use std::{io::IsTerminal as _, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};

use self::out::{Closed, complain};
use lovage_config::{Config, LogFormat};
use lovage_platform::time_slice;
use lovage_runtime::telemetry::Delivery;

mod ask;
pub mod build;
mod celery;
mod check;
mod compile;
mod config;
mod data;
#[cfg(feature = "local")]
mod db;
#[cfg(feature = "local")]
mod dev;
mod dispatch;
mod dlq;
mod inspect;
mod language;
mod new;
mod out;
mod project;
#[cfg(feature = "remote")]
mod push;
mod redrive;
mod results;
mod revoke;
mod run;
mod send;
mod sign;
mod signals;
mod status;
mod sweep;
mod tasks;
mod test;
mod usage;
mod worker;

/// Exit code for misuse: what clap uses, too.
const MISUSE: u8 = 2;

/// What was asked for makes no sense, whatever the state of queues and components.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Misuse(String);

/// Runs background tasks that are WebAssembly components.
#[derive(Debug, Parser)]
#[command(
    name = "lovage",
    version,
    about = "A task runtime whose tasks are WebAssembly components",
    arg_required_else_help = true,
    propagate_version = true
)]
#[command(
    after_help = "Make a task of your own, in Rust, Python, JavaScript, TypeScript, C, Go, Zig or \
    AssemblyScript:\n  \
    lovage new greet --lang python\n\n\
    Run one job, without any broker:\n  \
    lovage run guest-tasks/dist/process_data.wasm --data 21\n\n\
    Run a worker on the embedded broker, and send it a job:\n  \
    lovage worker --components guest-tasks/dist &\n  \
    lovage send process_data --data 21 --wait"
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Everywhere")]
struct Global {
    /// The configuration; lovage.toml in the working directory when there is one
    #[arg(long, short, global = true, env = "LOVAGE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// What to log: error, warn, info, debug, trace, or directives such as warn,lovage=debug
    #[arg(long, global = true, env = "LOVAGE_LOG", value_name = "LEVEL")]
    log: Option<String>,
    /// Print JSON, for scripts; what `worker` and `lambda` print is their log
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a project for a task
    New(new::New),
    /// Build a project's component
    Build(build::Build),
    /// Run a project's test cases, each in a sandbox
    Test(test::Test),
    /// Run one job in a sandbox, without any broker
    Run(run::Run),
    /// Build a task, serve it, and do both again whenever a file is saved
    #[cfg(feature = "local")]
    Dev(dev::Dev),
    /// Take jobs from queues and run them until told to stop
    Worker(worker::Worker),
    /// Serve as an AWS Lambda function
    #[command(after_help = "In AWS Lambda the package of `make lambda` does it by itself: see \
        docs/lambda.md.\nWith an emulator of its runtime API:\n  \
        AWS_LAMBDA_RUNTIME_API=127.0.0.1:9001 lovage lambda")]
    Lambda,
    /// Send a job to a queue
    Send(send::Send),
    /// Show what is known of a job: its result, or how far it is
    Status(status::Status),
    /// Say that jobs are wanted by nobody any more
    Revoke(revoke::Revoke),
    /// Hand a job on as the dispatcher function does: to the worker's function, or to a queue
    Dispatch(dispatch::Dispatch),
    /// Show what a component is: its tasks, schemas, imports and contract
    Inspect(inspect::Inspect),
    /// Show what a component asks for and what of it is granted
    Check(check::Check),
    /// Look at what clients of Celery's send
    Celery(celery::Celery),
    /// Compile components ahead of time, for builds without a compiler
    Compile(compile::Compile),
    /// What the program calls itself for, to compile one component within bounds
    #[cfg(feature = "compiler")]
    #[command(name = lovage_sandbox::compiler::COMMAND, hide = true)]
    CompileStandardInput,
    /// What the program calls itself for, to run attempts apart from its own
    #[cfg(feature = "isolation")]
    #[command(name = lovage_runtime::isolation::COMMAND, hide = true)]
    RunAttempts,
    /// Look at dead letters, send them back, and delete them
    Dlq(dlq::Dlq),
    /// Look at a queue of results, and empty it
    Results(results::Results),
    /// Look at the embedded broker's file, and make it smaller
    #[cfg(feature = "local")]
    Db(db::Db),
    /// Show which versions of tasks are served, and go back to an earlier one
    Tasks(tasks::Tasks),
    /// Sign a component, or make a key for that
    Sign(sign::Sign),
    /// Put a component into an OCI registry, with its signatures
    #[cfg(feature = "remote")]
    Push(push::Push),
    /// Check a component's signatures by the keys of the configuration
    Verify(sign::Verify),
    /// Show what attempts cost, by tenant and task
    Usage(usage::Usage),
    /// Check the configuration, or show it as it holds
    Config(config::ConfigCommand),
    /// Print completions for a shell
    #[command(after_help = "For this shell, and for those to come:\n  \
        source <(lovage completions bash)\n  \
        lovage completions fish > ~/.config/fish/completions/lovage.fish")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Parses the command line and runs it.
pub fn main() -> ExitCode {
    // A service that is just starting is not to die of a signal that means something to it.
    if std::env::args_os().any(|word| word == "worker" || word == "dev") {
        signals::ignore_until_handled();
    }
    #[cfg(feature = "compiler")]
    lovage_sandbox::compiler::compile_in_children();
    let code = run(Cli::parse());
    lovage_runtime::telemetry::flush();
    code
}

fn run(cli: Cli) -> ExitCode {
    match execute(cli) {
        Ok(code) => code,
        Err(error) if error.is::<Closed>() => ExitCode::SUCCESS,
        Err(error) => {
            complain!("error: {}", lovage_core::events::Chain(error.as_ref()));
            if error.is::<Misuse>() { ExitCode::from(MISUSE) } else { ExitCode::FAILURE }
        }
    }
}

fn execute(cli: Cli) -> anyhow::Result<ExitCode> {
    let Cli { global, command } = cli;
    match command {
        Command::Completions { shell } => {
            let mut command = <Cli as clap::CommandFactory>::command();
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut command, "lovage", &mut script);
            out::write(&script)?;
            Ok(ExitCode::SUCCESS)
        }
        #[cfg(feature = "compiler")]
        Command::CompileStandardInput => Ok(lovage_sandbox::compiler::main()),
        #[cfg(feature = "isolation")]
        Command::RunAttempts => Ok(lovage_runtime::isolation::main()),
        Command::Config(command) => block_on(0, command.execute(&global)),
        Command::New(command) => command.execute(&global),
        Command::Build(command) => command.execute(&global),
        Command::Test(command) => {
            let config = global.load()?;
            let component = command.component()?;
            block_on(0, command.execute(&global, &config, &component))
        }
        Command::Run(command) => block_on(0, command.execute(&global, &global.load()?)),
        Command::Send(command) => block_on(0, command.execute(&global, &global.load()?)),
        Command::Status(command) => block_on(0, command.execute(&global, &global.load()?)),
        Command::Revoke(command) => block_on(0, command.execute(&global, &global.load()?)),
        Command::Dispatch(command) => block_on(0, command.execute(&global, &global.load()?)),
        Command::Inspect(command) => block_on(0, command.execute(&global, &global.load()?)),
        Command::Check(command) => block_on(0, command.execute(&global, &global.load()?)),
        Command::Celery(command) => block_on(0, command.execute(&global, &global.load()?)),
        Command::Compile(command) => block_on(0, command.execute(&global, &global.load()?)),
        Command::Sign(command) => block_on(0, command.execute(&global, &global.load()?)),
        #[cfg(feature = "remote")]
        Command::Push(command) => block_on(0, command.execute(&global, &global.load()?)),
        Command::Verify(command) => command.execute(&global, &global.load()?),
        Command::Tasks(command) => block_on(0, command.execute(&global, &global.load()?)),
        Command::Usage(command) => block_on(0, command.execute(&global, &global.load()?)),
        Command::Dlq(command) => block_on(0, command.execute(&global, &global.load()?)),
        Command::Results(command) => block_on(0, command.execute(&global, &global.load()?)),
        #[cfg(feature = "local")]
        Command::Db(command) => block_on(0, command.execute(&global, &global.load()?)),
        #[cfg(feature = "local")]
        Command::Dev(command) => {
            let config = global.load_service(|config| command.amend(config))?;
            block_on(config.worker.threads, command.execute(config))
        }
        Command::Worker(command) => {
            let config = global.load_service(|config| command.amend(config))?;
            block_on(config.worker.threads, command.execute(config))
        }
        Command::Lambda => {
            let config = global.load_service(|_| Ok(()))?;
            block_on(config.worker.threads, lovage_lambda::serve(config))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

impl Global {
    /// The configuration for a command that answers on standard output: quiet unless asked, but
    /// for the progress that a person would wait for.
    fn load(&self) -> anyhow::Result<Config> {
        self.load_with(Delivery::Direct, |config| {
            if config.log == lovage_config::LogConfig::default() {
                let watched = std::io::stderr().is_terminal();
                let level = if watched { "error,lovage::compile=info" } else { "error" };
                level.clone_into(&mut config.log.level);
            }
            Ok(())
        })
    }

    /// The configuration for a command whose output is its log.
    fn load_service(
        &self,
        amend: impl FnOnce(&mut Config) -> anyhow::Result<()>,
    ) -> anyhow::Result<Config> {
        self.load_with(Delivery::Buffered, |config| {
            if self.json {
                config.log.format = LogFormat::Json;
            }
            amend(config)
        })
    }

    /// The configuration as a command's flags amend it, with logging started.
    fn load_with(
        &self,
        delivery: Delivery,
        amend: impl FnOnce(&mut Config) -> anyhow::Result<()>,
    ) -> anyhow::Result<Config> {
        let mut config = Config::load(self.config.as_deref(), environment())?;
        amend(&mut config)?;
        if let Some(level) = &self.log {
            config.log.level.clone_from(level);
        }
        lovage_runtime::telemetry::start(&config.log, delivery)?;
        Ok(config)
    }
}

/// The environment, as far as it is text.
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// Runs a command on a runtime of its own; as many threads as there are CPUs when `threads` is 0.
fn block_on<T>(
    threads: usize,
    command: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if threads > 0 {
        builder.worker_threads(threads);
    }
    builder.on_thread_start(time_slice::shorten);
    let runtime = builder.enable_all().build()?;
    time_slice::shorten();
    let result = runtime.block_on(command);
    // Nothing that is still blocked in the background may hold up the exit.
    runtime.shutdown_background();
    result
}
