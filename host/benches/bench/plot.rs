//! A picture of some of the figures, for docs/performance.md.

use std::fmt::Write as _;

use serde_json::{Map, Value};

/// What a bar is called, and the section and key of its figure.
type Bar = (&'static str, &'static str, &'static str);

/// What is drawn: headings, and the bars under each.
const BARS: &[(&str, &[Bar])] = &[
    (
        "CPU of a whole attempt, µs",
        &[
            ("plain wasmtime, pooled", "sandbox", "plain_pooled_us"),
            ("Lovage, a fresh sandbox", "sandbox", "fresh_us"),
            ("a reused instance, no isolation", "sandbox", "reused_us"),
        ],
    ),
    (
        "CPU of a job on the embedded broker, ms",
        &[
            ("10,000 queued", "growth", "queued_10000_cpu_ms_per_job"),
            ("100,000 queued", "growth", "queued_100000_cpu_ms_per_job"),
            ("1,000,000 queued", "growth", "queued_1000000_cpu_ms_per_job"),
            ("1 tenant", "growth", "tenants_1_cpu_ms_per_job"),
            ("30 tenants", "growth", "tenants_30_cpu_ms_per_job"),
            ("1,000 tenants", "growth", "tenants_1000_cpu_ms_per_job"),
        ],
    ),
];

const LEFT: f64 = 250.0;
const WIDTH: f64 = 340.0;
const LINE: f64 = 22.0;

/// Writes the picture, if all of it was measured.
pub fn draw(figures: &Map<String, Value>) {
    let figure = |section: &str, key: &str| figures.get(section)?.get(key)?.as_f64();
    let mut body = String::new();
    let mut y = 8.0;
    for (heading, bars) in BARS {
        let values: Option<Vec<f64>> = bars.iter().map(|(_, s, key)| figure(s, key)).collect();
        let Some(values) = values else { return };
        let most = values.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
        y += LINE;
        writeln!(body, r#"<text x="8" y="{y}" font-weight="bold">{heading}</text>"#).unwrap();
        for ((label, ..), value) in bars.iter().zip(values) {
            y += LINE;
            let (width, top) = (value / most * WIDTH, y - 14.0);
            let after = LEFT + width + 8.0;
            writeln!(body, r#"<text x="{}" y="{y}" text-anchor="end">{label}</text>"#, LEFT - 8.0)
                .unwrap();
            writeln!(
                body,
                r##"<rect x="{LEFT}" y="{top}" width="{width:.1}" height="16" fill="#4a7a3a"/>"##
            )
            .unwrap();
            writeln!(body, r#"<text x="{after:.1}" y="{y}">{value}</text>"#).unwrap();
        }
        y += LINE / 2.0;
    }
    let (width, height) = (LEFT + WIDTH + 80.0, y + 12.0);
    let picture = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n"
    );
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/performance.svg");
    std::fs::write(path, picture).unwrap();
}
