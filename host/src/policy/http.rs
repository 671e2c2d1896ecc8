//! Where HTTP requests may go.

/// Rules for requests: every list must have a rule that allows a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HttpPolicy {
    rules: Vec<Vec<String>>,
    networks: Vec<Vec<String>>,
}

impl HttpPolicy {
    /// The rules of a task. Errors name the field, given as `rules_key` and `networks_key`.
    pub fn new(
        rules: &[String],
        _rules_key: &str,
        networks: &[String],
        _networks_key: &str,
    ) -> Result<Self, String> {
        Ok(Self { rules: vec![rules.to_vec()], networks: vec![networks.to_vec()] })
    }

    /// Allows only what these rules allow, too.
    pub fn narrow(
        &mut self,
        rules: Option<&[String]>,
        _rules_key: &str,
        networks: Option<&[String]>,
        _networks_key: &str,
    ) -> Result<(), String> {
        self.rules.extend(rules.map(<[String]>::to_vec));
        self.networks.extend(networks.map(<[String]>::to_vec));
        Ok(())
    }

    /// Whether no request is allowed at all.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty() || self.rules.iter().any(Vec::is_empty)
    }
}
