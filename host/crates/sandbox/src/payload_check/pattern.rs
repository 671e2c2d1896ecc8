//! Patterns, matched in pieces.
//!
//! The regular expression of a hostile schema takes steps for each byte that go with its size, so a
//! long text takes seconds by a call that cannot be stopped. Here each piece of work has a bound: short
//! texts are matched at once, long ones by an automaton that is fed some bytes at a time.

use std::fmt;

use regex_automata::hybrid::LazyStateID;
use regex_automata::hybrid::dfa::{Cache, DFA};
use regex_automata::{Anchored, Input, nfa::thompson};

use lovage_core::text::one_line;

/// The most bytes of a compiled pattern. The worst pattern of that size has some ten thousand states.
const COMPILED_BYTES: usize = 256 << 10;

/// What a pattern takes at most, about.
pub const MAX_BYTES: usize = COMPILED_BYTES;

/// The most bytes of a pattern. The translation from ECMA 262 takes time by the square of its length.
const PATTERN_BYTES: usize = 4 << 10;

/// The most control escapes (`\\cA`) in a pattern. Each has the translation begin again.
const CONTROL_ESCAPES: usize = 32;

/// The memory that the automaton of a pattern keeps its states in while it matches.
const CACHE_BYTES: usize = 512 << 10;

/// For so many patterns a check keeps states from one text to the next.
const CACHES: usize = 4;

/// States times bytes that are matched in one piece: less than a millisecond where each byte makes a new state.
const PIECE: usize = 200_000;

/// A regular expression of ECMA 262, as far as it takes linear time.
pub struct Pattern {
    automaton: DFA,
    states: usize,
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pattern").field("states", &self.states).finish_non_exhaustive()
    }
}

/// What is left to do of a match.
#[derive(Debug, Clone, Copy)]
pub struct Search {
    state: LazyStateID,
    at: usize,
}

/// How far a match is.
#[derive(Debug)]
pub enum Progress {
    Ended(bool),
    Goes(Search),
}

/// The states that patterns have made in one check. They are the check's, not the pattern's, so nothing of
/// them stays in memory.
#[derive(Debug, Default)]
pub struct Caches {
    /// Each with the address of its pattern.
    held: Vec<(usize, Cache)>,
    next: usize,
}

impl Caches {
    fn of(&mut self, pattern: &Pattern) -> Option<&mut Cache> {
        let address = std::ptr::from_ref(pattern).addr();
        let at = if let Some(at) = self.held.iter().position(|(of, _)| *of == address) {
            at
        } else if self.held.len() < CACHES {
            self.held.push((address, pattern.automaton.create_cache()));
            self.held.len() - 1
        } else {
            self.next = (self.next + 1) % CACHES;
            let (of, cache) = self.held.get_mut(self.next)?;
            *of = address;
            cache.reset(&pattern.automaton);
            self.next
        };
        self.held.get_mut(at).map(|(_, cache)| cache)
    }
}

impl Pattern {
    /// From a schema's text. The error says why it is not matched by.
    pub fn new(pattern: &str) -> Result<Self, String> {
        let shown = |error: &dyn std::error::Error| {
            let source = error.source().map(|source| format!(": {source}"));
            let text = error.to_string() + &source.unwrap_or_default();
            format!("the checker does not take it: {}", one_line(&text, 300))
        };
        if pattern.len() > PATTERN_BYTES || pattern.matches("\\c").count() > CONTROL_ESCAPES {
            return Err(format!(
                "the checker does not take it: a pattern has more than {PATTERN_BYTES} bytes, or \
                 more than {CONTROL_ESCAPES} control escapes"
            ));
        }
        let pattern = jsonschema_regex::to_rust_regex(pattern).map_err(|()| {
            let pattern = one_line(pattern, 200);
            format!("the checker does not take it: `{pattern}` is no regular expression")
        })?;
        let config = DFA::config().cache_capacity(CACHE_BYTES).skip_cache_capacity_check(true);
        let automaton = DFA::builder()
            .configure(config)
            .thompson(thompson::Config::new().nfa_size_limit(Some(COMPILED_BYTES)))
            .build(&with_ascii_words(&pattern))
            .map_err(|error| shown(&error))?;
        let states = automaton.get_nfa().states().len();
        Ok(Self { automaton, states })
    }

