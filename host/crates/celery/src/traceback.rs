//! Tracebacks as Python prints them, for the clients and tools that read them by their lines.

use super::{exception::Exception, repr};

const HEADING: &str = "Traceback (most recent call last):";

/// The traceback of a failure. A guest in Python has its own, which stays; of others the task is the
/// one frame, and what the guest or the sandbox says of the place stands below it.
pub fn of(exception: &Exception, task: &str, detail: Option<&str>) -> String {
    let detail = detail.unwrap_or_default().trim_end();
    if let Some(at) = detail.find(HEADING) {
        return detail.get(at..).unwrap_or(detail).to_owned();
    }
    let name = lovage_core::text::one_line(task, 200).replace('"', "'");
    let mut out = format!("{HEADING}\n  File \"{name}.wasm\", line 1, in {name}\n");
    for line in detail.lines() {
        out.push_str("    ");
        out.push_str(line);
        out.push('\n');
    }
    match exception.module.as_deref() {
        Some("builtins") | None => {}
        Some(module) => {
            out.push_str(module);
            out.push('.');
        }
    }
    out.push_str(&exception.kind);
    let args = &exception.args;
    let text = match args.as_slice() {
        [only] => only.as_string().unwrap_or_else(|| only.text().to_owned()),
        [] => String::new(),
        several => repr::tuple(several),
    };
    if !text.is_empty() {
        out.push_str(": ");
        out.push_str(&text);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceback_has_a_frame_and_ends_with_the_exception() {
        let exception = Exception::of_failure("ValueError", "no");
        assert_eq!(
            of(&exception, "work", Some("0: work!run\n")),
            "Traceback (most recent call last):\n  File \"work.wasm\", line 1, in work\n    0: \
             work!run\nValueError: no"
        );
        let own =
            "noise\nTraceback (most recent call last):\n  File \"a.py\", line 3, in f\nE: no\n";
        assert_eq!(of(&exception, "work", Some(own)), own.trim_end().trim_start_matches("noise\n"));
        let chord = Exception::chord("it failed");
        assert!(of(&chord, "w", None).ends_with("celery.exceptions.ChordError: it failed"));
    }
}
