//! What `log.level` selects.

use tracing_subscriber::EnvFilter;

use lovage_core::text::nearest;

/// The words that are levels.
const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

/// What `log.level` selects, or what is wrong with it.
///
/// tracing takes a lone word that is no level for the name of a module, all of whose lines are
/// wanted. Here it is a misspelt level, since that would silence everything else.
pub fn filter(level: &str) -> Result<EnvFilter, String> {
    let wrong = |why: String| {
        format!(
            "log.level `{level}` is no level and no filter ({why}); use `info`, or directives such \
             as `warn,lovage=debug`"
        )
    };
    let words = level.split(',').map(str::trim).filter(|word| !word.is_empty());
    for word in words.filter(|word| !word.contains(['=', '[', ':'])) {
        if !LEVELS.contains(&word.to_ascii_lowercase().as_str()) {
            let near = nearest(word, LEVELS);
            return Err(wrong(near.map_or_else(
                || format!("`{word}` is no level"),
                |near| format!("did you mean `{near}`?"),
            )));
        }
    }
    let filter = EnvFilter::try_new(level).map_err(|error| wrong(error.to_string()))?;
    if level.contains(QUIET) {
        return Ok(filter);
    }
    let quiet = format!("{QUIET}=off").parse().map_err(|error| wrong(format!("{error}")))?;
    Ok(filter.add_directive(quiet))
}

/// Writes a warning whenever a guest makes a request that it cannot read, as often as the guest
/// likes; and at `trace`, all that guests give to it. Silent unless it is asked for by name.
const QUIET: &str = "wasmtime_wasi_http";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_that_is_none_is_told_the_nearest_and_guests_do_not_write_the_log() {
        for good in ["info", "WARN", "off", "warn,lovage=debug", "lovage::compile", ""] {
            assert!(filter(good).is_ok(), "{good}");
        }
        assert!(filter("trace").unwrap().to_string().contains("wasmtime_wasi_http=off"));
        let asked = filter("info,wasmtime_wasi_http=debug").unwrap().to_string();
        assert!(asked.contains("wasmtime_wasi_http=debug") && !asked.contains("off"), "{asked}");
        assert!(filter("debgu").unwrap_err().contains("did you mean `debug`?"));
        assert!(filter("warn,lovage=loud").unwrap_err().contains("log.level `warn,lovage=loud`"));
    }
}
