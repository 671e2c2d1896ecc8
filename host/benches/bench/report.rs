//! The table for people and the file for scripts.

use std::path::PathBuf;

use serde_json::{Map, Value, json};

/// What was measured so far.
pub struct Report {
    json: Map<String, Value>,
    rows: Vec<[String; 4]>,
}

impl Report {
    /// Begins with what an earlier run wrote.
    pub fn open() -> Self {
        let earlier = std::fs::read(path()).ok();
        let json = earlier.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        Self { json, rows: Vec::new() }
    }

    /// Begins a section anew.
    pub fn section(&mut self, name: &str) {
        self.json.insert(name.to_owned(), json!({}));
        self.rows.push([name.to_owned(), String::new(), String::new(), String::new()]);
    }

    /// Sets a value for scripts alone.
    pub fn set(&mut self, section: &str, key: &str, value: impl Into<Value>) {
        self.json[section][key] = value.into();
    }

    /// A figure: its key ends with its unit. `beside` says what it is to be compared with.
    pub fn figure(&mut self, section: &str, key: &str, what: &str, value: f64, beside: &str) {
        // More digits would only be noise.
        let digits = if value >= 1000.0 {
            0
        } else if value >= 10.0 {
            1
        } else {
            3
        };
        let shown = format!("{value:.digits$}");
        self.set(section, key, shown.parse::<f64>().unwrap());
        self.rows.push([format!("  {what}"), shown, unit(key).to_owned(), beside.to_owned()]);
    }

    /// Prints the table and writes the file.
    pub fn close(self) {
        let width = |column: usize| {
            self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)
        };
        let (what, value, unit) = (width(0), width(1), width(2));
        println!();
        for [name, figure, of, beside] in &self.rows {
            let row = format!("{name:what$}  {figure:>value$} {of:unit$}  {beside}");
            println!("{}", row.trim_end());
        }
        super::plot::draw(&self.json);
        let text = serde_json::to_string_pretty(&self.json).unwrap();
        std::fs::write(path(), text + "\n").unwrap();
        println!("\nwritten: {}", path().display());
    }
}

/// `target/bench.json`, wherever the build folder is.
fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("bench.json")
}

fn unit(key: &str) -> &'static str {
    if key.ends_with("jobs_per_s") {
        return "jobs/s";
    }
    match key.rsplit('_').next().unwrap_or_default() {
        "us" => "µs",
        "ms" => "ms",
        "mb" => "MB",
        _ if key.contains("cpu_ms_per") => "ms",
        _ => "",
    }
}
