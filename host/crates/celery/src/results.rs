//! Results by their ids, as Celery refers to them in `children`, in groups and in polled chords.

use super::{json::Json, signature::MAX_DEPTH};

/// How many parents of a result are kept: a chain of thousands would say all of them again for each.
pub(super) const MAX_PARENTS: usize = 64;

/// The result of a task or group by its id, as Celery refers to it in `children` and in groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResultRef {
    /// The task's or group's id.
    pub id: String,
    /// The result that came before it in its chain.
    pub parent: Option<Box<ResultRef>>,
    /// A group's results; absent for a task.
    pub children: Option<Vec<ResultRef>>,
}

impl ResultRef {
    /// A task's.
    pub fn task(id: impl Into<String>) -> Self {
        Self { id: id.into(), parent: None, children: None }
    }

    /// A group's.
    pub fn group(id: impl Into<String>, children: Vec<Self>) -> Self {
        Self { id: id.into(), parent: None, children: Some(children) }
    }

    /// `[[id, parent], children]`
    pub fn json(&self) -> Json {
        let parent = self.parent.as_ref().map_or_else(Json::null, |parent| parent.json());
        let children = self.children.as_ref().map_or_else(Json::null, |children| {
            Json::list(&children.iter().map(Self::json).collect::<Vec<_>>())
        });
        Json::list(&[Json::list(&[Json::string(&self.id), parent]), children])
    }

    /// Reads one.
    pub fn parse(json: &Json) -> Option<Self> {
        Self::read(json, 0)
    }

    fn read(json: &Json, depth: usize) -> Option<Self> {
        if depth > MAX_PARENTS + MAX_DEPTH {
            return None;
        }
        let [of, children]: [Json; 2] = json.items()?.try_into().ok()?;
        let (id, parent) = match of.items() {
            None => (of.as_string()?, None),
            Some(of) => {
                let parent = of.get(1).filter(|it| !it.is_null());
                let parent = parent.map(|it| Self::read(it, depth + 1).map(Box::new));
                (of.first()?.as_string()?, parent.flatten())
            }
        };
        let children = match children.items() {
            None => None,
            Some(items) => {
                Some(items.iter().map(|it| Self::read(it, depth + 1)).collect::<Option<_>>()?)
            }
        };
        Some(Self { id, parent, children })
    }

    /// The ids of all tasks in it.
    pub fn tasks(&self) -> Vec<&str> {
        match &self.children {
            None => vec![&self.id],
            Some(children) => children.iter().flat_map(Self::tasks).collect(),
        }
    }
}
