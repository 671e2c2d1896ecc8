//! Failures as Celery stores them: the name of a Python exception, its module, its arguments.
//!
//! A client looks the name up in the module and calls what it finds. Clients before Celery 5.2.2 call
//! anything, such as `os.system`; later ones refuse the result with a `SecurityError` unless it is an
//! exception class. So a guest's failure names a module only where the class is known to be an
//! exception: those in [`KNOWN`], and those that the operator lists in `celery.exceptions`. Any other
//! kind has no module, and the client makes up a class of that name.

use super::json::{Json, Map};

/// A failure, as a Python exception.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exception {
    /// The class's name.
    pub kind: String,
    /// The module that it is in; clients make up a class where there is none.
    pub module: Option<String>,
    /// What the exception is made of, mostly one text.
    pub args: Vec<Json>,
    /// How it reads where it is raised, as Celery stores it with the result.
    pub traceback: Option<String>,
}

/// Exception classes that are made of one text, and whose raising does nothing else, by their modules.
/// A bare name is looked up in this order. Classes that end a program (`SystemExit`), steer a worker
/// (`Retry`, `Ignore`, `Reject`, `WorkerShutdown`) or take other arguments are not among them.
pub const KNOWN: &[(&str, &[&str])] = &[
    (
        "builtins",
        &[
            "ArithmeticError",
            "AssertionError",
            "AttributeError",
            "BlockingIOError",
            "BrokenPipeError",
            "BufferError",
            "BytesWarning",
            "ChildProcessError",
            "ConnectionAbortedError",
            "ConnectionError",
            "ConnectionRefusedError",
            "ConnectionResetError",
            "DeprecationWarning",
            "EOFError",
            "Exception",
            "FileExistsError",
            "FileNotFoundError",
            "FloatingPointError",
            "FutureWarning",
            "IOError",
            "ImportError",
            "IndexError",
            "InterruptedError",
            "IsADirectoryError",
            "KeyError",
            "LookupError",
            "MemoryError",
            "ModuleNotFoundError",
            "NameError",
            "NotADirectoryError",
            "NotImplementedError",
            "OSError",
            "OverflowError",
            "PermissionError",
            "ProcessLookupError",
            "RecursionError",
            "ReferenceError",
            "RuntimeError",
            "RuntimeWarning",
            "SyntaxError",
            "TimeoutError",
            "TypeError",
            "UnboundLocalError",
            "UserWarning",
            "ValueError",
            "Warning",
            "ZeroDivisionError",
        ],
    ),
    (
        CELERY,
        &[
            "AlreadyRegistered",
            "BackendError",
            "BackendGetMetaError",
            "BackendStoreError",
            "CeleryError",
            "ChordError",
            "ImproperlyConfigured",
            "IncompleteStream",
            "InvalidTaskError",
            "MaxRetriesExceededError",
            "NotRegistered",
            "QueueNotFound",
            "SecurityError",
            "TaskError",
            "TaskRevokedError",
            "TimeoutError",
        ],
    ),
    (BILLIARD, &["SoftTimeLimitExceeded", "Terminated", "TimeLimitExceeded", "WorkerLostError"]),
    (
        KOMBU,
        &[
            "ContentDisallowed",
            "DecodeError",
            "EncodeError",
            "KombuError",
            "LimitExceeded",
            "OperationalError",
            "SerializationError",
            "SerializerNotInstalled",
        ],
    ),
    ("lovage_celery.errors", &["ResultTooLarge", "TaskFailed"]),
    ("decimal", &["DivisionByZero", "InvalidOperation"]),
    (
        "requests.exceptions",
        &[
            "ConnectTimeout",
            "ConnectionError",
            "HTTPError",
            "ReadTimeout",
            "RequestException",
            "Timeout",
        ],
    ),
];

/// The longest name of a class that is made up, in characters.
const MAX_NAME: usize = 200;

const CELERY: &str = "celery.exceptions";
const BILLIARD: &str = "billiard.exceptions";
const KOMBU: &str = "kombu.exceptions";

impl Exception {
    /// A failure of that kind: `ValueError` and `celery.exceptions.ChordError` are the classes that
    /// clients have, and any other kind is a class that the client makes up.
    pub fn of_failure(kind: &str, message: &str) -> Self {
        Self::of_guest(kind, message, &[])
    }

    /// The same for a guest's failure. `vouched` are more classes, as `module.Name`, or
    /// `module:Outer.Name` where the class stands in another one.
    pub fn of_guest(kind: &str, message: &str, vouched: &[String]) -> Self {
        let (module, name) =
            known(kind).or_else(|| vouched_for(kind, vouched)).unwrap_or_else(|| {
                // The last part names the class that is made up.
                let last = kind.rsplit('.').next().filter(|_| is_path(kind));
                (None, last.unwrap_or(kind))
            });
        // Python makes no class of a name with a zero character.
        let fit = |c: char| if c.is_control() { '_' } else { c };
        let name: String = name.chars().take(MAX_NAME).map(fit).collect();
        let name = if name.is_empty() { "Exception" } else { &name };
        Self::new(module, name, vec![Json::string(message)])
    }

