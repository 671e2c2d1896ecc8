//! What no single field of a configuration can tell: fields that do not go together, bounds, and
//! results that would come back as jobs.

use std::collections::BTreeSet;

use super::load::ConfigError;
use super::{
    BrokerKind, ComponentUrl, Config, DEFAULT_QUEUE, DISCARD, DispatchKind, Key, QueueConfig,
    ResultFormat, defaults,
};
use lovage_core::format::Format;
use lovage_core::text::nearest;

/// The most jobs at once: each has a place reserved in the sandbox.
const MAX_CONCURRENCY: usize = 65_536;

/// The longest lease and visibility timeout: what SQS allows.
const TWELVE_HOURS_MS: u64 = 12 * 60 * 60 * 1000;

impl Config {
    /// Checks what no single field can tell; `name` says in errors where the settings are from.
    pub fn validate(&self, name: &str) -> Result<(), ConfigError> {
        [
            Self::check_worker,
            Self::check_components,
            Self::check_queues,
            Self::check_tenants,
            Self::check_sandbox,
            Self::check_secrets,
            Self::check_keyvalue,
            Self::check_celery,
            Self::check_limits,
            Self::check_grants,
            Self::check_functions,
            Self::check_log,
            Self::check_circles,
            Self::check_envelopes,
        ]
        .iter()
        .try_for_each(|check| check(self))
        .map_err(|why| ConfigError(format!("{name}: {why}")))
    }

    fn check_worker(&self) -> Result<(), String> {
        let worker = &self.worker;
        for queue in &worker.queues {
            if self.queue(queue).is_none() {
                let known = self.queues.keys().map(String::as_str);
                let hint = nearest(queue, known).map_or_else(
                    || format!("add [queues.{queue}]"),
                    |near| format!("did you mean `{near}`?"),
                );
                return Err(format!(
                    "worker.queues names `{queue}`, which is no queue of this file; {hint}"
                ));
            }
        }
        let (concurrency, consumed) = (worker.concurrency.get(), self.consumed_queues().len());
        if consumed > concurrency {
            return Err(format!(
                "worker.concurrency is {concurrency}, and there are {consumed} queues to take \
                 jobs from; it must be at least that"
            ));
        }
        at_most("worker.concurrency", concurrency)?;
        if worker.memory_high_percent > 100 {
            return Err(format!(
                "worker.memory_high_percent is {}; it takes 0 (off) to 100",
                worker.memory_high_percent
            ));
        }
        if !(100..=20_000).contains(&worker.receive_wait_ms) {
            return Err(format!(
                "worker.receive_wait_ms is {}; it takes 100 to 20000",
                worker.receive_wait_ms
            ));
        }
        if !(1000..=TWELVE_HOURS_MS).contains(&worker.max_lease_ms.get()) {
            return Err(format!(
                "worker.max_lease_ms is {}; it takes 1000 to {TWELVE_HOURS_MS} (12 hours)",
                worker.max_lease_ms
            ));
        }
        Ok(())
    }

    fn check_components(&self) -> Result<(), String> {
        let components = &self.components;
        if components.keep_versions.is_some_and(|keep| keep.get() < 2) {
            return Err("components.keep_versions is 1; it takes 2 or more, since there would be \
                        nothing to go back to"
                .to_owned());
        }
        if self.defaults.component.is_some() {
            return Err("defaults.component is set, and one component cannot have all tasks; set \
                        tasks.NAME.component"
                .to_owned());
        }
        if let Some((task, _)) =
            self.tasks.iter().find(|(_, own)| own.component.as_ref().is_some_and(String::is_empty))
        {
            return Err(format!(
                "tasks.{task}.component is empty; it takes a component's name, path or URL"
            ));
        }
        for url in &components.urls {
            ComponentUrl::parse(url).map_err(|why| format!("components.urls: {why}"))?;
        }
        let signatures = &components.signatures;
        for key in &signatures.keys {
            if signatures.keys.iter().filter(|other| other.id == key.id).count() > 1 {
                return Err(format!("components.signatures.keys has `{}` twice", key.id));
            }
            Key::parse(&key.id, &key.public, key.not_after)
                .map_err(|why| format!("components.signatures.keys: {why}"))?;
        }
        if signatures.required && signatures.keys.is_empty() {
            return Err("components.signatures.required is set, and there are no keys: nothing \
                        could be loaded; name some under [[components.signatures.keys]]"
                .to_owned());
        }
        let Some(canary) = components.canary else { return Ok(()) };
        let wrong = |field: &str, value: f64, takes: &str| {
            Err(format!("components.canary.{field} is {value}; it takes {takes}"))
        };
        if !(canary.percent > 0.0 && canary.percent <= 100.0) {
            return wrong("percent", canary.percent, "more than 0 and up to 100");
        }
        if !(0.0..=1.0).contains(&canary.failure_margin) {
            return wrong("failure_margin", canary.failure_margin, "0 to 1");
        }
        if !(canary.latency_ratio >= 1.0 && canary.latency_ratio.is_finite()) {
            return wrong("latency_ratio", canary.latency_ratio, "1 or more");
        }
        if !(canary.alpha > 0.0 && canary.alpha <= 0.5) {
            return wrong("alpha", canary.alpha, "more than 0 and up to 0.5");
        }
        Ok(())
    }

