//! URLs without their passwords.

/// A URL with its password struck out.
pub(crate) fn without_password(url: &str) -> String {
    let hidden = || {
        let (scheme, rest) = url.split_once("://")?;
        let authority = rest.split(['/', '?', '#']).next()?;
        let (user, _) = authority.rsplit_once('@')?;
        let (user, _) = user.split_once(':')?;
        let after = rest.get(authority.rfind('@')?..)?;
        Some(format!("{scheme}://{user}:***{after}"))
    };
    hidden().unwrap_or_else(|| url.to_owned())
}