    /// Returns true if clients have a class for it.
    pub fn is_known(&self) -> bool {
        self.module.is_some()
    }

    /// With how it reads where it is raised.
    #[must_use]
    pub fn with_traceback(mut self, traceback: impl Into<String>) -> Self {
        self.traceback = Some(traceback.into());
        self
    }

    /// The time limit is over and the task was stopped.
    pub fn time_limit(seconds: f64) -> Self {
        let seconds =
            if seconds.fract() == 0.0 { format!("{seconds:.0}") } else { seconds.to_string() };
        let args = vec![Json::parse(&seconds).unwrap_or_else(Json::null)];
        Self::new(Some(BILLIARD), "TimeLimitExceeded", args)
    }

    /// The soft time limit is over and the task ended for it.
    pub fn soft_time_limit() -> Self {
        Self::new(Some(BILLIARD), "SoftTimeLimitExceeded", Vec::new())
    }

    /// The one who worked on it is gone.
    pub fn worker_lost(why: &str) -> Self {
        Self::new(Some(BILLIARD), "WorkerLostError", vec![Json::string(why)])
    }

    /// It was tried often enough.
    pub fn max_retries(task: &str, id: &str, args: &str, kwargs: &str) -> Self {
        let message = format!("Can't retry {task}[{id}] args:{args} kwargs:{kwargs}");
        Self::new(Some(CELERY), "MaxRetriesExceededError", vec![Json::string(&message)])
    }

    /// With the reason at the end of its text.
    #[must_use]
    pub fn because(mut self, kind: &str, message: &str) -> Self {
        let text = self.args.first().and_then(Json::as_string).unwrap_or_default();
        self.args = vec![Json::string(&format!("{text}: {kind}: {message}"))];
        self
    }

    /// There is no such task here.
    pub fn not_registered(task: &str) -> Self {
        Self::new(Some(CELERY), "NotRegistered", vec![Json::string(task)])
    }

    /// It was not run: `revoked`, `expired` or `terminated`.
    pub fn revoked(reason: &str) -> Self {
        Self::new(Some(CELERY), "TaskRevokedError", vec![Json::string(reason)])
    }

    /// The header of a chord failed, so its body is not run.
    pub fn chord(message: &str) -> Self {
        Self::new(Some(CELERY), "ChordError", vec![Json::string(message)])
    }

    /// The message cannot be read: pickle and the like.
    pub fn content_disallowed(message: &str) -> Self {
        Self::new(Some("kombu.exceptions"), "ContentDisallowed", vec![Json::string(message)])
    }

    /// The message is Celery's and is not as it should be.
    pub fn invalid_task(message: &str) -> Self {
        Self::new(Some(CELERY), "InvalidTaskError", vec![Json::string(message)])
    }

    fn new(module: Option<&str>, kind: &str, args: Vec<Json>) -> Self {
        Self { kind: kind.to_owned(), module: module.map(str::to_owned), args, traceback: None }
    }

    /// As it is stored in a result.
    pub fn json(&self) -> Json {
        Map::from_iter([
            ("exc_type", Json::string(&self.kind)),
            ("exc_message", Json::list(&self.args)),
            ("exc_module", Json::optional(self.module.as_deref())),
        ])
        .into()
    }

    /// Reads what was stored in a result.
    pub fn of_json(json: &Json) -> Option<Self> {
        let fields = json.fields()?;
        let message = fields.get("exc_message").cloned();
        let args = message.map(|it| it.items().unwrap_or_else(|| vec![it])).unwrap_or_default();
        Some(Self {
            kind: fields.string("exc_type")?,
            module: fields.string("exc_module"),
            args,
            traceback: None,
        })
    }

    /// How Python shows it: `ValueError('no')`.
    pub fn repr(&self) -> String {
        let args: Vec<_> = self.args.iter().map(super::repr::of).collect();
        let name = self.kind.rsplit('.').next().unwrap_or(&self.kind);
        format!("{name}({})", args.join(", "))
    }
}

/// Module and name of a class that clients have.
fn known(kind: &str) -> Option<(Option<&'static str>, &str)> {
    let (module, name) = kind.rsplit_once('.').map_or((None, kind), |(of, name)| (Some(of), name));
    let mut fitting = KNOWN.iter().filter(|(of, _)| module.is_none_or(|module| module == *of));
    let (of, _) = fitting.find(|(_, names)| names.contains(&name))?;
    Some((Some(of), name))
}

