//! Credentials: read from the headers, hashed, forgotten (PROTOCOL.md section 2).

use http::header::{AUTHORIZATION, HeaderMap, SEC_WEBSOCKET_PROTOCOL};

use crate::usage::Dialect;

/// Shorter ones are placeholders, which many people share.
const MIN_LEN: usize = 20;

/// So are those of fewer different bytes.
const MIN_DISTINCT: usize = 8;

/// What stands before a key that is sent as a WebSocket's subprotocol: a
/// browser can send no header of its own choosing.
const SUBPROTOCOL: &[u8] = b"openai-insecure-api-key.";

/// The credential that identifies the caller to a provider whose clients put
/// it where those of `dialect` do, if there is one.
pub(super) fn of<'a>(
    dialect: Dialect,
    headers: &'a HeaderMap,
    query: Option<&'a str>,
) -> Option<&'a [u8]> {
    // Sent twice, which one counts is the provider's to say: nobody is meant.
    let plain = |name: &str| {
        let mut values = headers.get_all(name).iter();
        let first = values.next().map(|value| value.as_bytes());
        first.filter(|_| values.next().is_none())
    };
    let bearer = || plain(AUTHORIZATION.as_str()).and_then(bearer);
    let credential = match dialect {
        Dialect::Anthropic => plain("x-api-key").or_else(bearer),
        Dialect::Gemini => plain("x-goog-api-key")
            .or_else(bearer)
            .or_else(|| parameter(query?, "key")),
        _ => bearer()
            .or_else(|| plain("x-api-key"))
            .or_else(|| plain("api-key"))
            .or_else(|| subprotocol(headers))
            .or_else(|| parameter(query?, "api-key")),
    };
    credential.filter(|c| identifies(c))
}

/// The value of a parameter, as it stands there.
fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a [u8]> {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let found = pairs.find(|(key, _)| *key == name);
    found.map(|(_, value)| value.as_bytes())
}

/// The key among the subprotocols that are offered, unless there are several.
fn subprotocol(headers: &HeaderMap) -> Option<&[u8]> {
    let lines = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    let offered = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    let mut keys = offered.filter_map(|one| one.trim_ascii().strip_prefix(SUBPROTOCOL));
    let first = keys.next();
    first.filter(|_| keys.next().is_none())
}

fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked(7)?;
    scheme
        .eq_ignore_ascii_case(b"bearer ")
        .then(|| rest.trim_ascii_start())
}

fn identifies(credential: &[u8]) -> bool {
    let mut seen = [false; 256];
    credential.iter().for_each(|b| seen[usize::from(*b)] = true);
    credential.len() >= MIN_LEN && seen.iter().filter(|s| **s).count() >= MIN_DISTINCT
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn credentials_stand_where_the_providers_clients_put_them() {
        let key = "sk-abcdefghijklmnopqrstuvwxyz";
        let check =
            |provider: Dialect, headers: &[(&'static str, &str)], expected: Option<&str>| {
                let headers: HeaderMap = headers
                    .iter()
                    .map(|(n, v)| {
                        (
                            (*n).parse().expect("a name"),
                            HeaderValue::from_str(v).expect("a value"),
                        )
                    })
                    .collect();
                assert_eq!(
                    of(provider, &headers, None),
                    expected.map(str::as_bytes),
                    "{provider:?} {headers:?}"
                );
            };
        let bearer = format!("Bearer {key}");
        check(Dialect::OpenAi, &[("authorization", &bearer)], Some(key));
        check(
            Dialect::OpenAi,
            &[("authorization", &format!("bearer   {key}"))],
            Some(key),
        );
        check(
            Dialect::OpenAi,
            &[("authorization", &format!("Basic {key}"))],
            None,
        );
        check(Dialect::OpenAi, &[("api-key", key)], Some(key));
        check(Dialect::Anthropic, &[("x-api-key", key)], Some(key));
        check(Dialect::Anthropic, &[("authorization", &bearer)], Some(key));
        let other = "sk-zyxwvutsrqponmlkjihgfedcba";
        check(
            Dialect::Anthropic,
            &[("authorization", &bearer), ("x-api-key", other)],
            Some(other),
        );
        check(
            Dialect::OpenAi,
            &[("authorization", &bearer), ("x-api-key", other)],
            Some(key),
        );
        let twice = [
            ("authorization", bearer.as_str()),
            ("authorization", "Bearer sk-zyxwvutsrqponmlkjihg"),
        ];
        check(Dialect::OpenAi, &twice, None);
        check(Dialect::OpenAi, &[], None);
        check(
            Dialect::OpenAi,
            &[("authorization", "Bearer sk-short")],
            None,
        );
        check(
            Dialect::OpenAi,
            &[("authorization", "Bearer aaaaaaaaaaaaaaaaaaaaaaaa")],
            None,
        );
        check(Dialect::OpenAi, &[("authorization", "Bearer")], None);
    }
}
