//! What `--data` and its like take: JSON text, `@FILE`, or `-` for standard input.

use std::{io::Read, path::Path};

use anyhow::Context as _;
use serde::de::IgnoredAny;

/// Reads what `--data` names, as bytes.
pub fn read(argument: &str) -> anyhow::Result<Vec<u8>> {
    if argument == "-" {
        let mut data = Vec::new();
        std::io::stdin().read_to_end(&mut data).context("cannot read standard input")?;
        return Ok(data);
    }
    match argument.strip_prefix('@') {
        Some(file) => std::fs::read(Path::new(file)).with_context(|| format!("cannot read {file}")),
        None => Ok(argument.as_bytes().to_owned()),
    }
}

/// Reads what a flag names, and checks that it is JSON. `otherwise` says what to do about a file
/// that is none.
pub fn read_json(flag: &str, argument: &str, otherwise: &str) -> anyhow::Result<Vec<u8>> {
    let data = read(argument)?;
    serde_json::from_slice::<IgnoredAny>(&data).map_err(|error| {
        if argument == "-" || argument.starts_with('@') {
            return anyhow::anyhow!("{flag} is not JSON: {error}; {otherwise}");
        }
        anyhow::anyhow!(
            "{flag} is not JSON: {error}; text needs quotes of its own, as in {flag} '\"text\"'"
        )
    })?;
    Ok(data)
}

/// Parses a duration such as `250ms`, `30s`, `15m`, `12h` or `3d`.
pub fn duration(text: &str) -> Result<std::time::Duration, String> {
    let wrong = || format!("`{text}` is no duration; use 250ms, 30s, 15m, 12h or 3d");
    let span: jiff::Span = text.parse().map_err(|_| wrong())?;
    let relative = jiff::SpanRelativeTo::days_are_24_hours();
    let duration = span.to_duration(relative).map_err(|_| wrong())?;
    duration.try_into().map_err(|_| wrong())
}

/// Parses `NAME=VALUE`.
pub fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("use NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn durations_are_read_in_words_of_one_letter() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("3d"), Ok(Duration::from_hours(72)));
        assert!(duration("soon").unwrap_err().contains("250ms"));
        assert!(duration("-1s").is_err());
    }

    #[test]
    fn text_without_quotes_is_told_to_have_some() {
        assert!(read_json("--data", "hello", "").unwrap_err().to_string().contains("quotes"));
        assert_eq!(read_json("--data", " 21 ", "").unwrap(), b" 21 ");
    }
}
