//! Who holds a key: shown by sending its credential or link token, as a call
//! would (PROTOCOL.md section 2).

use std::collections::BTreeMap;

use http::header::HeaderMap;
use protocol::hash::{Hash, key_id};
use protocol::key::Origin;

use super::credential;
use super::route::LinkToken;
use crate::config::Upstream;

/// What shows that a sender holds a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// A link token.
    Token,
    /// A credential for a provider.
    Credential,
}

/// Tells who holds a key.
#[derive(Debug)]
pub struct Possession {
    origin: Origin,
    upstreams: BTreeMap<String, Upstream>,
}

impl Possession {
    /// For the log's keys at these providers; of a host that a client named
    /// only link tokens count.
    pub fn new(origin: Origin, upstreams: BTreeMap<String, Upstream>) -> Self {
        Self { origin, upstreams }
    }

    /// What in `headers` shows that their sender holds the key.
    pub fn shown(&self, headers: &HeaderMap, key: &Hash) -> Option<Held> {
        let mut tokens = headers.get_all("x-tally-link").iter();
        let token = tokens.next().filter(|_| tokens.next().is_none());
        let token = token.and_then(|value| LinkToken::parse(value.as_bytes()));
        if token.is_some_and(|token| key_id(&self.origin, "link", token.as_bytes()) == *key) {
            return Some(Held::Token);
        }
        let asked = self.upstreams.values().filter(|u| u.checks_credentials);
        let mut sent = asked.filter_map(|upstream| {
            let credential = credential::of(upstream.dialect, headers, None)?;
            Some(key_id(&self.origin, upstream.name.as_str(), credential))
        });
        sent.any(|sent| sent == *key).then_some(Held::Credential)
    }
}
