//! The file with test cases, `cases.json`.
//!
//! It is JSON since payloads and outputs are: they stand in it as they are, numbers of any size
//! included.

use std::{collections::BTreeMap, num::NonZeroU32, path::Path};

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::Misuse;

/// All cases of a file: at least one.
#[derive(Debug)]
pub struct Cases {
    /// The cases, in the file's order.
    pub cases: Vec<Case>,
    /// Values for `wasi:config`, for all of them.
    pub config: BTreeMap<String, String>,
}

/// One case: an attempt at one job, and what it has to come to.
#[derive(Debug)]
pub struct Case {
    /// What it is about, for a person.
    pub name: Option<String>,
    /// The task; needed where the component serves several.
    pub task: Option<String>,
    /// The payload, as JSON; `null` when absent.
    input: Option<Box<RawValue>>,
    /// What it has to come to.
    pub expected: Expected,
    /// Who the job is for.
    pub tenant: Option<String>,
    /// Which attempt it is; the first when absent.
    pub attempt: Option<NonZeroU32>,
    /// Headers of the job.
    headers: BTreeMap<String, String>,
    /// Values for `wasi:config`, over those of the file.
    pub config: BTreeMap<String, String>,
}

/// What a case has to come to.
#[derive(Debug)]
pub enum Expected {
    /// This output.
    Output(Box<RawValue>),
    /// No output.
    Failure {
        /// In which way.
        status: Status,
        /// The failure's kind, where it matters.
        kind: Option<String>,
        /// A part of the failure's message, where it matters.
        message: Option<String>,
    },
}

/// In which way an attempt gives no output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The task asks to be tried again.
    Retry,
    /// The task asks to be run later.
    Snooze,
    /// The task failed for good.
    Failed,
    /// The task does not take the payload.
    Rejected,
    /// It was stopped at its deadline.
    TimedOut,
    /// It trapped.
    Crashed,
}

impl Status {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Snooze => "snooze",
            Self::Failed => "failed",
            Self::Rejected => "rejected",
            Self::TimedOut => "timed_out",
            Self::Crashed => "crashed",
        }
    }
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenFile {
    cases: Vec<Written>,
    #[serde(default)]
    config: BTreeMap<String, String>,
}

/// A case as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: Option<String>,
    task: Option<String>,
    input: Option<Box<RawValue>>,
    // `null` is an output like any other.
    #[serde(default, deserialize_with = "present")]
    output: Option<Box<RawValue>>,
    fails: Option<Status>,
    kind: Option<String>,
    message: Option<String>,
    tenant: Option<String>,
    attempt: Option<NonZeroU32>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    config: BTreeMap<String, String>,
}

fn present<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(value).map(Some)
}

impl Cases {
    /// Reads a file.
    pub fn read(file: &Path) -> Result<Self, Misuse> {
        let text = std::fs::read_to_string(file)
            .map_err(|error| Misuse(format!("cannot read {}: {error}", file.display())))?;
        Self::parse(&text).map_err(|what| Misuse(format!("cannot read {}: {what}", file.display())))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let written: WrittenFile = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if written.cases.is_empty() {
            return Err("it has no cases".to_owned());
        }
        let numbered = written.cases.into_iter().enumerate();
        let cases = numbered.map(|(at, case)| {
            Case::try_from(case).map_err(|what| format!("case {}: {what}", at + 1))
        });
        Ok(Self { cases: cases.collect::<Result<_, _>>()?, config: written.config })
    }
}

impl TryFrom<Written> for Case {
    type Error = &'static str;

    fn try_from(written: Written) -> Result<Self, &'static str> {
        let Written { fails, kind, message, output, .. } = written;
        let expected = match (output, fails) {
            (Some(output), None) if kind.is_none() && message.is_none() => Expected::Output(output),
            (None, Some(status)) => Expected::Failure { status, kind, message },
            (Some(_), None) => {
                return Err("`kind` and `message` go with `fails`, not with `output`");
            }
            (Some(_), Some(_)) => return Err("`output` and `fails` cannot both be"),
            (None, None) => return Err("`output` or `fails` is needed: what it has to come to"),
        };
        Ok(Self {
            name: written.name,
            task: written.task,
            input: written.input,
            expected,
            tenant: written.tenant,
            attempt: written.attempt,
            headers: written.headers,
            config: written.config,
        })
    }
}

impl Case {
    /// The payload.
    pub fn input(&self) -> String {
        self.input.as_ref().map_or("null", |input| input.get()).to_owned()
    }

    /// The job's headers.
    pub fn headers(&self) -> Vec<(String, String)> {
        let headers = self.headers.iter();
        headers.map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_says_what_it_has_to_come_to() {
        let parsed = Cases::parse(
            r#"{"cases": [{"output": null}, {"input": 1e400, "fails": "timed_out"}]}"#,
        )
        .unwrap();
        let [first, second] = &parsed.cases[..] else { panic!("{parsed:?}") };
        assert!(matches!(&first.expected, Expected::Output(output) if output.get() == "null"));
        assert_eq!((first.input(), second.input()), ("null".to_owned(), "1e400".to_owned()));
        for (text, part) in [
            ("{}", "missing field `cases`"),
            (r#"{"cases": []}"#, "no cases"),
            (
                r#"{"cases": [{"output": 1}, {"input": 1}]}"#,
                "case 2: `output` or `fails` is needed",
            ),
            (r#"{"cases": [{"output": 1, "fails": "retry"}]}"#, "cannot both be"),
            (r#"{"cases": [{"output": 1, "message": "x"}]}"#, "go with `fails`"),
            (r#"{"cases": [{"outptu": 1}]}"#, "unknown field `outptu`"),
            (r#"{"cases": [{"fails": "done"}]}"#, "unknown variant `done`"),
        ] {
            let error = Cases::parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
