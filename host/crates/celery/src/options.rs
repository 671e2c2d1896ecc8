//! Options of a signature: how those of a call stand over its own, and how callbacks are added.

use super::{
    json::{Json, Map},
    signature::{Kind, Signature},
};

/// What no call changes once it is there: a task that is part of a group stays part of it.
const KEPT: [&str; 2] = ["group_id", "stamped_headers"];

/// A call's options over a signature's own. Stamps of the signature stay.
pub(super) fn merge(own: &Map, call: Map) -> Map {
    let stamps: Vec<String> = own.some("stamped_headers").and_then(Json::read).unwrap_or_default();
    let mut merged = own.clone();
    for (name, value) in call.without_nulls() {
        let kept = KEPT.contains(&name.as_str()) || stamps.contains(&name);
        if !kept || !own.contains(&name) {
            merged.set(name, value);
        }
    }
    merged
}

/// The items of an option that is a list, or one item alone.
pub(super) fn list(options: &Map, name: &str) -> Vec<Json> {
    let Some(value) = options.some(name) else { return Vec::new() };
    value.items().unwrap_or_else(|| vec![value.clone()])
}

/// Adds an item to an option that is a list, where it is not in it already.
pub(super) fn append(options: &mut Map, name: &str, item: &Json) {
    let mut items = list(options, name);
    if !items.contains(item) {
        items.push(item.clone());
        options.set(name, Json::list(&items));
    }
}

impl Signature {
    /// Calls another when this one succeeds: of a group its first task, of a chord its body.
    pub(super) fn link(&mut self, callback: &Json) {
        match &mut self.kind {
            Kind::Group(tasks) if !tasks.is_empty() => {
                // Of one task of many the result says nothing.
                let callback = Self::parse(callback).map_or_else(
                    |_| callback.clone(),
                    |mut it| {
                        it.immutable = true;
                        it.json()
                    },
                );
                if let Some(first) = tasks.first_mut() {
                    first.link(&callback);
                }
            }
            Kind::Chord { body: Some(body), .. } => body.link(callback),
            _ => append(&mut self.options, "link", callback),
        }
    }

    /// Calls another when this one fails: of a group each of its tasks, of a chord its body, and
    /// those of chords in its header.
    pub(super) fn link_error(&mut self, errback: &Json) {
        match &mut self.kind {
            Kind::Group(tasks) => tasks.iter_mut().for_each(|task| task.link_error(errback)),
            Kind::Chord { header, body } => {
                for task in header.iter_mut().filter(|it| matches!(it.kind, Kind::Chord { .. })) {
                    task.link_error(errback);
                }
                if let Some(body) = body {
                    body.link_error(errback);
                }
            }
            _ => append(&mut self.options, "link_error", errback),
        }
    }

    /// [`link_error`](Self::link_error) for the body of a chord: a group that has errbacks of its
    /// own keeps them together.
    pub(super) fn link_body_error(&mut self, errback: &Json, runs_as_group: bool) {
        match &mut self.kind {
            Kind::Group(_) if runs_as_group && self.options.some("link_error").is_some() => {
                append(&mut self.options, "link_error", errback);
            }
            Kind::Group(tasks) => {
                for task in tasks {
                    task.link_body_error(errback, false);
                }
            }
            Kind::Chord { body: Some(body), .. } => body.link_body_error(errback, true),
            _ => append(&mut self.options, "link_error", errback),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_calls_options_stand_over_the_signatures_but_for_group_and_stamps() {
        let own = Json::parse(
            r#"{"group_id": "g", "queue": "a", "stamped_headers": ["who"], "who": "x"}"#,
        );
        let call = Json::parse(
            r#"{"group_id": "h", "queue": "b", "who": "y", "priority": null, "eta": "t"}"#,
        );
        let merged = merge(&own.unwrap().fields().unwrap(), call.unwrap().fields().unwrap());
        assert_eq!(
            Json::from(merged).text(),
            r#"{"group_id": "g", "queue": "b", "stamped_headers": ["who"], "who": "x", "eta": "t"}"#
        );
    }
}
