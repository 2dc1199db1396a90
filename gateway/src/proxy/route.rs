//! Routes: `/<provider>/<rest>` and `/<provider>/w/<wallet>/<rest>`.

use std::collections::BTreeMap;

use http::Uri;
use protocol::name::Address;

use crate::config::Upstream;

/// Where a call goes.
#[derive(Debug)]
pub(super) struct Route<'a> {
    pub(super) upstream: &'a Upstream,
    /// The wallet that the path names.
    pub(super) wallet: Option<Address>,
    /// The provider's own path, without the slash before it, and the query.
    pub(super) rest: &'a str,
}

/// Why a path is no route.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum RouteError {
    Provider { name: String, known: String },
    Wallet(String),
}

impl<'a> Route<'a> {
    /// Reads a path; the rest is left as it came, byte for byte.
    pub(super) fn parse(
        upstreams: &'a BTreeMap<String, Upstream>,
        uri: &'a Uri,
    ) -> Result<Self, RouteError> {
        let path = uri.path_and_query().map_or("/", |p| p.as_str());
        let (name, rest) = segment(path.strip_prefix('/').unwrap_or(path));
        let upstream = upstreams.get(name).ok_or_else(|| RouteError::Provider {
            name: name.into(),
            known: upstreams
                .keys()
                .map(String::as_str)
                .collect::<Vec<_>>()
                .join(", "),
        })?;
        let Some(after) = rest.strip_prefix("w/") else {
            return Ok(Self {
                upstream,
                wallet: None,
                rest,
            });
        };
        let (wallet, rest) = segment(after);
        let wallet =
            Address::from_any_case(wallet).ok_or_else(|| RouteError::Wallet(wallet.into()))?;
        Ok(Self {
            upstream,
            wallet: Some(wallet),
            rest,
        })
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
            let route = Route::parse(&upstreams, &uri).expect("a route");
            assert_eq!(
                (route.rest, route.wallet.is_some()),
                (rest, named),
                "{path}"
            );
        }
        for bad in [
            "/nobody/v1",
            "/",
            "/openai/w/0x12/v1",
            "/openai/w/",
            "/OpenAI/v1",
        ] {
            let uri = bad.parse().expect("a URI");
            assert!(Route::parse(&upstreams, &uri).is_err(), "{bad}");
        }
    }
}
