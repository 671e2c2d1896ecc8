//! What holds for one job: the operator's settings, the component's advice, the sender's wishes.
//!
//! For each field the first that says something wins: `[tasks.NAME]`, the component's `describe`,
//! `[defaults]`, and last the values below. Nobody but the operator may raise anything: what a
//! component asks for is cut to `[defaults]`, or where those are silent to [`ceilings`]; and a
//! sender may ask for less time and fewer attempts than all that, never for more.

use std::time::Duration;

use lovage_config::{Config, LimitValues, ResultFormat, TaskConfig, ceilings, defaults};
use lovage_core::{backoff::Backoff, job::Job};
use lovage_sandbox::{Limits, TaskSpec};

/// What a component says of a task, as far as it bears on how a job is run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Advice {
    /// Attempts a job gets.
    pub max_attempts: Option<u32>,
    /// Wall time for one attempt.
    pub timeout: Option<Duration>,
}

/// What holds for one job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Attempts it gets, at least 1.
    pub max_attempts: u32,
    /// What one attempt may use.
    pub limits: Limits,
    /// Delays between attempts.
    pub backoff: Backoff,
    /// True if payloads are held to the schema that the task has for them.
    pub check_payload: bool,
    /// The results' format, where the task's settings name one.
    pub result_format: Option<ResultFormat>,
    /// The queue for results, where the task's settings name one.
    pub results: Option<String>,
}

impl From<&TaskSpec> for Advice {
    fn from(spec: &TaskSpec) -> Self {
        Self { max_attempts: spec.max_attempts, timeout: spec.timeout }
    }
}

impl Settings {
    /// What holds for a task, whoever asks for it.
    pub fn of_task(config: &Config, task: &str, advice: Advice) -> Self {
        let none = TaskConfig::default();
        let own = config.tasks.get(task).unwrap_or(&none);
        let all = &config.defaults;
        let millis = |own: Option<u64>, all: Option<u64>, last| {
            Duration::from_millis(own.or(all).unwrap_or(last))
        };
        let max_attempts: Option<u32> = all.max_attempts.map(Into::into);
        let most_attempts = max_attempts.unwrap_or(ceilings::MAX_ATTEMPTS);
        Self {
            max_attempts: own
                .max_attempts
                .map(Into::into)
                .or(advice.max_attempts.map(|advised| advised.min(most_attempts)))
                .or(max_attempts)
                .unwrap_or(defaults::MAX_ATTEMPTS)
                .max(1),
            limits: limits(&own.limits(), advice, &all.limits()),
            backoff: Backoff {
                base: millis(own.retry_base_ms, all.retry_base_ms, defaults::RETRY_BASE_MS),
                cap: millis(own.retry_cap_ms, all.retry_cap_ms, defaults::RETRY_CAP_MS),
            },
            check_payload: own.check_payload.or(all.check_payload).unwrap_or(true),
            result_format: own.result_format.or(all.result_format),
            results: own.results.clone().or_else(|| all.results.clone()),
        }
    }

    /// What holds where the job is for that tenant: its limits, where they are less.
    #[must_use]
    pub fn for_tenant(mut self, config: &Config, tenant: &str) -> Self {
        if let Some(tenant) = config.tenants.get(tenant) {
            self.limits = self.limits.tightened_by(tenant.limits.limits());
        }
        self
    }

    /// What holds for a job: what its sender asks for, where that is less.
    #[must_use]
    pub fn for_job(mut self, job: &Job) -> Self {
        self.max_attempts =
            job.max_attempts.map_or(self.max_attempts, |asked| asked.clamp(1, self.max_attempts));
        let timeout = self.limits.timeout;
        self.limits.timeout = job.timeout.map_or(timeout, |asked| asked.min(timeout));
        let soft = [self.limits.soft_timeout, job.soft_timeout];
        self.limits.soft_timeout = soft.into_iter().flatten().min();
        self
    }
}