    fn check_queues(&self) -> Result<(), String> {
        for (queue, settings) in &self.queues {
            if settings.retention_ms.is_some() && self.broker.kind == BrokerKind::Sqs {
                return Err(format!(
                    "queues.{queue}.retention_ms is for the embedded broker; on SQS set the queue's \
                     MessageRetentionPeriod"
                ));
            }
            if let Some(visibility) = settings.visibility_timeout_ms
                && !(1000..=TWELVE_HOURS_MS).contains(&visibility.get())
            {
                return Err(format!(
                    "queues.{queue}.visibility_timeout_ms is {visibility}; it takes 1000 to \
                     {TWELVE_HOURS_MS} (12 hours)"
                ));
            }
            if let Some(concurrency) = settings.concurrency {
                at_most(&format!("queues.{queue}.concurrency"), concurrency.get())?;
            }
            if let Some(letters) = settings.dead_letters.as_deref()
                && letters != DISCARD
                && self.is_same(letters, queue)
            {
                return Err(format!(
                    "queues.{queue}.dead_letters is the queue itself; name another one, or \
                     `{DISCARD}`"
                ));
            }
            if settings.fifo && self.broker.kind == BrokerKind::Sqs {
                return Err(format!(
                    "queues.{queue}.fifo is for the local broker; on SQS the queue's own name \
                     tells (it ends in .fifo)"
                ));
            }
        }
        Ok(())
    }

    /// A memory has no more room than is reserved for it, and each instance has a place in the pool.
    fn check_sandbox(&self) -> Result<(), String> {
        if let Some(ready) = self.sandbox.ready_instances.filter(|ready| *ready > 1_000) {
            return Err(format!("sandbox.ready_instances is {ready}; at most 1000"));
        }
        let Some(reserved) = self.sandbox.memory_reservation_bytes else {
            return Ok(());
        };
        let own = self.tasks.iter().filter_map(|(task, settings)| {
            Some((format!("tasks.{task}.memory_bytes"), settings.memory_bytes?.get()))
        });
        let all = self.defaults.memory_bytes.map_or(defaults::MEMORY_BYTES, Into::into);
        let largest = own.chain([("defaults.memory_bytes".to_owned(), all)]).max_by_key(|it| it.1);
        match largest {
            Some((field, bytes)) if reserved < bytes => Err(format!(
                "sandbox.memory_reservation_bytes is {reserved}, and {field} is {bytes}; a \
                 memory cannot be larger than what is reserved for it, so raise the one or \
                 lower the other"
            )),
            _ => Ok(()),
        }
    }

    /// The pool has a place for each of these, for every job at once: a number with a zero too many
    /// would take all memory at the start.
    fn check_limits(&self) -> Result<(), String> {
        let tasks = self.tasks.iter().map(|(task, own)| (format!("tasks.{task}"), own.limits()));
        let all = ("defaults".to_owned(), self.defaults.limits());
        for (section, limits) in tasks.chain([all]) {
            for (field, value, most) in [
                ("instances", limits.instances, 10_000),
                ("memories", limits.memories, 100),
                ("tables", limits.tables, 1_000),
                ("table_elements", limits.table_elements, 10_000_000),
            ] {
                if let Some(value) = value.filter(|value| *value > most) {
                    return Err(format!("{section}.{field} is {value}; at most {most}"));
                }
            }
        }
        Ok(())
    }

    fn check_functions(&self) -> Result<(), String> {
        if let Some(queue) = &self.lambda.queue
            && self.queue(queue).is_none()
        {
            return Err(format!(
                "lambda.queue names `{queue}`, which is no queue of this file; add [queues.{queue}]"
            ));
        }
        let dispatch = &self.dispatch;
        if dispatch.kind == DispatchKind::Lambda
            && dispatch.queue.is_some()
            && dispatch.function.is_none()
        {
            return Err(
                "dispatch.queue is set, but dispatch.kind is `lambda`; set it to `queue`, \
                        or name dispatch.function"
                    .to_owned(),
            );
        }
        Ok(())
    }

