//! Namespaces of a test's own, where it may mount what nobody else sees.

use std::{io::Write as _, process::Command, sync::OnceLock};

/// A command that runs in namespaces of its own where it may mount, or why there are none.
pub fn command() -> Result<Command, String> {
    static FLAG: OnceLock<Result<&str, String>> = OnceLock::new();
    let flag = FLAG.get_or_init(|| {
        // As root of a user namespace; else as the root that one is, as in containers.
        let Some(refusal) = refusal("-rm") else { return Ok("-rm") };
        match self::refusal("-m") {
            None => Ok("-m"),
            Some(_) => Err(refusal),
        }
    });
    let mut command = Command::new("unshare");
    command.arg((*flag).as_ref().map_err(Clone::clone)?);
    Ok(command)
}

fn refusal(flag: &str) -> Option<String> {
    let probe = [flag, "mount", "-t", "tmpfs", "none", "/mnt"];
    match Command::new("unshare").args(probe).output() {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).into_owned()),
        Err(error) => Some(error.to_string()),
    }
}

/// Says that a promise is not tested, past the test harness, which shows nothing of a test that
/// passes.
pub fn skipped(promise: &str, why: &str) {
    let mut stderr = std::io::stderr();
    writeln!(stderr, "\nSKIPPED {promise}: nothing can be mounted: {why}").unwrap();
}
