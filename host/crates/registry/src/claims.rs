//! Which component may serve which task.
//!
//! A task's grants and secrets go to whoever serves it. `tasks.NAME.component` binds a task to one
//! component. Where several components declare an unbound task at a start, the one that served it
//! last on this machine has it, then the one that is called like it, then the first; but a task with
//! grants of its own is nobody's as long as only their order would decide.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::{Registry, RegistryError, locked};
use lovage_config::{Config, GrantsConfig};
use lovage_core::text::component_name;
use lovage_sandbox::LoadedComponent;

/// What the configuration says about who may serve tasks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claims {
    /// The component that alone may serve a task: a name, an absolute path, or a URL.
    bound: BTreeMap<String, String>,
    /// Tasks that have grants of their own.
    granted: BTreeSet<String>,
}

/// A component that would be served, and its place.
pub(super) trait Claimant {
    fn place(&self) -> &str;
    fn tasks(&self) -> &[lovage_sandbox::TaskSpec];
}

impl Claims {
    /// Those of a configuration.
    pub fn of(config: &Config) -> Self {
        let bound = |(name, task): (&String, &lovage_config::TaskConfig)| {
            Some((name.clone(), absolute(task.component.as_deref()?)))
        };
        let granted = config.tasks.iter().filter(|(_, it)| it.grants != GrantsConfig::default());
        Self {
            bound: config.tasks.iter().filter_map(bound).collect(),
            granted: granted.map(|(name, _)| name.clone()).collect(),
        }
    }

    /// Tasks with grants of their own that any component which declares them would get.
    pub fn unbound(&self) -> impl Iterator<Item = &str> {
        self.granted.iter().filter(|task| !self.bound.contains_key(*task)).map(String::as_str)
    }

    /// Checks that no task of a component is bound to another one.
    pub(super) fn check(
        &self,
        place: &str,
        component: &LoadedComponent,
    ) -> Result<(), RegistryError> {
        let foreign = component.tasks.iter().find_map(|task| {
            let bound = self.bound.get(&task.name)?;
            let is_it =
                if bound.contains('/') { bound == place } else { bound == component_name(place) };
            (!is_it).then_some((task, bound))
        });
        match foreign {
            None => Ok(()),
            Some((task, bound)) => Err(RegistryError::BoundTask {
                file: component.source.file.clone(),
                task: task.name.clone(),
                component: bound.clone(),
            }),
        }
    }

    /// Puts claimants into the order in which they are to be served, so that those come first which
    /// have a better claim to the tasks that several declare. `last` gives the place that served a
    /// task last. Also the tasks that nobody gets, with the places that declare them.
    pub(super) fn order<T: Claimant>(
        &self,
        claimants: &mut [T],
        last: impl Fn(&str) -> Option<String>,
    ) -> BTreeMap<String, BTreeSet<String>> {
        let mut by_task: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for claimant in claimants.iter() {
            for task in claimant.tasks() {
                by_task.entry(&task.name).or_default().push(claimant.place());
            }
        }
        // To whom there is a reason to prefer somebody else, and to whom merely an order.
        let mut losses: BTreeMap<String, (usize, usize)> = BTreeMap::new();
        let mut undecided = BTreeMap::new();
        for (task, places) in by_task.iter().filter(|(_, places)| places.len() > 1) {
            let named: Vec<_> =
                places.iter().filter(|place| component_name(place) == *task).collect();
            let before = last(task).and_then(|last| places.iter().find(|place| **place == last));
            let only_named = if let [one] = named.as_slice() { Some(*one) } else { None };
            let first = || places.first().filter(|_| !self.granted.contains(*task));
            let reason = before.or(only_named);
            let Some(winner) = reason.or_else(first) else {
                let places = places.iter().map(|place| (*place).to_owned()).collect();
                undecided.insert((*task).to_owned(), places);
                continue;
            };
            for loser in places.iter().filter(|place| *place != winner) {
                let lost = losses.entry((*loser).to_owned()).or_default();
                *if reason.is_some() { &mut lost.0 } else { &mut lost.1 } += 1;
            }
        }
        // Stable: otherwise in the order in which they were named.
        claimants.sort_by_key(|it| losses.get(it.place()).copied().unwrap_or_default());
        undecided
    }
}

/// A path is compared as the suppliers name it.
fn absolute(component: &str) -> String {
    if !component.contains('/') || component.contains("://") {
        return component.to_owned();
    }
    let path = std::path::absolute(Path::new(component));
    path.map_or_else(|_| component.to_owned(), |path| path.display().to_string())
}