    /// What a check before a deployment tells, and a dispatcher tells who calls it: it has to
    /// start, in order to answer.
    pub fn check_dispatch(&self) -> Result<(), ConfigError> {
        if self.dispatch.kind == DispatchKind::Queue && self.dispatch.queue.is_none() {
            let why = "dispatch.kind is `queue`, but no queue is named; set dispatch.queue";
            return Err(ConfigError(why.to_owned()));
        }
        Ok(())
    }

    fn check_log(&self) -> Result<(), String> {
        super::log_filter::filter(&self.log.level).map(drop)
    }

    /// A result that comes back as a job gives a result that comes back as a job: without end,
    /// and on SQS for money. Dead letters may go round with results, too.
    fn check_circles(&self) -> Result<(), String> {
        let sources = self.sources();
        for (start, _) in &sources {
            if let Some(circle) = self.circle(&sources, start) {
                return Err(format!(
                    "results go round in a circle, each would be taken for a job: {}; set \
                     `consume = false` for the queue that is only sent to, or send results \
                     elsewhere",
                    circle.join(" → ")
                ));
            }
        }
        Ok(())
    }

    /// The way from a queue back to itself over the fields that send on, if there is one: names
    /// of queues and of fields, in turn.
    fn circle(&self, sources: &[(String, QueueConfig)], start: &str) -> Option<Vec<String>> {
        let mut seen = BTreeSet::new();
        let mut ways = vec![vec![start.to_owned()]];
        while let Some(way) = ways.pop() {
            let (at, settings) = sources.iter().find(|(name, _)| Some(name) == way.last())?;
            for (field, target) in self.targets(at, settings) {
                for (next, _) in sources.iter().filter(|(name, _)| self.is_same(target, name)) {
                    let mut way = way.clone();
                    way.extend([format!("({field})"), next.clone()]);
                    if next == start {
                        return Some(way);
                    }
                    if seen.insert(next) {
                        ways.push(way);
                    }
                }
            }
        }
        None
    }

    /// Where what becomes of a queue's jobs can go, with the field that says so.
    fn targets<'a>(
        &'a self,
        queue: &str,
        settings: &'a QueueConfig,
    ) -> impl Iterator<Item = (String, &'a str)> {
        let of_tasks = self
            .tasks
            .iter()
            .map(|(task, own)| (format!("tasks.{task}.results"), own.results.as_deref()));
        [
            (format!("queues.{queue}.results"), settings.results.as_deref()),
            (
                format!("queues.{queue}.dead_letters"),
                settings.dead_letters.as_deref().filter(|letters| *letters != DISCARD),
            ),
            ("defaults.results".to_owned(), self.defaults.results.as_deref()),
        ]
        .into_iter()
        .chain(of_tasks)
        .filter_map(|(field, target)| Some((field, target?)))
    }

    /// An envelope is no job of the native format: each would be rejected.
    fn check_envelopes(&self) -> Result<(), String> {
        let sources = self.sources();
        let none = super::TaskConfig::default();
        let all = &self.defaults;
        for (queue, settings) in &sources {
            for own in self.tasks.values().chain([&none]) {
                let format =
                    own.result_format.or(all.result_format).unwrap_or(settings.result_format);
                let target = own.results.as_ref().or(all.results.as_ref());
                let Some(target) = target.or(settings.results.as_ref()) else { continue };
                let taken = sources.iter().find(|(name, taken)| {
                    self.is_same(target, name) && taken.format == Format::Native
                });
                if let (ResultFormat::Envelope, Some((name, _))) = (format, taken) {
                    return Err(format!(
                        "results of the queue `{queue}` go to `{name}` as envelopes, where each \
                         would be taken for a job and rejected; set queues.{name}.consume = \
                         false, or make them `bare`"
                    ));
                }
            }
        }
        Ok(())
    }

    /// The queues that some worker takes jobs from. One that `worker.queues` leaves out is left to
    /// another worker.
    fn sources(&self) -> Vec<(String, QueueConfig)> {
        let named = |name: &String| self.worker.queues.contains(name);
        let mut sources: Vec<_> = self
            .queues
            .iter()
            .filter(|(name, queue)| queue.consume || named(name))
            .map(|(name, queue)| (name.clone(), queue.clone()))
            .collect();
        if self.queues.is_empty() {
            sources.push((DEFAULT_QUEUE.to_owned(), QueueConfig::default()));
        }
        sources
    }

    /// Returns true if what a field says means the queue of that name.
    fn is_same(&self, said: &str, queue: &str) -> bool {
        said == queue || self.address(said) == self.address(queue)
    }
}

pub(super) fn at_most(field: &str, concurrency: usize) -> Result<(), String> {
    if concurrency > MAX_CONCURRENCY {
        return Err(format!("{field} is {concurrency}; at most {MAX_CONCURRENCY}"));
    }
    Ok(())
}
