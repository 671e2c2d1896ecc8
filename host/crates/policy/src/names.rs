//! Lists of names that are allowed.

/// Names, or their beginnings where they end in `*`. Each list has to allow a name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    lists: Vec<Vec<String>>,
}

impl Names {
    /// The names of one list; none where there is no list.
    pub fn new(list: Option<&Vec<String>>) -> Self {
        Self { lists: vec![list.cloned().unwrap_or_default()] }
    }

    /// Allows only what this list allows, too.
    pub fn narrow(&mut self, list: &[String]) {
        self.lists.push(list.to_vec());
    }

    /// Returns true if nothing is allowed at all.
    pub fn is_empty(&self) -> bool {
        self.lists.is_empty() || self.lists.iter().any(Vec::is_empty)
    }

    /// Returns true if a name is allowed.
    pub fn allow(&self, name: &str) -> bool {
        !self.is_empty()
            && self.lists.iter().all(|list| list.iter().any(|pattern| matches(pattern, name)))
    }
}

/// Whether a name is the pattern's, or begins with what the pattern has before its `*`.
pub fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == pattern,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_allowed_unless_every_list_allows_it() {
        let list = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        assert!(Names::default().is_empty() && !Names::default().allow(""));
        assert!(!Names::new(None).allow("a"));
        let mut names = Names::new(Some(&list(&["mail", "image.*"])));
        assert!(names.allow("mail") && names.allow("image.resize") && !names.allow("mails"));
        names.narrow(&list(&["image.resize", "other"]));
        assert!(names.allow("image.resize") && !names.allow("mail") && !names.allow("other"));
        names.narrow(&[]);
        assert!(names.is_empty() && !names.allow("image.resize"));
    }
}
