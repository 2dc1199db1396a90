//! Routes: `/<provider>/<rest>`, with `w/<wallet>/` and `t/<link token>/`
//! between the two.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Uri;
use protocol::name::Address;

use crate::config::Upstream;

/// What stands for the host that the client names.
pub(super) const CUSTOM: &str = "custom";

/// Where a call goes.
#[derive(Debug)]
pub(super) struct Route<'a> {
    pub(super) upstream: &'a Upstream,
    /// The wallet that the path names.
    pub(super) wallet: Option<Address>,
    /// The link token that the path holds.
    pub(super) token: Option<LinkToken>,
    /// The provider's own path, without the slash before it, and the query.
    pub(super) rest: &'a str,
}

/// Why a path is no route.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum RouteError {
    Provider { name: String, known: String },
    Wallet(String),
    Token,
}

/// 32 random bytes by which a user makes calls its own, whatever the
/// credential. Neither shown nor kept.
pub(crate) struct LinkToken([u8; 32]);

impl LinkToken {
    /// Reads 43 characters of unpadded base64url (RFC 4648 section 5).
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        Some(Self(URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()?))
    }

    /// The token's bytes, to be hashed.
    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for LinkToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LinkToken")
    }
}

impl<'a> Route<'a> {
    /// Reads a path; the rest is left as it came, byte for byte. `custom` is
    /// the upstream that the client names.
    pub(super) fn parse(
        upstreams: &'a BTreeMap<String, Upstream>,
        custom: Option<&'a Upstream>,
        uri: &'a Uri,
    ) -> Result<Self, RouteError> {
        let path = uri.path_and_query().map_or("/", |p| p.as_str());
        let (name, rest) = segment(path.strip_prefix('/').unwrap_or(path));
        let custom = custom.filter(|_| name == CUSTOM);
        let upstream = upstreams
            .get(name)
            .or(custom)
            .ok_or_else(|| RouteError::Provider {
                name: name.into(),
                known: upstreams
                    .keys()
                    .map(String::as_str)
                    .collect::<Vec<_>>()
                    .join(", "),
            })?;
        let mut route = Self {
            upstream,
            wallet: None,
            token: None,
            rest,
        };
        loop {
            if let (None, Some(after)) = (route.wallet, route.rest.strip_prefix("w/")) {
                let (wallet, rest) = segment(after);
                let address = Address::from_any_case(wallet);
                route.wallet = Some(address.ok_or_else(|| RouteError::Wallet(wallet.into()))?);
                route.rest = rest;
            } else if let (None, Some(after)) = (&route.token, route.rest.strip_prefix("t/")) {
                let (token, rest) = segment(after);
                let token = LinkToken::parse(token.as_bytes());
                route.token = Some(token.ok_or(RouteError::Token)?);
                route.rest = rest;
            } else {
                return Ok(route);
            }
        }
    }
}

/// Splits off the first segment. A query stays with the rest.
fn segment(path: &str) -> (&str, &str) {
    match path.find(['/', '?']) {
        Some(at) if path.as_bytes()[at] == b'/' => (&path[..at], &path[at + 1..]),
        Some(at) => path.split_at(at),
        None => (path, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Given};

    #[test]
    fn the_rest_is_left_as_it_came() {
        let upstreams = Config::resolve(Given::default())
            .expect("defaults")
            .upstreams;
        let wallet = "0x00112233445566778899aAbBcCdDeEfF00112233";
        for (path, rest, named) in [
            ("/openai/v1/chat/completions", "v1/chat/completions", false),
            (
                "/openai/v1//x/../y%2f?a=b&c=%20",
                "v1//x/../y%2f?a=b&c=%20",
                false,
            ),
            ("/openai", "", false),
            ("/openai?x=y", "?x=y", false),
            (&format!("/openai/w/{wallet}/v1/x?q"), "v1/x?q", true),
        ] {
            let uri = path.parse().expect("a URI");
            let route = Route::parse(&upstreams, None, &uri).expect("a route");
            assert_eq!(
                (route.rest, route.wallet.is_some()),
                (rest, named),
                "{path}"
            );
        }
        let token = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";
        for path in [
            format!("/openai/t/{token}/v1/x"),
            format!("/openai/w/{wallet}/t/{token}/v1/x"),
            format!("/openai/t/{token}/w/{wallet}/v1/x"),
        ] {
            let uri = path.parse().expect("a URI");
            let route = Route::parse(&upstreams, None, &uri).expect("a route");
            assert_eq!(route.rest, "v1/x", "{path}");
            let token = route.token.expect("there");
            assert_eq!((token.as_bytes()[0], token.as_bytes()[31]), (0, 31));
            assert!(!format!("{token:?}").contains("31"));
        }
        let (short, loose) = (&token[1..], format!("{}9", &token[..42]));
        for bad in [
            &format!("/openai/t/{short}/v1"),
            &format!("/openai/t/{loose}/v1"),
            "/openai/t/",
            "/nobody/v1",
            "/",
            "/openai/w/0x12/v1",
            "/openai/w/",
            "/OpenAI/v1",
        ] {
            let uri = bad.parse().expect("a URI");
            assert!(Route::parse(&upstreams, None, &uri).is_err(), "{bad}");
        }
    }
}
