//! Writes more than anyone asked for.

use std::io::{Result, Write};

use lovage_task::{Raw, task};
use schemars::JsonSchema;
use serde::Deserialize;

/// How much to write where.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
#[allow(clippy::struct_field_names, reason = "the unit belongs to the name")]
struct Request {
    /// Bytes on standard output.
    stdout_bytes: usize,
    /// Bytes on standard error.
    stderr_bytes: usize,
    /// Bytes of output: a JSON string, so 2 at least; `0` when less is asked for.
    output_bytes: usize,
}

/// Writes so many bytes to standard output and standard error, and gives back so many more.
#[task]
fn flood(request: Request) -> Result<Raw> {
    write(std::io::stdout().lock(), request.stdout_bytes)?;
    write(std::io::stderr().lock(), request.stderr_bytes)?;
    let json = match request.output_bytes.checked_sub(2) {
        Some(inside) => format!("\"{}\"", "x".repeat(inside)),
        None => "0".to_owned(),
    };
    Ok(Raw::new("application/json", json))
}

/// In lines that carry their number, so that a test can tell a tail from a head.
fn write(mut stream: impl Write, bytes: usize) -> Result<()> {
    const LINE: usize = 64;

    for start in (0..bytes).step_by(LINE) {
        let line = format!("{:.>width$}\n", start / LINE, width = LINE - 1);
        let wanted = LINE.min(bytes - start);
        stream.write_all(line.as_bytes().get(..wanted).unwrap_or_default())?;
    }
    stream.flush()
}

lovage_task::export!(flood);