/// A task's own limits over the component's advice over everybody's over the last values.
fn limits(own: &LimitValues, advice: Advice, all: &LimitValues) -> Limits {
    let longest = all.timeout_ms.unwrap_or(ceilings::TIMEOUT_MS);
    let advised = advice.timeout.map(|advised| whole_ms(advised).min(longest));
    let advised = LimitValues { timeout_ms: advised, ..LimitValues::default() };
    let last = Limits {
        timeout: Duration::from_millis(defaults::TIMEOUT_MS),
        memory_bytes: defaults::MEMORY_BYTES,
        output_bytes: defaults::OUTPUT_BYTES as usize,
        stdio_bytes: defaults::STDIO_BYTES as usize,
        ..Limits::default()
    };
    last.set(own.or(advised).or(*all))
}

fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        Config::parse(text, "test").unwrap()
    }

    #[test]
    fn the_operator_stands_over_the_component_and_that_over_the_defaults() {
        let advice = Advice { max_attempts: Some(1), timeout: Some(Duration::from_secs(1)) };
        let config = config(
            "[defaults]\nmax_attempts = 2\ntimeout_ms = 2000\nmemory_bytes = 5\n\
             [tasks.a]\nmax_attempts = 9\n",
        );
        let a = Settings::of_task(&config, "a", advice);
        assert_eq!((a.max_attempts, a.limits.timeout), (9, Duration::from_secs(1)));
        assert_eq!(
            (a.limits.memory_bytes, a.limits.output_bytes),
            (5, defaults::OUTPUT_BYTES as usize)
        );
        let b = Settings::of_task(&config, "b", Advice::default());
        assert_eq!((b.max_attempts, b.limits.timeout), (2, Duration::from_secs(2)));
    }

    #[test]
    fn a_component_cannot_raise_what_the_operator_set() {
        let advice = Advice { max_attempts: Some(u32::MAX), timeout: Some(Duration::MAX) };
        let limited = config(
            "[defaults]\nmax_attempts = 2\ntimeout_ms = 2000\n\
             [tasks.free]\nmax_attempts = 99\ntimeout_ms = 7200000\n",
        );
        let any = Settings::of_task(&limited, "any", advice);
        assert_eq!((any.max_attempts, any.limits.timeout), (2, Duration::from_secs(2)));
        let free = Settings::of_task(&limited, "free", advice);
        assert_eq!((free.max_attempts, free.limits.timeout), (99, Duration::from_hours(2)));
        // Where nobody says anything it may have more than the defaults, but not without end.
        let any = Settings::of_task(&config(""), "any", advice);
        assert_eq!((any.max_attempts, any.limits.timeout), (25, Duration::from_hours(1)));
        let modest = Advice { max_attempts: Some(9), timeout: Some(Duration::from_mins(9)) };
        let any = Settings::of_task(&config(""), "any", modest);
        assert_eq!((any.max_attempts, any.limits.timeout), (9, Duration::from_mins(9)));
    }

    #[test]
    fn a_sender_may_ask_for_less_and_never_for_more() {
        let settings = Settings::of_task(&config(""), "a", Advice::default());
        let mut job = Job::new("i", "a", "1");
        job.max_attempts = Some(2);
        job.timeout = Some(Duration::from_secs(5));
        let less = settings.clone().for_job(&job);
        assert_eq!((less.max_attempts, less.limits.timeout), (2, Duration::from_secs(5)));
        job.max_attempts = Some(99);
        job.timeout = Some(Duration::from_secs(9999));
        assert_eq!(settings.clone().for_job(&job), settings);
    }

    #[test]
    fn the_sample_shows_the_values_that_hold_where_nobody_says_otherwise() {
        let sample = config(include_str!("../../../../lovage.sample.toml"));
        let shown = Settings::of_task(&sample, "other", Advice::default());
        assert_eq!(shown, Settings::of_task(&config(""), "other", Advice::default()));
    }
}
