//! What browsers are told to refuse on our pages.

use axum::http::HeaderName;
use axum::http::header::{
    CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};

/// Where a page may connect to. Nothing else differs: scripts, styles and
/// pictures are ours, nothing is inline, and nobody may frame a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Policy {
    /// To the gateway.
    Reading,
    /// Also to nodes of chains and to other logs, which the visitor names.
    Checking,
}

impl Policy {
    /// The headers of a page.
    pub(super) fn headers(self) -> [(HeaderName, &'static str); 5] {
        [
            (CONTENT_SECURITY_POLICY, self.content()),
            (X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (X_FRAME_OPTIONS, "DENY"),
            (REFERRER_POLICY, "no-referrer"),
            (
                HeaderName::from_static("cross-origin-opener-policy"),
                "same-origin",
            ),
        ]
    }

    fn content(self) -> &'static str {
        match self {
            Self::Reading => {
                "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                 connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
            }
            Self::Checking => {
                "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                 connect-src 'self' https: http://127.0.0.1:* http://localhost:*; \
                 base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_differ_in_connections_only() {
        let but_connections = |policy: Policy| {
            let rules = policy.content().split("; ");
            let rules = rules.filter(|rule| !rule.starts_with("connect-src"));
            rules.map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(
            but_connections(Policy::Reading),
            but_connections(Policy::Checking)
        );
        assert!(!Policy::Reading.content().contains("https:"));
        for policy in [Policy::Reading, Policy::Checking] {
            assert!(!policy.content().contains("unsafe"));
        }
    }
}