/// Module and name of a class that the operator vouches for.
fn vouched_for<'a>(kind: &'a str, vouched: &'a [String]) -> Option<(Option<&'a str>, &'a str)> {
    vouched.iter().find_map(|class| {
        let (module, name) = class.split_once(':').or_else(|| class.rsplit_once('.'))?;
        let rest = kind.strip_prefix(module)?.strip_prefix('.')?;
        (rest == name).then_some((Some(module), name))
    })
}

/// Checks a class of `celery.exceptions` in the configuration.
pub fn check_vouched(class: &str) -> Result<(), &'static str> {
    let (module, name) = class
        .split_once(':')
        .or_else(|| class.rsplit_once('.'))
        .ok_or("name the module, too: `shop.errors.NoStock`")?;
    if !is_path(module) || !is_path(name) {
        return Err("use `module.Name`, or `module:Outer.Name` for a class in another one");
    }
    let last = name.rsplit('.').next().unwrap_or(name);
    if module == "builtins" || !last.starts_with(|c: char| c.is_ascii_uppercase()) {
        return Err("list exception classes of your own only: clients call what is named here");
    }
    Ok(())
}

/// Returns true if a text is names with dots between them.
fn is_path(text: &str) -> bool {
    text.split('.').all(|name| {
        !name.is_empty()
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && name.chars().all(|c| c.is_alphanumeric() || c == '_')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_become_names_that_clients_can_raise() {
        for (kind, module, name) in [
            ("ValueError", Some("builtins"), "ValueError"),
            ("MaxRetriesExceededError", Some(CELERY), "MaxRetriesExceededError"),
            ("celery.exceptions.ChordError", Some(CELERY), "ChordError"),
            ("SoftTimeLimitExceeded", Some(BILLIARD), "SoftTimeLimitExceeded"),
            ("TimeoutError", Some("builtins"), "TimeoutError"),
            ("celery.exceptions.TimeoutError", Some(CELERY), "TimeoutError"),
            ("builtins.ValueError", Some("builtins"), "ValueError"),
            // Nobody vouches for these.
            ("myapp.errors.NoStock", None, "NoStock"),
            ("os.system", None, "system"),
            ("subprocess.Popen", None, "Popen"),
            ("celery.exceptions.Reject", None, "Reject"),
            ("celery.exceptions.WorkerShutdown", None, "WorkerShutdown"),
            ("celery.exceptions.reraise", None, "reraise"),
            ("a b.c", None, "a b.c"),
            ("a\0b\n", None, "a_b_"),
            ("NoStock", None, "NoStock"),
            ("no stock", None, "no stock"),
            ("timeout", None, "timeout"),
            // What would end the client, or make it refuse the result, is a name like any other.
            ("SystemExit", None, "SystemExit"),
            ("print", None, "print"),
            ("builtins.print", None, "print"),
            ("UnicodeDecodeError", None, "UnicodeDecodeError"),
            ("..", None, ".."),
            ("", None, "Exception"),
        ] {
            let exception = Exception::of_failure(kind, "why");
            assert_eq!((exception.module.as_deref(), &*exception.kind), (module, name), "{kind}");
        }
    }

    #[test]
    fn the_operator_vouches_for_more_classes() {
        let vouched = ["shop.errors.NoStock", "shop.models:Order.DoesNotExist"].map(String::from);
        for (kind, module, name) in [
            ("shop.errors.NoStock", Some("shop.errors"), "NoStock"),
            ("shop.models.Order.DoesNotExist", Some("shop.models"), "Order.DoesNotExist"),
            ("shop.errors.NoStock.system", None, "system"),
            ("xshop.errors.NoStock", None, "NoStock"),
        ] {
            let exception = Exception::of_guest(kind, "why", &vouched);
            assert_eq!((exception.module.as_deref(), &*exception.kind), (module, name), "{kind}");
        }
        assert!(vouched.iter().all(|class| check_vouched(class).is_ok()));
        for class in ["NoStock", "os.system", "builtins.Exec", "shop.errors.*", "a b.C", ".C"] {
            assert!(check_vouched(class).is_err(), "{class}");
        }
    }

    #[test]
    fn what_is_stored_is_read_again() {
        let exception = Exception::of_failure("ValueError", "it's \"so\"\nä");
        let json = exception.json();
        assert_eq!(
            json.text(),
            r#"{"exc_type": "ValueError", "exc_message": ["it's \"so\"\n\u00e4"], "exc_module": "builtins"}"#
        );
        assert_eq!(Exception::of_json(&json), Some(exception.clone()));
        assert_eq!(exception.repr(), r#"ValueError('it\'s "so"\nä')"#);
        assert_eq!(Exception::soft_time_limit().repr(), "SoftTimeLimitExceeded()");
        assert_eq!(
            Exception::time_limit(2.0).json().fields().unwrap().get("exc_message").unwrap().text(),
            "[2]"
        );
    }
}
