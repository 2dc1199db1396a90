//! Credentials: read from the headers, hashed, forgotten (PROTOCOL.md section 2).

use http::header::{AUTHORIZATION, HeaderMap};

use crate::usage::Dialect;

/// Shorter ones are placeholders, which many people share.
const MIN_LEN: usize = 20;

/// So are those of fewer different bytes.
const MIN_DISTINCT: usize = 8;

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
            .or_else(|| key_in(query?)),
        _ => bearer()
            .or_else(|| plain("x-api-key"))
            .or_else(|| plain("api-key")),
    };
    credential.filter(|c| identifies(c))
}

/// The value of the parameter `key`, as it stands there.
fn key_in(query: &str) -> Option<&[u8]> {
    let key = query.split('&').find_map(|pair| pair.strip_prefix("key="));
    key.map(str::as_bytes)
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
