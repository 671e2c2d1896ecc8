//! The addresses of components that are not on this machine.

use std::fmt;

use lovage_core::text::one_line;

/// Where components are fetched from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ComponentUrl {
    /// `s3://BUCKET/PREFIX`: all `.wasm` objects whose key begins so.
    S3 {
        /// The bucket.
        bucket: String,
        /// The beginning of the keys; may be empty.
        prefix: String,
    },
    /// `oci://REGISTRY/REPOSITORY:TAG`, or with `@sha256:…`.
    Oci {
        /// The reference.
        reference: String,
    },
    /// `https://HOST/PATH#sha256:…`; `http` on this very machine.
    Https {
        /// The URL without its fragment.
        address: String,
        /// The digest of what has to be there.
        digest: String,
    },
}

impl ComponentUrl {
    /// Reads one; or says what it has to look like.
    pub fn parse(text: &str) -> Result<Self, String> {
        let shown = one_line(text, 300);
        if let Some(rest) = text.strip_prefix("s3://") {
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            if bucket.is_empty() {
                return Err(format!("`{shown}` has no bucket: s3://BUCKET/PREFIX"));
            }
            return Ok(Self::S3 { bucket: bucket.to_owned(), prefix: prefix.to_owned() });
        }
        if let Some(reference) = text.strip_prefix("oci://") {
            if !reference.contains('/') {
                return Err(format!("`{shown}` has no repository: oci://REGISTRY/REPOSITORY:TAG"));
            }
            return Ok(Self::Oci { reference: reference.to_owned() });
        }
        let local = ["http://127.0.0.1", "http://localhost", "http://[::1]"];
        let is_local = local
            .iter()
            .any(|start| text.strip_prefix(start).is_some_and(|rest| rest.starts_with([':', '/'])));
        if text.starts_with("https://") || is_local {
            let form = "https://HOST/PATH#sha256: and 64 hexadecimal digits";
            let Some((address, digest)) = text.split_once('#') else {
                return Err(format!("`{shown}` pins no digest: {form}"));
            };
            let hash = digest.strip_prefix("sha256:").unwrap_or_default();
            if hash.len() != 64 || !hash.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(format!("the digest of `{shown}` is none: {form}"));
            }
            let (address, digest) = (address.to_owned(), digest.to_ascii_lowercase());
            return Ok(Self::Https { address, digest });
        }
        if text.starts_with("http://") {
            return Err(format!("`{shown}` is not fetched over http: use https"));
        }
        Err(format!(
            "`{shown}` is no address of components: s3://BUCKET/PREFIX, \
             oci://REGISTRY/REPOSITORY:TAG and https://HOST/PATH#sha256:… are; files are named by \
             components.paths"
        ))
    }
}

/// As it is told and remembered: without a query, which may hold a secret.
impl fmt::Display for ComponentUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
            Self::Oci { reference } => write!(f, "oci://{reference}"),
            Self::Https { address, .. } => {
                f.write_str(address.split_once('?').map_or(address, |(path, _)| path))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_by_their_scheme_and_a_web_address_has_to_pin_a_digest() {
        let hash = "ab".repeat(32);
        for (text, shown) in [
            ("s3://bucket/tasks/", "s3://bucket/tasks/"),
            ("s3://bucket", "s3://bucket/"),
            ("oci://ghcr.io/team/resize:1", "oci://ghcr.io/team/resize:1"),
            (&format!("https://x.org/a.wasm?token=1#sha256:{hash}"), "https://x.org/a.wasm"),
            (&format!("http://127.0.0.1:8/a.wasm#sha256:{hash}"), "http://127.0.0.1:8/a.wasm"),
        ] {
            assert_eq!(ComponentUrl::parse(text).unwrap().to_string(), shown);
        }
        for (text, why) in [
            ("s3:///x", "has no bucket"),
            ("oci://registry", "has no repository"),
            ("https://x.org/a.wasm", "pins no digest"),
            ("https://x.org/a.wasm#sha256:ab", "is none"),
            (&format!("http://127.0.0.1.evil.org/a#sha256:{hash}"), "use https"),
            ("ftp://x.org/a.wasm", "is no address"),
            ("tasks/a.wasm", "is no address"),
        ] {
            let error = ComponentUrl::parse(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