    /// About what it takes of memory.
    pub fn bytes(&self) -> usize {
        self.automaton.get_nfa().memory_usage() + size_of::<Self>()
    }

    /// Begins to match a text. Gives the steps that it took, too.
    pub fn begin(&self, caches: &mut Caches, text: &str) -> (Progress, u64) {
        let input = Input::new(text).anchored(Anchored::No);
        let state = caches
            .of(self)
            .and_then(|cache| self.automaton.start_state_forward(cache, &input).ok());
        match state {
            Some(state) => self.go_on(caches, Search { state, at: 0 }, text),
            // There is always such a state; without one nothing would match.
            None => (Progress::Ended(false), 1),
        }
    }

    /// Goes on for some bytes.
    pub fn go_on(&self, caches: &mut Caches, mut search: Search, text: &str) -> (Progress, u64) {
        let Some(cache) = caches.of(self) else { return (Progress::Ended(false), 1) };
        let piece = (PIECE / self.states.max(1)).max(16);
        let rest = text.as_bytes().get(search.at..).unwrap_or_default();
        let bytes = rest.get(..piece).unwrap_or(rest);
        let before = (cache.memory_usage(), cache.clear_count());
        let ended = self.feed(cache, &mut search, bytes, bytes.len() == rest.len());
        let after = (cache.memory_usage(), cache.clear_count());
        // A byte is a part of a step where the state for it is there; a state is as large as the work of making it.
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

    fn feed(
        &self,
        cache: &mut Cache,
        search: &mut Search,
        bytes: &[u8],
        is_last: bool,
    ) -> Option<bool> {
        for byte in bytes {
            // There is no limit on how often the cache is cleared, which is the only error.
            let Ok(state) = self.automaton.next_state(cache, search.state, *byte) else {
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
        let last = self.automaton.next_eoi_state(cache, search.state);
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
        let mut caches = Caches::default();
        let (mut progress, mut steps) = pattern.begin(&mut caches, text);
        loop {
            match progress {
                Progress::Ended(matches) => return (matches, steps),
                Progress::Goes(search) => {
                    let more;
                    (progress, more) = pattern.go_on(&mut caches, search, text);
                    steps += more;
                }
            }
        }
    }

    #[test]
    fn texts_of_any_length_match_in_pieces() {
        for (pattern, unit, end, matches) in [
            ("^[a-z]+$", "abc", "", true),
            ("^[a-z]+$", "abc", "1", false),
            ("1$", "abc", "1", true),
            ("\\bend$", "abc ", "end", true),
            ("\\bend$", "äöü", "end", true),
            ("\\Bnd$", "äöü", "end", true),
            ("^(?:[A-Za-z0-9+/]{4})*$", "QUJD", "", true),
            ("^(?:[A-Za-z0-9+/]{4})*$", "QUJD", "QQ=", false),
            ("^\\p{L}*$", "äbc", "", true),
            ("^(ab|ac)*$", "abac", "ad", false),
            ("^(?:.\\s\\d\\w)+$", "ä 1_", "", true),
        ] {
            let made = Pattern::new(pattern).unwrap();
            for times in [1, 10, 100_000] {
                let text = unit.repeat(times) + end;
                assert_eq!(slowly(&made, &text).0, matches, "{pattern} {times}");
            }
        }
    }

    #[test]
    fn more_patterns_than_have_a_cache_take_turns() {
        let patterns: Vec<_> =
            (0..10).map(|n| Pattern::new(&format!("^[a-z]*{n}$")).unwrap()).collect();
        let mut caches = Caches::default();
        for _ in 0..3 {
            for (at, pattern) in patterns.iter().enumerate() {
                for n in 0..10 {
                    let (progress, _) = pattern.begin(&mut caches, &format!("abc{n}"));
                    assert!(matches!(progress, Progress::Ended(it) if it == (at == n)));
                }
            }
        }
        assert_eq!(caches.held.len(), CACHES);
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
