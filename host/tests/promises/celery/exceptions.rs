//! Failures as the clients of every version of Celery make exceptions of them.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use lovage::celery::{Exception, exception::KNOWN};
use serde_json::{Value, json};

use super::here;
use crate::support::ministack::venv;

/// What `setup.sh` installs beside the newest.
const VERSIONS: [&str; 5] = ["5.3.6", "5.4.0", "5.5.3", "5.6.3", "5.7.0"];

/// Kinds that a hostile guest may name.
const HOSTILE: &[&str] = &[
    "os.system",
    "subprocess.Popen",
    "shop.errors.run",
    "shop.errors.Popen",
    "shop.errors.NoStock.__init__",
    "builtins.eval",
    "builtins.exec",
    "eval",
    "print",
    "SystemExit",
    "builtins.SystemExit",
    "KeyboardInterrupt",
    "GeneratorExit",
    "StopIteration",
    "celery.exceptions.WorkerShutdown",
    "celery.exceptions.WorkerTerminate",
    "celery.exceptions.Reject",
    "celery.exceptions.Ignore",
    "celery.exceptions.Retry",
    "celery.exceptions.ClickException",
    "traceback.TracebackException",
    "sys.exit",
    "a\0b",
    "",
    ".",
    "..",
    "\n",
    "ä.ö",
    "__import__",
    "shop.errors.",
    ".NoStock",
];

fn decoded(version: &str, stored: &[Value]) -> Value {
    let mut command = Command::new(venv().join("bin/python"));
    command
        .arg(here().join("decode.py"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let own = venv().join(format!("celery-{version}"));
    if own.exists() {
        command.env("PYTHONPATH", own);
    }
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(json!(stored).to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{version}");
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["version"], version, "make test-setup installs the versions of Celery");
    found
}

fn stored(exception: &Exception) -> Value {
    serde_json::from_str(exception.json().text()).unwrap()
}

#[test]
fn a_failure_names_only_exception_classes_to_every_version_of_celery() {
    let vouched = ["shop.errors.NoStock".to_owned()];
    let mut kinds: Vec<String> = HOSTILE.iter().map(|&kind| kind.to_owned()).collect();
    kinds.extend(
        KNOWN
            .iter()
            .flat_map(|(module, names)| names.iter().map(move |name| format!("{module}.{name}"))),
    );
    kinds.push("shop.errors.NoStock".to_owned());
    let exceptions: Vec<Exception> =
        kinds.iter().map(|kind| Exception::of_guest(kind, "why", &vouched)).collect();
    let all: Vec<Value> = exceptions.iter().map(stored).collect();
    for version in VERSIONS {
        let found = decoded(version, &all);
        assert_eq!(found["called"], 0, "{version}: {found}");
        for ((kind, exception), found) in
            kinds.iter().zip(&exceptions).zip(found["found"].as_array().unwrap())
        {
            assert_eq!(found["is"], true, "{version} {kind:?}: {found}");
            let name = found["name"].as_str().unwrap();
            // Python's own name for it is the other one.
            let expected = match last(&exception.kind) {
                "IOError" => "OSError",
                other => other,
            };
            assert_eq!(name.rsplit('.').next().unwrap(), expected, "{kind:?} {found}");
            assert!(found["text"].as_str().unwrap().contains("why"), "{version} {kind:?}: {found}");
        }
    }
    // Without the rule clients would look up what is no exception.
    let hostile = json!({"exc_type": "run", "exc_module": "shop.errors", "exc_message": ["why"]});
    let refused = std::panic::catch_unwind(|| decoded("5.7.0", &[hostile]));
    assert!(refused.is_err(), "the client refuses it: {refused:?}");
}

fn last(kind: &str) -> &str {
    kind.rsplit('.').next().unwrap_or(kind)
}
