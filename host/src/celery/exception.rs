//! Failures as Celery stores them: the name of a Python exception, its module, its arguments.
//!
//! A client makes an exception of them again. Where the module has no class of that name it makes one
//! up, so any name will do, but a name of `builtins` that is no exception makes it refuse the result.

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

/// The exceptions of Python that are made of one text, and whose raising does nothing else.
const BUILTIN: &[&str] = &[
    "ArithmeticError",
    "AssertionError",
    "AttributeError",
    "BlockingIOError",
    "BrokenPipeError",
    "BufferError",
    "ChildProcessError",
    "ConnectionAbortedError",
    "ConnectionError",
    "ConnectionRefusedError",
    "ConnectionResetError",
    "EOFError",
    "Exception",
    "FileExistsError",
    "FileNotFoundError",
    "FloatingPointError",
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
    "TimeoutError",
    "TypeError",
    "UnboundLocalError",
    "ValueError",
    "ZeroDivisionError",
];

const CELERY: &str = "celery.exceptions";
const BILLIARD: &str = "billiard.exceptions";

impl Exception {
    /// A guest's failure: `ValueError` is Python's, `package.module.Name` is of that module, and any
    /// other kind is a class that the client makes up.
    pub fn of_failure(kind: &str, message: &str) -> Self {
        let (module, name) = match kind.rsplit_once('.') {
            // Nothing of the interpreter's own is named by a guest but plain exceptions.
            Some((module, name)) if is_path(module) && is_path(name) && module != "builtins" => {
                (Some(module), name)
            }
            _ if BUILTIN.contains(&kind) => (Some("builtins"), kind),
            _ => (None, kind),
        };
        let name = if name.is_empty() { "Exception" } else { name };
        Self::new(module, name, vec![Json::string(message)])
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

/// Whether a text is names with dots between them.
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
            ("myapp.errors.NoStock", Some("myapp.errors"), "NoStock"),
            ("NoStock", None, "NoStock"),
            ("no stock", None, "no stock"),
            ("timeout", None, "timeout"),
            // What would end the client, or make it refuse the result, is a name like any other.
            ("SystemExit", None, "SystemExit"),
            ("print", None, "print"),
            ("builtins.print", None, "builtins.print"),
            ("UnicodeDecodeError", None, "UnicodeDecodeError"),
            ("..", None, ".."),
            ("", None, "Exception"),
        ] {
            let exception = Exception::of_failure(kind, "why");
            assert_eq!((exception.module.as_deref(), &*exception.kind), (module, name), "{kind}");
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
