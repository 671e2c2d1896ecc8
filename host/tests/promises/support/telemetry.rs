//! What a process tells of itself, caught for one thread: its counts and its log.
//!
//! The recorder is our own: the one of `metrics-util` would have wasmtime built once more for the
//! tests, by a feature of a crate that both use.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use metrics::{
    Counter, CounterFn, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
    SharedString, Unit,
};
use serde_json::Value;

/// A recorder that remembers, for `metrics::with_local_recorder`.
#[derive(Debug, Default)]
pub struct Counts {
    counters: Mutex<BTreeMap<String, Arc<Sum>>>,
    histograms: Mutex<BTreeMap<String, Arc<Values>>>,
}

#[derive(Debug, Default)]
struct Sum(AtomicU64);

#[derive(Debug, Default)]
struct Values(Mutex<Vec<f64>>);

impl Counts {
    /// The counters by name and labels, as `name{label=value,…}`.
    pub fn counters(&self) -> BTreeMap<String, u64> {
        let counters = self.counters.lock().unwrap();
        counters.iter().map(|(name, sum)| (name.clone(), sum.0.load(Ordering::Relaxed))).collect()
    }

    /// What was recorded to histograms, by name and labels.
    pub fn histograms(&self) -> BTreeMap<String, Vec<f64>> {
        let histograms = self.histograms.lock().unwrap();
        let values = |it: &Arc<Values>| it.0.lock().unwrap().clone();
        histograms.iter().map(|(name, it)| (name.clone(), values(it))).collect()
    }
}

fn name(key: &Key) -> String {
    let labels: Vec<_> =
        key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
    match labels.join(",") {
        none if none.is_empty() => key.name().to_owned(),
        labels => format!("{}{{{labels}}}", key.name()),
    }
}

impl CounterFn for Sum {
    fn increment(&self, value: u64) {
        self.0.fetch_add(value, Ordering::Relaxed);
    }

    fn absolute(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
}

impl HistogramFn for Values {
    fn record(&self, value: f64) {
        self.0.lock().unwrap().push(value);
    }
}

impl Recorder for Counts {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(Arc::clone(self.counters.lock().unwrap().entry(name(key)).or_default()))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        panic!("no event has a gauge, and this one is not remembered: {key}");
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        let mut histograms = self.histograms.lock().unwrap();
        Histogram::from_arc(Arc::clone(histograms.entry(name(key)).or_default()))
    }
}

/// A log that is kept.
#[derive(Debug, Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// A subscriber that writes here what is not below `level`, one JSON object a line.
    pub fn subscriber(&self, level: tracing::Level) -> impl tracing::Subscriber + use<> {
        let log = self.clone();
        tracing_subscriber::fmt()
            .json()
            .flatten_event(true)
            .with_max_level(level)
            .with_writer(move || log.clone())
            .finish()
    }

    /// All of it so far, as it is.
    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    /// The lines so far.
    pub fn lines(&self) -> Vec<Value> {
        let bytes = self.0.lock().unwrap();
        let text = std::str::from_utf8(&bytes).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
