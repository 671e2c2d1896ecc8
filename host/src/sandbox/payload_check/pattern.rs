//! Patterns, matched in pieces.
//!
//! The regular expression of a hostile schema takes steps for each byte that go with its size, so a
//! long text takes seconds by a call that cannot be stopped. Here each piece of work has a bound: short
//! texts are matched at once, long ones by an automaton that is fed some bytes at a time.

use std::fmt;

use regex::Regex;
use regex_automata::hybrid::LazyStateID;
use regex_automata::hybrid::dfa::{Cache, DFA};
use regex_automata::util::syntax;
use regex_automata::{Anchored, Input, nfa::thompson};

use crate::text::one_line;

/// The most bytes of a compiled pattern. The worst pattern of that size has some ten thousand states.
const COMPILED_BYTES: usize = 256 << 10;

/// What a pattern takes at most, about.
pub const MAX_BYTES: usize = 2 * COMPILED_BYTES;

/// The most bytes of a pattern. The translation from ECMA 262 takes time by the square of its length.
const PATTERN_BYTES: usize = 4 << 10;

/// The most control escapes (`\\cA`) in a pattern. Each has the translation begin again.
const CONTROL_ESCAPES: usize = 32;

/// The memory that the automaton of a pattern keeps its states in while it matches.
const CACHE_BYTES: usize = 512 << 10;

/// States times bytes that are matched at once: less than a millisecond of the slowest engine.
const AT_ONCE: usize = 200_000;

/// A regular expression of ECMA 262, as far as it takes linear time.
#[derive(Clone)]
pub struct Pattern {
    quick: Regex,
    slow: DFA,
    states: usize,
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pattern").field(&self.quick.as_str()).finish()
    }
}

/// What is left to do of a match.
#[derive(Debug)]
pub struct Search {
    cache: Cache,
    state: LazyStateID,
    at: usize,
}

/// How far a match is.
#[derive(Debug)]
pub enum Progress {
    Ended(bool),
    Goes(Box<Search>),
}

impl Pattern {
    /// From a schema's text. The error says why it is not matched by.
    pub fn new(pattern: &str) -> Result<Self, String> {
        let shown =
            |error: String| format!("the checker does not take it: {}", one_line(&error, 300));
        if pattern.len() > PATTERN_BYTES || pattern.matches("\\c").count() > CONTROL_ESCAPES {
            return Err(shown(format!("a pattern has more than {PATTERN_BYTES} bytes")));
        }
        let pattern = jsonschema_regex::to_rust_regex(pattern)
            .map_err(|()| shown(format!("`{pattern}` is no regular expression")))?;
        let pattern = with_ascii_words(&pattern);
        let quick = regex::RegexBuilder::new(&pattern)
            .size_limit(COMPILED_BYTES)
            .dfa_size_limit(COMPILED_BYTES)
            .build()
            .map_err(|error| shown(error.to_string()))?;
        let slow = DFA::builder()
            .configure(DFA::config().cache_capacity(CACHE_BYTES).skip_cache_capacity_check(true))
            .syntax(syntax::Config::new())
            .thompson(thompson::Config::new().nfa_size_limit(Some(2 * COMPILED_BYTES)))
            .build(&pattern)
            .map_err(|error| shown(error.to_string()))?;
        let states = slow.get_nfa().states().len();
        Ok(Self { quick, slow, states })
    }

    /// About what it takes of memory.
    pub fn bytes(&self) -> usize {
        // The automaton of each of the two.
        2 * self.slow.get_nfa().memory_usage() + size_of::<Self>()
    }

    /// Begins to match a text. Gives the steps that it took, too.
    pub fn begin(&self, text: &str) -> (Progress, u64) {
        if text.len().saturating_mul(self.states) <= AT_ONCE {
            return (Progress::Ended(self.quick.is_match(text)), 1 + text.len() as u64 / 8);
        }
        let mut cache = self.slow.create_cache();
        let input = Input::new(text).anchored(Anchored::No);
        match self.slow.start_state_forward(&mut cache, &input) {
            Ok(state) => self.go_on(Box::new(Search { cache, state, at: 0 }), text),
            // There is always such a state; without one nothing would match.
            Err(_) => (Progress::Ended(false), 1),
        }
    }

