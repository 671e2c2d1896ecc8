//! The `lovage` command.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[cfg(feature = "cli")]
fn main() -> ExitCode {
    lovage::backtraces::leave_out();
    // AWS Lambda starts the file `bootstrap`, without arguments.
    let name = std::env::args_os().next().map(std::path::PathBuf::from);
    let is_bootstrap = name.as_deref().and_then(std::path::Path::file_name)
        == Some(std::ffi::OsStr::new("bootstrap"));
    if is_bootstrap && std::env::var_os("AWS_LAMBDA_RUNTIME_API").is_some() {
        return lovage::lambda::main();
    }
    lovage::cli::main()
}

/// The build for AWS Lambda: no commands.
#[cfg(not(feature = "cli"))]
fn main() -> ExitCode {
    lovage::backtraces::leave_out();
    lovage::lambda::main()
}
