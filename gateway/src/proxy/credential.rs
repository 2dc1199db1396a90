//! Credentials: read from the headers, hashed, forgotten (PROTOCOL.md section 2).

use http::header::{AUTHORIZATION, HeaderMap};

/// Shorter ones are placeholders, which many people share.
const MIN_LEN: usize = 20;

/// So are those of fewer different bytes.
const MIN_DISTINCT: usize = 8;

/// The credential that identifies the caller to `provider`, if there is one.
pub(super) fn of<'a>(provider: &str, headers: &'a HeaderMap) -> Option<&'a [u8]> {
    let plain = |name: &str| headers.get(name).map(|v| v.as_bytes());
    let bearer = || {
        headers
            .get(AUTHORIZATION)
            .and_then(|v| bearer(v.as_bytes()))
    };
    let credential = match provider {
        "anthropic" => plain("x-api-key").or_else(bearer),
        _ => bearer()
            .or_else(|| plain("x-api-key"))
            .or_else(|| plain("api-key")),
    };
    credential.filter(|c| identifies(c))
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
        let check = |provider: &str, headers: &[(&'static str, &str)], expected: Option<&str>| {
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
                of(provider, &headers),
                expected.map(str::as_bytes),
                "{provider} {headers:?}"
            );
        };
        let bearer = format!("Bearer {key}");
        check("openai", &[("authorization", &bearer)], Some(key));
        check(
            "openai",
            &[("authorization", &format!("bearer   {key}"))],
            Some(key),
        );
        check(
            "openai",
            &[("authorization", &format!("Basic {key}"))],
            None,
        );
        check("openai", &[("api-key", key)], Some(key));
        check("anthropic", &[("x-api-key", key)], Some(key));
        check("anthropic", &[("authorization", &bearer)], Some(key));
        let other = "sk-zyxwvutsrqponmlkjihgfedcba";
        check(
            "anthropic",
            &[("authorization", &bearer), ("x-api-key", other)],
            Some(other),
        );
        check(
            "openai",
            &[("authorization", &bearer), ("x-api-key", other)],
            Some(key),
        );
        check("openai", &[], None);
        check("openai", &[("authorization", "Bearer sk-short")], None);
        check(
            "openai",
            &[("authorization", "Bearer aaaaaaaaaaaaaaaaaaaaaaaa")],
            None,
        );
        check("openai", &[("authorization", "Bearer")], None);
    }
}