    /// Goes on for some bytes.
    pub fn go_on(&self, mut search: Box<Search>, text: &str) -> (Progress, u64) {
        let piece = (AT_ONCE / self.states.max(1)).max(16);
        let rest = text.as_bytes().get(search.at..).unwrap_or_default();
        let before = (search.cache.memory_usage(), search.cache.clear_count());
        let bytes = rest.get(..piece).unwrap_or(rest);
        let ended = self.feed(&mut search, bytes, bytes.len() == rest.len());
        let after = (search.cache.memory_usage(), search.cache.clear_count());
        // A byte is one step where the state for it is known; a state is as large as the work of making it.
        let made = if before.1 == after.1 {
            after.0.saturating_sub(before.0) / 8
        } else {
            bytes.len().saturating_mul(self.states)
        };
        let steps = 1 + (bytes.len() / 4 + made) as u64;
        match ended {
            Some(matches) => (Progress::Ended(matches), steps),
            None => (Progress::Goes(search), steps),
        }
    }

    fn feed(&self, search: &mut Search, bytes: &[u8], is_last: bool) -> Option<bool> {
        for byte in bytes {
            // There is no limit on how often the cache is cleared, which is the only error.
            let Ok(state) = self.slow.next_state(&mut search.cache, search.state, *byte) else {
                return Some(false);
            };
            if state.is_match() {
                return Some(true);
            }
            if state.is_dead() || state.is_quit() {
                return Some(false);
            }
            search.state = state;
        }
        search.at += bytes.len();
        if !is_last {
            return None;
        }
        let last = self.slow.next_eoi_state(&mut search.cache, search.state);
        Some(last.is_ok_and(|state| state.is_match()))
    }
}

/// The same with word boundaries of ASCII, as ECMA 262 has them.
fn with_ascii_words(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len());
    let (mut classes, mut chars) = (0_usize, pattern.chars().peekable());
    while let Some(c) = chars.next() {
        match c {
            '[' => classes += 1,
            ']' => classes = classes.saturating_sub(1),
            '\\' => {
                let escaped = chars.next();
                let is_boundary = classes == 0 && matches!(escaped, Some('b' | 'B'));
                out.push_str(if is_boundary { "(?-u:\\" } else { "\\" });
                out.extend(escaped);
                out.push_str(if is_boundary { ")" } else { "" });
                continue;
            }
            _ => {}
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How a text matches in pieces, and in how many steps.
    fn slowly(pattern: &Pattern, text: &str) -> (bool, u64) {
        let (mut progress, mut steps) = pattern.begin(text);
        loop {
            match progress {
                Progress::Ended(matches) => return (matches, steps),
                Progress::Goes(search) => {
                    let more;
                    (progress, more) = pattern.go_on(search, text);
                    steps += more;
                }
            }
        }
    }

    #[test]
    fn long_texts_match_as_short_ones_do() {
        for (pattern, unit, end, matches) in [
            ("^[a-z]+$", "abc", "", true),
            ("^[a-z]+$", "abc", "1", false),
            ("1$", "abc", "1", true),
            ("\\bend$", "abc ", "end", true),
            ("\\bend$", "äöü", "end", true),
            ("^(?:[A-Za-z0-9+/]{4})*$", "QUJD", "", true),
            ("^(?:[A-Za-z0-9+/]{4})*$", "QUJD", "QQ=", false),
            ("^\\p{L}*$", "äbc", "", true),
            ("^(ab|ac)*$", "abac", "ad", false),
        ] {
            let pattern = Pattern::new(pattern).unwrap();
            for times in [1, 10, 100_000] {
                let text = unit.repeat(times) + end;
                assert_eq!(pattern.quick.is_match(&text), matches, "{pattern:?} {times}");
                assert_eq!(slowly(&pattern, &text).0, matches, "{pattern:?} {times}");
            }
        }
    }

    #[test]
    fn a_pattern_whose_automaton_explodes_is_charged_for_it() {
        let pattern = Pattern::new("[ab]*a[ab]{600}c").unwrap();
        let mut seed = 1_u32;
        let text: String = (0..20_000)
            .map(|_| {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                if seed >> 31 == 0 { 'a' } else { 'b' }
            })
            .collect();
        let (matches, steps) = slowly(&pattern, &text);
        assert!(!matches);
        assert!(steps > 1_000_000, "{steps}");
    }
}