impl Registry {
    /// Refuses a component that declares a task which nobody gets as long as another place declares
    /// it, too.
    pub(super) fn check_decided(
        &self,
        place: &str,
        component: &LoadedComponent,
    ) -> Result<(), RegistryError> {
        let mut undecided = locked(&self.undecided);
        for task in &component.tasks {
            let Some(places) = undecided.get_mut(&task.name) else { continue };
            // Whoever comes later has no better claim.
            places.insert(place.to_owned());
            return Err(RegistryError::Undecided {
                task: task.name.clone(),
                places: places.iter().cloned().collect::<Vec<_>>().join(", "),
            });
        }
        Ok(())
    }

    /// Forgets the claims of places that are not offered any more.
    pub(super) fn forget_claims(&self, is_gone: impl Fn(&str) -> bool) {
        let mut undecided = locked(&self.undecided);
        let before: usize = undecided.values().map(BTreeSet::len).sum();
        undecided.values_mut().for_each(|places| places.retain(|place| !is_gone(place)));
        undecided.retain(|_, places| places.len() > 1);
        let after: usize = undecided.values().map(BTreeSet::len).sum();
        if before != after {
            // Who was refused for them is looked at again.
            self.note_change();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lovage_sandbox::TaskSpec;

    struct Component(&'static str, Vec<TaskSpec>);

    impl Claimant for Component {
        fn place(&self) -> &str {
            self.0
        }

        fn tasks(&self) -> &[TaskSpec] {
            &self.1
        }
    }

    fn component(place: &'static str, tasks: &[&str]) -> Component {
        let spec = |name: &&str| serde_json::from_value(serde_json::json!({"name": name}));
        Component(place, tasks.iter().map(|name| spec(name).unwrap()).collect())
    }

    fn claims(text: &str) -> Claims {
        Claims::of(&Config::parse(text, "test").unwrap())
    }

    fn order(
        claims: &Claims,
        mut components: Vec<Component>,
        last: Option<&str>,
    ) -> (Vec<&'static str>, Vec<String>) {
        let undecided = claims.order(&mut components, |_| last.map(str::to_owned));
        (components.iter().map(|it| it.0).collect(), undecided.into_keys().collect())
    }

    #[test]
    fn who_served_a_task_last_has_it_then_who_is_called_so_then_the_first() {
        let none = Claims::default();
        let both = || vec![component("/a.wasm", &["t", "own"]), component("/t.wasm", &["t"])];
        assert_eq!(order(&none, both(), Some("/a.wasm")).0, ["/a.wasm", "/t.wasm"]);
        assert_eq!(order(&none, both(), None).0, ["/t.wasm", "/a.wasm"]);
        // A reason for one task weighs more than an order for several.
        let more = |place| component(place, &["t", "u", "v"]);
        let two = vec![more("/a.wasm"), more("/t.wasm")];
        assert_eq!(order(&none, two, None).0, ["/t.wasm", "/a.wasm"]);
        // Somebody who is not here any more.
        assert_eq!(order(&none, both(), Some("/gone.wasm")).0, ["/t.wasm", "/a.wasm"]);
        let others = vec![component("/b.wasm", &["t"]), component("/a.wasm", &["t"])];
        assert_eq!(order(&none, others, None), (vec!["/b.wasm", "/a.wasm"], Vec::new()));
    }

    #[test]
    fn a_task_with_grants_is_nobodys_where_only_their_order_would_decide() {
        let granted = claims("[tasks.pay.grants]\nscratch = true\n");
        assert_eq!(granted.unbound().collect::<Vec<_>>(), ["pay"]);
        let named = || vec![component("/a.wasm", &["pay"]), component("/pay.wasm", &["pay"])];
        assert_eq!(order(&granted, named(), None), (vec!["/pay.wasm", "/a.wasm"], Vec::new()));
        let strangers = || vec![component("/a.wasm", &["pay"]), component("/b.wasm", &["pay"])];
        assert_eq!(order(&granted, strangers(), None).1, ["pay"]);
        assert_eq!(order(&granted, strangers(), Some("/b.wasm")).0, ["/b.wasm", "/a.wasm"]);
        let twice = vec![component("/x/pay.wasm", &["pay"]), component("/y/pay.wasm", &["pay"])];
        assert_eq!(order(&granted, twice, None).1, ["pay"]);
    }
}
